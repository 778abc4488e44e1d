"""Isolation of a poison event: everything before it is committed, it is named, nothing after it is applied.

Called by the runner with a part that failed.  Each event gets its own transaction, and an event that fails is tried
``max_attempts`` times in all, for a handler may depend on something that was away for a moment.  Between attempts the
runner lets go of its connection and waits: that is what :class:`AttemptFailedError` asks for.  After the last the
projection's policy decides: *skip* keeps the event in ``projection_dead_letters`` in the same transaction as the
checkpoint that passes it; *pause* is the caller's to do, who gets a :class:`PoisonError` with the whole story.
A fault that every event would run into (a missing table) is never skipped.
"""

import threading
from collections.abc import Iterator
from typing import Any, Final

from projectiond import checkpoint as checkpoints
from projectiond import logs, sql
from projectiond.applier import Applier, Part
from projectiond.checkpoint import Checkpoint
from projectiond.database import Connection
from projectiond.errors import AttemptFailedError, ConfigurationError, PoisonError, ProjectiondError
from projectiond.event import Event
from projectiond.failure import Failure, classify, describe, printable
from projectiond.limits import Limits

MENDED: Final = "mend the handler, restart the daemon with it, then set the status to running"

# The event that fails, and how often it has.
NO_ATTEMPTS: Final = (0, 0)

log = logs.get_logger()


class Isolation:
    """Applies the events of a failed part one by one."""

    def __init__(self, limits: Limits, applier: Applier, stopping: threading.Event) -> None:
        self._limits = limits
        self._applier = applier
        self._stopping = stopping
        self._attempts = NO_ATTEMPTS
        # How many events went to projection_dead_letters.
        self.skipped = 0
        # Of a thousand bad events in a row each is in projection_dead_letters; the log has the first, and their count.
        self._repeats = logs.RateLimited(log)

    def apply(self, db: Connection, checkpoint: Checkpoint, part: Part) -> Iterator[Checkpoint]:
        """Apply a part event by event; give each checkpoint that was committed.

        Raises:
            AttemptFailedError: An event failed; it is to be tried again after a while.
            PoisonError: An event failed in every attempt, and the policy is to pause.
            ConfigurationError: An event failed for a reason that it shares with all others.
            Exception: Whatever was neither; what precedes the event in hand has been committed.
        """
        for event in part.events:
            if self._stopping.is_set():
                return
            checkpoint = self._apply_event(db, checkpoint, event)
            yield checkpoint
        if checkpoint.position < part.upto:
            yield self._applier.apply_single(db, checkpoint, Part((), part.upto))

    def _apply_event(self, db: Connection, checkpoint: Checkpoint, event: Event[Any]) -> Checkpoint:
        try:
            return self._applier.apply_single(db, checkpoint, Part((event,), event.sequence_number))
        except Exception as error:
            failure = classify(error)
            if failure in {Failure.TRANSIENT, Failure.CONFLICT}:
                raise
            if failure is Failure.FATAL:
                raise ConfigurationError(self._story(event, error), hint=MENDED) from error
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
        self._repeats.log(
            "error",
            logs.EVENT_POISONED,
            key=(self._applier.handler_name, type(error)),
            projection=checkpoint.name,
            sequence_number=event.sequence_number,
            handler=self._applier.where(error),
            error=describe(error),
            attempts=self._limits.max_attempts,
        )
        if self._limits.on_error == "pause":
            raise PoisonError(self._story(event, error), hint=MENDED) from error
        return self._skip(db, checkpoint, event, describe(error))

    def _story(self, event: Event[Any], error: Exception) -> str:
        what = describe(error)
        if isinstance(error, ProjectiondError):
            # Without the hint, for the story has its own; and the event is named already.
            what = f"{type(error).__name__}: {error.message.removeprefix(f'{event.described()}: ')}"
        which = f'event {event.sequence_number} ("{printable(event.event_type)}", id {event.event_id})'
        return f"{which} failed in {self._applier.where(error)}: {what}"

    def _skip(self, db: Connection, checkpoint: Checkpoint, event: Event[Any], error: str) -> Checkpoint:
        handler = self._applier.handler_name
        letter = {
            "name": checkpoint.name,
            "sequence_number": event.sequence_number,
            "handler": handler,
            "error": error,
            "attempts": self._limits.max_attempts,
        }
        with checkpoints.transaction(db, checkpoint):
            db.execute(sql.KEEP_DEAD_LETTER, letter)
            passed = checkpoints.advance(db, checkpoint, event.sequence_number, last_event_id=None, applied=0)
        self.skipped += 1
        self._repeats.log(
            "warning",
            logs.EVENT_DEAD_LETTERED,
            key=handler,
            projection=checkpoint.name,
            sequence_number=event.sequence_number,
        )
        return passed
