"""Statements about database objects: what a projection's own schema makes or drops, and what `check` asks."""

from typing import LiteralString

# Rows: (catalogue, oid) of each object that this transaction has dropped: its lock is held, and its row is gone.
OBJECTS_DROPPED: LiteralString = """
SELECT held.class::text, held.object
FROM (
    SELECT DISTINCT coalesce(classid, 'pg_class'::regclass)::regclass AS class, coalesce(objid, relation) AS object
    FROM pg_locks
    WHERE pid = pg_backend_pid()
        AND locktype IN ('relation', 'object')
        AND mode = 'AccessExclusiveLock'
) AS held
CROSS JOIN LATERAL pg_identify_object(held.class, held.object, 0) AS its
WHERE its.identity IS NULL
"""

# Parameters: classes (text[]), oids (oid[]).  Rows: (description) of each that is there; a table stands for
# its row type, its constraints and what else belongs to it.
OBJECT_IDENTITIES: LiteralString = """
SELECT its.type || ' ' || its.identity
FROM unnest(%(classes)s::text[], %(oids)s::oid[]) AS known (class, object)
CROSS JOIN LATERAL pg_identify_object(known.class::regclass, known.object, 0) AS its
WHERE its.identity IS NOT NULL
    AND known.class::regclass NOT IN ('pg_constraint'::regclass, 'pg_attrdef'::regclass)
    AND its.schema IS DISTINCT FROM 'pg_toast'
    AND NOT EXISTS (
        SELECT
        FROM pg_depend
        WHERE classid = known.class::regclass
            AND objid = known.object
            AND deptype = 'i'
    )
ORDER BY 1
"""

# Parameters: table (text, quoted where need be).  Rows: one (whether the search_path finds it).
TABLE_EXISTS: LiteralString = "SELECT to_regclass(%(table)s) IS NOT NULL"

# Parameters: tables (text[], quoted where need be).  Rows: (table, the schema that the search_path finds it in, quoted)
# for each that is there.
HOMES_OF_TABLES: LiteralString = """
SELECT wanted.name, quote_ident(place.nspname)
FROM unnest(%(tables)s::text[]) AS wanted (name)
JOIN pg_class AS class ON class.oid = to_regclass(wanted.name)
JOIN pg_namespace AS place ON place.oid = class.relnamespace
"""

# Parameters: key.  Held until the end of the transaction: one worker at a time runs DDL.
LOCK_SCHEMA: LiteralString = "SELECT pg_advisory_xact_lock(%(key)s)"

# Rows: one (is it a database that nobody has ever prepared).
IS_WITHOUT_SCHEMA: LiteralString = """
SELECT to_regclass('event_store') IS NULL
    AND to_regclass('projection_checkpoints') IS NULL
"""

# Rows: (schema in which a new table would be made or null, role, both quoted; may that role make one there).
MAY_CREATE: LiteralString = """
SELECT
    quote_ident(current_schema()),
    quote_ident(current_user),
    has_schema_privilege(to_regnamespace(quote_ident(current_schema())), 'CREATE')
"""

# Parameters: event_types (text[]).  Rows: one (event_type) for each that the store does not hold; none when the store
# is empty.  Index: the one on event_type, where there is one; else it reads until it has met each type.
UNKNOWN_EVENT_TYPES: LiteralString = """
SELECT asked.event_type
FROM unnest(%(event_types)s::text[]) WITH ORDINALITY AS asked (event_type, place)
WHERE EXISTS (SELECT FROM event_store)
    AND NOT EXISTS (
        SELECT
        FROM event_store AS event
        WHERE event.event_type = asked.event_type
    )
ORDER BY asked.place
"""
