"""What people have done to the live tables, done to those that take their place: comments, settings, indexes, policies.

`schema` says what a table is; how it is stored and what is written about it is often said elsewhere.  All of this
happens in the space, before anything is locked; only policies, whose conditions may name the tables themselves,
wait until these are in their places.

Where `schema` has an opinion of its own (a comment, a policy of the same name) it stands.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from projectiond.postgres.database import Connection
from projectiond.rebuild.catalogue import Index, Table, names_relative_to, trusted
from projectiond.rebuild.exchange import Exchange
from projectiond.rebuild.tables import Pair

# Parameters: live, built.  Rows: (column or null, comment) that the live one has and the other does not.
_COMMENTS: LiteralString = """
SELECT attribute.attname::text, description.description
FROM pg_description AS description
LEFT JOIN pg_attribute AS old ON old.attrelid = description.objoid AND old.attnum = description.objsubid
LEFT JOIN pg_attribute AS attribute ON attribute.attrelid = %(built)s AND attribute.attname = old.attname
WHERE description.classoid = 'pg_class'::regclass
    AND description.objoid = %(live)s
    AND (description.objsubid = 0 OR (attribute.attnum > 0 AND NOT old.attisdropped))
    AND NOT EXISTS (
        SELECT
        FROM pg_description AS own
        WHERE own.classoid = 'pg_class'::regclass
            AND own.objoid = %(built)s
            AND own.objsubid = coalesce(attribute.attnum, 0)
    )
"""

# Parameters: live, built.  Rows: one (row security, forced, replica identity, its index, options, options of TOAST).
_STORAGE: LiteralString = """
SELECT
    live.relrowsecurity AND NOT built.relrowsecurity,
    live.relforcerowsecurity AND NOT built.relforcerowsecurity,
    CASE WHEN live.relreplident <> built.relreplident THEN live.relreplident::text END,
    (
        SELECT class.relname::text
        FROM pg_index AS index
        JOIN pg_class AS class ON class.oid = index.indexrelid
        JOIN pg_class AS same ON same.relname = class.relname
        JOIN pg_index AS other ON other.indexrelid = same.oid AND other.indrelid = built.oid AND other.indisunique
        WHERE index.indrelid = live.oid AND index.indisreplident
    ),
    ARRAY(
        SELECT option
        FROM unnest(live.reloptions) AS option
        WHERE split_part(option, '=', 1) NOT IN (SELECT split_part(own, '=', 1) FROM unnest(built.reloptions) AS own)
        UNION ALL
        SELECT 'toast.' || option
        FROM pg_class AS old, pg_class AS new, unnest(old.reloptions) AS option
        WHERE old.oid = live.reltoastrelid
            AND new.oid = built.reltoastrelid
            AND split_part(option, '=', 1) NOT IN (SELECT split_part(own, '=', 1) FROM unnest(new.reloptions) AS own)
    )
FROM pg_class AS live, pg_class AS built
WHERE live.oid = %(live)s
    AND built.oid = %(built)s
"""

# Parameters: live, built.  Rows: (column, statistics target or null, options, storage or null) where they differ.
_COLUMN_SETTINGS: LiteralString = """
SELECT
    live.attname::text,
    CASE WHEN coalesce(live.attstattarget, -1) <> coalesce(built.attstattarget, -1)
        THEN live.attstattarget::int END,
    CASE WHEN live.attoptions IS DISTINCT FROM built.attoptions THEN live.attoptions ELSE '{}' END,
    CASE WHEN live.attstorage <> built.attstorage AND live.atttypid = built.atttypid THEN
        CASE live.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'x' THEN 'EXTENDED' ELSE 'MAIN' END
    END
FROM pg_attribute AS live
JOIN pg_attribute AS built ON built.attrelid = %(built)s AND built.attname = live.attname
WHERE live.attrelid = %(live)s
    AND live.attnum > 0
    AND NOT live.attisdropped
    AND NOT built.attisdropped
"""

# Parameters: live, built.  Rows: (name, kind, command, roles, quoted, condition, condition on new rows).
_POLICIES: LiteralString = """
SELECT
    policy.polname::text,
    CASE WHEN policy.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
    CASE policy.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE'
        ELSE 'ALL' END,
    ARRAY(
        SELECT CASE role WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(role)) END
        FROM unnest(policy.polroles) AS role
    ),
    pg_get_expr(policy.polqual, policy.polrelid),
    pg_get_expr(policy.polwithcheck, policy.polrelid)
FROM pg_policy AS policy
WHERE policy.polrelid = %(live)s
    AND NOT EXISTS (SELECT FROM pg_policy AS own WHERE own.polrelid = %(built)s AND own.polname = policy.polname)
ORDER BY policy.polname
"""

# Parameters: oid.  Rows: one (whether the planner knows anything of the table).
_HAS_STATISTICS: LiteralString = """
SELECT EXISTS (
    SELECT
    FROM pg_stats
    JOIN pg_class ON pg_class.oid = %(oid)s AND pg_class.relname = pg_stats.tablename
    JOIN pg_namespace ON pg_namespace.oid = pg_class.relnamespace AND pg_namespace.nspname = pg_stats.schemaname
)
"""


@dataclass(frozen=True, slots=True)
class Policy:
    """One that is to be made again, once the table is in its place."""

    table: str
    statement: Composed


def carry_settings(db: Connection, pairs: Sequence[Pair]) -> None:
    """Carry over comments, row security, replica identity, storage and the planner's settings; and extra indexes."""
    for pair in pairs:
        if pair.live is not None:
            both = {"live": pair.live.oid, "built": pair.built.oid}
            table = pair.built.identifier
            _carry_comments(db, table, both)
            for index in _extra_indexes(pair.live, pair.built):
                text = SQL("CREATE {}INDEX {} ON {} {}").format(
                    SQL("UNIQUE " if index.definition.startswith("UNIQUE ") else ""),
                    Identifier(index.name),
                    table,
                    trusted(index.definition.removeprefix("UNIQUE ")),
                )
                with names_relative_to(db, pair.built.schema, pair.live.schema):
                    db.execute(text)
            _carry_storage(db, table, both)
            _carry_column_settings(db, table, both)
        row = db.execute(_HAS_STATISTICS, {"oid": pair.built.oid}).fetchone()
        if row is not None and not row[0]:
            # Else the first readers would wait for plans made in the dark, until autovacuum comes by.
            db.execute(SQL("ANALYZE {}").format(pair.built.identifier))


def read_policies(db: Connection, exchange: Exchange) -> list[Policy]:
    """Give the policies to be made again; their conditions name tables as they will be called."""
    found = []
    with names_relative_to(db):
        for live, built in exchange.namesakes():
            if built.is_table:
                rows = db.execute(_POLICIES, {"live": live.oid, "built": built.oid}).fetchall()
                found += [Policy(built.name, _policy(Identifier(exchange.home, built.name), *row)) for row in rows]
    return found


def _carry_comments(db: Connection, table: Composable, both: dict[str, int]) -> None:
    for column, comment in db.execute(_COMMENTS, both).fetchall():
        what = SQL("TABLE {}").format(table)
        if column is not None:
            what = SQL("COLUMN {}.{}").format(table, Identifier(column))
        db.execute(SQL("COMMENT ON {} IS {}").format(what, Literal(comment)))


def _carry_storage(db: Connection, table: Composable, both: dict[str, int]) -> None:
    row = db.execute(_STORAGE, both).fetchone()
    if row is None:
        return
    is_secured, is_forced, identity, index, options = row
    changes: list[Composable] = []
    if is_secured:
        changes.append(SQL("ENABLE ROW LEVEL SECURITY"))
    if is_forced:
        changes.append(SQL("FORCE ROW LEVEL SECURITY"))
    if identity == "i" and index is not None:
        changes.append(SQL("REPLICA IDENTITY USING INDEX {}").format(Identifier(index)))
    elif identity in {"d", "n", "f"}:
        kinds: dict[str, LiteralString] = {"d": "DEFAULT", "n": "NOTHING", "f": "FULL"}
        changes.append(SQL("REPLICA IDENTITY {}").format(SQL(kinds[identity])))
    if options:
        changes.append(SQL("SET ({})").format(SQL(", ").join(_option(option) for option in options)))
    for change in changes:
        db.execute(SQL("ALTER TABLE {} {}").format(table, change))


def _carry_column_settings(db: Connection, table: Composable, both: dict[str, int]) -> None:
    for column, target, options, storage in db.execute(_COLUMN_SETTINGS, both).fetchall():
        changes: list[Composable] = []
        if target is not None:
            changes.append(SQL("SET STATISTICS {}").format(Literal(target)))
        if options:
            changes.append(SQL("SET ({})").format(SQL(", ").join(_option(option) for option in options)))
        if storage is not None:
            changes.append(SQL("SET STORAGE {}").format(trusted(storage)))
        for change in changes:
            db.execute(SQL("ALTER TABLE {} ALTER COLUMN {} {}").format(table, Identifier(column), change))


def _extra_indexes(live: Table, built: Table) -> list[Index]:
    """Give the indexes that only the live table has, and that the other could have."""
    definitions = {index.definition for index in built.indexes}
    names = {index.name for index in built.indexes}
    same = {
        column.name
        for column in live.columns
        if column.name in built.by_name and built.by_name[column.name].structure == column.structure
    }
    return [
        index
        for index in live.indexes
        if not index.is_of_constraint
        and index.definition not in definitions
        and index.name not in names
        and (same.issuperset(live.by_name) if index.columns is None else same.issuperset(index.columns))
    ]


def _option(text: str) -> Composable:
    name, _, value = text.partition("=")
    parts = [Identifier(part) for part in name.split(".")]
    return SQL("{} = {}").format(SQL(".").join(parts), Literal(value))


def _policy(
    table: Composable, name: str, kind: str, command: str, roles: list[str], using: str, check: str
) -> Composed:
    parts = [
        SQL("CREATE POLICY {} ON {} AS {} FOR {} TO {}").format(
            Identifier(name),
            table,
            trusted(kind),
            trusted(command),
            SQL(", ").join(map(trusted, roles)),
        )
    ]
    if using is not None:
        parts.append(SQL("USING ({})").format(trusted(using)))
    if check is not None:
        parts.append(SQL("WITH CHECK ({})").format(trusted(check)))
    return SQL(" ").join(parts)
