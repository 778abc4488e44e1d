"""Statements about a range of events as a relation, which a SqlProjection reads."""

from typing import Final, LiteralString

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
