"""Every statement of the event store that is not the daemon's too, each a named constant.

Used by the plans of this package.  Parameters are psycopg's named ones; table names are resolved by the session's
``search_path``.  Nothing here depends on the state of a session.
"""

from typing import Final, LiteralString

# "All of them", where a statement wants a number of rows or bytes.
UNBOUNDED: Final = 2**31 - 1

# Parameters: event_id, aggregate_id, aggregate_type, event_type, data, metadata (JSON), expected_version.
# Rows: one (sequence_number), or none when the version is not the expected one.
# The commonest append, one event to one aggregate: a third faster than APPEND, which would do as well.
# Locks and index: as APPEND.
APPEND_ONE: LiteralString = """
INSERT INTO event_store
    (event_id, aggregate_id, aggregate_type, event_type, event_data, metadata, version)
SELECT
    %(event_id)s,
    %(aggregate_id)s,
    %(aggregate_type)s,
    %(event_type)s,
    %(data)s::jsonb,
    %(metadata)s::jsonb,
    %(expected_version)s::int + 1
WHERE %(expected_version)s::int = (
    SELECT coalesce(max(version), 0)
    FROM event_store
    WHERE aggregate_id = %(aggregate_id)s
)
RETURNING sequence_number
"""

# Parameters: two JSON arrays of objects.  aggregates: aggregate_id (each once), expected_version (null for "any").
# events: ordinal (from 1), aggregate_id, place (from 1 within its aggregate), event_id, aggregate_type, event_type,
# data, metadata.  JSON and not arrays: with arrays the server plans the statement each time, which takes longer.
# Rows: one (the last sequence number of these aggregates), or none when a version is not the expected one.  All events
# are written, or none.
# What the statement sees is as old as its start; whoever wrote in between holds the unique constraint on
# (aggregate_id, version), and the INSERT fails with 23505.
# Numbers are drawn by the column's default above the sort, hence in the order of the events, and under the INSERT's
# RowExclusiveLock, which is taken before anything is executed.
# Locks: RowExclusiveLock on event_store, no other.  Index: the unique one on (aggregate_id, version), its last entry.
APPEND: LiteralString = """
WITH tail AS MATERIALIZED (
    SELECT
        wanted.aggregate_id,
        wanted.expected_version,
        coalesce(newest.version, 0) AS version,
        coalesce(newest.sequence_number, 0) AS sequence_number
    FROM json_to_recordset(%(aggregates)s::json) AS wanted (aggregate_id uuid, expected_version bigint)
    LEFT JOIN LATERAL (
        SELECT version, sequence_number
        FROM event_store
        WHERE event_store.aggregate_id = wanted.aggregate_id
        ORDER BY version DESC
        LIMIT 1
    ) AS newest ON true
),
written AS (
    INSERT INTO event_store
        (event_id, aggregate_id, aggregate_type, event_type, event_data, metadata, version)
    SELECT
        new.event_id,
        new.aggregate_id,
        new.aggregate_type,
        new.event_type,
        -- Data that is JSON's null comes as SQL's.
        coalesce(new.data, 'null'),
        new.metadata,
        tail.version + new.place
    FROM json_to_recordset(%(events)s::json) AS new (
        ordinal bigint,
        aggregate_id uuid,
        place bigint,
        event_id uuid,
        aggregate_type text,
        event_type text,
        data jsonb,
        metadata jsonb
    )
    JOIN tail
        ON tail.aggregate_id = new.aggregate_id
    WHERE NOT EXISTS (SELECT FROM tail WHERE expected_version <> version)
    ORDER BY new.ordinal
    RETURNING sequence_number
)
SELECT greatest((SELECT max(sequence_number) FROM written), (SELECT max(sequence_number) FROM tail))
WHERE NOT EXISTS (SELECT FROM tail WHERE expected_version <> version)
"""

# Parameters: aggregates and events, as for APPEND.
# Rows, in this order: one for each aggregate (0, aggregate_id, version, null, whether the transaction keeps a snapshot
# that may be older than this statement); then one for each of these events that is in the store, in their order
# (ordinal, aggregate_id, version, sequence_number, whether it is the very event).
# Index: the unique one on (aggregate_id, version), its last entry; the primary key.
LOOK: LiteralString = """
SELECT
    0::bigint,
    wanted.aggregate_id,
    coalesce((SELECT max(version) FROM event_store WHERE event_store.aggregate_id = wanted.aggregate_id), 0),
    NULL::bigint,
    current_setting('transaction_isolation') IN ('repeatable read', 'serializable')
        AND transaction_timestamp() < statement_timestamp()
FROM json_to_recordset(%(aggregates)s::json) AS wanted (aggregate_id uuid)
UNION ALL
SELECT
    new.ordinal,
    stored.aggregate_id,
    stored.version,
    stored.sequence_number,
    stored.aggregate_id = new.aggregate_id
        AND stored.event_type = new.event_type
        AND stored.event_data::jsonb = coalesce(new.data, 'null')
FROM json_to_recordset(%(events)s::json) AS new (
    ordinal bigint,
    aggregate_id uuid,
    event_id uuid,
    event_type text,
    data jsonb
)
CROSS JOIN LATERAL (
    SELECT version, sequence_number, aggregate_id, event_type, event_data
    FROM event_store
    WHERE event_store.event_id = new.event_id
    LIMIT 1
) AS stored
ORDER BY 1
"""

# Parameters: aggregate_id, event_id.  Rows: one (version, whether there is an event of this id).
# What APPEND_ONE is refused for nearly always, seen in less than half of LOOK's time.
# Index: the unique one on (aggregate_id, version), its last entry; the primary key.
LOOK_ONE: LiteralString = """
SELECT
    coalesce((SELECT max(version) FROM event_store WHERE aggregate_id = %(aggregate_id)s), 0),
    EXISTS (SELECT FROM event_store WHERE event_id = %(event_id)s)
"""

# Parameters: schema, index.  Rows: one (columns, as text[]) or none: what a violated constraint is made of.
INDEX_COLUMNS: LiteralString = """
SELECT array_agg(columns.attname::text)
FROM pg_class AS index
JOIN pg_namespace AS namespace
    ON namespace.oid = index.relnamespace
JOIN pg_attribute AS columns
    ON columns.attrelid = index.oid
WHERE namespace.nspname = %(schema)s
    AND index.relname = %(index)s
"""

# Parameters: aggregate_id, after_version.  Rows: all later events of the aggregate, in order, as Event.from_row wants
# them.  Index: the unique one on (aggregate_id, version).
READ_EVENTS: LiteralString = """
SELECT
    event_id,
    aggregate_id,
    aggregate_type::varchar,
    event_type::varchar,
    event_data::text,
    metadata::text,
    version,
    sequence_number,
    created_at
FROM event_store
WHERE aggregate_id = %(aggregate_id)s
    AND version > %(after)s
ORDER BY version
"""

# Parameters: aggregate_id, after, upto, batch_size, most_stored, most_bytes.  Rows: as READ_EVENTS, at most batch_size
# of them; both JSON columns are null once their sizes add up to more than most_bytes, and where they are stored in more
# than most_stored bytes.  Index: the unique one on (aggregate_id, version).
READ_PAGE: LiteralString = """
SELECT
    event_id,
    aggregate_id,
    aggregate_type::varchar,
    event_type::varchar,
    CASE WHEN bytes <= %(most_bytes)s THEN data_text END,
    CASE WHEN bytes <= %(most_bytes)s THEN metadata_text END,
    version,
    sequence_number,
    created_at
FROM (
    SELECT
        event.*,
        sum(octet_length(data_text) + coalesce(octet_length(metadata_text), 0)) OVER (
            ORDER BY version
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
        WHERE aggregate_id = %(aggregate_id)s
            AND version > %(after)s
            AND version <= %(upto)s
        ORDER BY version
        LIMIT %(batch_size)s
    ) AS event
) AS weighed
ORDER BY version
"""

# Rows: one (sequence, is_standby): what event_store's numbers are drawn from, as text; null when it is none or may not
# be asked.
NUMBERS_SEQUENCE: LiteralString = """
SELECT
    CASE WHEN has_sequence_privilege(sequence::regclass, 'SELECT, USAGE') THEN sequence END,
    pg_is_in_recovery()
FROM pg_get_serial_sequence('event_store', 'sequence_number') AS sequence
"""

# Parameters: aggregate_id, shape.  Rows: one (version, last_event_id, state as JSON) or none, when there is no
# snapshot of this shape.  Index: the primary key.
READ_SNAPSHOT: LiteralString = """
SELECT
    version,
    (state ->> 'last_event_id')::uuid,
    (state -> 'aggregate')::text
FROM snapshots
WHERE aggregate_id = %(aggregate_id)s
    AND state ->> 'shape' = %(shape)s
"""

# Parameters: aggregate_id, aggregate_type, version, shape, last_event_id, aggregate (JSON), discarded (uuid or null:
# the last event of a snapshot of this shape that turned out to be of another history).
# Rows: one when it was written.  A newer snapshot of the same shape stays.  Locks: the row, until the transaction ends.
WRITE_SNAPSHOT: LiteralString = """
INSERT INTO snapshots AS kept (aggregate_id, aggregate_type, version, state, created_at)
VALUES (
    %(aggregate_id)s,
    %(aggregate_type)s,
    %(version)s,
    jsonb_build_object(
        'shape', %(shape)s::text,
        'last_event_id', %(last_event_id)s::uuid,
        'aggregate', %(aggregate)s::jsonb
    ),
    now()
)
ON CONFLICT (aggregate_id) DO UPDATE
SET aggregate_type = excluded.aggregate_type,
    version = excluded.version,
    state = excluded.state,
    created_at = excluded.created_at
WHERE kept.version < excluded.version
    OR kept.state ->> 'shape' IS DISTINCT FROM excluded.state ->> 'shape'
    OR kept.state ->> 'last_event_id' = %(discarded)s::text
RETURNING version
"""
