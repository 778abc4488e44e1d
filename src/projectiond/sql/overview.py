"""Statements that show people how all projections and the store stand."""

from typing import LiteralString

# Rows: (projection_name, last_sequence_number, status, events_processed, last_processed_at, seconds since then,
# error_message, target of the rebuild in progress or null, dead letters, age in seconds of the first event above the
# position or null; of the rebuild in progress or null: mode, position, seconds since its begin, whether it is paused,
# error) of every projection.  Errors are cut, whoever has written them.  An application may have written created_at
# itself, also as infinity.
# Index: the primary keys; one probe of the unique one on sequence_number for each projection.
OVERVIEW: LiteralString = """
SELECT
    kept.projection_name,
    kept.last_sequence_number,
    kept.status,
    kept.events_processed,
    kept.last_processed_at,
    extract(epoch FROM clock_timestamp() - kept.last_processed_at)::float8,
    left(kept.error_message, 10000),
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
    left(rebuild.error_message, 10000)
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
