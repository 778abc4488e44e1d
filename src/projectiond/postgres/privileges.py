"""Privileges: what the daemon's role needs, which of it is missing, and the SQL that grants it.

One list for all three, so that ``projectiond grants`` gives what ``projectiond check`` asks for and the daemon uses,
and nothing else.  A test runs a daemon as a role that has just that.  Called by the inspection and by the commands; it
reads the catalogues, which everybody may, and changes nothing.
"""

from collections.abc import Mapping
from typing import Final, LiteralString

import psycopg
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Composed, Identifier, Literal

from projectiond.errors import ConfigurationError

# Deleting from projection_rebuilds is done by the status trigger, as its owner.
TABLES: Final[Mapping[str, tuple[LiteralString, ...]]] = {
    "event_store": ("SELECT",),
    "projection_checkpoints": ("SELECT", "INSERT", "UPDATE"),
    "projection_dead_letters": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "projection_builds": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "projection_rebuilds": ("SELECT", "INSERT", "UPDATE"),
    "projection_rebuild_history": ("SELECT", "INSERT"),
    "projection_workers": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "projectiond_high_water_mark": ("SELECT", "INSERT", "UPDATE", "DELETE"),
}

# What ends every transaction of the daemon, and what its rebuilds hang on to a table as a trigger.  Everybody may call
# them unless an administrator has taken that away.
FUNCTIONS: Final[tuple[LiteralString, ...]] = ("projectiond_require_moved(boolean)", "projectiond_replay_moved()")

# Parameters: tables (text[]).  Rows: (schema, role; both quoted) for each in the search_path that holds some of the
# tables and that the role may not look into: names are then not found there, as if there were nothing.
_HIDDEN_SCHEMAS: LiteralString = """
SELECT DISTINCT
    quote_ident(place.nspname),
    quote_ident(current_user)
FROM pg_class AS class
JOIN pg_namespace AS place ON place.oid = class.relnamespace
WHERE class.relname = ANY (%(tables)s::text[])
    AND to_regclass(class.relname) IS NULL
    AND NOT has_schema_privilege(place.oid, 'USAGE')
    AND EXISTS (
        SELECT
        FROM unnest(string_to_array(current_setting('search_path'), ',')) AS entry
        WHERE btrim(entry) IN (quote_ident(place.nspname), place.nspname)
    )
ORDER BY 1
"""

# Parameters: table, privileges (text[]).  Rows: (privilege, role quoted) for each that the role lacks; none without the
# table.
_MISSING_ON_TABLE: LiteralString = """
SELECT privilege, quote_ident(current_user)
FROM unnest(%(privileges)s::text[]) WITH ORDINALITY AS wanted (privilege, place)
WHERE NOT has_table_privilege(to_regclass(%(table)s), privilege)
ORDER BY place
"""

# Rows: (sequence, role quoted) where the role may not read event_store's; none without the table, or a sequence.
_MISSING_ON_SEQUENCE: LiteralString = """
SELECT own.seqrelid::regclass::text, quote_ident(current_user)
FROM pg_attribute AS col
JOIN pg_sequence AS own ON own.seqrelid = pg_get_serial_sequence('event_store', col.attname::text)::regclass
WHERE col.attrelid = to_regclass('event_store')
    AND col.attname = 'sequence_number'
    AND NOT has_sequence_privilege(own.seqrelid, 'SELECT')
"""

# Parameters: functions (text[]).  Rows: (function, role quoted) for each that is there and that the role may not call.
_MISSING_ON_FUNCTIONS: LiteralString = """
SELECT signature, quote_ident(current_user)
FROM unnest(%(functions)s::text[]) WITH ORDINALITY AS wanted (signature, place)
WHERE NOT has_function_privilege(to_regprocedure(signature), 'EXECUTE')
ORDER BY place
"""

# Rows: one (database, schema of event_store, its sequence's schema and name), or none without the table.
_PLACES: LiteralString = """
SELECT current_database(), place.nspname::text, of_sequence.nspname::text, sequence.relname::text
FROM pg_class AS store
JOIN pg_namespace AS place ON place.oid = store.relnamespace
JOIN pg_class AS sequence
    ON sequence.oid = pg_get_serial_sequence(store.oid::regclass::text, 'sequence_number')::regclass
JOIN pg_namespace AS of_sequence ON of_sequence.oid = sequence.relnamespace
WHERE store.oid = to_regclass('event_store')
"""

# Parameters: schema.  Rows: one (its owner), or none when there is no such schema.
_OWNER_OF_SCHEMA: LiteralString = """
SELECT pg_get_userbyid(nspowner)::text
FROM pg_namespace
WHERE nspname = %(schema)s
"""

# The statements as they are shown.  A comment holds no name: what stands in a name could end it.
_HEAD: LiteralString = """\
-- What the daemon's role needs, and nothing else. Run it with psql as a superuser; or as a role that may create roles,
-- belongs to this one, and owns the database and the tables. It may be run again, and changes nothing then.
BEGIN;
"""
_ROLE: LiteralString = """
DO $projectiond$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {name}) THEN
        CREATE ROLE {role} LOGIN;
    END IF;
END
$projectiond$;
-- A new one has no password: give it one with \\password, unless it is let in by other means.

GRANT CONNECT ON DATABASE {database} TO {role};

-- The events, to be read; and the daemon's own tables.
GRANT USAGE ON SCHEMA {home} TO {role};
"""
_TABLE: LiteralString = "GRANT {privileges} ON TABLE {home}.{table} TO {role};\n"
_SEQUENCE: LiteralString = "GRANT SELECT ON SEQUENCE {schema}.{sequence} TO {role};\n"
_FUNCTION: LiteralString = "GRANT EXECUTE ON FUNCTION {home}.{function} TO {role};\n"
_OWN: LiteralString = """
-- Its read models live in a schema that belongs to it. Who reads them needs USAGE on the schema and SELECT on its
-- tables; ALTER DEFAULT PRIVILEGES FOR ROLE ... IN SCHEMA ... GRANT SELECT ON TABLES TO ... is for tables to come.
CREATE SCHEMA IF NOT EXISTS {own} AUTHORIZATION {role};
ALTER ROLE {role} IN DATABASE {database} SET search_path = {own}, {home};

-- A rebuild beside the live tables makes a schema, and drops it when it is done. Without this right rebuild in place,
-- or make the schema projectiond_rebuild_NAME for each projection, with this role as its owner.
GRANT CREATE ON DATABASE {database} TO {role};

COMMIT;
"""


def hidden_schemas(conn: psycopg.Connection[TupleRow]) -> list[str]:
    """Name each schema that should be looked into for the daemon's tables, and may not be; a sentence each."""
    rows = conn.execute(_HIDDEN_SCHEMAS, {"tables": list(TABLES)}).fetchall()
    return [
        f"role {role} lacks USAGE on schema {schema}: run GRANT USAGE ON SCHEMA {schema} TO {role}"
        for schema, role in rows
    ]


def missing_privileges(conn: psycopg.Connection[TupleRow]) -> list[str]:
    """Name what the role lacks on what is there; a sentence each, with the GRANT."""
    faults = []
    for table, privileges in TABLES.items():
        rows = conn.execute(_MISSING_ON_TABLE, {"table": table, "privileges": list(privileges)}).fetchall()
        if rows:
            lacking, role = ", ".join(privilege for privilege, _ in rows), rows[0][1]
            faults.append(f"role {role} lacks {lacking} on {table}: run GRANT {lacking} ON {table} TO {role}")
    for sequence, role in conn.execute(_MISSING_ON_SEQUENCE).fetchall():
        faults.append(f"role {role} lacks SELECT on {sequence}: run GRANT SELECT ON SEQUENCE {sequence} TO {role}")
    for function, role in conn.execute(_MISSING_ON_FUNCTIONS, {"functions": list(FUNCTIONS)}).fetchall():
        faults.append(f"role {role} lacks EXECUTE on {function}: run GRANT EXECUTE ON FUNCTION {function} TO {role}")
    return faults


def grants(conn: psycopg.Connection[TupleRow], role: str, schema: str = "") -> str:
    """Write the SQL that gives a role what the daemon needs on this database.

    Args:
        conn: connected to the database, as whoever may see its catalogues.
        role: made by the SQL if there is none of that name.
        schema: the role's own, for its read models; named like the role when left out.

    Raises:
        ConfigurationError: the schema is somebody else's, or the event store is not there.
    """
    places = conn.execute(_PLACES).fetchone()
    if places is None:
        raise ConfigurationError(
            "there is no event_store with a sequence in the search_path", hint='run "projectiond init"'
        )
    database, home, schema_of_sequence, sequence = places
    own = schema or role
    owner = conn.execute(_OWNER_OF_SCHEMA, {"schema": own}).fetchone()
    if owner is not None and owner[0] != role:
        raise ConfigurationError(
            f'the schema "{own}" belongs to "{owner[0]}", and the daemon\'s role needs one of its own',
            hint="name another with --schema",
        )
    names = {
        "role": Identifier(role),
        "name": Literal(role),
        "database": Identifier(database),
        "home": Identifier(home),
        "own": Identifier(own),
    }
    parts: list[SQL | Composed] = [SQL(_HEAD), SQL(_ROLE).format(**names)]
    for table, privileges in TABLES.items():
        listed = SQL(", ").join(map(SQL, privileges))
        parts.append(SQL(_TABLE).format(**names, privileges=listed, table=Identifier(table)))
    of_sequence = {"schema": Identifier(schema_of_sequence), "sequence": Identifier(sequence)}
    parts.append(SQL(_SEQUENCE).format(**names, **of_sequence))
    parts += [SQL(_FUNCTION).format(**names, function=SQL(function)) for function in FUNCTIONS]
    parts.append(SQL(_OWN).format(**names))
    text = SQL("").join(parts).as_string(conn)
    if text.count("$projectiond$") != 2:  # noqa: PLR2004 - where the quotation of the DO begins and ends
        raise ConfigurationError('"$projectiond$" cannot be part of a name', hint="choose another")
    return text
