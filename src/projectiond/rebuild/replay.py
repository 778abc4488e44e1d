"""A replay: the ordinary runner at work in a space, with a new instance of the author's class.

Its sessions have the space first in their search_path, so the runner finds the space's checkpoint, dead letters and
tables where it is used to find the daemon's own.  It applies from the first event up to a given number, which the
caller knows to be settled, and no further.

What the runner decides about failures holds here too: transient ones are tried again until they pass, a bad event is
found and tried ``max_attempts`` times, and what remains pauses the space's row with its reason.  That is raised here.

That a number is settled is proven on one server.  Should another take over in the middle, or this one be restarted, the
replay is given up: whoever runs it begins again with a proof of its own.

Called by the builder, and by whatever else wants a read model as its history gives it.  From one thread.
"""

import time
import uuid
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Final, Self

import structlog
from psycopg_pool import ConnectionPool

from projectiond.errors import DatabaseUnavailableError, ReplayStoppedError
from projectiond.plugins.definition import Definition
from projectiond.plugins.limits import Limits
from projectiond.postgres.database import Connection, borrow, fetch_row, open_pool
from projectiond.processes.recorder import Slot
from projectiond.rebuild import statements
from projectiond.running.runner import Runner
from projectiond.running.stepper import Outcome
from projectiond.running.surroundings import Surroundings

# One for the transaction, one for what is noted beside it.
POOL_SIZE: Final = 2


class Replay:
    """Applies one projection's history in a space."""

    def __init__(  # noqa: PLR0913 - what a runner is made of, and where
        self,
        dsn: str,
        schema: str,
        definition: Definition,
        limits: Limits,
        slot: Slot,
        *,
        statement_timeout_seconds: float,
        rebuild_id: uuid.UUID | None = None,
        careful_upto: int = 0,
        share: float = 1.0,
    ) -> None:
        """Make a replay; it goes on where the space is.

        Args:
            dsn: Of the database.
            schema: The space's.
            definition: With an instance of the class that nothing else runs.
            limits: As of the live projection.
            slot: Where to note the event in hand.
            statement_timeout_seconds: As of the live projection.
            rebuild_id: The rebuild that the space belongs to, if it belongs to one: should another one's space have
                taken the place of this, nothing is committed there.
            careful_upto: Apply event by event up to this sequence number, because a process died over it.
            share: Of the time that it may work; the rest it sleeps.
        """
        self._schema = schema
        self._definition = definition
        self._share = share
        self._upto = 0
        self._server: datetime | None = None
        self._is_stopped = False
        self._pool: ConnectionPool[Connection] = open_pool(
            dsn,
            role="replay",
            statement_timeout_seconds=statement_timeout_seconds,
            size=POOL_SIZE,
            first_schema=schema,
            replay_id=str(rebuild_id or ""),
        )
        surroundings = Surroundings(settled=self._settled, is_replay=True)
        self._runner = Runner(definition, limits, self._pool, slot, surroundings)
        self._runner.take_care(careful_upto)
        self._name = {"name": definition.name}

    def __repr__(self) -> str:
        return f"<Replay in {self._schema} {self._runner!r}>"

    def __enter__(self) -> Self:
        with borrow(self._pool) as db:
            db.execute(statements.RESUME_REPLAY, self._name)
            self._server = db.incarnation
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.close()

    @property
    def position(self) -> int:
        """How far it is; read from the space where this replay has not taken a step yet."""
        if self._runner.checkpoint is not None:
            return self._runner.checkpoint.position
        with borrow(self._pool) as db:
            return int(fetch_row(db, statements.READ_REPLAY, self._name)[0])

    def stop(self) -> None:
        """End :meth:`advance` after the transaction in hand.  From any thread."""
        self._is_stopped = True
        self._runner.stop()

    def advance(self, upto: int, *, until: Callable[[], bool] = lambda: False, seconds: float | None = None) -> bool:
        """Apply all events up to a settled number; say whether they are.

        Args:
            upto: A number that is proven settled; nothing beyond it is applied.
            until: Asked between transactions: whether to give up.
            seconds: After so long to give up.

        Raises:
            ReplayStoppedError: An event, or another fault, stops it; what precedes it has been committed.
            DatabaseUnavailableError: The server is not the one any more on which it was begun.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        position = self.position
        self._upto = upto
        with structlog.contextvars.bound_contextvars(space=self._schema):
            while position < upto and not self._is_stopped:
                if until() or (deadline is not None and time.monotonic() >= deadline):
                    break
                began = time.monotonic()
                outcome = self._runner.step()
                if outcome is Outcome.PAUSED and not self._is_stopped:
                    raise ReplayStoppedError(self._reason())
                if outcome is Outcome.CAUGHT_UP:
                    raise DatabaseUnavailableError("the server was restarted, or another has taken over")
                position = self.position
                if self._share < 1 and position < upto:
                    time.sleep((time.monotonic() - began) * (1 / self._share - 1))
        return position >= upto

    def _settled(self, db: Connection) -> int:
        return self._upto if db.incarnation == self._server else -1

    def _reason(self) -> str:
        with borrow(self._pool) as db:
            position, error = fetch_row(db, statements.READ_REPLAY, self._name)
        return str(error or f"it was paused at {position}")
