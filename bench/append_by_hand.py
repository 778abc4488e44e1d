"""An append as a careful person writes it with plain psycopg: what ``bench.appends`` compares the event store with.

It checks what the event store checks.  The version is checked by the INSERT itself, in one round trip, and by the
unique constraint where two writers meet.  What was not written is looked into with one statement more: is the event
there already, as after an answer that was lost, or is the version another one?  Statements and parameters are as
psycopg takes them, and it prepares what comes again.
"""

from dataclasses import dataclass, field
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, ConnectionPool

_APPEND: LiteralString = """
INSERT INTO event_store
    (event_id, aggregate_id, aggregate_type, event_type, event_data, metadata, version)
SELECT
    %(event_id)s,
    %(aggregate_id)s,
    %(aggregate_type)s,
    %(event_type)s,
    %(data)s,
    %(metadata)s,
    %(expected_version)s::int + 1
WHERE %(expected_version)s::int = (
    SELECT coalesce(max(version), 0)
    FROM event_store
    WHERE aggregate_id = %(aggregate_id)s
)
RETURNING sequence_number
"""

_LOOK: LiteralString = """
SELECT
    (SELECT coalesce(max(version), 0) FROM event_store WHERE aggregate_id = %(aggregate_id)s),
    (SELECT sequence_number FROM event_store WHERE event_id = %(event_id)s AND aggregate_id = %(aggregate_id)s)
"""


class VersionConflictError(Exception):
    """The aggregate is at another version."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """What is appended."""

    event_type: str
    data: dict[str, Any]
    metadata: dict[str, Any]
    event_id: UUID = field(default_factory=uuid4)


def append(pool: ConnectionPool, aggregate_id: UUID, aggregate_type: str, event: NewEvent, expected: int) -> int:
    """Append an event; give its number.

    Raises:
        VersionConflictError: The version is another one.
    """
    parameters = _parameters(aggregate_id, aggregate_type, event, expected)
    with pool.connection() as db:
        try:
            written = db.execute(_APPEND, parameters).fetchone()
        except psycopg.errors.UniqueViolation:
            written = None
        if written is not None:
            return int(written[0])
        return _judge(db.execute(_LOOK, parameters).fetchone(), parameters)


async def append_async(
    pool: AsyncConnectionPool, aggregate_id: UUID, aggregate_type: str, event: NewEvent, expected: int
) -> int:
    """Do the same, asynchronously."""
    parameters = _parameters(aggregate_id, aggregate_type, event, expected)
    async with pool.connection() as db:
        try:
            written = await (await db.execute(_APPEND, parameters)).fetchone()
        except psycopg.errors.UniqueViolation:
            written = None
        if written is not None:
            return int(written[0])
        return _judge(await (await db.execute(_LOOK, parameters)).fetchone(), parameters)


def _parameters(aggregate_id: UUID, aggregate_type: str, event: NewEvent, expected: int) -> dict[str, Any]:
    return {
        "event_id": event.event_id,
        "aggregate_id": aggregate_id,
        "aggregate_type": aggregate_type,
        "event_type": event.event_type,
        "data": Jsonb(event.data),
        "metadata": Jsonb(event.metadata),
        "expected_version": expected,
    }


def _judge(row: TupleRow | None, parameters: dict[str, Any]) -> int:
    actual, number = row or (0, None)
    if number is not None:
        return int(number)
    raise VersionConflictError(
        f"aggregate {parameters['aggregate_id']} is at version {actual}, not {parameters['expected_version']}"
    )
