"""Isolation of a poison event: everything before it is committed, it is named, nothing after it is applied.

Called by the runner with a part that failed.  Each event gets its own transaction, and an event that fails is tried
``max_attempts`` times in all, for a handler may depend on something that was away for a moment.  After that the
projection's policy decides: *skip* keeps the event in ``projection_dead_letters`` in the same transaction as the
checkpoint that passes it; *pause* is the caller's to do, who gets a :class:`PoisonError` with the whole story.
A fault that every event would run into (a missing table) is never skipped.
"""

import threading
from collections.abc import Iterator
from typing import Any, Final

from tenacity import Retrying, retry_if_exception, sleep_using_event, stop_after_attempt, stop_when_event_set
from tenacity.wait import wait_exponential, wait_random

from projectiond import checkpoint as checkpoints
from projectiond import logs, sql
from projectiond.applier import Applier, Part
from projectiond.checkpoint import Checkpoint
from projectiond.database import Connection
from projectiond.errors import ConfigurationError, PoisonError
from projectiond.event import Event
from projectiond.failure import Failure, classify, describe, is_poison, printable
from projectiond.limits import Limits

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 5.0

log = logs.get_logger()


class Isolation:
    """Applies the events of a failed part one by one."""

    def __init__(self, limits: Limits, applier: Applier, stopping: threading.Event) -> None:
        self._limits = limits
        self._applier = applier
        self._stopping = stopping

    def apply(self, db: Connection, checkpoint: Checkpoint, part: Part) -> Iterator[Checkpoint]:
        """Apply a part event by event; give each checkpoint that was committed.

        Raises:
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
        retrying = Retrying(
            retry=retry_if_exception(is_poison),
            wait=wait_exponential(multiplier=FIRST_PAUSE_SECONDS, max=LONGEST_PAUSE_SECONDS) + wait_random(0, 0.1),
            sleep=sleep_using_event(self._stopping),
            stop=stop_after_attempt(self._limits.max_attempts) | stop_when_event_set(self._stopping),
            reraise=True,
        )
        try:
            for attempt in retrying:
                with attempt:
                    part = Part((event,), event.sequence_number)
                    checkpoint = self._applier.apply_single(db, checkpoint, part)
        except Exception as error:
            failure = classify(error)
            if failure in {Failure.TRANSIENT, Failure.CONFLICT} or self._stopping.is_set():
                raise
            return self._give_up(db, checkpoint, event, error, failure)
        return checkpoint

    def _give_up(
        self, db: Connection, checkpoint: Checkpoint, event: Event[Any], error: Exception, failure: Failure
    ) -> Checkpoint:
        handler = self._applier.handler_name
        story = (
            f'event {event.sequence_number} ("{printable(event.event_type)}", id {event.event_id}) '
            f"failed in {handler}: {describe(error)}"
        )
        if failure is Failure.FATAL:
            raise ConfigurationError(story, hint="mend it, then set the status to running") from error
        facts = {"projection": checkpoint.name, "sequence_number": event.sequence_number, "handler": handler}
        log.error(logs.EVENT_POISONED, **facts, error=describe(error), attempts=self._limits.max_attempts)
        if self._limits.on_error == "pause":
            raise PoisonError(story, hint="mend the handler, then set the status to running") from error
        return self._skip(db, checkpoint, event, describe(error))

    def _skip(self, db: Connection, checkpoint: Checkpoint, event: Event[Any], error: str) -> Checkpoint:
        handler = self._applier.handler_name
        letter = {
            "name": checkpoint.name,
            "sequence_number": event.sequence_number,
            "handler": handler,
            "error": error,
            "attempts": self._limits.max_attempts,
        }
        with checkpoints.open_transaction(db):
            db.execute(sql.KEEP_DEAD_LETTER, letter)
            passed = checkpoints.advance(db, checkpoint, event.sequence_number, last_event_id=None, applied=0)
        log.warning(logs.EVENT_DEAD_LETTERED, projection=checkpoint.name, sequence_number=event.sequence_number)
        return passed
