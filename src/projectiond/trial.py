"""A trial: a projection applied to real events, and everything taken back.

Called by the command ``try``, for a projection that is deployed or one that is being written.  All of it is one
transaction that is rolled back: a schema of its own, the projection's tables in it (made by its own ``schema``, with
that schema first in the search_path), the events applied to them, and what came of it read.  Whatever happens,
a kill -9 included, nothing is left behind, no checkpoint moves and no other session sees a row of it.

Statements are waited for one by one, so the time of each handler is its own.  It is therefore more than what the daemon
needs, whose statements travel in a pipeline.

A handler that names a schema (``INSERT INTO public.orders``) writes to that table, in this transaction.  It is taken
back too, but the daemon would not rebuild such a projection beside its live tables, so it is told.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final
from uuid import uuid4

import psycopg
import psycopg.sql

from projectiond import sql
from projectiond.errors import ConfigurationError, ProjectiondError, UnreadableEventError
from projectiond.event import Event
from projectiond.failure import describe, is_transient, printable
from projectiond.kinds import make_kind
from projectiond.kinds.kind import AuthorCode, Kind
from projectiond.kinds.relation import InSql, RangeReader
from projectiond.plugins.definition import Definition, Handler
from projectiond.postgres.database import Connection, fetch_row
from projectiond.processes.recorder import nowhere
from projectiond.projection import Projection, RowProjection, SqlProjection
from projectiond.rebuild import statements
from projectiond.rebuild.space import find_strays, path_of
from projectiond.running.preparation import apply_schema_beside, missing_tables
from projectiond.stream.reader import Batch, EventReader, Reader

# What is read and applied at once; of a projection whose events stay on the server, sequence numbers.
BATCH_SIZE: Final = 500
RANGE_SIZE: Final = 10_000

# Where its time goes besides the author's code.
ROWS: Final = "reading and writing rows"


@dataclass(slots=True)
class Cost:
    """What one handler took for one type of event, or (of kinds that take many at once) the author's code for all."""

    handler: str
    event_type: str
    calls: int = 0
    seconds: float = 0.0
    statements: int = 0

    def add(self, seconds: float, statements: int) -> None:
        """Add one call."""
        self.calls += 1
        self.seconds += seconds
        self.statements += statements


@dataclass(frozen=True, slots=True)
class FirstFailure:
    """The first event that could not be applied, and why; the trial ends before it."""

    sequence_number: int
    event_type: str
    event_id: str
    handler: str
    error: str


@dataclass(frozen=True, slots=True)
class Rows:
    """A table as the events have made it."""

    table: str
    total: int
    columns: Sequence[str]
    samples: Sequence[Sequence[Any]]
    """The first rows by primary key, else in no order."""


@dataclass(slots=True)
class Trial:
    """What came of it."""

    first: int
    last: int
    """Sequence numbers, both included."""
    events: int = 0
    seconds: float = 0.0
    """Of applying alone: reading events and making the tables is not in it."""
    costs: list[Cost] = field(default_factory=list)
    tables: list[Rows] = field(default_factory=list)
    written_elsewhere: list[str] = field(default_factory=list)
    """Tables outside of the schema of the trial that handlers have written to."""
    failure: FirstFailure | None = None


def run_trial(db: Connection, definition: Definition, first: int, last: int, *, most_samples: int = 5) -> Trial:
    """Apply the events of a range to empty tables, and take it back.

    Args:
        db: In autocommit mode, and no longer of use to anybody else: the author's code has had it.
        definition: What to try.
        first: The first sequence number.
        last: The last one.
        most_samples: How many rows of each table to give.

    Raises:
        ConfigurationError: The projection cannot run at all: its schema is refused, a table is missing.
    """
    trial = Trial(first, last)
    with db.transaction(force_rollback=True):
        space = _make_space(db, definition)
        _Rehearsal(db, definition, trial).run()
        db.execute(sql.session.RESTORE_SEARCH_PATH, {"search_path": db.search_path})
        trial.written_elsewhere = [str(table) for (table,) in db.execute(statements.TOUCHED_OUTSIDE, {"schema": space})]
        trial.tables = [_look(db, space, table, most_samples) for table in definition.tables]
    return trial


def _make_space(db: Connection, definition: Definition) -> str:
    """Make a schema with the projection's tables, first in the search_path from now on."""
    space = f"projectiond_try_{uuid4().hex[:16]}"
    may_create, database, role = fetch_row(db, statements.MAY_CREATE_SCHEMA)
    if not may_create:
        raise ConfigurationError(
            f"a trial needs a schema of its own, which {role} may not make",
            hint=f"run GRANT CREATE ON DATABASE {database} TO {role}, or try with another role",
        )
    db.execute(psycopg.sql.SQL(statements.CREATE_SCHEMA).format(space=psycopg.sql.Identifier(space)))
    # For the whole of the transaction: what handlers and the daemon's own statements are looked up in.
    db.search_path = path_of(db, space)
    db.execute(sql.session.RESTORE_SEARCH_PATH, {"search_path": db.search_path})
    apply_schema_beside(db, definition)
    missing = missing_tables(db, definition)
    if missing:
        raise ConfigurationError(
            f'"{definition.name}" declares tables that do not exist: {", ".join(missing)}',
            hint=f"create them in `schema` of {definition.source}",
        )
    strays = find_strays(db, definition, space)
    if strays:
        raise ConfigurationError(
            f'`schema` of "{definition.name}" does not make {", ".join(strays)} in the schema of the trial',
            hint=f"in {definition.source} create every table, and name it without a schema",
        )
    return space


class _Rehearsal:
    """Applies the events of the range, batch by batch, with the time taken."""

    def __init__(self, db: Connection, definition: Definition, trial: Trial) -> None:
        self._db = db
        self._trial = trial
        self._statements = 0
        self._costs: dict[tuple[str, str], Cost] = {}
        self._author = AuthorCode(nowhere())
        self._definition = self._watched(definition)
        self._kind: Kind = make_kind(self._definition, self._author)
        self._is_by_range = isinstance(definition.projection, SqlProjection)
        self._reader: Reader = (
            RangeReader(definition.event_types)
            if self._is_by_range
            else EventReader(definition.event_types, BATCH_SIZE)
        )

    def run(self) -> None:
        """Apply until the end of the range, or the first failure."""
        self._kind.check(self._db)
        with self._counting():
            self._apply_all()
        self._trial.costs = sorted(self._costs.values(), key=lambda cost: -cost.seconds)

    def _apply_all(self) -> None:
        position, trial = self._trial.first - 1, self._trial
        size = RANGE_SIZE if self._is_by_range else BATCH_SIZE
        while position < trial.last and trial.failure is None:
            self._db.execute(sql.session.RESTORE_SEARCH_PATH, {"search_path": self._db.search_path})
            try:
                batch = self._reader.ask(self._db, position, trial.last, size).batch()
            except UnreadableEventError as error:
                trial.failure = FirstFailure(
                    error.sequence_number, error.event_type, str(error.event_id), "reading the event", describe(error)
                )
                return
            failed = self._try_batch(batch)
            if failed is None:
                position = batch.upto
                continue
            if batch.count <= 1:
                trial.failure = self._name(batch, failed)
                return
            # It is one of these: go on in half as many, until it is alone.
            size = max(1, (batch.count if not self._is_by_range else batch.upto - batch.after) // 2)

    def _try_batch(self, batch: Batch) -> Exception | None:
        """Apply a batch in a savepoint; give what it failed for."""
        began = time.perf_counter()
        before = self._statements
        costs = {key: replace(cost) for key, cost in self._costs.items()}
        try:
            with self._db.transaction():
                with self._db.guarded():
                    self._kind.load(self._db, batch)
                    self._kind.apply(self._db, batch)
                statements = self._statements - before
                # What is checked at the end of the daemon's transaction is checked here.
                self._db.execute(sql.trial.CHECK_CONSTRAINTS)
        except Exception as error:
            if is_transient(error) or isinstance(error, ConfigurationError):
                raise
            # Tried again in smaller parts: it is these that count.
            self._costs.clear()
            self._costs.update(costs)
            self._statements = before
            return error
        seconds = time.perf_counter() - began
        self._trial.seconds += seconds
        self._trial.events += batch.count
        if batch.count and not isinstance(self._definition.projection, Projection):
            statements = self._kind.statement_count if isinstance(self._kind, InSql) else statements
            self._charge(seconds, statements, costs)
        return None

    def _charge(self, seconds: float, statements: int, before: Mapping[tuple[str, str], Cost]) -> None:
        """Charge what no handler of one event took."""
        if isinstance(self._definition.projection, RowProjection):
            seconds -= sum(cost.seconds for cost in self._costs.values()) - sum(c.seconds for c in before.values())
        self._cost(ROWS if isinstance(self._definition.projection, RowProjection) else self._kind.at_work, "").add(
            seconds, statements
        )

    def _name(self, batch: Batch, error: Exception) -> FirstFailure:
        event = self._alone(batch)
        said = error.message if isinstance(error, ProjectiondError) else describe(error)
        return FirstFailure(
            event.sequence_number, event.event_type, str(event.event_id), self._kind.at_work, printable(said)
        )

    def _alone(self, batch: Batch) -> Event[Any]:
        reader = EventReader(self._definition.event_types, 1)
        after = batch.after
        while not batch.events and after < batch.upto:
            batch = reader.read(self._db, after, batch.upto)
            after = batch.upto
        return batch.events[0]

    # --- who takes how long

    def _cost(self, handler: str, event_type: str) -> Cost:
        return self._costs.setdefault((handler, event_type), Cost(handler, event_type))

    def _watched(self, definition: Definition) -> Definition:
        """Give the definition with handlers that are timed."""
        watched = {
            event_type: tuple(replace(handler, function=self._timed(handler, event_type)) for handler in handlers)
            for event_type, handlers in definition.handlers.items()
        }
        return replace(definition, handlers=MappingProxyType(watched))

    def _timed(self, handler: Handler, event_type: str) -> Callable[..., Any]:
        function = handler.function

        def timed(*arguments: Any) -> Any:  # noqa: ANN401 - whatever the handler takes and gives
            began, before = time.perf_counter(), self._statements
            try:
                return function(*arguments)
            finally:
                self._cost(handler.name, event_type).add(time.perf_counter() - began, self._statements - before)

        return timed

    @contextmanager
    def _counting(self) -> Iterator[None]:
        """Count what is executed on the connection."""
        rehearsal, before = self, self._db.cursor_factory

        class Counting(before):  # type: ignore[misc, valid-type]  # the connection's own class, which it varies
            def execute(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - psycopg's, passed through
                rehearsal._statements += 1
                return super().execute(*args, **kwargs)

            def executemany(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as above
                rehearsal._statements += 1
                super().executemany(*args, **kwargs)

            def copy(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as above
                rehearsal._statements += 1
                return super().copy(*args, **kwargs)

        self._db.cursor_factory = Counting
        try:
            yield
        finally:
            self._db.cursor_factory = before


def _look(db: Connection, space: str, table: str, most_samples: int) -> Rows:
    """Read a table of the trial."""
    name = psycopg.sql.Identifier(space, table.rpartition(".")[2])
    counted = db.execute(psycopg.sql.SQL("SELECT count(*) FROM {}").format(name)).fetchone()
    key = [str(column) for (column,) in db.execute(sql.trial.KEY_OF_TABLE, {"space": space, "table": table})]
    order = psycopg.sql.SQL(", ").join(map(psycopg.sql.Identifier, key))
    statement = psycopg.sql.SQL("SELECT * FROM {}").format(name)
    if key:
        statement += psycopg.sql.SQL(" ORDER BY {}").format(order)
    cursor = db.execute(statement + psycopg.sql.SQL(" LIMIT {}").format(most_samples))
    columns = [column.name for column in cursor.description or ()]
    return Rows(table, counted[0] if counted else 0, columns, cursor.fetchall())
