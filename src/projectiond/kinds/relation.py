"""``SqlProjection``: the author's statements over the relation ``events``, whose rows never leave the server.

``events`` is put in front of each statement as a common table expression, see ``statement``. So it exists for that
statement only, hides a table of the same name, and leaves nothing in the session. A batch is one event at the head and
half a million far behind: its bounds are parameters of a statement that is planned anew each time.

The reader of this kind counts a range's events and reads none. What a statement does with them the server's statement
time-out watches: no event is ever in hand.

Rows that a statement gives (a SELECT's, a RETURNING's) are taken as one answer and thrown away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg.rows import TupleRow

from projectiond import sql
from projectiond.errors import ConfigurationError
from projectiond.failure import is_transient, printable
from projectiond.kinds.kind import AuthorCode
from projectiond.kinds.statement import Statement
from projectiond.plugins.definition import Definition
from projectiond.postgres.cursor import RawCursor
from projectiond.postgres.database import Connection
from projectiond.postgres.guard import is_session_change
from projectiond.projection import SqlProjection
from projectiond.stream.reader import Asked, Batch, Recent, none_recent

UNREAD: Final = "it does not read the relation events, which holds the events of a batch; write FROM events"
MENDED: Final = "mend it, restart the daemon with it, then set the status to running"


class InSql:
    """Executes the projection's statements."""

    is_pipelined = True

    def __init__(self, definition: Definition, author: AuthorCode) -> None:
        if not isinstance(definition.projection, SqlProjection):
            raise ConfigurationError(f'"{definition.name}" is not a SqlProjection')
        texts = definition.projection.sql
        self._statements = [Statement(text) for text in ((texts,) if isinstance(texts, str) else texts)]
        self._definition = definition
        self._author = author
        event_types = definition.event_types
        self._event_types = [] if event_types is None else [list(event_types)]
        self._relation = sql.relation.ALL_EVENTS if event_types is None else sql.relation.EVENTS
        self._queries = [statement.over(self._relation).encode(errors="replace") for statement in self._statements]
        self._is_session_changed = any(is_session_change(statement.text) for statement in self._statements)
        self._sent: list[RawCursor] = []

    @property
    def statement_count(self) -> int:
        """How many statements there are."""
        return len(self._queries)

    @property
    def at_work(self) -> str:
        """The statement that was sent last; after a failure the one that failed, the first that has no result."""
        unanswered = next((place for place, cursor in enumerate(self._sent) if cursor.pgresult is None), None)
        place = max(0, len(self._sent) - 1) if unanswered is None else unanswered
        name = f"{type(self._definition.projection).__name__}.sql"
        return name if len(self._queries) == 1 else f"{name}, statement {place + 1} of {len(self._queries)}"

    def check(self, db: Connection) -> None:
        """Have PostgreSQL plan each statement, and see that each reads ``events``; nothing is executed.

        Raises:
            ConfigurationError: Some cannot be executed, or would do the same whatever the events are; it names all.
        """
        faults = []
        for number, statement in enumerate(self._statements, 1):
            if fault := statement.fault or self._find_fault(db, statement):
                names = [f"statement {number} of {len(self._statements)}"] if len(self._statements) > 1 else []
                names += [f'"{printable(statement.first_line)}"'] if statement.first_line else []
                faults.append(f"{', '.join(names)}: {fault}" if names else fault)
        if faults:
            definition = self._definition
            raise ConfigurationError(
                f'the SQL of "{definition.name}" ({definition.source}) is refused: {"; ".join(faults)}', hint=MENDED
            )

    def load(self, db: Connection, batch: Batch) -> None:
        """Nothing: statements read for themselves."""

    def apply(self, db: Connection, batch: Batch) -> None:
        """Execute the statements, if there is an event."""
        self._sent = []
        if not batch.count:
            return
        # The guard looks at the beginning of what is sent, which is ours.
        db.is_altered = db.is_altered or self._is_session_changed
        try:
            for query in self._queries:
                cursor = RawCursor(db)
                self._sent.append(cursor)
                self._execute(cursor, query, batch.after, batch.upto)
            if batch.count > 1:
                # What cannot take several events would work on each alone, one by one and for ever.
                db.settle()
        except psycopg.errors.CardinalityViolation as error:
            if batch.count == 1 or error.diag.source_file != sql.relation.ROW_WRITTEN_TWICE:
                raise
            raise ConfigurationError(
                f"{self.at_work} ({self._definition.source}) cannot take several events: {error.diag.message_primary}",
                hint=f"let it write each row once, with GROUP BY or DISTINCT ON: {MENDED}",
            ) from error

    def _execute(self, cursor: RawCursor, query: bytes, after: int, upto: int) -> None:
        # Never prepared: a plan that was made for one event is a disaster for half a million.
        cursor.execute(query, [after, upto, *self._event_types], prepare=False)

    def _find_fault(self, db: Connection, statement: Statement) -> str:
        explained = f"{sql.relation.EXPLAIN}{statement.over(self._relation)}"
        try:
            with db.transaction():
                self._execute(RawCursor(db), explained.encode(), 0, 0)
        except psycopg.Error as error:
            if is_transient(error):
                raise
            return self._quote(error, statement)
        return "" if _is_reader(db, statement) else UNREAD

    def _quote(self, error: psycopg.Error, statement: Statement) -> str:
        """Give PostgreSQL's message, with the author's line that it points at."""
        said = error.diag
        position = int(said.statement_position or 0) - 1 - len(sql.relation.EXPLAIN)
        line = statement.line_at(position, self._relation) if position >= 0 else ""
        place = f', in "{line}"' if line and line != statement.first_line else ""
        more = "".join(f" ({word})" for word in (said.message_detail, said.message_hint) if word)
        return printable(f"{said.message_primary or error}{place}{more}")


def _is_reader(db: Connection, statement: Statement) -> bool:
    """Say whether a statement that can be planned reads the relation; its names are looked up, nothing is executed."""
    probe = f"{sql.relation.EXPLAIN}{statement.over(sql.relation.UNREADABLE_EVENTS)}"
    try:
        with db.transaction():
            db.execute(probe.encode())
    except psycopg.Error as error:
        if is_transient(error):
            raise
        return error.diag.source_function == sql.relation.READ_OF_UNREADABLE
    return False


class RangeReader:
    """Counts the events of the next range."""

    def __init__(self, event_types: Sequence[str] | None, recent: Recent = none_recent) -> None:
        """Make a reader.

        Args:
            event_types: The types to count, ``None`` for all.
            recent: The newest events, already read.
        """
        self._event_types = None if event_types is None else list(event_types)
        self._recent = recent

    def ask(self, db: Connection, after: int, mark: int, limit: int | None) -> Asked:
        """Ask how many events there are above ``after`` up to ``mark``, in at most ``limit`` sequence numbers."""
        upto = mark if limit is None else min(mark, after + limit)
        arrived = self._recent(db, after, upto)
        if arrived is not None:
            # At the head: known without a question.
            wanted = self._event_types
            matching = [event for event in arrived if wanted is None or event.event_type in wanted]
            return _Known(Batch(after, upto, (), len(matching), matching[-1].event_id if matching else None))
        statement = sql.relation.COUNT_ALL_EVENTS if self._event_types is None else sql.relation.COUNT_EVENTS
        parameters = {"after": after, "upto": upto, "event_types": self._event_types}
        # Never prepared, as the statements over the range are not.
        return _AskedRange(db.execute(statement, parameters, prepare=False), after, upto)

    def read(self, db: Connection, after: int, mark: int, limit: int | None = None) -> Batch:
        """Ask and wait."""
        return self.ask(db, after, mark, limit).batch()


@dataclass(frozen=True, slots=True)
class _Known:
    """A range whose events have been counted."""

    known: Batch

    def batch(self) -> Batch:
        return self.known


@dataclass(frozen=True, slots=True)
class _AskedRange:
    """A question that has been sent."""

    answer: psycopg.Cursor[TupleRow]
    after: int
    upto: int

    def batch(self) -> Batch:
        row = self.answer.fetchone()
        if row is None:
            raise psycopg.InternalError("no row came back from a count")
        count, last_event_id = row
        return Batch(self.after, self.upto, (), count, last_event_id)
