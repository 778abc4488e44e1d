"""Builders in the test's own process, and projections whose replay the test can look into and hold up.

with building(database, projection) as builder: ...     in a thread; its result is there at the end
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import SecretStr

from projectiond.event import Event
from projectiond.plugins.registry import define
from projectiond.postgres.database import Connection
from projectiond.processes.recorder import nowhere
from projectiond.projection import BaseProjection, Projection, handles
from projectiond.rebuild.builder import Builder, Result
from projectiond.settings import Settings
from tests.support.postgres import Database


def make_builder(database: Database, projection: type[BaseProjection], **settings: Any) -> Builder:  # noqa: ANN401
    """Make a builder as its process would."""
    return Builder(Settings(database_url=SecretStr(database.dsn), **settings), define(projection), nowhere())


def build(database: Database, projection: type[BaseProjection], **settings: Any) -> Result:  # noqa: ANN401
    """Take a rebuild as far as it goes."""
    return make_builder(database, projection, **settings).run()


class Running:
    """A builder in a thread of its own."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self.result: Result | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="builder", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wait(self, timeout_seconds: float = 20) -> Result:
        """Wait for its end and give what it came to."""
        self._thread.join(timeout_seconds)
        assert not self._thread.is_alive(), "the builder did not end"
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result

    def _run(self) -> None:
        try:
            self.result = self.builder.run()
        except BaseException as error:  # noqa: BLE001 -- raised where it is waited for
            self.error = error


@contextmanager
def building(database: Database, projection: type[BaseProjection], **settings: Any) -> Iterator[Running]:  # noqa: ANN401
    """Run a builder in a thread for the length of the context; it is stopped at the end if it still runs."""
    running = Running(make_builder(database, projection, **settings))
    running.start()
    try:
        yield running
    finally:
        running.builder.stop()
        running.wait()


class Gate:
    """Holds a replay up at one event, until the test lets it pass."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.is_reached = threading.Event()
        self._may_pass = threading.Event()

    def open(self) -> None:
        """Let it pass."""
        self._may_pass.set()

    def pass_(self, event: Event[Any]) -> None:
        """Called by the handler."""
        if event.is_replay and event.sequence_number == self.at and not self._may_pass.is_set():
            self.is_reached.set()
            assert self._may_pass.wait(20)


def gated(gate: Gate, table: str = "journal") -> type[BaseProjection]:
    """Make a journal whose replay stops at the gate."""
    insert = f'INSERT INTO "{table}" (sequence_number) VALUES (%s)'.encode()
    its_name = table

    class Gated(Projection):
        name = its_name
        tables = (its_name,)
        schema = (
            f'CREATE TABLE IF NOT EXISTS "{its_name}"'
            " (place bigint GENERATED ALWAYS AS IDENTITY, sequence_number bigint NOT NULL)"
        )

        @handles("*")
        def note(self, event: Event, db: Connection) -> None:
            gate.pass_(event)
            db.execute(insert, (event.sequence_number,))

    return Gated
