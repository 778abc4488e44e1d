"""What stands in the way of a swap or a merge, to be found before anything is replayed.

A swap moves the old tables out of the way.  What others have hung on them by object, not by name, would go with them
and show old rows for ever: a view, a foreign key, a function with a parsed body.  So it is refused, with what it is,
and nothing is dropped that the daemon has not made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

from projectiond.errors import ConfigurationError
from projectiond.postgres.database import Connection, fetch_row
from projectiond.rebuild.exchange import PARTS, Exchange, Thing, plan
from projectiond.rebuild.shape import finish_by
from projectiond.rebuild.tables import Pair


@dataclass(frozen=True, slots=True)
class Dependent:
    """Something that would go with a live table."""

    kind: str
    name: str
    on: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} (on {self.on})"


# Parameters: classes, oids.  Rows: (kind, name, what it hangs on) of what is not among these and needs one of them.
# A view stands for its rule.
_USERS: LiteralString = (
    PARTS  # noqa: S608 - two constants
    + """
SELECT DISTINCT
    CASE WHEN need.class = 'pg_rewrite'::regclass THEN owner.type ELSE own.type END,
    CASE WHEN need.class = 'pg_rewrite'::regclass THEN owner.identity ELSE own.identity END,
    used.identity
FROM need
CROSS JOIN LATERAL pg_identify_object(need.class, need.oid, need.sub) AS own
CROSS JOIN LATERAL pg_identify_object(need.user_class, need.user_oid, 0) AS owner
CROSS JOIN LATERAL pg_identify_object(need.used_class, need.used_oid, 0) AS used
WHERE (used_class, used_oid) IN (SELECT * FROM unnest(%(classes)s::regclass[]::oid[], %(oids)s::oid[]))
    AND (user_class, user_oid) NOT IN (SELECT * FROM unnest(%(classes)s::regclass[]::oid[], %(oids)s::oid[]))
    AND own.schema IS DISTINCT FROM 'pg_toast'
UNION
SELECT 'parent table', inhparent::regclass::text, inhrelid::regclass::text
FROM pg_inherits
JOIN pg_class ON pg_class.oid = inhrelid AND relkind IN ('r', 'p', 'f')
WHERE inhrelid = ANY (%(oids)s::oid[])
    AND inhparent <> ALL (%(oids)s::oid[])
ORDER BY 1, 2
"""
)

# Parameters: oids, database.  Rows: (table, its owner) of each that this role does not own.
_NOT_OWNED: LiteralString = """
SELECT oid::regclass::text, pg_get_userbyid(relowner)::text
FROM pg_class
WHERE oid = ANY (%(oids)s::oid[])
    AND NOT pg_has_role(relowner, 'USAGE')
ORDER BY 1
"""

# Parameters: home.  Rows: one (role, may it make things at home, may it make schemas, database).
_MAY: LiteralString = """
SELECT
    quote_ident(current_user),
    has_schema_privilege(%(home)s, 'CREATE'),
    has_database_privilege(current_database(), 'CREATE'),
    quote_ident(current_database())
"""

# Parameters: oids.  Rows: (table, privilege) of each that a merge needs and this role does not have.
_LACKING: LiteralString = """
SELECT class.oid::regclass::text, wanted.privilege
FROM pg_class AS class
CROSS JOIN (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE')) AS wanted (privilege)
WHERE class.oid = ANY (%(oids)s::oid[])
    AND NOT has_table_privilege(class.oid, wanted.privilege)
ORDER BY 1, 2
"""

# Parameters: oids.  Rows: (table) of each whose policies hide rows from this role.
_HIDDEN: LiteralString = """
SELECT oid::regclass::text
FROM pg_class
WHERE oid = ANY (%(oids)s::oid[])
    AND row_security_active(oid)
ORDER BY 1
"""


def refuse_unfinishable(db: Connection, name: str, pairs: Sequence[Pair]) -> None:
    """See, before anything is replayed, that the live tables will be able to take it over.

    Raises:
        ConfigurationError: They will not be: a privilege is missing, or something else is in the way.
    """
    if finish_by(pairs).by == "merge":
        refuse_merge(db, pairs)
    else:
        refuse_swap(db, name, pairs)


def dependents(db: Connection, pairs: Sequence[Pair]) -> tuple[Dependent, ...]:
    """Give everything that others have hung on the live tables, and that a swap would take away."""
    with db.transaction():
        return find_dependents(db, plan(db, pairs)) + tuple(_triggers(pairs))


def find_dependents(db: Connection, exchange: Exchange) -> tuple[Dependent, ...]:
    """Give what needs the things that leave, and does not leave with them."""
    rows = db.execute(_USERS, _addresses(exchange.live)).fetchall()
    return tuple(Dependent(kind, name, on) for kind, name, on in rows)


def refuse_swap(db: Connection, name: str, pairs: Sequence[Pair]) -> None:
    """See that the tables of a projection can change places.

    Raises:
        ConfigurationError: A privilege is missing, or something depends on the live tables.
    """
    with db.transaction():
        exchange = plan(db, pairs)
        refuse_without_rights(db, exchange)
        found = (*find_dependents(db, exchange), *_triggers(pairs))
        refuse_dependents(name, found, f', or run "projectiond rebuild {name} --in-place"')


def refuse_dependents(name: str, found: Sequence[Dependent], other_way: str = "") -> None:
    """Refuse to let tables change places while there are any.

    Raises:
        ConfigurationError: There are.
    """
    if found:
        raise ConfigurationError(
            f'the tables of "{name}" cannot change places: {", ".join(map(str, found))} would stay with the old ones',
            hint=f"drop that first and make it again afterwards{other_way}",
        )


def refuse_without_rights(db: Connection, exchange: Exchange) -> None:
    """See that this role may move what is to be moved.

    Raises:
        ConfigurationError: It may not.
    """
    role, may_create, may_create_schemas, database = fetch_row(db, _MAY, {"home": exchange.home})
    oids = [thing.oid for thing in exchange.live if thing.catalogue == "pg_class"]
    for table, owner in db.execute(_NOT_OWNED, {"oids": oids}).fetchall():
        raise ConfigurationError(
            f"role {role} cannot move {table}, which belongs to {owner}",
            hint=f"GRANT {owner} TO {role}, or change the table's owner",
        )
    if not may_create:
        raise ConfigurationError(
            f"role {role} may not put tables into the schema {exchange.home}",
            hint=f"GRANT CREATE ON SCHEMA {exchange.home} TO {role}",
        )
    if not may_create_schemas:
        raise ConfigurationError(
            f"role {role} may not create the schema in which the old tables are kept",
            hint=f"GRANT CREATE ON DATABASE {database} TO {role}",
        )


def refuse_merge(db: Connection, pairs: Sequence[Pair]) -> None:
    """See that rows of the live tables can be changed.

    Raises:
        ConfigurationError: A privilege is missing, policies hide rows, or a rule is in the way.
    """
    lives = [pair.live for pair in pairs if pair.live is not None]
    oids = {"oids": [live.oid for live in lives]}
    for table, privilege in db.execute(_LACKING, oids).fetchall():
        raise ConfigurationError(
            f"this role lacks {privilege} on {table}", hint="grant it, or let the role own the table"
        )
    for (table,) in db.execute(_HIDDEN, oids).fetchall():
        raise ConfigurationError(
            f"row-level security hides rows of {table} from this role", hint="give the role BYPASSRLS"
        )
    for live in lives:
        if live.has_rules:
            raise ConfigurationError(
                f"{live} has rules, with which rows cannot be merged", hint="drop them, or rebuild with --in-place"
            )


def _triggers(pairs: Sequence[Pair]) -> list[Dependent]:
    return [
        Dependent("trigger", trigger, str(pair.live))
        for pair in pairs
        if pair.live is not None
        for trigger in pair.live.triggers
        if trigger not in pair.built.triggers
    ]


def _addresses(things: Sequence[Thing]) -> dict[str, Sequence[object]]:
    return {"classes": [thing.catalogue for thing in things], "oids": [thing.oid for thing in things]}
