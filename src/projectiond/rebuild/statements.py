"""The statements of a rebuild beside the live tables, as ``sql`` has those of the data path.

They are run on the base search_path, where the daemon's own tables are found; ``{space}`` is the schema of the space.
"""

from typing import Final, LiteralString

# Held by whoever builds a projection anew: one builder at a time, whatever daemons there are.
# Parameters: name.  Rows: one (whether it was taken).  Released with the session.
TRY_BUILDER: LiteralString = "SELECT pg_try_advisory_lock(hashtextextended('projectiond/builder/' || %(name)s, 0))"
RELEASE_BUILDER: LiteralString = "SELECT pg_advisory_unlock(hashtextextended('projectiond/builder/' || %(name)s, 0))"

# Parameters: schema.  Rows: one (its owner is the current role or one that it belongs to, whether it holds anything,
# whether it is a space), or none when there is no such schema.
DESCRIBE_SCHEMA: LiteralString = """
SELECT
    pg_has_role(place.nspowner, 'USAGE'),
    EXISTS (SELECT FROM pg_class WHERE relnamespace = place.oid)
        OR EXISTS (SELECT FROM pg_proc WHERE pronamespace = place.oid)
        OR EXISTS (SELECT FROM pg_type WHERE typnamespace = place.oid),
    EXISTS (SELECT FROM pg_class WHERE relnamespace = place.oid AND relname = 'projectiond_space')
FROM pg_namespace AS place
WHERE place.nspname = %(schema)s
"""

# Rows: one (may the role create schemas, database, role; the names quoted).
MAY_CREATE_SCHEMA: LiteralString = """
SELECT
    has_database_privilege(current_database(), 'CREATE'),
    quote_ident(current_database()),
    quote_ident(current_user)
"""

CREATE_SCHEMA: LiteralString = "CREATE SCHEMA {space}"
DROP_SCHEMA: LiteralString = "DROP SCHEMA IF EXISTS {space} CASCADE"

# The bookkeeping: what the runner reads and writes, and what the space itself is known again by.
MAKE_BOOKKEEPING: Final[tuple[LiteralString, ...]] = (
    """
    CREATE TABLE {space}.projection_checkpoints
        (LIKE projection_checkpoints INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)
    """,
    "CREATE TABLE {space}.projection_rebuilds (LIKE projection_rebuilds INCLUDING DEFAULTS INCLUDING INDEXES)",
    "CREATE TABLE {space}.projection_dead_letters (LIKE projection_dead_letters INCLUDING DEFAULTS INCLUDING INDEXES)",
    """
    CREATE TABLE {space}.projectiond_space
        (projection_name text NOT NULL, rebuild_id uuid, fingerprint text NOT NULL, made_at timestamptz NOT NULL)
    """,
)

# Parameters: name.
MAKE_CHECKPOINT: LiteralString = """
INSERT INTO {space}.projection_checkpoints
    (projection_name, last_sequence_number, last_processed_at, events_processed, status)
VALUES (%(name)s, 0, now(), 0, 'running')
"""

# Parameters: name, rebuild_id, fingerprint.
NOTE_SPACE: LiteralString = """
INSERT INTO {space}.projectiond_space (projection_name, rebuild_id, fingerprint, made_at)
VALUES (%(name)s, %(rebuild_id)s, %(fingerprint)s, now())
"""

# Of a trigger an argument is part of its definition.
LINK: LiteralString = """
CREATE TRIGGER projectiond_replay_moved
BEFORE UPDATE ON {space}.projection_checkpoints
FOR EACH ROW
EXECUTE FUNCTION projectiond_replay_moved({arguments})
"""

# Parameters: schema, tables (text[], quoted).  Rows: (table) for each that the search_path finds elsewhere or nowhere.
STRAY_TABLES: LiteralString = """
SELECT name
FROM unnest(%(tables)s::text[]) WITH ORDINALITY AS declared (name, place)
WHERE NOT EXISTS (
    SELECT
    FROM pg_class
    JOIN pg_namespace ON pg_namespace.oid = pg_class.relnamespace
    WHERE pg_class.oid = to_regclass(declared.name)
        AND pg_namespace.nspname = %(schema)s
)
ORDER BY place
"""

# Parameters: schema.  Rows: (table) for each outside of the schema that this transaction has written or altered: it
# holds such a lock until its end.
TOUCHED_OUTSIDE: LiteralString = """
SELECT DISTINCT format('%%I.%%I', place.nspname, touched.relname)
FROM pg_locks AS held
JOIN pg_class AS touched ON touched.oid = held.relation
JOIN pg_namespace AS place ON place.oid = touched.relnamespace
WHERE held.pid = pg_backend_pid()
    AND held.locktype = 'relation'
    AND held.mode IN ('RowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    AND (
        touched.relkind IN ('r', 'p', 'm', 'f')
        OR (touched.relkind IN ('v', 'i', 'I', 'S') AND held.mode = 'AccessExclusiveLock')
    )
    AND place.nspname <> %(schema)s
    AND place.nspname NOT LIKE 'pg\\_%%'
ORDER BY 1
"""

# Parameters: schema.  Rows: (name, quoted) of the extensions in it.
EXTENSIONS: LiteralString = """
SELECT quote_ident(extname)
FROM pg_extension
WHERE extnamespace = to_regnamespace(quote_ident(%(schema)s))
ORDER BY 1
"""

# Parameters: schema.  Rows: one (whether a space is there).
IS_SPACE: LiteralString = """
SELECT EXISTS (
    SELECT
    FROM pg_class
    JOIN pg_namespace ON pg_namespace.oid = pg_class.relnamespace
    WHERE pg_namespace.nspname = %(schema)s
        AND pg_class.relname = 'projectiond_space'
)
"""

# Rows: one (projection_name, rebuild_id, fingerprint).
READ_SPACE: LiteralString = "SELECT projection_name, rebuild_id, fingerprint FROM {space}.projectiond_space"

# Parameters: schema.  Rows: one (whether the bookkeeping in a space has all columns of the daemon's own).
IS_CURRENT: LiteralString = """
SELECT NOT EXISTS (
    SELECT own.name, attname
    FROM (VALUES ('projection_checkpoints'), ('projection_rebuilds'), ('projection_dead_letters')) AS own (name)
    JOIN pg_attribute ON attrelid = own.name::regclass AND attnum > 0 AND NOT attisdropped
    EXCEPT
    SELECT relname::text, attname
    FROM pg_class
    JOIN pg_attribute ON attrelid = pg_class.oid AND NOT attisdropped
    WHERE relnamespace = to_regnamespace(quote_ident(%(schema)s))
)
"""

# Parameters: prefix.  Rows: (schema) for each space of ours that may be a rebuild's.
SPACES: LiteralString = """
SELECT pg_namespace.nspname::text
FROM pg_class
JOIN pg_namespace ON pg_namespace.oid = pg_class.relnamespace
WHERE pg_class.relname = 'projectiond_space'
    AND starts_with(pg_namespace.nspname::text, %(prefix)s)
    AND pg_has_role(pg_class.relowner, 'USAGE')
ORDER BY 1
"""

# Parameters: schema.  Rows: (object) for each outside of the schema that would go, or lose a column, with it.
# An index, a view, a column's type or default, a foreign key, a trigger; what is PostgreSQL's own (TOAST) is not asked.
DEPENDENTS: LiteralString = """
WITH inside AS (
    SELECT 'pg_class'::regclass AS class, pg_class.oid
    FROM pg_class
    JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = %(schema)s
    UNION ALL
    SELECT 'pg_type'::regclass, pg_type.oid
    FROM pg_type
    JOIN pg_namespace ON pg_namespace.oid = typnamespace
    WHERE nspname = %(schema)s
    UNION ALL
    SELECT 'pg_proc'::regclass, pg_proc.oid
    FROM pg_proc
    JOIN pg_namespace ON pg_namespace.oid = pronamespace
    WHERE nspname = %(schema)s
),
owners AS (
    SELECT coalesce(
        CASE WHEN depend.classid = 'pg_class'::regclass THEN depend.objid END,
        (SELECT adrelid FROM pg_attrdef WHERE depend.classid = 'pg_attrdef'::regclass AND oid = depend.objid),
        (SELECT conrelid FROM pg_constraint WHERE depend.classid = 'pg_constraint'::regclass AND oid = depend.objid),
        (SELECT ev_class FROM pg_rewrite WHERE depend.classid = 'pg_rewrite'::regclass AND oid = depend.objid),
        (
            SELECT tgrelid
            FROM pg_trigger
            WHERE depend.classid = 'pg_trigger'::regclass AND oid = depend.objid AND NOT tgisinternal
        )
    ) AS relation
    FROM pg_depend AS depend
    JOIN inside ON depend.refclassid = inside.class AND depend.refobjid = inside.oid
    WHERE depend.deptype IN ('n', 'a')
)
SELECT DISTINCT format('%%I.%%I', place.nspname, dependent.relname)
FROM owners
JOIN pg_class AS dependent ON dependent.oid = owners.relation
JOIN pg_namespace AS place ON place.oid = dependent.relnamespace
WHERE place.nspname <> %(schema)s
    AND place.nspname NOT LIKE 'pg\\_%%'
ORDER BY 1
"""

# Parameters: schema.  Rows: (kind, identity) of what a schema holds, for DROP … CASCADE, tables first.
CONTENTS: LiteralString = """
SELECT kind, identity
FROM (
    SELECT
        CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE' WHEN 'f'
            THEN 'FOREIGN TABLE' WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END AS kind,
        format('%%I.%%I', nspname, relname) AS identity,
        CASE WHEN relkind IN ('r', 'p') THEN 0 ELSE 1 END AS place
    FROM pg_class
    JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = %(schema)s
        AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')
    UNION ALL
    SELECT 'ROUTINE', format('%%I.%%I(%%s)', nspname, proname, pg_get_function_identity_arguments(pg_proc.oid)), 2
    FROM pg_proc
    JOIN pg_namespace ON pg_namespace.oid = pronamespace
    WHERE nspname = %(schema)s
    UNION ALL
    SELECT 'TYPE', format('%%I.%%I', nspname, typname), 3
    FROM pg_type
    JOIN pg_namespace ON pg_namespace.oid = typnamespace
    WHERE nspname = %(schema)s
        AND typtype IN ('e', 'd', 'r')
) AS contents
ORDER BY place
"""

# --- the rebuild's row ---------------------------------------------------------------------------------------

# Parameters: name.  Rows: one (status) or none.  Until COMMIT the status stays what it is, and so does the position.
LOCK_STATUS: LiteralString = """
SELECT status
FROM projection_checkpoints
WHERE projection_name = %(name)s
FOR UPDATE
"""

# Parameters: name, id, target.
MARK_REBUILD: LiteralString = """
INSERT INTO projection_rebuilds AS kept (projection_name, id, target_sequence_number, mode, is_begun)
VALUES (%(name)s, %(id)s, %(target)s, 'beside', true)
ON CONFLICT (projection_name) DO UPDATE
SET id = excluded.id,
    started_at = excluded.started_at,
    target_sequence_number = excluded.target_sequence_number,
    mode = excluded.mode,
    is_begun = excluded.is_begun,
    position_sequence_number = 0,
    is_paused = false,
    error_message = NULL
"""

# Parameters: name, error.  Also for a rebuild that could not begin, which has no row yet.
NOTE_FAILURE: LiteralString = """
INSERT INTO projection_rebuilds AS kept (projection_name, mode, error_message)
SELECT projection_name, 'beside', %(error)s
FROM projection_checkpoints
WHERE projection_name = %(name)s
    AND status = 'rebuilding'
ON CONFLICT (projection_name) DO UPDATE
SET error_message = excluded.error_message
WHERE kept.mode = 'beside'
"""

# Parameters: name.  Rows: one (status, position, mode, id, is_paused; the last three null without a rebuild), or none.
READ_REBUILD: LiteralString = """
SELECT
    kept.status,
    kept.last_sequence_number,
    rebuild.mode,
    rebuild.id,
    rebuild.is_paused
FROM projection_checkpoints AS kept
LEFT JOIN projection_rebuilds AS rebuild USING (projection_name)
WHERE kept.projection_name = %(name)s
"""

# Parameters: name, id.  Rows: one (whether there is such a rebuild).
IS_MARKED: LiteralString = """
SELECT EXISTS (
    SELECT
    FROM projection_rebuilds
    WHERE projection_name = %(name)s
        AND id = %(id)s
)
"""

# --- the replay's row, with the space first in the search_path -----------------------------------------------

# Parameters: name.  What stopped the replay may be mended by now.
RESUME_REPLAY: LiteralString = """
UPDATE projection_checkpoints
SET status = 'running',
    error_message = NULL
WHERE projection_name = %(name)s
    AND status <> 'running'
"""

# Parameters: name.  Rows: one (position, error_message).
READ_REPLAY: LiteralString = """
SELECT last_sequence_number, error_message
FROM projection_checkpoints
WHERE projection_name = %(name)s
"""

# --- the finish ----------------------------------------------------------------------------------------------

# However large the tables are, and while the replay catches up; not every version has all of these.
LIFT_TIMEOUTS: LiteralString = """
SELECT set_config(name, '0', true)
FROM pg_settings
WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')
"""

# Parameters: name.
TAKE_CHECKPOINT: LiteralString = """
UPDATE projection_checkpoints AS live
SET last_sequence_number = built.last_sequence_number,
    last_event_id = built.last_event_id,
    last_processed_at = now(),
    events_processed = built.events_processed,
    error_message = NULL,
    status = 'running'
FROM {space}.projection_checkpoints AS built
WHERE live.projection_name = %(name)s
    AND built.projection_name = live.projection_name
"""

# Parameters: name.
DROP_DEAD_LETTERS: LiteralString = "DELETE FROM projection_dead_letters WHERE projection_name = %(name)s"
TAKE_DEAD_LETTERS: LiteralString = "INSERT INTO projection_dead_letters SELECT * FROM {space}.projection_dead_letters"

# Parameters: name, position, method, tables (jsonb).  Before the status is set, which takes the rebuild's row away.
WRITE_HISTORY: LiteralString = """
INSERT INTO projection_rebuild_history (projection_name, started_at, finished_at, position, method, tables)
SELECT projection_name, started_at, clock_timestamp(), %(position)s, %(method)s, %(tables)s
FROM projection_rebuilds
WHERE projection_name = %(name)s
"""

# --- verify and materialize ----------------------------------------------------------------------------------

# Held by whoever is at work in a space that belongs to no rebuild.
# Parameters: schema.  Rows: one (whether it was taken).  Released at the end, for a session may live on a moment.
TRY_SPACE: LiteralString = "SELECT pg_try_advisory_lock(hashtextextended('projectiond/space/' || %(schema)s, 0))"
RELEASE_SPACE: LiteralString = "SELECT pg_advisory_unlock(hashtextextended('projectiond/space/' || %(schema)s, 0))"

# The transaction's snapshot is taken by its first query.
BEGIN_SNAPSHOT: LiteralString = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
TAKE_SNAPSHOT: LiteralString = "SELECT 1"

# Parameters: moment.  Rows: one (the first sequence number made later, or null).  Index: the one on created_at.
FIRST_AFTER: LiteralString = """
SELECT min(sequence_number)
FROM event_store
WHERE created_at > %(moment)s
"""

# What a space has besides the projection's tables.
DROP_BOOKKEEPING: Final[tuple[LiteralString, ...]] = (
    "DROP TABLE {space}.projection_checkpoints",
    "DROP TABLE {space}.projection_rebuilds",
    "DROP TABLE {space}.projection_dead_letters",
    "DROP TABLE {space}.projectiond_space",
)
