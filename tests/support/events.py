"""Writing events as an application does: plain INSERTs, the sequence number drawn by the column's default.

Tests use these instead of `projectiond.eventstore`, so that its faults cannot hide the daemon's.
"""

import uuid
from collections.abc import Mapping
from typing import Any, LiteralString

import psycopg
from psycopg.types.json import Jsonb

_APPEND: LiteralString = """
    INSERT INTO event_store
        (event_id, aggregate_id, aggregate_type, event_type, event_data, metadata, version)
    VALUES (
        %(event_id)s, %(aggregate_id)s, %(aggregate_type)s, %(event_type)s, %(data)s, %(metadata)s,
        COALESCE(
            %(version)s::int,
            (SELECT COALESCE(MAX(version), 0) + 1 FROM event_store WHERE aggregate_id = %(aggregate_id)s)
        )
    )
    RETURNING sequence_number
"""

_APPEND_MANY: LiteralString = """
    INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version)
    SELECT %(aggregate_id)s, %(aggregate_type)s, %(event_type)s, jsonb_build_object('n', n), n
    FROM generate_series(1, %(count)s) AS n
    RETURNING sequence_number
"""


def append(  # noqa: PLR0913 -- one for each column; a test names those that it cares about
    conn: psycopg.Connection[Any],
    event_type: str,
    data: Mapping[str, Any] | None = None,
    aggregate_id: uuid.UUID | None = None,
    version: int | None = None,
    *,
    aggregate_type: str = "Order",
    metadata: Mapping[str, Any] | None = None,
    event_id: uuid.UUID | None = None,
) -> int:
    """Append one event within the connection's transaction and return its sequence number.

    Args:
        conn: with autocommit the event is visible at once, without it when the caller commits.
        event_type: any text of up to 100 characters.
        data: the event's data, an empty object by default.
        aggregate_id: the stream; a new one by default.
        version: the event's place in its stream; the next free one by default.
        aggregate_type: the kind of the stream.
        metadata: an empty object by default.
        event_id: a new one by default.
    """
    parameters = {
        "event_id": event_id or uuid.uuid4(),
        "aggregate_id": aggregate_id or uuid.uuid4(),
        "aggregate_type": aggregate_type,
        "event_type": event_type,
        "data": Jsonb(dict(data or {})),
        "metadata": Jsonb(dict(metadata or {})),
        "version": version,
    }
    row = conn.execute(_APPEND, parameters).fetchone()
    assert row is not None
    return int(row[0])


def append_many(
    conn: psycopg.Connection[Any],
    count: int,
    event_type: str = "Counted",
    *,
    aggregate_id: uuid.UUID | None = None,
    aggregate_type: str = "Counter",
) -> list[int]:
    """Append `count` events of a new stream in one statement and return their sequence numbers.

    Their data are {"n": 1}, {"n": 2} and so on.
    """
    parameters = {
        "aggregate_id": aggregate_id or uuid.uuid4(),
        "aggregate_type": aggregate_type,
        "event_type": event_type,
        "count": count,
    }
    return sorted(int(row[0]) for row in conn.execute(_APPEND_MANY, parameters))
