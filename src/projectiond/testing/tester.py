"""The tester: given these events, the tables have these rows.

Made by the fixture ``projection_tester``, once for each projection of a test, in a database of its own.
"""

import contextlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, LiteralString, Protocol, Self
from uuid import UUID

from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

from projectiond.errors import ConfigurationError, PoisonError
from projectiond.postgres.database import Connection, borrow, open_pool
from projectiond.projection import BaseProjection
from projectiond.testing.blame import of_author
from projectiond.testing.given import Stream, append, describe_next
from projectiond.testing.lookup import find_projection
from projectiond.testing.proof import UnsafeProjectionError, prove
from projectiond.testing.server import TestServer
from projectiond.testing.stage import Stage
from projectiond.testing.tables import Row, Snapshot, find_differences, find_tables, read_rows, take_snapshot

# Longer than a test should take, and short enough to hear of a handler that waits for ever.
STATEMENT_SECONDS: Final = 30.0

# An id that the tester makes is a small number: the order of ids is that in which they were made.
_AGGREGATES: Final = 0xA << 124


class MakeTester(Protocol):
    """What the fixture ``projection_tester`` is: it makes a tester for a projection."""

    def __call__(
        self,
        projection: type[BaseProjection] | str | Path,
        *,
        prove: bool = True,
        ignore: Sequence[str] = (),
        schema: str = "",
    ) -> "Tester":
        """Make a tester.

        Args:
            projection: The class; or the path of a plugin's file, looked for from the test's directory upwards
                (``path::Class`` where a file has several).
            prove: Whether to prove, too, that it is safe: that the same events give the same rows after a crash and
                however they are cut into batches.
            ignore: Columns that the proof is not to compare, as ``column`` or ``table.column``.
            schema: DDL to run first, of tables that a migration makes.

        Raises:
            ConfigurationError: The projection has a fault that ``projectiond check`` would name.
        """


class Tester:
    """Events go in, rows come out."""

    def __init__(
        self,
        stage: Stage,
        pool: ConnectionPool[Connection],
        *,
        store_tables: frozenset[str],
        prove: bool,
        ignore: Sequence[str],
    ) -> None:
        """Have the projection prepared, as at the daemon's start; see :class:`Testers`."""
        self._stage = stage
        self._pool = pool
        self._store_tables = store_tables
        self._is_proven = prove
        self._ignore = tuple(ignore)
        self._numbers: list[int] = []
        self._cuts: list[int] = []
        self._aggregates = 0
        self._apply_upto(0)

    def given(
        self,
        *events: object,
        aggregate_id: UUID | None = None,
        aggregate_type: str = "aggregate",
        metadata: Mapping[str, Any] | None = None,
        created_at: datetime | None = None,
    ) -> UUID:
        """Append events to the store, in this order, all to one aggregate.

        Args:
            events: Each a tuple of type and data, where data is a dict, a pydantic model or a dataclass; or a model
                alone, whose class has the name of the event type.
            aggregate_id: Of which aggregate; of a new one, unless you say so.
            aggregate_type: What it is.
            metadata: Of each of the events.
            created_at: When they happened, with a time zone; by default a second apart, from noon on the first of
                January 2026 (UTC).

        Returns:
            The aggregate's id.
        """
        aggregate = aggregate_id or self._new_aggregate()
        with borrow(self._pool) as db, db.transaction():
            for event in events:
                number = len(self._numbers) + 1
                stream = Stream(aggregate, aggregate_type, metadata or {})
                self._numbers.append(append(db, number, event, stream, created_at))
        return aggregate

    def apply(self) -> None:
        """Apply what was given since the last time; `rows` and `query` do so too.

        Raises:
            PoisonError: A handler failed at an event; the message names both, and its cause is what was raised.
            ConfigurationError: The daemon would refuse to run the projection.
            UnsafeProjectionError: The rows depend on more than the events.
        """
        __tracebackhide__ = True
        if self._numbers[-1:] == self._cuts[-1:]:
            return
        before = self._snapshot()
        self._apply_upto(self._numbers[-1])
        self._cuts.append(self._numbers[-1])
        if self._is_proven:
            after = self._snapshot()
            self._refuse_undeclared(before, after)
            prove(self._stage, self._cuts, self._numbers, after, self._snapshot, self._ignore)

    def rows(self, table: str = "", *, order_by: str | Sequence[str] = ()) -> list[Row]:
        """Apply what was given, and give the rows of a table, each as a dict by column.

        Args:
            table: Which; the projection's only one where it has one.
            order_by: Columns; the primary key's by default.

        Raises:
            ConfigurationError: It cannot be told which table, or in which order; otherwise as `apply`.
        """
        __tracebackhide__ = True
        self.apply()
        tables = self._stage.definition.tables
        if not table and len(tables) != 1:
            raise ConfigurationError(
                f'"{self._stage.definition.name}" has {len(tables)} tables', hint='say which: tester.rows("…")'
            )
        table = table or tables[0]
        order = (order_by,) if isinstance(order_by, str) else tuple(order_by)
        with borrow(self._pool) as db:
            order = order or find_tables(db).get(table.removeprefix("public."), ())
            if not order:
                raise ConfigurationError(
                    f"{table} has no primary key to order its rows by",
                    hint=f'say by which columns: tester.rows("{table}", order_by="…")',
                )
            return read_rows(db, table, order)

    def query(self, statement: LiteralString, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> list[Row]:
        """Apply what was given, and give the rows of any query, each as a dict by column.

        Raises:
            PoisonError, ConfigurationError, UnsafeProjectionError: As `apply`.
        """
        __tracebackhide__ = True
        self.apply()
        with borrow(self._pool) as db:
            return db.cursor(row_factory=dict_row).execute(statement, parameters).fetchall()

    def _new_aggregate(self) -> UUID:
        self._aggregates += 1
        return UUID(int=_AGGREGATES + self._aggregates)

    def _snapshot(self) -> Snapshot:
        with borrow(self._pool) as db:
            return take_snapshot(db, self._store_tables)

    def _apply_upto(self, number: int) -> None:
        __tracebackhide__ = True
        try:
            self._stage.apply(number)
        except (PoisonError, ConfigurationError) as error:
            which = ""
            if error.message.startswith("event "):
                with borrow(self._pool) as db:
                    which = f"; {describe_next(db, self._stage.position, self._stage.definition.event_types)}"
            # The hint is for an operator.
            said, cause = type(error)(f"{error.message}{which}"), of_author(error.__cause__)
        else:
            return
        raise said from cause

    def _refuse_undeclared(self, before: Snapshot, after: Snapshot) -> None:
        __tracebackhide__ = True
        definition = self._stage.definition
        declared = {table.removeprefix("public.") for table in definition.tables}
        undeclared = {*before, *after} - declared
        lines = find_differences(
            {name: table for name, table in before.items() if name in undeclared},
            {name: table for name, table in after.items() if name in undeclared},
            words=("before", "now"),
        )
        for line in lines:
            raise UnsafeProjectionError(
                f"{type(definition.projection).__name__} ({definition.source}) writes to a table that is not in "
                f"`tables`, so a rebuild would not empty it:\n  {line}"
            )


class Testers:
    """Makes testers, and takes their databases away at the end of a `with`: a :class:`MakeTester`."""

    __test__ = False  # nothing that pytest collects

    def __init__(self, server: TestServer, start: Path) -> None:
        """Make none yet.

        Args:
            server: Where the databases are made.
            start: The directory of the test.
        """
        self._server = server
        self._start = start
        self._exits = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def __call__(
        self,
        projection: type[BaseProjection] | str | Path,
        *,
        prove: bool = True,
        ignore: Sequence[str] = (),
        schema: str = "",
    ) -> Tester:
        """Make a tester; see :class:`MakeTester`."""
        __tracebackhide__ = True
        try:
            return self._open(find_projection(projection, self._start), prove=prove, ignore=ignore, schema=schema)
        except ConfigurationError as error:
            said, cause = ConfigurationError(error.message, hint=error.hint), of_author(error.__cause__)
        # From here, so that what a test shows of it is the author's alone.
        raise said from cause

    def _open(self, projection: type[BaseProjection], *, prove: bool, ignore: Sequence[str], schema: str) -> Tester:
        url = self._exits.enter_context(self._server.fresh_database())
        pool = open_pool(url, role="tests", statement_timeout_seconds=STATEMENT_SECONDS, size=1)
        self._exits.callback(pool.close)
        with borrow(pool) as db:
            store_tables = frozenset(find_tables(db))
            db.execute(schema.encode())
        return Tester(Stage(projection, pool), pool, store_tables=store_tables, prove=prove, ignore=ignore)
