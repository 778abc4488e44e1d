"""A worker in a thread of the test's own process, with the test's own projections, and its log.

Acceptance tests run the command as a process; tests that look inside use this:

    with Daemon(database, journal("journal")) as daemon:
        daemon.wait_until_at("journal", number)
        assert daemon.applied("journal") == [...]
        daemon.log.wait_for(logs.HIGHWATER_HELD)

`journal` makes a projection that writes down what is applied to it, in order, and twice what is applied twice.
"""

import contextlib
import io
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import psycopg
import structlog
from psycopg import sql
from pydantic import SecretStr

from projectiond import logs
from projectiond.event import Event
from projectiond.operating import steering
from projectiond.plugins.limits import resolve_limits
from projectiond.plugins.registry import define
from projectiond.postgres import database as databases
from projectiond.postgres.database import Connection, open_pool
from projectiond.processes.recorder import Recorder, create_recorder_file
from projectiond.projection import BaseProjection, Projection, handles
from projectiond.running.runner import Runner
from projectiond.running.surroundings import Surroundings
from projectiond.settings import Settings
from projectiond.worker import Worker
from tests.support.postgres import Database
from tests.support.waiting import eventually

Effect = Callable[[Event, Connection], object]

# So long that whatever passes its test in time cannot have been found by polling.
NEVER_SECONDS = 600.0


class Log:
    """The log's lines as dicts, while they are being written."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    def lines(self, event: str | None = None, **values: object) -> list[dict[str, Any]]:
        """Return the lines of one event whose values are these."""
        complete = self.stream.getvalue().rpartition("\n")[0].split("\n")
        lines = [json.loads(line) for line in complete if line]
        return [line for line in lines if event in {None, line["event"]} and values.items() <= line.items()]

    def wait_for(self, event: str, timeout_seconds: float = 10, **values: object) -> dict[str, Any]:
        """Wait for the first line of an event and return it."""
        message = f"{event} {values} was not logged"
        return eventually(lambda: self.lines(event, **values), timeout_seconds, message)[0]


@contextlib.contextmanager
def captured_log() -> Iterator[Log]:
    """Send the daemon's log, debug lines too, to a `Log` for the length of the context."""
    root, ours = logging.getLogger(), logging.getLogger("projectiond")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    log = Log()
    logs.configure_logging("json", "debug", stream=log.stream)
    try:
        yield log
    finally:
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        ours.setLevel(levels[1])
        structlog.reset_defaults()


def journal(
    table: str = "journal", *event_types: str, effect: Effect | None = None, **options: object
) -> type[BaseProjection]:
    """Make a projection that notes the number of each event in a table of its own name.

    Args:
        table: the name of the projection and of its table.
        event_types: the types it handles; all when left out.
        effect: what a second handler, called `misbehave`, does at events of the type "Bad".
        options: class attributes.
    """
    insert = sql.SQL("INSERT INTO {} (sequence_number) VALUES (%s)").format(sql.Identifier(table))

    class Journal(Projection):
        name = table
        tables = (table,)
        schema = (
            f'CREATE TABLE IF NOT EXISTS "{table}"'
            " (place bigint GENERATED ALWAYS AS IDENTITY, sequence_number bigint NOT NULL)"
        )

        @handles(*event_types or ("*",))
        def note(self, event: Event, db: Connection) -> None:
            db.execute(insert, (event.sequence_number,))

    def misbehave(_self: Projection, event: Event, db: Connection) -> None:
        if effect is not None:
            effect(event, db)

    if effect is not None:
        options["misbehave"] = handles("Bad")(misbehave)
    for option, setting in options.items():
        setattr(Journal, option, setting)
    return Journal


class Reporter:
    """Asks a test's database what has become of its projections; reconnects after the server's restart."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._conn: psycopg.Connection[Any] | None = None

    def ask(self, query: sql.Composed | bytes, *parameters: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        try:
            return self._connected().execute(query, parameters or None).fetchall()
        except psycopg.OperationalError:
            # The server was restarted since the last question.
            return self._connected().execute(query, parameters or None).fetchall()

    def _connected(self) -> psycopg.Connection[Any]:
        if self._conn is None or self._conn.closed:
            self._conn = self._database.connect()
        return self._conn

    def applied(self, table: str = "journal") -> list[int]:
        """Return what a `journal` holds, in the order in which it was applied."""
        query = sql.SQL("SELECT sequence_number FROM {} ORDER BY place").format(sql.Identifier(table))
        return [row[0] for row in self.ask(query)]

    def stored(self) -> list[int]:
        """Return the numbers of all committed events, in order."""
        return [row[0] for row in self.ask(b"SELECT sequence_number FROM event_store ORDER BY 1")]

    def checkpoint(self, name: str = "journal") -> Mapping[str, Any]:
        """Return a projection's row; empty while there is none."""
        found = self.ask(
            b"SELECT last_sequence_number, status, error_message, events_processed"
            b" FROM projection_checkpoints WHERE projection_name = %s",
            name,
        )
        return dict(zip(("position", "status", "error", "processed"), found[0], strict=True)) if found else {}

    def wait_until_at(self, name: str, position: int, timeout_seconds: float = 20) -> None:
        """Wait until a projection's checkpoint has reached a number."""

        def is_there() -> bool:
            with contextlib.suppress(psycopg.OperationalError):
                row = self.checkpoint(name)
                assert row.get("position", -1) >= position, row
                return True
            return False

        eventually(is_there, timeout_seconds, f"{name} did not reach {position}")

    def wait_for_status(self, name: str, status: str, timeout_seconds: float = 20) -> Mapping[str, Any]:
        """Wait until a projection has a status, and return its row."""

        def row() -> Mapping[str, Any]:
            found = self.checkpoint(name)
            assert found.get("status") == status, found
            return found

        return eventually(row, timeout_seconds, f"{name} did not become {status}")

    def set_status(self, name: str, status: str) -> None:
        """Do what an operator does."""
        self.ask(b"UPDATE projection_checkpoints SET status = %s WHERE projection_name = %s RETURNING 1", status, name)

    def rebuild_in_place(self, name: str) -> None:
        """Do what `projectiond rebuild NAME --in-place` does."""
        with databases.connect(self._database.dsn, role="test", statement_timeout_seconds=30) as db:
            steering.rebuild(db, name, is_in_place=True)


class Daemon(Reporter):
    """One worker with its own threads, started and drained by a `with`."""

    def __init__(
        self,
        database: Database,
        *projections: type[BaseProjection],
        log: Log | None = None,
        **settings: Any,  # noqa: ANN401 -- whatever Settings takes
    ) -> None:
        super().__init__(database)
        self._own_log = contextlib.ExitStack()
        # Two daemons in one test share the first one's log.
        self.log = log or self._own_log.enter_context(captured_log())
        self.settings = Settings(
            database_url=SecretStr(database.dsn), **{"poll_interval_seconds": NEVER_SECONDS, **settings}
        )
        descriptor = create_recorder_file()
        self.recorder = Recorder(descriptor)
        os.close(descriptor)
        self.worker = Worker(self.settings, [define(projection) for projection in projections], self.recorder)
        # Were it not a daemon thread, a test that fails could keep the test run from ending.
        self._thread = threading.Thread(target=self.worker.run, name="worker", daemon=True)

    def start(self) -> Self:
        """Start working, and wait until it is ready."""
        self._thread.start()
        try:
            eventually(lambda: self.recorder.read_heartbeat()[1], 20, "the worker did not become ready")
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Drain it."""
        self.worker.drain()
        self._thread.join(40)
        assert not self._thread.is_alive(), "the worker did not drain"
        self.recorder.close()
        self._own_log.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class Stage(Reporter):
    """One runner of one projection without a worker and its leases; the test says how far the store is settled."""

    def __init__(
        self,
        database: Database,
        projection: type[BaseProjection],
        *,
        mark: int = 0,
        log: Log | None = None,
        **settings: Any,  # noqa: ANN401 -- whatever Settings takes
    ) -> None:
        super().__init__(database)
        self.mark = mark
        self._exit = contextlib.ExitStack()
        self.log = log or self._exit.enter_context(captured_log())
        self.definition = define(projection)
        descriptor = create_recorder_file()
        recorder = self._exit.enter_context(contextlib.closing(Recorder(descriptor)))
        os.close(descriptor)
        self.pool = self._exit.enter_context(
            open_pool(database.dsn, role="runner", statement_timeout_seconds=30, size=2)
        )
        self.runner = Runner(
            self.definition,
            resolve_limits(self.definition, Settings(database_url=SecretStr(database.dsn), **settings)),
            self.pool,
            recorder.slot(0, self.definition.name),
            Surroundings(settled=lambda _: self.mark),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.runner.stop()
        # Its last step counts itself, in memory that is taken away next; and it may never have been started.
        with contextlib.suppress(RuntimeError):
            self.runner.join(30)
        self._exit.close()
