"""Statements that read events, a range of them or a few, in order."""

from typing import LiteralString

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

# Parameters: sequence_number.  Rows: one (event_type, event_id), or none.
NAME_EVENT: LiteralString = """
SELECT event_type, event_id
FROM event_store
WHERE sequence_number = %(sequence_number)s
"""
