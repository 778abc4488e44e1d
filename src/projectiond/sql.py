"""Every statement that the daemon runs on its own behalf, each a named constant.

Called by the modules of the data path; nothing here runs anything.  Beside each statement stands what it takes,
what it gives, which locks it holds and which index serves it, so that whoever reads a slow-query log can find
its place here.  Parameters are psycopg's named ones.  Table names are resolved by the session's ``search_path``.
"""

from typing import Final, LiteralString

# The advisory locks' keys are eight ASCII letters read as one big-endian integer: findable in pg_locks, and
# unlikely to be an application's own.  schema.sql holds the doorbell's key too; a test keeps the two equal.
DOORBELL_KEY: Final = int.from_bytes(b"projbell", "big")
WORKERS_KEY: Final = int.from_bytes(b"projwork", "big")
SCHEMA_KEY: Final = int.from_bytes(b"projddl!", "big")

DOORBELL_CHANNEL: Final = "projectiond_doorbell"
STATUS_CHANNEL: Final = "projectiond_status"
LEASES_CHANNEL: Final = "projectiond_leases"

# --- session -------------------------------------------------------------------------------------------------

# Parameters: statement_timeout (text, milliseconds).  The isolation level matters: the compare-and-set of the
# checkpoint relies on READ COMMITTED's second look at a row that changed while it waited.
# The keepalives make the server notice that our machine has gone: within 11 s, for beside tcp_user_timeout the number
# of probes does not count.  They have no effect on a Unix socket.
# Rows: one, that ends with the search path and the time at which this server process was started: it tells one history
# from another.
CONFIGURE_SESSION: LiteralString = """
SELECT
    set_config('statement_timeout', %(statement_timeout)s, false),
    set_config('default_transaction_isolation', 'read committed', false),
    set_config('tcp_keepalives_idle', '5', false),
    set_config('tcp_keepalives_interval', '3', false),
    set_config('tcp_keepalives_count', '3', false),
    set_config('tcp_user_timeout', '10000', false),
    current_setting('search_path'),
    pg_postmaster_start_time()
"""

# A statement that runs while its worker is killed is given up by the server so soon, and its locks with it.
CHECK_CLIENT: LiteralString = "SET client_connection_check_interval = '1s'"

# Parameters: schema, replay_id.  For the session of a replay; the trigger on its checkpoint asks whose it is.
ENTER_SPACE: LiteralString = """
SELECT
    set_config('search_path', quote_ident(%(schema)s) || ', ' || current_setting('search_path'), false),
    set_config('projectiond.replay', %(replay_id)s, false)
"""

# Rows: one (the process id of this session's server process).
SESSION: LiteralString = "SELECT pg_backend_pid()"

# Rows: one (server_version_num, is_standby).
SERVER_FACTS: LiteralString = """
SELECT
    current_setting('server_version_num')::int,
    pg_is_in_recovery()
"""

# Parameters: timeout (text).  For the rest of the transaction.
SET_LOCK_TIMEOUT: LiteralString = "SELECT set_config('lock_timeout', %(timeout)s, true)"

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

# Parameters: key.  Held until the end of the transaction: one worker at a time runs DDL.
LOCK_SCHEMA: LiteralString = "SELECT pg_advisory_xact_lock(%(key)s)"

# --- high-water mark -----------------------------------------------------------------------------------------

# Rows: one (sequence): the sequence that event_store's numbers are drawn from, as text; null when it owns none.
NUMBERS_SEQUENCE: LiteralString = "SELECT pg_get_serial_sequence('event_store', 'sequence_number')"

# Parameters: settled, run_limit, sequence.  Rows: one (run_end, largest, last_drawn): the end of the gapless run that
# begins at settled + 1 (settled itself when there is none), the largest visible number (0 in an empty store), and the
# last number that the sequence has given (null when we may not know), which is read after the snapshot was taken.
# Index: the unique one on sequence_number, at most run_limit entries of it and its last.
SIGHTING: LiteralString = """
SELECT
    coalesce(max(seen.sequence_number) FILTER (WHERE seen.sequence_number - seen.place = %(settled)s), %(settled)s),
    coalesce((SELECT max(sequence_number) FROM event_store), 0),
    pg_sequence_last_value(%(sequence)s::regclass)
FROM (
    SELECT
        above.sequence_number,
        row_number() OVER (ORDER BY above.sequence_number) AS place
    FROM (
        SELECT sequence_number
        FROM event_store
        WHERE sequence_number > %(settled)s
        ORDER BY sequence_number
        LIMIT %(run_limit)s
    ) AS above
) AS seen
"""

# Of the events of a range, their columns in the order of ``Event.from_row``; and what they are taken from, up to the
# WHERE of its innermost part, with what their JSON adds up to.  Parameters: most_stored, most_bytes.  Both JSON columns
# are null once their sizes as text add up to more than most_bytes, and where they are stored in more than most_stored
# bytes (compressed), for then the server should not even unpack them.  JSON is the only column of type text, so that it
# can be kept as bytes; it is made once, under the LIMIT.
_EVENT_COLUMNS: LiteralString = """
    weighed.event_id,
    weighed.aggregate_id,
    weighed.aggregate_type::varchar,
    weighed.event_type::varchar,
    CASE WHEN weighed.bytes <= %(most_bytes)s THEN weighed.data_text END,
    CASE WHEN weighed.bytes <= %(most_bytes)s THEN weighed.metadata_text END,
    weighed.version,
    weighed.sequence_number,
    weighed.created_at
"""
_WEIGHED_EVENTS: LiteralString = """
    SELECT
        event.*,
        sum(octet_length(data_text) + coalesce(octet_length(metadata_text), 0)) OVER (
            ORDER BY sequence_number
            ROWS UNBOUNDED PRECEDING
        ) AS bytes
    FROM (
        SELECT
            event_id,
            aggregate_id,
            aggregate_type,
            event_type,
            CASE
                WHEN pg_column_size(event_data) + coalesce(pg_column_size(metadata), 0) <= %(most_stored)s
                    THEN event_data::text
            END AS data_text,
            CASE
                WHEN pg_column_size(event_data) + coalesce(pg_column_size(metadata), 0) <= %(most_stored)s
                    THEN metadata::text
            END AS metadata_text,
            version,
            sequence_number,
            created_at
        FROM event_store
"""

# Parameters: as SIGHTING, and most_events, most_stored, most_bytes.  Rows: the sighting, and beside it the events of
# the run, in order and a row for each; one row, without an event, when there is none or the run has more than
# most_events.  An event's JSON is null where READ_EVENTS would leave it out, and as there it alone is of type text.
# One statement, so one snapshot: there is an event for each number of the run.
# Index: as SIGHTING, and once more for the events.
SIGHTING_AND_EVENTS: LiteralString = (
    """
SELECT
    sighting.run_end,
    sighting.largest,
    sighting.last_drawn,
"""
    + _EVENT_COLUMNS
    + """FROM (
    SELECT
        coalesce(max(seen.sequence_number) FILTER (WHERE seen.sequence_number - seen.place = %(settled)s), %(settled)s)
            AS run_end,
        coalesce((SELECT max(sequence_number) FROM event_store), 0) AS largest,
        pg_sequence_last_value(%(sequence)s::regclass) AS last_drawn
    FROM (
        SELECT
            above.sequence_number,
            row_number() OVER (ORDER BY above.sequence_number) AS place
        FROM (
            SELECT sequence_number
            FROM event_store
            WHERE sequence_number > %(settled)s
            ORDER BY sequence_number
            LIMIT %(run_limit)s
        ) AS above
    ) AS seen
) AS sighting
LEFT JOIN LATERAL (
"""
    + _WEIGHED_EVENTS
    + """        WHERE sequence_number > %(settled)s
            AND sequence_number <= sighting.run_end
            AND sighting.run_end <= %(settled)s + %(most_events)s
        ORDER BY sequence_number
        LIMIT %(most_events)s
    ) AS event
) AS weighed ON true
ORDER BY weighed.sequence_number
"""
)

# Rows: one.  For the watcher's session, whose statements are few and all go by an index: they are planned once, for
# planning takes longer than a look; and the plan must be the right one also when the store was empty at that time.
CONFIGURE_WATCHER: LiteralString = """
SELECT
    set_config('plan_cache_mode', 'force_generic_plan', false),
    set_config('enable_seqscan', 'off', false),
    set_config('enable_bitmapscan', 'off', false),
    set_config('jit', 'off', false)
"""

# Rows: one for each transaction that holds RowExclusiveLock on event_store or a partition of it: any transaction
# that may still commit a number that it drew before this statement began.  A prepared transaction keeps the
# virtual transaction id of the session that prepared it.  Locks: none (reads the lock table).
LOCKERS: LiteralString = """
SELECT DISTINCT held.virtualtransaction
FROM pg_locks AS held
WHERE held.locktype = 'relation'
    AND held.mode = 'RowExclusiveLock'
    AND held.granted
    AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND held.relation IN (
        SELECT to_regclass('event_store')::oid
        UNION ALL
        SELECT relid::oid FROM pg_partition_tree(to_regclass('event_store'))
    )
"""

# Parameters: lockers (text[]).  Rows: (pid, application, user, state, open_seconds, gid) for each of these
# transactions, the oldest first; pid is null and gid is set for a prepared transaction.  For people: what
# a role may not see of other sessions is null.
DESCRIBE_LOCKERS: LiteralString = """
SELECT DISTINCT ON (held.virtualtransaction)
    held.pid,
    session.application_name,
    session.usename::text,
    session.state,
    extract(epoch FROM clock_timestamp() - coalesce(session.xact_start, prepared.prepared))::float8,
    prepared.gid
FROM pg_locks AS held
LEFT JOIN pg_stat_activity AS session
    ON session.pid = held.pid
LEFT JOIN pg_prepared_xacts AS prepared
    ON held.pid IS NULL
    AND prepared.transaction = held.transactionid
WHERE held.virtualtransaction = ANY(%(lockers)s)
ORDER BY held.virtualtransaction, prepared.gid NULLS LAST, held.pid
"""

# Rows: one (end): no number above it was ever drawn.  sequence_number's own sequence is asked as well as the
# table, for events may have been deleted and numbers may have been burnt.
STORE_END: LiteralString = """
SELECT greatest(
    coalesce((SELECT max(sequence_number) FROM event_store), 0),
    coalesce(pg_sequence_last_value(pg_get_serial_sequence('event_store', 'sequence_number')::regclass), 0)
)
"""

# Rows: one (largest): the largest visible sequence number, 0 in an empty store.
STORE_HEAD: LiteralString = """
SELECT coalesce(max(sequence_number), 0)
FROM event_store
"""

# Rows: one (mark) or none.
READ_PROVEN_MARK: LiteralString = """
SELECT mark
FROM projectiond_high_water_mark
"""

# Parameters: mark.  Only ever raises it: another worker may have proven more.
WRITE_PROVEN_MARK: LiteralString = """
INSERT INTO projectiond_high_water_mark AS kept (singleton, mark, proven_at)
VALUES (true, %(mark)s, now())
ON CONFLICT (singleton) DO UPDATE
SET mark = excluded.mark,
    proven_at = excluded.proven_at
WHERE kept.mark < excluded.mark
"""

# Parameters: end.  A mark beyond the end of the store belongs to a history that is gone.
FORGET_PROVEN_MARK: LiteralString = """
DELETE FROM projectiond_high_water_mark
WHERE mark > %(end)s
"""

# --- doorbell ------------------------------------------------------------------------------------------------

LISTEN_DOORBELL: LiteralString = "LISTEN projectiond_doorbell"
LISTEN_STATUS: LiteralString = "LISTEN projectiond_status"
LISTEN_LEASES: LiteralString = "LISTEN projectiond_leases"

# Rows: one (armed).  Takes the exclusive session lock, or returns at once: it never waits, for an exclusive
# request in the queue would make every writer's try fail.
ARM_DOORBELL: LiteralString = "SELECT pg_try_advisory_lock(%(key)s)"

# Rows: one (armed elsewhere): another session holds the bell exclusively.
DOORBELL_ARMED_ELSEWHERE: LiteralString = """
SELECT EXISTS (
    SELECT
    FROM pg_locks
    WHERE locktype = 'advisory'
        AND mode = 'ExclusiveLock'
        AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND objsubid = 1
        AND (classid::bigint << 32) | objid::bigint = %(key)s
        AND pid <> pg_backend_pid()
)
"""

# Rows: one.  Unlocks at once and notifies at its commit: in this order, for who hears it tries to arm.
DISARM_DOORBELL: LiteralString = "SELECT pg_advisory_unlock(%(key)s), pg_notify(%(channel)s, 'disarmed')"

# --- reader --------------------------------------------------------------------------------------------------

# Parameters: after, upto, event_types (text[]), batch_size, most_stored, most_bytes (see _WEIGHED_EVENTS).  Rows: at
# most batch_size events in order.
# Both bounds of the range matter: nothing above the mark is read, and a sparse filter scans a bounded range.
# Index: (event_type, sequence_number) or the unique one on sequence_number, whichever costs less.
READ_EVENTS: LiteralString = (
    "SELECT"
    + _EVENT_COLUMNS
    + "FROM ("
    + _WEIGHED_EVENTS
    + """        WHERE sequence_number > %(after)s
            AND sequence_number <= %(upto)s
            AND event_type = ANY(%(event_types)s)
        ORDER BY sequence_number
        LIMIT %(batch_size)s
    ) AS event
) AS weighed
ORDER BY sequence_number
"""
)

# As READ_EVENTS, for a projection that takes every type.
READ_ALL_EVENTS: LiteralString = (
    "SELECT"
    + _EVENT_COLUMNS
    + "FROM ("
    + _WEIGHED_EVENTS
    + """        WHERE sequence_number > %(after)s
            AND sequence_number <= %(upto)s
        ORDER BY sequence_number
        LIMIT %(batch_size)s
    ) AS event
) AS weighed
ORDER BY sequence_number
"""
)

# Parameters: after, upto, event_types (text[], null for all).  Rows: one (sequence_number, event_type, event_id), of
# the first event; for messages.
NAME_FIRST_EVENT: LiteralString = """
SELECT
    sequence_number,
    event_type::text,
    event_id
FROM event_store
WHERE sequence_number > %(after)s
    AND sequence_number <= %(upto)s
    AND (%(event_types)s::text[] IS NULL OR event_type = ANY(%(event_types)s))
ORDER BY sequence_number
LIMIT 1
"""

# --- range reader / relation ---------------------------------------------------------------------------------

# Parameters: after, upto, event_types (text[]).  Rows: one (count, last_event_id): how many events are in the range,
# and the id of the last, null when there is none.
# Index: (event_type, sequence_number), the index alone where the table has been vacuumed; then one probe of the unique
# one on sequence_number.  LIMIT: only its sequence keeps the numbers of a partitioned table unique.
COUNT_EVENTS: LiteralString = """
SELECT
    matching.count,
    (
        SELECT event_id
        FROM event_store
        WHERE sequence_number = matching.last
        LIMIT 1
    )
FROM (
    SELECT
        count(*) AS count,
        max(sequence_number) AS last
    FROM event_store
    WHERE sequence_number > %(after)s
        AND sequence_number <= %(upto)s
        AND event_type = ANY(%(event_types)s)
) AS matching
"""

# As COUNT_EVENTS, for a projection that takes every type.  Index: the unique one on sequence_number.
COUNT_ALL_EVENTS: LiteralString = """
SELECT
    matching.count,
    (
        SELECT event_id
        FROM event_store
        WHERE sequence_number = matching.last
        LIMIT 1
    )
FROM (
    SELECT
        count(*) AS count,
        max(sequence_number) AS last
    FROM event_store
    WHERE sequence_number > %(after)s
        AND sequence_number <= %(upto)s
) AS matching
"""

# What is put in front of the statements of a SqlProjection, whose percent signs are its own: parameters are numbered.
# Parameters: $1 after, $2 upto, $3 event_types (text[]).
# Not materialized: each mention of it is planned by itself, with the author's conditions, and may use an index.
# Index: as COUNT_EVENTS, or none when the range is a good part of the table.
EVENTS: LiteralString = """events AS NOT MATERIALIZED (
    SELECT
        event_id,
        aggregate_id,
        aggregate_type,
        event_type,
        event_data,
        metadata,
        version,
        sequence_number,
        created_at
    FROM event_store
    WHERE sequence_number > $1
        AND sequence_number <= $2
        AND event_type = ANY($3)
)"""

# As EVENTS, for a projection that takes every type.
ALL_EVENTS: LiteralString = """events AS NOT MATERIALIZED (
    SELECT
        event_id,
        aggregate_id,
        aggregate_type,
        event_type,
        event_data,
        metadata,
        version,
        sequence_number,
        created_at
    FROM event_store
    WHERE sequence_number > $1
        AND sequence_number <= $2
)"""

# Takes the place of EVENTS to find out whether a statement reads it; only ever explained.  It gives no rows that could
# be read, so a statement that reads it is refused when its names are looked up, by this function of the server, and no
# other is, whatever the planner would make of it later.  Source: PostgreSQL, src/backend/parser/parse_relation.c.
UNREADABLE_EVENTS: LiteralString = "events AS (DELETE FROM projection_checkpoints WHERE false)"
READ_OF_UNREADABLE: Final = "addRangeTableEntryForCTE"

EXPLAIN: LiteralString = "EXPLAIN (COSTS OFF) "

# Where the server finds that one INSERT … ON CONFLICT, or one MERGE, would write a row twice; the SQLSTATE is that of a
# subquery with several rows too.  Source: PostgreSQL, src/backend/executor/nodeModifyTable.c.
ROW_WRITTEN_TWICE: Final = "nodeModifyTable.c"

# --- checkpoint ----------------------------------------------------------------------------------------------

# Parameters: name.  Rows: one (last_sequence_number, status, error_message, whether the tables have been emptied for a
# rebuild in place, the rebuild's target or 0, its mode, its position, its error), or none when there is no row.
READ_CHECKPOINT: LiteralString = """
SELECT
    kept.last_sequence_number,
    kept.status,
    kept.error_message,
    coalesce(rebuild.mode = 'in place' AND rebuild.is_begun, false),
    coalesce(rebuild.target_sequence_number, 0),
    rebuild.mode,
    coalesce(rebuild.position_sequence_number, 0),
    rebuild.error_message
FROM projection_checkpoints AS kept
LEFT JOIN projection_rebuilds AS rebuild USING (projection_name)
WHERE kept.projection_name = %(name)s
"""

# Parameters: name.  A row that is there already is left as it is: it may hold a start position set by hand.
CREATE_CHECKPOINT: LiteralString = """
INSERT INTO projection_checkpoints (projection_name)
VALUES (%(name)s)
ON CONFLICT (projection_name) DO NOTHING
"""

# Parameters: search_path.  In the middle of a transaction, before events are read and before the checkpoint is moved: a
# handler may have set another one.
RESTORE_SEARCH_PATH: LiteralString = "SELECT set_config('search_path', %(search_path)s, true)"

# Statements that the pipeline has prepared (see ``statements``).  One that is known to be there, and was not used for
# long; and all that are there, when that is no longer known.
DEALLOCATE: Final = b"DEALLOCATE %b"
DISCARD_PLANS: Final = rb"""
DO $$
DECLARE
    plan text;
BEGIN
    FOR plan IN SELECT name FROM pg_catalog.pg_prepared_statements WHERE name LIKE 'projectiond\_plan\_%' LOOP
        EXECUTE pg_catalog.format('DEALLOCATE %I', plan);
    END LOOP;
END
$$
"""

# A transaction that is sent through a pipeline.
BEGIN: LiteralString = "BEGIN"
COMMIT: LiteralString = "COMMIT"

# The first statement of every transaction that applies events.  The setting is local: when a handler has ended the
# transaction, by whatever trick, it is gone, and the compare-and-set below fails.
OPEN_TRANSACTION: LiteralString = "SELECT set_config('projectiond.transaction', 'open', true)"

# The same for one whose COMMIT does not wait for the disk, at no cost of its own.
OPEN_ASYNCHRONOUS_TRANSACTION: LiteralString = """
SELECT
    set_config('projectiond.transaction', 'open', true),
    set_config('synchronous_commit', 'off', true)
"""

# Parameters: name, from, to, status, last_event_id (may be null), applied.  The compare-and-set that ends every
# transaction.  When it finds no row the function raises, so that COMMIT can be sent along without waiting: SQLSTATE
# CHECKPOINT_MOVED when somebody else moved the checkpoint or changed the status, TRANSACTION_ENDED when a handler did
# away with the transaction.
# Locks: the row, until the COMMIT that follows at once.  Index: the primary key.
CHECKPOINT_MOVED: Final = "PJ002"
TRANSACTION_ENDED: Final = "PJ003"
# What a replay raises over a transaction that has written outside of its space; the message has the tables.
WRITTEN_OUTSIDE: Final = "PJ008"
ADVANCE_CHECKPOINT: LiteralString = """
WITH moved AS (
    UPDATE projection_checkpoints
    SET last_sequence_number = %(to)s,
        last_event_id = coalesce(%(last_event_id)s, last_event_id),
        last_processed_at = now(),
        events_processed = events_processed + %(applied)s,
        error_message = NULL
    WHERE projection_name = %(name)s
        AND last_sequence_number = %(from)s
        AND status = %(status)s
        AND current_setting('projectiond.transaction', true) = 'open'
    RETURNING last_sequence_number
)
SELECT projectiond_require_moved(count(*) = 1)
FROM moved
"""

# Parameters: name, event_types (text[], null for all).  Rows: one (sequence number, type and id of the event there, id
# of the one that was applied last), when the event at the checkpoint's number would have been applied, is another than
# last_event_id, and that one is not in the store; else none.  Index: three primary keys, the unique one on
# sequence_number.
OTHER_EVENT_AT_CHECKPOINT: LiteralString = """
SELECT
    found.sequence_number,
    found.event_type,
    found.event_id,
    kept.last_event_id
FROM projection_checkpoints AS kept
JOIN event_store AS found ON found.sequence_number = kept.last_sequence_number
WHERE kept.projection_name = %(name)s
    AND found.event_id <> kept.last_event_id
    AND (%(event_types)s::text[] IS NULL OR found.event_type = ANY(%(event_types)s::text[]))
    AND NOT EXISTS (
        SELECT
        FROM event_store AS applied
        WHERE applied.event_id = kept.last_event_id
    )
    AND NOT EXISTS (
        SELECT
        FROM projection_dead_letters AS letter
        WHERE letter.projection_name = kept.projection_name
            AND letter.sequence_number = found.sequence_number
    )
"""

# Parameters: name, from, error.  Rows updated: 0 when the projection moved on or was paused meanwhile.
PAUSE_FOR_FAULT: LiteralString = """
UPDATE projection_checkpoints
SET status = 'paused',
    error_message = %(error)s
WHERE projection_name = %(name)s
    AND last_sequence_number = %(from)s
    AND status <> 'paused'
"""

# Rows: (projection_name, last_sequence_number, status) of every projection: the backstop for a lost notification.
READ_STATUSES: LiteralString = """
SELECT projection_name, last_sequence_number, status
FROM projection_checkpoints
"""

# Parameters: name, error.  Says what holds a projection back that goes on trying.
NOTE_TROUBLE: LiteralString = """
UPDATE projection_checkpoints
SET error_message = %(error)s
WHERE projection_name = %(name)s
    AND status <> 'paused'
"""

# --- rebuild in place ----------------------------------------------------------------------------------------

# Parameters: name, from.  Rows: one, or none when the row has moved, its status is another now, or the tables have
# been emptied already.  It comes first in the reset's transaction: the row's lock keeps another runner from committing
# before the tables are empty.
RESET_CHECKPOINT: LiteralString = """
UPDATE projection_checkpoints
SET last_sequence_number = 0,
    last_event_id = NULL,
    last_processed_at = now(),
    events_processed = 0,
    error_message = NULL
WHERE projection_name = %(name)s
    AND last_sequence_number = %(from)s
    AND status = 'rebuilding'
    AND EXISTS (
        SELECT
        FROM projection_rebuilds
        WHERE projection_name = %(name)s
            AND mode = 'in place'
            AND NOT is_begun
    )
RETURNING last_sequence_number
"""

# Parameters: name.  What the old history could not apply is tried again by the new one.
CLEAR_DEAD_LETTERS: LiteralString = """
DELETE FROM projection_dead_letters
WHERE projection_name = %(name)s
"""

# Parameters: name.  The wish for a rebuild in place, in one transaction with the status.  There may be a row: a builder
# that could not begin writes down why.
ASK_IN_PLACE: LiteralString = """
INSERT INTO projection_rebuilds (projection_name, mode)
VALUES (%(name)s, 'in place')
ON CONFLICT (projection_name) DO UPDATE
SET id = excluded.id,
    started_at = excluded.started_at,
    target_sequence_number = excluded.target_sequence_number,
    mode = excluded.mode,
    is_begun = excluded.is_begun,
    position_sequence_number = excluded.position_sequence_number,
    is_paused = excluded.is_paused,
    error_message = excluded.error_message
"""

# Parameters: names (text[]).
FORGET_REBUILD_ERRORS: LiteralString = """
UPDATE projection_rebuilds
SET error_message = NULL
WHERE projection_name = ANY(%(names)s)
    AND error_message IS NOT NULL
"""

# Parameters: name, target.  The row says that the reset has been done: a restart then goes on.
MARK_RESET: LiteralString = """
UPDATE projection_rebuilds
SET started_at = now(),
    target_sequence_number = %(target)s,
    is_begun = true
WHERE projection_name = %(name)s
"""

# Parameters: name, from.  The status trigger removes the rebuild's row.  If that does not say that it has begun,
# another rebuild has been asked for meanwhile, and its reset is still to come.
FINISH_REBUILD: LiteralString = """
UPDATE projection_checkpoints
SET status = 'running'
WHERE projection_name = %(name)s
    AND last_sequence_number = %(from)s
    AND status = 'rebuilding'
    AND EXISTS (SELECT FROM projection_rebuilds WHERE projection_name = %(name)s AND mode = 'in place' AND is_begun)
"""

# --- dead letters --------------------------------------------------------------------------------------------

# Parameters: name, sequence_number, handler, error, attempts.  The event is copied by the server, byte for byte.
KEEP_DEAD_LETTER: LiteralString = """
INSERT INTO projection_dead_letters
    (projection_name, sequence_number, event_id, event_type, aggregate_id, event_data, handler, error, attempts,
     failed_at)
SELECT
    %(name)s, sequence_number, event_id, event_type, aggregate_id, event_data, %(handler)s, %(error)s, %(attempts)s,
    now()
FROM event_store
WHERE sequence_number = %(sequence_number)s
ON CONFLICT (projection_name, sequence_number) DO UPDATE
SET handler = excluded.handler,
    error = excluded.error,
    attempts = excluded.attempts,
    failed_at = excluded.failed_at
"""

# Rows: (projection_name) of each that has letters to be tried again.  Index: the partial one for it.
READ_RETRIES: LiteralString = """
SELECT DISTINCT projection_name
FROM projection_dead_letters
WHERE retry_requested_at IS NOT NULL
    AND retry_begun_at IS NULL
"""

# Parameters: name.  Rows: one (sequence_number, retry_begun_at), or none when no retry is asked for.  retry_begun_at
# then names this attempt: whoever asks again, or discards the letter, takes it away.
BEGIN_RETRY: LiteralString = """
UPDATE projection_dead_letters
SET retry_begun_at = clock_timestamp(),
    attempts = attempts + 1
WHERE projection_name = %(name)s
    AND sequence_number = (
        SELECT sequence_number
        FROM projection_dead_letters
        WHERE projection_name = %(name)s
            AND retry_requested_at IS NOT NULL
            AND retry_begun_at IS NULL
        ORDER BY sequence_number
        LIMIT 1
    )
    AND retry_requested_at IS NOT NULL
    AND retry_begun_at IS NULL
RETURNING sequence_number, retry_begun_at
"""

# Parameters: name, sequence_number, begun_at.  Rows deleted: 0 when the letter is not this attempt's any more.
END_RETRY: LiteralString = """
DELETE FROM projection_dead_letters
WHERE projection_name = %(name)s
    AND sequence_number = %(sequence_number)s
    AND retry_begun_at = %(begun_at)s
"""

# Parameters: name, sequence_number, begun_at, handler, error.
FAIL_RETRY: LiteralString = """
UPDATE projection_dead_letters
SET retry_requested_at = NULL,
    retry_begun_at = NULL,
    handler = %(handler)s,
    error = %(error)s,
    failed_at = clock_timestamp()
WHERE projection_name = %(name)s
    AND sequence_number = %(sequence_number)s
    AND retry_begun_at = %(begun_at)s
"""

# Parameters: name, sequence_number, begun_at.  It was no attempt: the projection was paused, or moved, meanwhile.
PUT_OFF_RETRY: LiteralString = """
UPDATE projection_dead_letters
SET retry_begun_at = NULL,
    attempts = attempts - 1
WHERE projection_name = %(name)s
    AND sequence_number = %(sequence_number)s
    AND retry_begun_at = %(begun_at)s
"""

# Parameters: name, numbers (bigint[], null for all).  Rows: (sequence_number) of each that is there.
ASK_FOR_RETRY: LiteralString = """
UPDATE projection_dead_letters
SET retry_requested_at = clock_timestamp(),
    retry_begun_at = NULL
WHERE projection_name = %(name)s
    AND (%(numbers)s::bigint[] IS NULL OR sequence_number = ANY (%(numbers)s))
RETURNING sequence_number
"""

# Parameters: name, numbers (bigint[], null for all).  Rows: (sequence_number) of each that was there.
DISCARD_DEAD_LETTERS: LiteralString = """
DELETE FROM projection_dead_letters
WHERE projection_name = %(name)s
    AND (%(numbers)s::bigint[] IS NULL OR sequence_number = ANY (%(numbers)s))
RETURNING sequence_number
"""

# Parameters: name, numbers (bigint[], null for all), most.  Rows: (sequence_number, event_id, event_type, aggregate_id,
# handler, error, attempts, failed_at, retry_requested_at, retry_begun_at) of the first ones.  Index: the primary key.
READ_DEAD_LETTERS: LiteralString = """
SELECT
    sequence_number,
    event_id,
    event_type,
    aggregate_id,
    handler,
    error,
    attempts,
    failed_at,
    retry_requested_at,
    retry_begun_at
FROM projection_dead_letters
WHERE projection_name = %(name)s
    AND (%(numbers)s::bigint[] IS NULL OR sequence_number = ANY (%(numbers)s))
ORDER BY sequence_number
LIMIT %(most)s
"""

# Parameters: name, sequence_number, most.  Rows: one (the event's JSON cut to so many characters, its true length), or
# none.
READ_LETTER_DATA: LiteralString = """
SELECT
    left(event_data::text, %(most)s),
    length(event_data::text)
FROM projection_dead_letters
WHERE projection_name = %(name)s
    AND sequence_number = %(sequence_number)s
"""

# Parameters: event_types (text[]), last, most.  Rows: (sequence_number, event_id, aggregate_id, aggregate_type,
# event_type, version, created_at, data cut to so many characters, its true length) of the newest of these types, the
# newest first.  Index: (event_type, sequence_number), so many entries for each type; a store that has another one there
# sorts the events of a type.
NEWEST_EVENTS: LiteralString = """
SELECT
    event.sequence_number,
    event.event_id,
    event.aggregate_id,
    event.aggregate_type,
    event.event_type,
    event.version,
    event.created_at,
    left(event.event_data::text, %(most)s),
    length(event.event_data::text)
FROM (
    SELECT newest.sequence_number
    FROM unnest(%(event_types)s::text[]) AS asked (event_type)
    CROSS JOIN LATERAL (
        SELECT sequence_number
        FROM event_store
        WHERE event_type = asked.event_type
        ORDER BY sequence_number DESC
        LIMIT %(last)s
    ) AS newest
    ORDER BY newest.sequence_number DESC
    LIMIT %(last)s
) AS chosen
JOIN event_store AS event USING (sequence_number)
ORDER BY event.sequence_number DESC
"""

# Parameters: last, most.  The same, of all types.  Index: the one on sequence_number.
NEWEST_OF_ALL_EVENTS: LiteralString = """
SELECT
    sequence_number,
    event_id,
    aggregate_id,
    aggregate_type,
    event_type,
    version,
    created_at,
    left(event_data::text, %(most)s),
    length(event_data::text)
FROM (
    SELECT *
    FROM event_store
    ORDER BY sequence_number DESC
    LIMIT %(last)s
) AS newest
ORDER BY sequence_number DESC
"""

# Parameters: name.  Rows: the last ten (started_at, finished_at, position, method, tables), the latest first.
READ_REBUILD_HISTORY: LiteralString = """
SELECT
    started_at,
    finished_at,
    position,
    method,
    tables
FROM projection_rebuild_history
WHERE projection_name = %(name)s
ORDER BY finished_at DESC
LIMIT 10
"""

# Parameters: name.  Rows: one (built_at, built_by, version, whether a daemon has met its tables with other code, events
# per second of its last catch-up), or none.
READ_BUILD_FACTS: LiteralString = """
SELECT
    built_at,
    built_by,
    version,
    met_digest IS NOT NULL AND met_digest <> digest,
    events_per_second
FROM projection_builds
WHERE projection_name = %(name)s
"""

# --- arrival -------------------------------------------------------------------------------------------------

# schema.sql holds ARRIVAL_FACTS and ARRIVAL_LOCKERS too, in projectiond_wait_for.

# Parameters: position, number.  Rows: one (end, whether the number is visible, whether a visible event lies between the
# two, whether this is a standby); end is the number above which none was ever drawn.  Whoever may not ask the sequence
# (a role that cannot append either) learns no more than the largest visible number.
# Index: the unique one on sequence_number, at most three entries of it.
ARRIVAL_FACTS: LiteralString = """
SELECT
    greatest(
        (SELECT max(sequence_number) FROM event_store),
        (
            SELECT CASE
                WHEN has_sequence_privilege(own.sequence, 'SELECT, USAGE')
                    THEN pg_sequence_last_value(own.sequence)
            END
            FROM (SELECT pg_get_serial_sequence('event_store', 'sequence_number')::regclass AS sequence) AS own
        ),
        0
    ),
    EXISTS (
        SELECT
        FROM event_store
        WHERE sequence_number = %(number)s
    ),
    EXISTS (
        SELECT
        FROM event_store
        WHERE sequence_number > %(position)s
            AND sequence_number <= %(number)s
    ),
    pg_is_in_recovery()
"""

# Rows: one (when the server was started, when this session began, the time, the lockers as in LOCKERS).  A virtual
# transaction id means the same in two readings if the second one's session was there at the time of the first.
ARRIVAL_LOCKERS: LiteralString = """
SELECT
    pg_postmaster_start_time(),
    (SELECT backend_start FROM pg_stat_get_activity(pg_backend_pid())),
    clock_timestamp(),
    ARRAY(
        SELECT DISTINCT held.virtualtransaction
        FROM pg_locks AS held
        WHERE held.locktype = 'relation'
            AND held.mode = 'RowExclusiveLock'
            AND held.granted
            AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND held.relation IN (
                SELECT to_regclass('event_store')::oid
                UNION ALL
                SELECT relid::oid FROM pg_partition_tree(to_regclass('event_store'))
            )
    )
"""

# Rows: one (isolation level, whether this transaction has written to event_store).
OWN_TRANSACTION: LiteralString = """
SELECT
    current_setting('transaction_isolation'),
    EXISTS (
        SELECT
        FROM pg_locks
        WHERE pid = pg_backend_pid()
            AND locktype = 'relation'
            AND mode = 'RowExclusiveLock'
            AND relation IN (
                SELECT to_regclass('event_store')::oid
                UNION ALL
                SELECT relid::oid FROM pg_partition_tree(to_regclass('event_store'))
            )
    )
"""

# Parameters: position, number, most.  Rows: one (how many visible events lie between the two, counted up to most).
COUNT_EVENTS_BETWEEN: LiteralString = """
SELECT count(*)
FROM (
    SELECT
    FROM event_store
    WHERE sequence_number > %(position)s
        AND sequence_number <= %(number)s
    LIMIT %(most)s
) AS between_them
"""

# --- leases --------------------------------------------------------------------------------------------------

# Parameters: key.
TRY_LEASE: LiteralString = "SELECT pg_try_advisory_lock(%(key)s)"
RELEASE_LEASE: LiteralString = "SELECT pg_advisory_unlock(%(key)s)"
REGISTER_WORKER: LiteralString = "SELECT pg_advisory_lock_shared(%(key)s)"
DEREGISTER_WORKER: LiteralString = "SELECT pg_advisory_unlock_shared(%(key)s)"

# Parameters: key (the workers').  The rows of workers whose sessions hold it no longer.
FORGET_WORKERS: LiteralString = """
DELETE FROM projection_workers
WHERE session_pid NOT IN (
    SELECT pid
    FROM pg_locks
    WHERE locktype = 'advisory'
        AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND objsubid = 1
        AND (classid::bigint << 32) | objid::bigint = %(key)s
)
"""

# Parameters: host, process_id, number, version, projections (text[]).  In the place of whoever had this process's id.
ENTER_WORKER: LiteralString = """
INSERT INTO projection_workers AS known (session_pid, host, process_id, worker_number, version, projections)
VALUES (pg_backend_pid(), %(host)s, %(process_id)s, %(number)s, %(version)s, %(projections)s)
ON CONFLICT (session_pid) DO UPDATE
SET host = excluded.host,
    process_id = excluded.process_id,
    worker_number = excluded.worker_number,
    version = excluded.version,
    projections = excluded.projections,
    started_at = excluded.started_at,
    held_since = excluded.held_since
"""

# Parameters: projections (text[], not empty).  Index: the primary key.
NOTE_BEGUN: LiteralString = """
UPDATE projection_workers
SET held_since = held_since || (SELECT jsonb_object_agg(name, now()) FROM unnest(%(projections)s::text[]) AS name)
WHERE session_pid = pg_backend_pid()
"""
NOTE_ENDED: LiteralString = """
UPDATE projection_workers
SET held_since = held_since - %(projections)s::text[]
WHERE session_pid = pg_backend_pid()
"""

# Parameters: key (the workers').  Rows: (session_pid, host, process_id, worker_number, version, projections,
# started_at, held_since) of each worker whose session holds it.
READ_ROSTER: LiteralString = """
SELECT
    session_pid,
    host,
    process_id,
    worker_number,
    version,
    projections,
    started_at,
    held_since
FROM projection_workers
WHERE session_pid IN (
    SELECT pid
    FROM pg_locks
    WHERE locktype = 'advisory'
        AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND objsubid = 1
        AND (classid::bigint << 32) | objid::bigint = %(key)s
)
ORDER BY host, process_id
"""

# Parameters: channel.
ANNOUNCE_LEASES: LiteralString = "SELECT pg_notify(%(channel)s, '')"

# Rows: (key, whether exclusive, the session's process) of each advisory lock of this database with a key of 64 bits:
# every lease, every live worker, and what the application itself may hold.
READ_LEASES: LiteralString = """
SELECT
    (classid::bigint << 32) | objid::bigint,
    mode = 'ExclusiveLock',
    pid
FROM pg_locks
WHERE locktype = 'advisory'
    AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND objsubid = 1
"""

# Parameters: key.  Rows: one (count): sessions that hold the workers' lock in shared mode, this one included.
LIVE_WORKERS: LiteralString = """
SELECT count(*)
FROM pg_locks
WHERE locktype = 'advisory'
    AND mode = 'ShareLock'
    AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND objsubid = 1
    AND (classid::bigint << 32) | objid::bigint = %(key)s
"""

# --- row projections ------------------------------------------------------------------------------------------

# For the rest of the transaction, before rows are looked for by their keys: a plan that was made while a table was tiny
# reads it from end to end, and is used until the table is analyzed, however large it has become meanwhile.
PREFER_INDEXES: LiteralString = "SET LOCAL enable_seqscan = off"

# Parameters: table (text, quoted where need be).  Rows: one (oid, kind, columns of the primary key in its order or
# null, whether that key is deferrable), or none when the search_path finds no such table.
ROW_TABLE: LiteralString = """
SELECT
    class.oid,
    class.relkind::text,
    key.columns,
    coalesce(key.is_deferrable, false)
FROM pg_class AS class
CROSS JOIN LATERAL (
    SELECT
        array_agg(attribute.attname::text ORDER BY part.place) AS columns,
        bool_or(con.condeferrable) AS is_deferrable
    FROM pg_constraint AS con
    CROSS JOIN LATERAL unnest(con.conkey) WITH ORDINALITY AS part (number, place)
    JOIN pg_attribute AS attribute ON attribute.attrelid = con.conrelid AND attribute.attnum = part.number
    WHERE con.conrelid = class.oid
        AND con.contype = 'p'
) AS key
WHERE class.oid = to_regclass(%(table)s)
"""

# Parameters: table (oid).  Rows: one for each column, in order: name, type as it was declared, whether NOT NULL,
# whether something fills it when an INSERT does not, whether nothing else may, whether its collation tells all
# different texts apart; and of its type, or the one that its domain stands for: schema and name, name of the type or of
# its elements ('enum' for enumerations, '' for what is not PostgreSQL's own), modifier, whether it is an array, an
# enumeration's labels.
ROW_COLUMNS: LiteralString = """
WITH RECURSIVE resolved AS (
    SELECT
        attribute.attnum,
        attribute.atttypid AS type,
        attribute.atttypmod AS modifier,
        attribute.attnotnull AS is_required,
        attribute.atthasdef OR attribute.attidentity <> '' AS has_default
    FROM pg_attribute AS attribute
    WHERE attribute.attrelid = %(table)s
        AND attribute.attnum > 0
        AND NOT attribute.attisdropped
    UNION ALL
    SELECT
        resolved.attnum,
        domain.typbasetype,
        CASE resolved.modifier WHEN -1 THEN domain.typtypmod ELSE resolved.modifier END,
        resolved.is_required OR domain.typnotnull,
        resolved.has_default OR domain.typdefault IS NOT NULL
    FROM resolved
    JOIN pg_type AS domain ON domain.oid = resolved.type
    WHERE domain.typtype = 'd'
)
SELECT
    attribute.attname::text,
    format_type(attribute.atttypid, attribute.atttypmod),
    resolved.is_required,
    resolved.has_default,
    attribute.attgenerated <> '' OR attribute.attidentity = 'a',
    coalesce(pg_collation.collisdeterministic, true),
    namespace.nspname::text,
    type.typname::text,
    CASE
        WHEN plain.typtype = 'e' THEN 'enum'
        WHEN plain.typnamespace = 'pg_catalog'::regnamespace AND plain.typtype = 'b' THEN plain.typname::text
        ELSE ''
    END,
    resolved.modifier,
    plain.oid <> type.oid,
    ARRAY(
        SELECT pg_enum.enumlabel::text
        FROM pg_enum
        WHERE pg_enum.enumtypid = plain.oid
        ORDER BY pg_enum.enumsortorder
    )
FROM resolved
JOIN pg_attribute AS attribute ON attribute.attrelid = %(table)s AND attribute.attnum = resolved.attnum
JOIN pg_type AS type ON type.oid = resolved.type AND type.typtype <> 'd'
JOIN pg_namespace AS namespace ON namespace.oid = type.typnamespace
JOIN pg_type AS plain ON plain.oid = CASE
    WHEN type.typcategory = 'A' AND type.typlen = -1 AND type.typelem <> 0 THEN type.typelem
    ELSE type.oid
END
LEFT JOIN pg_collation ON pg_collation.oid = attribute.attcollation
ORDER BY resolved.attnum
"""

# --- builds ----------------------------------------------------------------------------------------------------

# Rows: (projection_name, fingerprint, version, digest, previous_digest, built_at, built_by, events_per_second) of every
# projection whose tables' origin is known.
READ_BUILDS: LiteralString = """
SELECT projection_name, fingerprint, version, digest, previous_digest, built_at, built_by, events_per_second
FROM projection_builds
ORDER BY projection_name
"""

# Parameters: name.  Rows: as READ_BUILDS, one or none.  Locks: the row, so that only one worker acts on a change.
LOCK_BUILD: LiteralString = """
SELECT projection_name, fingerprint, version, digest, previous_digest, built_at, built_by, events_per_second
FROM projection_builds
WHERE projection_name = %(name)s
FOR UPDATE
"""

# Parameters: name, fingerprint (jsonb), version, digest, built_by, events_per_second (null: as before).
RECORD_BUILD: LiteralString = """
INSERT INTO projection_builds AS known
    (projection_name, fingerprint, version, digest, built_by, events_per_second)
VALUES (%(name)s, %(fingerprint)s, %(version)s, %(digest)s, %(built_by)s, %(events_per_second)s)
ON CONFLICT (projection_name) DO UPDATE
SET fingerprint = excluded.fingerprint,
    version = excluded.version,
    digest = excluded.digest,
    previous_digest = CASE WHEN known.digest = excluded.digest THEN known.previous_digest ELSE known.digest END,
    met_digest = NULL,
    built_at = now(),
    built_by = excluded.built_by,
    events_per_second = coalesce(excluded.events_per_second, known.events_per_second)
"""

# Parameters: name, digest (null: nothing is different any more).  Rows updated: 0 when it was met before.
MEET_CHANGE: LiteralString = """
UPDATE projection_builds
SET met_digest = %(digest)s
WHERE projection_name = %(name)s
    AND met_digest IS DISTINCT FROM %(digest)s
"""

# Parameters: name, version.
NAME_VERSION: LiteralString = """
UPDATE projection_builds
SET version = %(version)s
WHERE projection_name = %(name)s
"""

# Parameters: name, events_per_second.
NOTE_RATE: LiteralString = """
UPDATE projection_builds
SET events_per_second = %(events_per_second)s
WHERE projection_name = %(name)s
"""

# Parameters: event_types (text[], null: all).  Rows: one (plan as JSON), of which the estimated number of rows is read.
ESTIMATE_EVENTS: LiteralString = """
EXPLAIN (FORMAT JSON)
SELECT
FROM event_store
WHERE %(event_types)s::text[] IS NULL
    OR event_type = ANY (%(event_types)s)
"""

# Parameters: event_types (text[], null: all), most.  Rows: one (number of events, at most so many).
COUNT_EVENTS_TO_READ: LiteralString = """
SELECT count(*)
FROM (
    SELECT
    FROM event_store
    WHERE %(event_types)s::text[] IS NULL
        OR event_type = ANY (%(event_types)s)
    LIMIT %(most)s
) AS counted
"""

# Parameters: tables (text[], quoted names).  Rows: one (bytes on disk, indexes included, of those that exist).
SIZE_OF_TABLES: LiteralString = """
SELECT coalesce(sum(pg_total_relation_size(to_regclass(name))), 0)::bigint
FROM unnest(%(tables)s::text[]) AS asked (name)
"""

# --- for people ----------------------------------------------------------------------------------------------

# Parameters: sequence_number.  Rows: one (event_type, event_id), or none.
NAME_EVENT: LiteralString = """
SELECT event_type, event_id
FROM event_store
WHERE sequence_number = %(sequence_number)s
"""

# Rows: (projection_name, last_sequence_number, status, events_processed, last_processed_at, seconds since then,
# error_message, target of the rebuild in progress or null, dead letters, age in seconds of the first event above the
# position or null; of the rebuild in progress or null: mode, position, seconds since its begin, whether it is paused,
# error) of every projection.  An application may have written created_at itself, also as infinity.
# Index: the primary keys; one probe of the unique one on sequence_number for each projection.
OVERVIEW: LiteralString = """
SELECT
    kept.projection_name,
    kept.last_sequence_number,
    kept.status,
    kept.events_processed,
    kept.last_processed_at,
    extract(epoch FROM clock_timestamp() - kept.last_processed_at)::float8,
    kept.error_message,
    rebuild.target_sequence_number,
    coalesce(letters.count, 0),
    CASE
        WHEN isfinite(oldest.created_at)
            THEN extract(epoch FROM clock_timestamp() - oldest.created_at)::float8
    END,
    rebuild.mode,
    CASE rebuild.mode WHEN 'beside' THEN rebuild.position_sequence_number ELSE kept.last_sequence_number END,
    extract(epoch FROM clock_timestamp() - rebuild.started_at)::float8,
    rebuild.is_paused,
    rebuild.error_message
FROM projection_checkpoints AS kept
LEFT JOIN projection_rebuilds AS rebuild USING (projection_name)
LEFT JOIN (
    SELECT projection_name, count(*) AS count
    FROM projection_dead_letters
    GROUP BY projection_name
) AS letters USING (projection_name)
LEFT JOIN LATERAL (
    SELECT created_at
    FROM event_store
    WHERE sequence_number > kept.last_sequence_number
    ORDER BY sequence_number
    LIMIT 1
) AS oldest ON true
ORDER BY kept.projection_name
"""

# Parameters: workers (their key).  Rows: one (head, live workers, keys of all leases that are held or null, the
# processes of the sessions that hold them in the same order).  What STORE_HEAD, LIVE_WORKERS and READ_LEASES give, in
# one statement.
OVERVIEW_OF_STORE: LiteralString = """
SELECT
    (SELECT coalesce(max(sequence_number), 0) FROM event_store),
    count(*) FILTER (WHERE lock.mode = 'ShareLock' AND lock.key = %(workers)s),
    array_agg(lock.key ORDER BY lock.key) FILTER (WHERE lock.mode = 'ExclusiveLock'),
    array_agg(lock.pid ORDER BY lock.key) FILTER (WHERE lock.mode = 'ExclusiveLock')
FROM (
    SELECT
        pid,
        mode,
        (classid::bigint << 32) | objid::bigint AS key
    FROM pg_locks
    WHERE locktype = 'advisory'
        AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND objsubid = 1
) AS lock
"""

# Parameters: days.  Rows: (day, events, aggregates that they are of) of each of the last days, the latest first; days
# are those of UTC, and one without events has 0.  Index: the one on created_at; a store without it is read whole.
EVENTS_PER_DAY: LiteralString = """
SELECT
    (now() AT TIME ZONE 'UTC')::date - days_ago AS day,
    coalesce(counted.events, 0),
    coalesce(counted.aggregates, 0)
FROM generate_series(0, %(days)s::int - 1) AS days_ago
LEFT JOIN (
    SELECT
        (created_at AT TIME ZONE 'UTC')::date AS day,
        count(*) AS events,
        count(DISTINCT aggregate_id) AS aggregates
    FROM event_store
    WHERE created_at >= date_trunc('day', now(), 'UTC') - make_interval(hours => 24 * (%(days)s::int - 1))
    GROUP BY 1
) AS counted ON counted.day = (now() AT TIME ZONE 'UTC')::date - days_ago
ORDER BY days_ago
"""

# Parameters: days, limit.  Rows: (aggregate_id, aggregate_type, events in these days, last version) of the aggregates
# with the most events, in that order.  Index: as EVENTS_PER_DAY.
MOST_ACTIVE_AGGREGATES: LiteralString = """
SELECT
    aggregate_id,
    aggregate_type,
    count(*) AS events,
    max(version)
FROM event_store
WHERE created_at >= date_trunc('day', now(), 'UTC') - make_interval(hours => 24 * (%(days)s::int - 1))
GROUP BY aggregate_id, aggregate_type
ORDER BY events DESC, aggregate_id, aggregate_type
LIMIT %(limit)s
"""

# Parameters: name, status.  Rows: one (last_sequence_number), or none when there is no row or it has that status
# already.  The status trigger does the rest.
SET_STATUS: LiteralString = """
UPDATE projection_checkpoints
SET status = %(status)s
WHERE projection_name = %(name)s
    AND status <> %(status)s
RETURNING last_sequence_number
"""

# Parameters: name.  Rows: none that matter.  Locks the row, so that what is read of it next is true until COMMIT.
LOCK_CHECKPOINT: LiteralString = """
SELECT
FROM projection_checkpoints
WHERE projection_name = %(name)s
FOR UPDATE
"""

# Parameters: name, status.  For a projection that no daemon has begun; a row that is there already stays.
INSERT_STATUS: LiteralString = """
INSERT INTO projection_checkpoints (projection_name, status)
VALUES (%(name)s, %(status)s)
ON CONFLICT (projection_name) DO NOTHING
"""

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

# --- trial ---------------------------------------------------------------------------------------------------

# Parameters: space.  Rows: one (table) for each table outside of that schema that this transaction has written to so
# far, whether or not any of it is still there.
TABLES_WRITTEN: LiteralString = """
SELECT format('%%I.%%I', schemaname, relname)
FROM pg_stat_xact_user_tables
WHERE schemaname <> %(space)s
    AND schemaname <> 'pg_temp'
    AND n_tup_ins + n_tup_upd + n_tup_del > 0
ORDER BY 1
"""

# Parameters: space, table.  Rows: one (column) for each column of its primary key, in the key's order.
KEY_OF_TABLE: LiteralString = """
SELECT attname
FROM pg_index
JOIN pg_class AS holder ON holder.oid = indrelid
CROSS JOIN unnest(indkey) WITH ORDINALITY AS part (number, place)
JOIN pg_attribute ON attrelid = indrelid AND attnum = part.number
WHERE holder.relnamespace = to_regnamespace(%(space)s)
    AND holder.relname = %(table)s
    AND indisprimary
ORDER BY part.place
"""

# What would be checked at the end of the transaction is checked now.
CHECK_CONSTRAINTS: LiteralString = "SET CONSTRAINTS ALL IMMEDIATE"
