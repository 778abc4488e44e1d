"""``RowProjection``: the rows of a batch are loaded, changed in memory by the author's handlers, and written back.

One query for all keys of the batch, then no question any more, then one statement for what has changed (and one before
it for rows that were deleted).  What is written equals what single events would have written, however batches are cut:
``row_codec`` says how values are held to that.  A row that is deleted and made anew within a batch is deleted and
inserted, so that columns which are no fields get their defaults again.  A row that is made and deleted again leaves no
trace.

States in between are never written: a constraint that only one of them breaks does not notice.  What does fail fails
the transaction; the caller then tries fewer events, down to one, so the order of writes within a batch (a unique value
that moves from one row to another) can make it slower but not wrong.

    row_fit         do dataclass and table fit?          row_codec        how a value travels, and what must not be seen
    row_table       rows for keys, and back              row_value, row_json, row_annotation     which codec for a field
    row_statements  the SQL of that
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg.rows import TupleRow

from projectiond.errors import ConfigurationError, PoisonError
from projectiond.event import Event
from projectiond.kinds.kind import AuthorCode
from projectiond.kinds.row_codec import Change, UnfitError, described
from projectiond.kinds.row_fit import fit
from projectiond.kinds.row_table import Key, Row, RowTable
from projectiond.plugins.definition import Definition, Handler
from projectiond.postgres.database import Connection
from projectiond.projection import DELETE, RowProjection
from projectiond.stream.reader import Batch


@dataclass(slots=True)  # not frozen, which would double the time to make one: there is one for each event
class _Task:
    """An event, and whom it concerns."""

    event: Event[Any]
    handlers: Sequence[Handler]
    keys: Sequence[Key]


@dataclass(slots=True)
class _Work:
    """What is known of a batch before its handlers are called."""

    tasks: Sequence[_Task] = ()
    stored: Mapping[Key, TupleRow] = field(default_factory=dict)


class RowByKey:
    """Loads rows, calls the handlers with them, and writes them back."""

    is_pipelined = True

    def __init__(self, definition: Definition, author: AuthorCode) -> None:
        projection = definition.projection
        if not isinstance(projection, RowProjection):
            raise ConfigurationError(f'"{definition.name}" is not a RowProjection')
        self._definition = definition
        self._author = author
        self._projection = projection
        self._class_name = type(projection).__name__
        self._is_by_aggregate = type(projection).key is RowProjection.key
        self._table: RowTable | None = None
        self._key_readers: Sequence[Change] = ()
        self._work = _Work()
        # What we do ourselves; empty while the author's code is called.
        self._doing = ""

    @property
    def at_work(self) -> str:
        """The method that was called last, or that its table is read or written."""
        return self._doing or self._author.name

    def check(self, db: Connection) -> None:
        """See that the dataclass and the table fit each other.

        Raises:
            ConfigurationError: They do not; the message has every fault.
        """
        self._table = None
        found = fit(db, self._definition)
        self._table, self._key_readers = found.table, found.key_readers

    def load(self, db: Connection, batch: Batch) -> None:
        """Ask the author for the events' keys, and the database for the keys' rows.

        Raises:
            PoisonError: A key is none of this table.
        """
        table = self._checked_table()
        self._work = _Work()
        self._doing = ""
        tasks = [
            _Task(event, handlers, self._keys(event))
            for event in batch.events
            if (handlers := self._definition.handlers_for(event.event_type))
        ]
        keys = list(dict.fromkeys(key for task in tasks for key in task.keys))
        self._author.put_down()
        self._doing = f"{self._class_name} reading {table.name}"
        self._work = _Work(tasks, table.load(db, keys))

    def apply(self, db: Connection, batch: Batch) -> None:  # noqa: ARG002 - load has made tasks of it
        """Call the handlers for each event in order, and write the rows that have changed."""
        table = self._checked_table()
        work, self._work = self._work, _Work()
        fold = _Fold(table, self._author, work.stored)
        self._doing = ""
        for task in work.tasks:
            for key in task.keys:
                for handler in task.handlers:
                    fold.handle(handler, key, task.event)
        self._author.put_down()
        self._doing = f"{self._class_name} writing {table.name}"
        table.delete(db, list(fold.deleted))
        table.write(db, fold.changed())

    def _checked_table(self) -> RowTable:
        if self._table is None:
            raise ConfigurationError(f'the table of "{self._definition.name}" has not been checked')
        return self._table

    def _keys(self, event: Event[Any]) -> Sequence[Key]:
        """Give the event's keys, each once, as the database has them."""
        if self._is_by_aggregate:
            return (event.aggregate_id,)
        self._author.take(f"{self._class_name}.key", event.sequence_number)
        given = self._author.call(self._projection.key, event.pristine())
        try:
            if isinstance(given, list):
                return tuple(dict.fromkeys(self._read(key) for key in given))
            return (self._read(given),)
        except UnfitError as unfit:
            raise PoisonError(f"{event.described()}: the key that {self._author.name} returned {unfit}") from None

    def _read(self, key: object) -> Key:
        if key is None:
            raise UnfitError("is None; return the key of a row, or an empty list where the event belongs to none")
        readers = self._key_readers
        if len(readers) == 1:
            return readers[0](key)
        if not isinstance(key, tuple) or len(key) != len(readers):
            raise UnfitError(f"is {described(key)}; return a tuple of {len(readers)} values, as the primary key has")
        return tuple(read(part) for read, part in zip(readers, key, strict=True))


class _Fold:
    """The rows of a batch while its handlers are called."""

    def __init__(self, table: RowTable, author: AuthorCode, stored: Mapping[Key, TupleRow]) -> None:
        self._table = table
        self._author = author
        self._stored = dict(stored)
        self._rows: dict[Key, Row] = {key: table.make(row) for key, row in stored.items()}
        self.deleted: dict[Key, None] = {}

    def handle(self, handler: Handler, key: Key, event: Event[Any]) -> None:
        """Call a handler with the row of a key, and keep what it makes of it."""
        table = self._table
        known = self._rows.get(key)
        row = table.make_new(key) if known is None else known
        self._author.take(handler.name, event.sequence_number)
        result = self._author.call(handler.function, row, handler.event_for(event))
        if result is DELETE:
            self._delete(key)
            return
        if result is not None:
            if not isinstance(result, table.row):
                raise PoisonError(
                    f"{event.described()}: {handler.name} returned {described(result)}; a handler returns None, "
                    f"another {table.row.__name__}, or DELETE"
                )
            row = result
        if table.key_of(row) != key:
            raise PoisonError(
                f"{event.described()}: {handler.name} changed the key of its row from {described(key)} to "
                f"{described(table.key_of(row))}; a row keeps its key, so let `key` return both, and DELETE the old row"
            )
        table.settle(row)
        if row is not known:
            self._rows[key] = row

    def changed(self) -> Sequence[Row]:
        """Give the rows that have to be written, in the order in which they were first met."""
        stored, table = self._stored, self._table
        return [row for key, row in self._rows.items() if key not in stored or table.has_changed(row, stored[key])]

    def _delete(self, key: Key) -> None:
        self._rows.pop(key, None)
        if self._stored.pop(key, None) is not None:
            self.deleted[key] = None
