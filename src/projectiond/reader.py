"""The reader: the next events of one projection, in order, never past the mark.

Called by the runner.  A batch is bounded three ways: by its number of events, by the range of sequence numbers that
one query may scan (a filter that matches nothing in ten million events neither times out nor stalls the checkpoint),
and by bytes (five hundred events of 50 MB each do not fit anywhere).  Rows are streamed and the stream is ended when
the bytes are reached, so memory stays flat however large the events are.

JSON arrives as bytes and stays bytes until a handler wants it.

May assume: ``upto`` is settled (see ``highwater``), so what this query does not find will never be there.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, LiteralString

from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Loader
from psycopg.rows import TupleRow

from projectiond import sql
from projectiond.database import Connection
from projectiond.event import Event

# Some tens of milliseconds of index scan, and far below every sensible statement time-out.
SCAN_RANGE: Final = 100_000

# So few numbers are fetched at once, unless the last ones were heavy; more are streamed.
FEW_EVENTS: Final = 4
HEAVY_EVENT_BYTES: Final = 256 * 1024

# What a batch's JSON may weigh before it is ended.  One event alone may weigh more: it is then a batch by itself.
MAX_BATCH_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Batch:
    """Events in strictly increasing order, and how far the store has been read to find them.

    ``upto`` is the last event's number when the batch was cut short, else the end of the range that was scanned.
    """

    after: int
    upto: int
    events: Sequence[Event[Any]]


class _JsonBytes(Loader):
    """Hands JSON over as the bytes that the server sent."""

    def load(self, data: Buffer) -> bytes:
        return bytes(data)


class Reader:
    """Reads one projection's events."""

    def __init__(self, event_types: Sequence[str] | None, batch_size: int) -> None:
        """Take the types to read (``None`` for all) and the most events of a batch."""
        self._event_types = None if event_types is None else list(event_types)
        self._batch_size = batch_size
        self._is_heavy = False

    def read(self, db: Connection, after: int, mark: int) -> Batch:
        """Read the events above ``after`` up to ``mark``, or as many of them as a batch may hold."""
        upto = min(mark, after + SCAN_RANGE)
        statement = sql.READ_ALL_EVENTS if self._event_types is None else sql.READ_EVENTS
        parameters = {
            "after": after,
            "upto": upto,
            "event_types": self._event_types,
            "batch_size": self._batch_size,
        }
        events: list[Event[Any]] = []
        weight = 0
        is_few = upto - after <= FEW_EVENTS and not self._is_heavy
        with closing(_rows(db, statement, parameters, is_few=is_few)) as rows:
            for row in rows:
                events.append(Event.from_row(row))
                weight += len(row[4]) + len(row[5] or b"")
                if weight >= MAX_BATCH_BYTES:
                    break
        if events:
            self._is_heavy = weight > HEAVY_EVENT_BYTES * len(events)
        is_cut_short = weight >= MAX_BATCH_BYTES or len(events) == self._batch_size
        return Batch(after, events[-1].sequence_number if is_cut_short else upto, events)


def _rows(
    db: Connection, statement: LiteralString, parameters: Mapping[str, object], *, is_few: bool
) -> Generator[TupleRow, None, None]:
    """Give the rows of a query; closing the generator ends it."""
    cursor = db.cursor()
    _keep_json_as_bytes(cursor)
    if is_few:
        # A prepared statement and one answer: a third of the time that streaming takes, where latency counts.
        yield from cursor.execute(statement, parameters)
    else:
        # Row by row: whoever stops early has no more than one event too many in memory.
        yield from cursor.stream(statement, parameters)


def _keep_json_as_bytes(context: AdaptContext) -> None:
    context.adapters.register_loader("jsonb", _JsonBytes)
    context.adapters.register_loader("json", _JsonBytes)
