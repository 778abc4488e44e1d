"""Trouble: what is wrong with one projection right now, and who has been told.

Called by the runner when a step of its loop has failed.  Nothing is silent: every trouble is in the log, repeats at
most every ten seconds and with their count; and what lasts is in the row's ``error_message``, where an operator looks.

    transient   said at each retry; in the row after NOTED_AFTER_SECONDS; forgotten after the next good step
    conflict    said; the runner reads the row again
    fatal       kept until the pause has been written: that too may have to wait for the database
"""

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout
from structlog.typing import FilteringBoundLogger
from tenacity import RetryCallState

from projectiond import checkpoint as checkpoints
from projectiond import logs
from projectiond.checkpoint import Checkpoint
from projectiond.errors import ProjectiondError
from projectiond.failure import Failure, classify, describe, is_stale_plan, printable
from projectiond.postgres.database import Connection

# Trouble that lasts longer is written into the row; shorter is nobody's business.
NOTED_AFTER_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class _Fault:
    """Why the projection is to be paused, and where it stood (``None``: it never got so far)."""

    text: str
    position: int | None


class Trouble:
    """The trouble of one projection."""

    def __init__(self, name: str, pool: ConnectionPool[Connection], log: FilteringBoundLogger) -> None:
        self._name = name
        self._pool = pool
        self._log = log
        self._repeats = logs.RateLimited(log)
        self._since: float | None = None
        self._fault: _Fault | None = None

    def __repr__(self) -> str:
        return f"<Trouble of {self._name}: {self._fault}>"

    @property
    def is_fatal(self) -> bool:
        """Whether the projection is to be paused, and has not been yet."""
        return self._fault is not None

    def clear(self) -> None:
        """Forget transient trouble: a step went well."""
        if self._since is not None:
            self._since = None
            # The next trouble is another one: said at once, and counted from one.
            self._repeats = logs.RateLimited(self._log)

    def note_retry(self, state: RetryCallState) -> None:
        """Say what is being waited for; after a while also in the row, if the database can be reached."""
        error = state.outcome.exception() if state.outcome else None
        text = _told(error) if error else ""
        self._repeats.log(
            "warning", logs.PROJECTION_RETRYING, key=type(error).__name__, error=text, attempt=state.attempt_number
        )
        self._since = self._since or time.monotonic()
        if is_stale_plan(error):
            self._pool.drain()
        elif isinstance(error, psycopg.OperationalError):
            # Its connection is gone or was closed with the server; so are, perhaps, those that lie idle.
            self._pool.check()
        # Without a connection to be had there is none to say it with either.
        if time.monotonic() - self._since > NOTED_AFTER_SECONDS and not isinstance(error, PoolTimeout):
            with suppress(psycopg.Error), self._pool.connection() as db:
                checkpoints.note_trouble(db, self._name, f"retrying: {text}")

    def decide(self, error: Exception, known: Checkpoint | None) -> bool:
        """Decide what follows an error that is not transient; say whether the runner goes on at once."""
        if classify(error) is Failure.CONFLICT:
            self._repeats.log("warning", logs.CHECKPOINT_CONFLICTED, key="conflict", error=describe(error))
            return True
        if self._fault is not None:
            # Not even the pause can be written: the table is gone, or a privilege.  Wait, and try again.
            self._repeats.log(
                "error", logs.PROJECTION_STOPPED, key="pause", error=describe(error), fault=self._fault.text
            )
            return False
        self._fault = _Fault(_told(error), None if known is None else known.position)
        return True

    def stand_still(self, db: Connection, now: Checkpoint) -> None:
        """Say that the live tables are not kept up to date until the rebuild in progress has ended, and why."""
        text, self._fault = self._fault.text if self._fault else "", None
        checkpoints.note_trouble(db, self._name, text)
        self._log.error(logs.PROJECTION_STOOD_STILL, position=now.position, error=text)

    def pause(self, db: Connection) -> bool:
        """Set the status to paused with its reason; a step of the loop, so that it too outlives an outage.

        Returns:
            Whether the projection has to wait now; if not, the row is another by now and has the last word.
        """
        fault = self._fault
        now = checkpoints.find(db, self._name)
        if fault is None or now is None:
            self._repeats.log("error", logs.PROJECTION_STOPPED, key="no row", error=fault.text if fault else "")
            is_waiting = True
        elif now.status == "paused":
            is_waiting = True
        else:
            is_here = fault.position in {None, now.position}
            is_waiting = is_here and checkpoints.pause_for_fault(db, now, fault.text)
            if is_waiting:
                self._log.error(logs.PROJECTION_PAUSED, position=now.position, error=fault.text)
        self._fault = None
        return is_waiting


def _told(error: BaseException) -> str:
    """Our own errors are sentences; of others the class says the most."""
    return printable(str(error)) if isinstance(error, ProjectiondError) else describe(error)
