"""Isolation of a poison event: everything before it is committed, it is named, nothing after it is applied.

Called by the runner with an event that failed alone, in a transaction of its own.  It is tried ``max_attempts`` times
in all, for a handler may depend on something that was away for a moment.  Between attempts the runner lets go of its
connection and waits: that is what :class:`AttemptFailedError` asks for.  After the last the projection's policy
decides: *skip* keeps the event in ``projection_dead_letters`` in the same transaction as the checkpoint that passes it;
*pause* is the caller's to do, who gets a :class:`PoisonError` with the whole story.  A fault that every event would run
into (a missing table) is never skipped.
"""

from typing import Any, Final

from projectiond import checkpoint as checkpoints
from projectiond import logs, sql
from projectiond.checkpoint import Checkpoint
from projectiond.errors import AttemptFailedError, ConfigurationError, PoisonError, ProjectiondError
from projectiond.event import Event
from projectiond.failure import Failure, classify, describe, printable
from projectiond.plugins.limits import Limits
from projectiond.postgres.database import Connection
from projectiond.processes.counters import Count, ProjectionCounters
from projectiond.running.applier import Applier

MENDED: Final = "mend the handler, restart the daemon with it, then set the status to running"

# In a replay, which loads the handlers anew; to set the status would call a rebuild off.
REPLAYED: Final = "put it right, then ask for it again"

# Of what every event would run into: as a rule a table that was dropped or altered, or a privilege that was taken.
RESTORED: Final = (
    '"projectiond check" names a missing privilege, "projectiond rebuild" makes tables anew; or mend the handler, and '
    "restart the daemon with it; then set the status to running"
)

# The event that fails, and how often it has.
NO_ATTEMPTS: Final = (0, 0)

log = logs.get_logger()


class Isolation:
    """Decides what becomes of events that fail alone."""

    def __init__(
        self, limits: Limits, applier: Applier, counters: ProjectionCounters, *, is_replay: bool = False
    ) -> None:
        self._limits = limits
        self._applier = applier
        self._counters = counters
        self._is_replay = is_replay
        self._attempts = NO_ATTEMPTS
        # Of a thousand bad events in a row each is in projection_dead_letters; the log has the first, and their count.
        self._repeats = logs.RateLimited(log)

    def settle(self, db: Connection, checkpoint: Checkpoint, event: Event[Any], error: Exception) -> Checkpoint:
        """Take note that an event failed; give the checkpoint behind it if it has been set aside.

        Raises:
            AttemptFailedError: It is to be tried again after a while.
            PoisonError: It failed in every attempt, and the policy is to pause.
            ConfigurationError: It failed for a reason that it shares with all others.
        """
        if classify(error) is Failure.FATAL:
            raise ConfigurationError(
                self._story(event, error), hint=REPLAYED if self._is_replay else RESTORED
            ) from error
        if self._count_attempt(event) < self._limits.max_attempts:
            raise AttemptFailedError(self._story(event, error)) from error
        return self._give_up(db, checkpoint, event, error)

    def _count_attempt(self, event: Event[Any]) -> int:
        """Count a failure of this event; give how many that makes."""
        failing, attempts = self._attempts
        attempts = attempts + 1 if failing == event.sequence_number else 1
        self._attempts = (event.sequence_number, attempts)
        return attempts

    def _give_up(self, db: Connection, checkpoint: Checkpoint, event: Event[Any], error: Exception) -> Checkpoint:
        # Once it has been mended, or is met again by a rebuild, it gets all attempts again.
        self._attempts = NO_ATTEMPTS
        self._counters.note(Count.POISON_EVENTS)
        self._repeats.log(
            "error",
            logs.EVENT_POISONED,
            key=(self._applier.at_work, type(error)),
            projection=checkpoint.name,
            sequence_number=event.sequence_number,
            handler=self._applier.where(error),
            error=describe(error),
            attempts=self._limits.max_attempts,
        )
        if self._limits.on_error == "pause":
            raise PoisonError(self._story(event, error), hint=REPLAYED if self._is_replay else MENDED) from error
        return self._skip(db, checkpoint, event, describe(error))

    def _story(self, event: Event[Any], error: Exception) -> str:
        what = describe(error)
        if isinstance(error, ProjectiondError):
            # Without the hint, for the story has its own; and the event is named already.
            what = f"{type(error).__name__}: {error.message.removeprefix(f'{event.described()}: ')}"
        which = f'event {event.sequence_number} ("{printable(event.event_type)}", id {event.event_id})'
        return f"{which} failed in {self._applier.where(error)}: {what}"

    def _skip(self, db: Connection, checkpoint: Checkpoint, event: Event[Any], error: str) -> Checkpoint:
        handler = self._applier.at_work
        letter = {
            "name": checkpoint.name,
            "sequence_number": event.sequence_number,
            "handler": handler,
            "error": error,
            "attempts": self._limits.max_attempts,
        }
        with checkpoints.transaction(db, checkpoint):
            db.execute(sql.dead_letters.KEEP_DEAD_LETTER, letter)
            passed = checkpoints.advance(db, checkpoint, event.sequence_number, last_event_id=None, applied=0)
        self._counters.note(Count.DEAD_LETTERS)
        self._repeats.log(
            "warning",
            logs.EVENT_DEAD_LETTERED,
            key=handler,
            projection=checkpoint.name,
            sequence_number=event.sequence_number,
        )
        return passed
