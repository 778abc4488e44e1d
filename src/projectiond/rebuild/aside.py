"""What commands share that replay a projection beside the daemon: where, with what, and whom to tell.

One of them at a time works in a schema.  It has a lock on the schema's name for that, and lets go of it by itself: a
session may live on for a moment after its connection was closed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from projectiond.errors import ConfigurationError
from projectiond.plugins.definition import Definition
from projectiond.plugins.limits import Limits
from projectiond.postgres.database import Connection, connect, fetch_row
from projectiond.processes.recorder import nowhere
from projectiond.rebuild import statements
from projectiond.rebuild.replay import Replay

# How often it is told how far the replay is.
TOLD_SECONDS: Final = 0.2


class Aside:
    """A replay of one projection that no daemon takes part in."""

    def __init__(
        self,
        dsn: str,
        definition: Definition,
        limits: Limits,
        *,
        statement_timeout_seconds: float,
        tell: Callable[[int, int], None] = lambda _position, _target: None,
    ) -> None:
        """Make it; nothing is replayed yet.

        Args:
            dsn: Of the database.
            definition: With an instance of the class that nothing else runs.
            limits: As of the live projection.
            statement_timeout_seconds: For the replay's statements.
            tell: Told now and then how far the replay is, and where it goes.
        """
        self._dsn = dsn
        self._definition = definition
        self._limits = limits
        self._timeout = statement_timeout_seconds
        self._tell = tell

    def _connect(self, role: str) -> Connection:
        return connect(self._dsn, role=role, statement_timeout_seconds=self._timeout)

    @staticmethod
    @contextmanager
    def _alone_in(db: Connection, schema: str, refusal: ConfigurationError) -> Iterator[None]:
        """Hold the lock on a schema's name; raise the refusal when another session has it."""
        if not fetch_row(db, statements.TRY_SPACE, {"schema": schema})[0]:
            raise refusal
        try:
            yield
        finally:
            if not db.closed:
                db.execute(statements.RELEASE_SPACE, {"schema": schema})

    def _new_replay(self, schema: str) -> Replay:
        return Replay(
            self._dsn,
            schema,
            self._definition,
            self._limits,
            nowhere(),
            statement_timeout_seconds=self._timeout,
        )

    def _advance(self, replay: Replay, target: int) -> None:
        """Replay up to a settled number, and tell how far it is on the way."""
        while not replay.advance(target, seconds=TOLD_SECONDS):
            self._tell(replay.position, target)
