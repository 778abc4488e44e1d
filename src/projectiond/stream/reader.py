"""The reader: the next events of one projection, in order, never past the mark.

Called by the runner and the applier.  A batch is bounded three ways: by its number of events, by the range of sequence
numbers that one query may scan (a filter that matches nothing in ten million events neither times out nor stalls the
checkpoint), and by bytes (five hundred events of 50 MB each do not fit anywhere).

Reading is in two steps, so that it can be overlapped: ``ask`` sends the query, ``batch`` takes the answer and makes
events of it.  In a pipeline the server reads the next batch while this one is being applied; outside of one ``ask``
waits.  Since an answer comes as a whole, the bytes are bounded by the server: it adds up the size of the JSON, and
leaves out what goes beyond.  The batch then ends before the first row whose JSON was left out, and the next query asks
for fewer rows; an event that is too large even when it comes first is asked for again, alone and whatever its size.

At the head the events that have just arrived are shared by all runners of a worker, see ``recent``.

JSON arrives as bytes and stays bytes until a handler wants it.

May assume: ``mark`` is settled (see ``highwater``), so what this query does not find will never be there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from uuid import UUID

import psycopg
from psycopg.rows import TupleRow

from projectiond import sql
from projectiond.errors import UnreadableEventError
from projectiond.event import Event
from projectiond.postgres.database import Connection, fetch_row
from projectiond.stream.recent import event_cursor

# Some tens of milliseconds of index scan, and far below every sensible statement time-out.
SCAN_RANGE: Final = 100_000

# What a batch's JSON may weigh before it is ended.  One event alone may weigh more: it is then a batch by itself.
MAX_BATCH_BYTES: Final = 8 * 1024 * 1024

# Of many rows the server unpacks those alone that are stored, compressed perhaps, in no more bytes; of a few any.
MAX_STORED_BYTES: Final = 16 * 1024
FEW_EVENTS: Final = 8
UNBOUNDED: Final = 2**31 - 1

# Where the JSON columns are in a row; what is left out because of its size comes as null, and event_data never is.
_DATA: Final = 4
_METADATA: Final = 5


@dataclass(frozen=True, slots=True)
class Batch:
    """Events in strictly increasing order, and how far the store has been read to find them.

    ``upto`` is the last event's number when the batch was cut short, else the end of the range that was scanned.
    Of a kind that leaves its events on the server they are only counted, and ``events`` is empty.
    """

    after: int
    upto: int
    events: Sequence[Event[Any]]
    count: int
    last_event_id: UUID | None

    @classmethod
    def of(cls, after: int, upto: int, events: Sequence[Event[Any]]) -> "Batch":
        """Make a batch of events."""
        return cls(after, upto, events, len(events), events[-1].event_id if events else None)


class Asked(Protocol):
    """A batch on its way."""

    def batch(self) -> Batch:
        """Wait for it."""


class Reader(Protocol):
    """Reads for one projection."""

    def ask(self, db: Connection, after: int, mark: int, limit: int | None) -> Asked:
        """Ask for what comes after ``after``, up to ``mark`` and at most ``limit`` of it."""


# Gives every event of a range in order, or None when it does not have all of them as this connection would read them.
Recent = Callable[[Connection, int, int], Sequence[Event[Any]] | None]


def none_recent(_db: Connection, _after: int, _upto: int) -> None:
    """Have no recent events."""


class EventReader:
    """Reads the events themselves."""

    def __init__(
        self,
        event_types: Sequence[str] | None,
        batch_size: int,
        recent: Recent = none_recent,
        is_replay: Callable[[], bool] = lambda: False,
    ) -> None:
        """Make a reader.

        Args:
            event_types: The types to read, ``None`` for all.
            batch_size: The most events of a batch.
            recent: The newest events, already read.
            is_replay: Whether what is read now builds tables anew.
        """
        self.is_replay = is_replay
        self._event_types = None if event_types is None else list(event_types)
        self._wanted = None if event_types is None else frozenset(event_types)
        self._batch_size = batch_size
        self._recent = recent
        # How many rows are asked for at once: fewer while they are heavy.
        self._rows = batch_size

    def ask(self, db: Connection, after: int, mark: int, limit: int | None) -> Asked:
        """Ask for the events above ``after`` up to ``mark``, or as many of them as a batch may hold."""
        upto = min(mark, after + SCAN_RANGE)
        rows = min(self._batch_size, limit or self._batch_size)
        arrived = self._recent(db, after, upto)
        if arrived is not None:
            return _Arrived(self._choose(after, upto, arrived, rows))
        return _AskedEvents(self, db, after, upto, min(rows, self._rows))

    def read(self, db: Connection, after: int, mark: int, limit: int | None = None) -> Batch:
        """Ask and wait."""
        return self.ask(db, after, mark, limit).batch()

    def _choose(self, after: int, upto: int, events: Sequence[Event[Any]], most: int) -> Batch:
        if self._wanted is not None:
            events = [event for event in events if event.event_type in self._wanted]
        if len(events) > most:
            events = events[:most]
            upto = events[-1].sequence_number
        return Batch.of(after, upto, events)

    def execute(self, db: Connection, after: int, upto: int, rows: int, most_bytes: int) -> "_Answer":
        """Send the query; outside of a pipeline its answer is there when this returns."""
        statement = sql.events.READ_ALL_EVENTS if self._event_types is None else sql.events.READ_EVENTS
        parameters = {
            "after": after,
            "upto": upto,
            "event_types": self._event_types,
            "batch_size": rows,
            "most_stored": MAX_STORED_BYTES if rows > FEW_EVENTS else UNBOUNDED,
            "most_bytes": most_bytes,
        }
        return event_cursor(db).execute(statement, parameters)

    def unreadable(self, db: Connection, after: int, upto: int, error: psycopg.DataError) -> UnreadableEventError:
        """Name the first event of a range."""
        parameters = {"after": after, "upto": upto, "event_types": self._event_types}
        sequence_number, event_type, event_id = fetch_row(db, sql.events.NAME_FIRST_EVENT, parameters)
        return UnreadableEventError(
            f"its row cannot be read: {error}",
            sequence_number=sequence_number,
            event_type=event_type,
            event_id=event_id,
        )

    def note_weight(self, asked: int, weight: int) -> None:
        """Ask for as many rows as a batch can hold of such weight; for more again when they are light."""
        if weight > MAX_BATCH_BYTES // 2:
            self._rows = max(1, asked // 2)
        else:
            self._rows = min(self._batch_size, max(self._rows, asked * 2))


def _count_fitting(rows: Sequence[TupleRow]) -> int:
    """Count the rows before the first whose JSON was left out."""
    return next((place for place, row in enumerate(rows) if row[_DATA] is None), len(rows))


class _Answer(Protocol):
    def fetchall(self) -> list[TupleRow]: ...
    def fetchone(self) -> TupleRow | None: ...


class _Arrived:
    """A batch that needs no query."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def batch(self) -> Batch:
        return self._batch


class _AskedEvents:
    """A query that has been sent."""

    def __init__(self, reader: EventReader, db: Connection, after: int, upto: int, rows: int) -> None:
        self._reader = reader
        self._db = db
        self._after = after
        self._upto = upto
        self._rows = rows
        self._answer = reader.execute(db, after, upto, rows, MAX_BATCH_BYTES)
        self._is_broken_off = False

    def batch(self) -> Batch:
        rows = self._load()
        fitted = _count_fitting(rows)
        for few, most_bytes in ((FEW_EVENTS, MAX_BATCH_BYTES), (1, UNBOUNDED)):
            if rows and not fitted:
                # The first is too large to come with many: with few, then, or alone, for it has to be read.
                self._rows = min(self._rows, few)
                self._answer = self._reader.execute(self._db, self._after, self._upto, self._rows, most_bytes)
                rows = self._load()
                fitted = _count_fitting(rows)
        self._reader.note_weight(self._rows, sum(len(row[_DATA]) + len(row[_METADATA] or b"") for row in rows[:fitted]))
        make = Event.from_row_of_replay if self._reader.is_replay() else Event.from_row
        events = [make(row) for row in rows[:fitted]]
        is_cut_short = fitted < len(rows) or fitted == self._rows or self._is_broken_off
        return Batch.of(self._after, events[-1].sequence_number if events and is_cut_short else self._upto, events)

    def _load(self) -> list[TupleRow]:
        """Make Python's values of the answer, as far as the first row that has none (a time beyond the year 9999).

        Raises:
            UnreadableEventError: That is the first of all.
        """
        try:
            return self._answer.fetchall()
        except psycopg.DataError as error:
            if error.sqlstate is not None:
                # The server's word, not that of loading.
                raise
            self._is_broken_off = True
        rows: list[TupleRow] = []
        try:
            while (row := self._answer.fetchone()) is not None:
                rows.append(row)
        except psycopg.DataError as error:
            if not rows:
                raise self._reader.unreadable(self._db, self._after, self._upto, error) from error
        return rows
