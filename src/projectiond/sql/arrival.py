"""Statements that tell whether a projection has arrived at a number, for whoever waits for it."""

from typing import LiteralString

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
