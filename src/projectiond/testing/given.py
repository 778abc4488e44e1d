"""The events that a test gives: what it does not say of them is the same in each run.

They are appended by plain INSERTs, as any application may do it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, LiteralString
from uuid import UUID

import pydantic_core
from psycopg.types.json import Jsonb

from projectiond.postgres.database import Connection, fetch_row

# When the first event happened, unless the test says otherwise; each further one is a second later.
BEGINNING: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)

MAX_DATA_SHOWN: Final = 300

# The ids of events are small numbers, too.
_EVENTS: Final = 0xE << 124

_APPEND: LiteralString = """
    INSERT INTO event_store
        (event_id, aggregate_id, aggregate_type, event_type, event_data, metadata, version, created_at)
    SELECT
        %(event_id)s, %(aggregate_id)s, %(aggregate_type)s, %(event_type)s, %(data)s, %(metadata)s,
        COALESCE(MAX(version), 0) + 1, %(created_at)s
    FROM event_store
    WHERE aggregate_id = %(aggregate_id)s
    RETURNING sequence_number
"""

_READ_NEXT: LiteralString = """
    SELECT aggregate_type, aggregate_id, event_data
    FROM event_store
    WHERE sequence_number > %(position)s AND (%(event_types)s::text[] IS NULL OR event_type = ANY (%(event_types)s))
    ORDER BY sequence_number
    LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Stream:
    """What several events have in common."""

    aggregate_id: UUID
    aggregate_type: str
    metadata: Mapping[str, Any]


def append(db: Connection, number: int, event: object, stream: Stream, created_at: datetime | None) -> int:
    """Append the test's event of this number, from 1; give its sequence number.

    Raises:
        TypeError: It is not given as an event is given.
    """
    event_type, data = _parts(event)
    parameters = {
        "event_id": UUID(int=_EVENTS + number),
        "aggregate_id": stream.aggregate_id,
        "aggregate_type": stream.aggregate_type,
        "event_type": event_type,
        "data": Jsonb(data, dumps=pydantic_core.to_json),
        "metadata": Jsonb(stream.metadata, dumps=pydantic_core.to_json),
        "created_at": created_at or BEGINNING + timedelta(seconds=number - 1),
    }
    return int(fetch_row(db, _APPEND, parameters)[0])


def describe_next(db: Connection, position: int, event_types: Sequence[str] | None) -> str:
    """Say of the next event of these types what its error does not say of it."""
    parameters = {"position": position, "event_types": None if event_types is None else list(event_types)}
    aggregate_type, aggregate_id, data = fetch_row(db, _READ_NEXT, parameters)
    return f"it is of {aggregate_type} {aggregate_id}, and its data is {str(data)[:MAX_DATA_SHOWN]}"


def _parts(event: object) -> tuple[str, object]:
    match event:
        case (str(event_type), data):
            return event_type, data
        case str() | dict() | tuple() | list():
            raise TypeError(
                f"an event is given as a tuple of its type and its data, or as a model, not as {event!r}: "
                'write given(("ItemAdded", {"quantity": 2}))'
            )
        case _:
            return type(event).__name__, event
