"""Who may do what with a live table, given to the same people for the one that takes its place.

``schema`` seldom says it: owners and grants come from migrations or from an operator's hand.  What was granted by
others than the owner is granted by the owner now.
"""

from collections.abc import Sequence
from typing import Final, LiteralString

from psycopg.sql import SQL, Composable, Identifier

from projectiond.postgres.database import Connection
from projectiond.rebuild.catalogue import trusted
from projectiond.rebuild.exchange import Exchange, Thing
from projectiond.rebuild.tables import Pair

_KINDS: Final[dict[str, LiteralString]] = {
    "r": "TABLE",
    "p": "TABLE",
    "f": "FOREIGN TABLE",
    "v": "VIEW",
    "m": "MATERIALIZED VIEW",
    "S": "SEQUENCE",
}

# Parameters: oid.  Rows: (role or PUBLIC, privilege, with grant option, column or null) of all grants on a relation.
_GRANTS: LiteralString = """
SELECT
    CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(granted.grantee)) END,
    granted.privilege_type,
    granted.is_grantable,
    NULL
FROM pg_class AS class
CROSS JOIN LATERAL aclexplode(
    coalesce(class.relacl, acldefault((CASE class.relkind WHEN 'S' THEN 's' ELSE 'r' END)::"char", class.relowner))
) AS granted
WHERE class.oid = %(oid)s
UNION ALL
SELECT
    CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(granted.grantee)) END,
    granted.privilege_type,
    granted.is_grantable,
    quote_ident(attribute.attname)
FROM pg_attribute AS attribute
CROSS JOIN LATERAL aclexplode(attribute.attacl) AS granted
WHERE attribute.attrelid = %(oid)s
    AND NOT attribute.attisdropped
"""

# Parameters: live, built (oids).  Rows: (owner of the live one, quoted, whether the other has another).
_OWNERS: LiteralString = """
SELECT quote_ident(pg_get_userbyid(live.relowner)), live.relowner <> built.relowner
FROM pg_class AS live, pg_class AS built
WHERE live.oid = %(live)s
    AND built.oid = %(built)s
"""

# Parameters: oid.
_COLUMN_NAMES: LiteralString = """
SELECT quote_ident(attname)
FROM pg_attribute
WHERE attrelid = %(oid)s
    AND attnum > 0
    AND NOT attisdropped
"""


def carry_rights(db: Connection, exchange: Exchange) -> None:
    """Give what takes the place of something the same owner, and the same rights to the same people."""
    for live, built in exchange.namesakes():
        if live.catalogue == "pg_class":
            _carry_rights(db, exchange.space, _name(exchange.space, built), live.oid, built.oid, built.kind)


def carry_sequences(db: Connection, pairs: Sequence[Pair]) -> None:
    """Do so for sequences that belong to columns; the owner is the table's."""
    for pair in pairs:
        for column in pair.built.columns:
            old = None if pair.live is None else pair.live.by_name.get(column.name)
            if column.sequence is not None and old is not None and old.sequence is not None:
                live, built = (_oid(db, name) for name in (old.sequence, column.sequence))
                _carry_grants(db, trusted(column.sequence), live, built, "S")


def _carry_rights(db: Connection, space: str, name: Composable, live: int, built: int, kind: str) -> None:
    row = db.execute(_OWNERS, {"live": live, "built": built}).fetchone()
    if row is not None and row[1]:
        # Whoever becomes owner of a table has to be allowed to have one where it is just now.
        db.execute(SQL("GRANT USAGE, CREATE ON SCHEMA {} TO {}").format(Identifier(space), trusted(row[0])))
        db.execute(SQL("ALTER {} {} OWNER TO {}").format(SQL(_KINDS[kind]), name, trusted(row[0])))
    _carry_grants(db, name, live, built, kind)


def _carry_grants(db: Connection, name: Composable, live: int, built: int, kind: str) -> None:
    old = set(db.execute(_GRANTS, {"oid": live}).fetchall())
    new = set(db.execute(_GRANTS, {"oid": built}).fetchall())
    what = SQL("SEQUENCE " if kind == "S" else "TABLE ")
    columns = {row[0] for row in db.execute(_COLUMN_NAMES, {"oid": built})}
    for verb, link, grants in (("REVOKE", "FROM", new - old), ("GRANT", "TO", old - new)):
        for role, privilege, is_grantable, column in sorted(grants, key=repr):
            if column is None or column in columns:
                db.execute(
                    SQL("{} {}{} ON {}{} {} {}{}").format(
                        trusted(verb),
                        trusted(privilege),
                        SQL("") if column is None else SQL(" ({})").format(trusted(column)),
                        what,
                        name,
                        trusted(link),
                        trusted(role),
                        SQL(" WITH GRANT OPTION" if is_grantable and verb == "GRANT" else ""),
                    )
                )


def _name(schema: str, thing: Thing) -> Identifier:
    return Identifier(schema, thing.name)


def _oid(db: Connection, name: str) -> int:
    row = db.execute("SELECT %s::regclass::oid", [name]).fetchone()
    return 0 if row is None else int(row[0])
