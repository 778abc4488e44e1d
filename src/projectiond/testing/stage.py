"""A stage: one projection, taken through the store step by step, by the runner that the daemon uses.

What is missing is the worker around it: the test says how far the store is settled, and no thread is started.  So a
batch ends where the test wants it to, and everything else is as it always is: the checks, the author's DDL, the kind,
the checkpoint in the same transaction.

A transaction is lost just before its commit in the way in which that really happens: the checkpoint's row is not as the
runner left it, so its last statement fails, and everything before it is rolled back.
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import Final, LiteralString

import structlog
from psycopg_pool import ConnectionPool

from projectiond.checkpoint import find
from projectiond.errors import ConfigurationError, ConflictError
from projectiond.operating import steering
from projectiond.plugins.definition import Definition
from projectiond.plugins.limits import Limits
from projectiond.plugins.registry import define
from projectiond.postgres.database import Connection, borrow
from projectiond.processes.recorder import nowhere
from projectiond.projection import BaseProjection
from projectiond.running.runner import Runner
from projectiond.running.stepper import Outcome
from projectiond.running.surroundings import Surroundings

# What a class does not choose: few transactions, so that where they end is for the test to say.
BATCH_SIZE: Final = 500
CHECKPOINT_EVERY: Final = 100_000
LONGEST_TRANSACTION_SECONDS: Final = 600.0

_SET_STATUS: LiteralString = "UPDATE projection_checkpoints SET status = %(status)s WHERE projection_name = %(name)s"


class Stage:
    """One projection in one database."""

    def __init__(self, projection: type[BaseProjection], pool: ConnectionPool[Connection]) -> None:
        """Define the projection; nothing is applied yet.

        Raises:
            ConfigurationError: The registry finds a fault in it.
        """
        self._projection = projection
        self._pool = pool
        self._mark = 0
        self._runner = self._new_runner()

    @property
    def definition(self) -> Definition:
        """What runs now."""
        return self._runner.definition

    @property
    def position(self) -> int:
        """Where the checkpoint stands."""
        checkpoint = self._runner.checkpoint
        return 0 if checkpoint is None else checkpoint.position

    def apply(self, upto: int, *, losses: int = 0) -> None:
        """Apply all events up to a number.

        Args:
            upto: Not below the position.
            losses: How often each transaction is lost just before its commit, before it is committed.

        Raises:
            ProjectiondError: As the daemon would say it; what precedes the event it is about has been committed.
        """
        self._mark = upto
        with _silence():
            outcome = Outcome.ADVANCED
            while outcome is Outcome.ADVANCED:
                for _ in range(losses):
                    self._lose()
                outcome = self._runner.run_once()
            if outcome is Outcome.PAUSED:
                self._say_why()

    def restart(self) -> None:
        """Go on with a new instance of the projection, as after a restart of the daemon."""
        self._runner = self._new_runner()

    def rebuild(self) -> None:
        """Empty the projection's tables and go back to the beginning, with a new instance of it.

        Raises:
            ConfigurationError: It names no tables.
        """
        self.restart()
        with borrow(self._pool) as db:
            steering.rebuild(db, self.definition.name, is_in_place=True)
        self.apply(0)

    def _new_runner(self) -> Runner:
        definition = define(self._projection)
        limits = Limits(
            batch_size=definition.batch_size or BATCH_SIZE,
            checkpoint_every=definition.checkpoint_every or CHECKPOINT_EVERY,
            # A test wants to hear of an error at once, whatever is done about it elsewhere.
            max_attempts=1,
            on_error="pause",
            catchup_transaction_seconds=LONGEST_TRANSACTION_SECONDS,
        )
        with _silence():
            return Runner(definition, limits, self._pool, nowhere(), Surroundings(settled=lambda _: self._mark))

    def _lose(self) -> None:
        mark, self._mark = self._mark, self.position
        # With nothing to apply: now it knows its row, and does not read it again before it begins a transaction.
        self._runner.run_once()
        self._mark = mark
        self._set_status("paused")
        try:
            with contextlib.suppress(ConflictError):
                self._runner.run_once()
        finally:
            self._set_status("running")
            self._runner.recheck()

    def _set_status(self, status: str) -> None:
        with borrow(self._pool) as db:
            db.execute(_SET_STATUS, {"status": status, "name": self.definition.name})

    def _say_why(self) -> None:
        with borrow(self._pool) as db:
            row = find(db, self.definition.name)
        raise ConfigurationError((row and row.error_message) or f'"{self.definition.name}" is paused')


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the runner's log lines out of the test's output, unless the application has its own way with such lines."""
    if structlog.is_configured():
        yield
        return
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.reset_defaults()
