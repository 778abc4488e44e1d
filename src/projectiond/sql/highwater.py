"""Statements of the high-water mark: what is visible above it, who may still write below it, what is kept as proven."""

from typing import LiteralString

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
