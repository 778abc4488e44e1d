"""What changes places in a swap: the projection's tables, and whatever goes with them.

A table takes its indexes, constraints and sequences along by itself.  What `schema` has made beside it in the space is
a *thing* of its own: a type of its columns, a function of its triggers, a view on it.  Such a thing goes where the
tables go, and its namesake there, if any, goes where theirs go.

Other tables of `schema` do not: what they hold is not known to be the projection's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, LiteralString

from psycopg.sql import SQL, Identifier

from projectiond.errors import ConfigurationError
from projectiond.postgres.database import Connection
from projectiond.rebuild.catalogue import names_relative_to, trusted
from projectiond.rebuild.tables import BOOKKEEPING, OWN_PREFIX, Pair
from projectiond.rebuild.triggers import Trigger, find_twins, read_triggers

Catalogue = Literal["pg_class", "pg_type", "pg_proc", "pg_statistic_ext"]


@dataclass(frozen=True, slots=True)
class Thing:
    """An object that stands in a schema by itself."""

    catalogue: Catalogue
    oid: int
    kind: str
    """ "r" a table, "p" a partitioned one, and so on, as in pg_class; "" for what is no relation."""
    name: str
    """Relative to its schema; of a function with the types of its arguments."""

    @property
    def is_table(self) -> bool:
        """Whether it holds rows."""
        return self.kind in {"r", "p", "f"}


@dataclass(frozen=True, slots=True)
class Exchange:
    """Both sides of a swap, by the schema that is home to them."""

    space: str
    home: str
    built: tuple[Thing, ...]
    live: tuple[Thing, ...]
    triggers: tuple[Trigger, ...] = ()
    """Those of built tables whose function does not move."""

    def namesakes(self) -> list[tuple[Thing, Thing]]:
        """Give what is on both sides, live and built."""
        built = {(thing.catalogue, thing.name): thing for thing in self.built}
        both = ((live, built.get((live.catalogue, live.name))) for live in self.live)
        return [(live, new) for live, new in both if new is not None]


# Parameters: schema, bookkeeping (text[]), prefix.  Rows: (catalogue, oid, kind, name) of all that stands by itself.
_THINGS: LiteralString = """
SELECT 'pg_class', class.oid, class.relkind::text, class.relname::text
FROM pg_class AS class
WHERE class.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s)
    AND class.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    AND class.relname <> ALL (%(bookkeeping)s::text[])
    AND NOT starts_with(class.relname, %(prefix)s)
    AND NOT EXISTS (
        SELECT
        FROM pg_depend AS owned
        WHERE owned.classid = 'pg_class'::regclass
            AND owned.objid = class.oid
            AND owned.refclassid = 'pg_class'::regclass
            AND owned.refobjsubid > 0
            AND owned.deptype IN ('a', 'i')
            AND class.relkind = 'S'
    )
UNION ALL
SELECT 'pg_type', type.oid, '', type.typname::text
FROM pg_type AS type
LEFT JOIN pg_class AS class ON class.oid = type.typrelid
WHERE type.typnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s)
    AND (type.typtype IN ('e', 'd', 'r') OR class.relkind = 'c')
UNION ALL
SELECT 'pg_proc', oid, '', format('%%I(%%s)', proname, pg_get_function_identity_arguments(oid))
FROM pg_proc
WHERE pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s)
    AND NOT starts_with(proname, %(prefix)s)
UNION ALL
SELECT 'pg_statistic_ext', oid, '', stxname::text
FROM pg_statistic_ext
WHERE stxnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s)
ORDER BY 1, 4
"""

# Who needs whom, between things: what belongs to a thing (its index, default, constraint, trigger, rule, row type)
# stands for it.  The triggers of a foreign key belong to both its tables, and need neither.
PARTS: LiteralString = """
WITH part (class, oid, owner_class, owner) AS (
    SELECT 'pg_class'::regclass::oid, indexrelid, 'pg_class'::regclass::oid, indrelid
    FROM pg_index
    UNION ALL
    SELECT classid, objid, refclassid, refobjid
    FROM pg_depend
    JOIN pg_class ON pg_class.oid = objid AND relkind = 'S'
    WHERE classid = 'pg_class'::regclass
        AND refclassid = 'pg_class'::regclass
        AND refobjsubid > 0
        AND deptype IN ('a', 'i')
    UNION ALL
    SELECT 'pg_attrdef'::regclass, oid, 'pg_class'::regclass, adrelid
    FROM pg_attrdef
    UNION ALL
    SELECT
        'pg_constraint'::regclass,
        oid,
        CASE WHEN conrelid <> 0 THEN 'pg_class'::regclass ELSE 'pg_type'::regclass END,
        CASE WHEN conrelid <> 0 THEN conrelid ELSE contypid END
    FROM pg_constraint
    UNION ALL
    SELECT 'pg_trigger'::regclass, oid, 'pg_class'::regclass, tgrelid
    FROM pg_trigger
    UNION ALL
    SELECT 'pg_rewrite'::regclass, oid, 'pg_class'::regclass, ev_class
    FROM pg_rewrite
    UNION ALL
    SELECT 'pg_policy'::regclass, oid, 'pg_class'::regclass, polrelid
    FROM pg_policy
    UNION ALL
    SELECT
        'pg_type'::regclass,
        named.oid,
        CASE WHEN row.oid IS NULL THEN 'pg_type'::regclass ELSE 'pg_class'::regclass END,
        coalesce(row.oid, element.oid)
    FROM pg_type AS element
    LEFT JOIN pg_class AS row ON row.oid = element.typrelid AND row.relkind <> 'c'
    CROSS JOIN LATERAL (VALUES (element.oid), (element.typarray)) AS named (oid)
    WHERE named.oid <> 0
        AND (row.oid IS NOT NULL OR named.oid <> element.oid)
    UNION ALL
    SELECT 'pg_class'::regclass, oid, 'pg_type'::regclass, reltype
    FROM pg_class
    WHERE relkind = 'c'
    UNION ALL
    SELECT 'pg_type'::regclass, rngmultitypid, 'pg_type'::regclass, rngtypid
    FROM pg_range
),
need (class, oid, sub, user_class, user_oid, used_class, used_oid) AS (
    SELECT
        depend.classid,
        depend.objid,
        depend.objsubid,
        coalesce(mine.owner_class, depend.classid),
        coalesce(mine.owner, depend.objid),
        coalesce(its.owner_class, depend.refclassid),
        coalesce(its.owner, depend.refobjid)
    FROM pg_depend AS depend
    LEFT JOIN part AS mine ON mine.class = depend.classid AND mine.oid = depend.objid
    LEFT JOIN part AS its ON its.class = depend.refclassid AND its.oid = depend.refobjid
    WHERE NOT EXISTS (
        SELECT
        FROM pg_trigger
        WHERE depend.classid = 'pg_trigger'::regclass
            AND pg_trigger.oid = depend.objid
            AND tgisinternal
    )
)
"""

# Parameters: classes, oids.  Rows: (catalogue, oid) of what one of these needs, (catalogue, oid) of that one, and the
# catalogue of the part of it that does.
_NEEDED: LiteralString = (
    PARTS  # noqa: S608 - two constants
    + """
SELECT DISTINCT used_class::regclass::text, used_oid, user_class::regclass::text, user_oid, class::regclass::text
FROM need
WHERE (used_class, used_oid) IN (SELECT * FROM unnest(%(classes)s::regclass[]::oid[], %(oids)s::oid[]))
    AND (user_class, user_oid) IN (SELECT * FROM unnest(%(classes)s::regclass[]::oid[], %(oids)s::oid[]))
"""
)

# Parameters: tables (oid[]).  Rows: (oid) of their partitions, at any depth.
_PARTITIONS: LiteralString = """
SELECT leaf.relid::oid
FROM unnest(%(tables)s::oid[]) AS root
CROSS JOIN LATERAL pg_partition_tree(root) AS leaf
WHERE leaf.level > 0
"""


def plan(db: Connection, pairs: Sequence[Pair]) -> Exchange:
    """Find out what a swap of these tables moves.

    Raises:
        ConfigurationError: It would need a table that the projection does not declare.
    """
    space = pairs[0].built.schema
    homes = {pair.live.schema for pair in pairs if pair.live is not None}
    if len(homes) > 1:
        raise ConfigurationError(
            f"the tables of the projection are in several schemas ({', '.join(sorted(homes))}), and cannot be swapped",
            hint="move them into one, or rebuild with --in-place",
        )
    row = db.execute("SELECT current_schema()").fetchone()
    home = homes.pop() if homes else str(row and row[0])
    declared = {pair.built.oid for pair in pairs}
    twins = find_twins(db, space, home)
    built = _select(db, find_things(db, space, beside=home), declared, twins)
    strangers = [
        thing.name for thing in built if thing.is_table and thing.oid not in declared | _partitions(db, declared)
    ]
    if strangers:
        raise ConfigurationError(
            f"the tables refer to {', '.join(strangers)}, which `schema` makes too but `tables` leaves out",
            hint="declare it in `tables`, or rebuild with --in-place",
        )
    lives = {pair.live.oid for pair in pairs if pair.live is not None}
    names = {(thing.catalogue, thing.name) for thing in built}
    live = tuple(
        thing
        for thing in find_things(db, home)
        if thing.oid in lives or ((thing.catalogue, thing.name) in names and not thing.is_table)
    )
    partitions = _partitions(db, lives)
    live += tuple(
        thing
        for thing in find_things(db, home)
        if thing.is_table and thing.oid in partitions and ("pg_class", thing.name) in names
    )
    staying = twins - {thing.oid for thing in built if thing.catalogue == "pg_proc"}
    return Exchange(space, home, built, live, tuple(read_triggers(db, staying, space, home)))


def find_things(db: Connection, schema: str, *, beside: str | None = None) -> list[Thing]:
    """Give all that stands in a schema by itself, but for the daemon's own.

    Args:
        db: Inside a transaction.
        schema: Which.
        beside: Another schema, whose names are left out of the functions' arguments too.
    """
    parameters = {"schema": schema, "bookkeeping": list(BOOKKEEPING), "prefix": OWN_PREFIX}
    with names_relative_to(db, schema, *([beside] if beside else [])):
        return [Thing(*row) for row in db.execute(_THINGS, parameters)]


def move(db: Connection, things: Iterable[Thing], schema: str) -> None:
    """Move things to a schema."""
    for thing in things:
        row = db.execute(
            "SELECT type, identity FROM pg_identify_object(%s::regclass, %s, 0)", [thing.catalogue, thing.oid]
        ).fetchone()
        kind, identity = row or ("", "")
        verb = "statistics" if kind == "statistics object" else kind
        db.execute(SQL("ALTER {} {} SET SCHEMA {}").format(trusted(verb), trusted(identity), Identifier(schema)))


def _select(db: Connection, things: Sequence[Thing], declared: set[int], twins: set[int]) -> tuple[Thing, ...]:
    """Give the tables, what they need, and what is no table and needs them."""
    known = {(thing.catalogue, thing.oid): thing for thing in things}
    parameters = {"classes": [catalogue for catalogue, _ in known], "oids": [oid for _, oid in known]}
    edges = [
        ((used_in, used), (user_in, user))
        for used_in, used, user_in, user, part in db.execute(_NEEDED, parameters)
        if not (part == "pg_trigger" and used_in == "pg_proc" and used in twins)
    ]
    partitions = _partitions(db, declared)
    chosen = {
        key for key, thing in known.items() if thing.catalogue == "pg_class" and thing.oid in declared | partitions
    }
    while True:
        more = {used for used, user in edges if user in chosen}
        more |= {user for used, user in edges if used in chosen and not known[user].is_table}
        if more <= chosen:
            return tuple(thing for key, thing in known.items() if key in chosen)
        chosen |= more


def _partitions(db: Connection, tables: set[int]) -> set[int]:
    return {row[0] for row in db.execute(_PARTITIONS, {"tables": list(tables)})}
