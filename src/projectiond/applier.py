"""Applying events: handlers, read model and checkpoint in one transaction.

Called by the runner, with a part of a batch that fits one transaction.  Two ways, one result:

* *pipelined*: the handlers' statements are sent without waiting for their results, which is where the time of a
  projection goes otherwise.  A statement that fails is reported later, so it cannot be told whose it was.
* *single*: one event, one transaction, each statement waited for.  A part that failed is applied again in this
  way, so that what precedes the bad event is committed and the bad event is known.

Since nothing had been committed, applying again is never a second effect.

Whatever a handler does to its connection that would break "one transaction" is an error of that handler: see
``database`` for what is refused beforehand, and ``checkpoint`` for what is found afterwards.
"""

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from projectiond import checkpoint as checkpoints
from projectiond.checkpoint import Checkpoint
from projectiond.database import Connection
from projectiond.definition import Definition
from projectiond.errors import PoisonError, TransactionControlError
from projectiond.event import Event
from projectiond.reader import Batch
from projectiond.recorder import Slot


@dataclass(frozen=True, slots=True)
class Part:
    """What one transaction applies: events in order, and the position that the checkpoint gets."""

    events: Sequence[Event[Any]]
    upto: int


def cut(batch: Batch, size: int) -> Iterator[Part]:
    """Cut a batch into transactions of at most ``size`` events; the last takes the checkpoint to the batch's end."""
    for start in range(0, max(1, len(batch.events)), size):
        events = batch.events[start : start + size]
        is_last = start + size >= len(batch.events)
        yield Part(events, batch.upto if is_last else events[-1].sequence_number)


class Applier:
    """Applies parts of one projection, and remembers which handler is at work."""

    def __init__(self, definition: Definition, slot: Slot) -> None:
        self._definition = definition
        self._slot = slot
        self.handler_name = ""

    def where(self, error: BaseException) -> str:
        """Name the handler that was at work, and the line of its file that the error came through."""
        file = Path(self._definition.source.rpartition(":")[0]).name
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name == file
        ]
        return f"{self.handler_name} ({file}:{lines[-1]})" if lines else self.handler_name

    def apply_pipelined(self, db: Connection, checkpoint: Checkpoint, part: Part) -> Checkpoint:
        """Apply a part without waiting for each statement; give the checkpoint that was committed."""
        return self._apply(db, checkpoint, part, is_pipelined=True)

    def apply_single(self, db: Connection, checkpoint: Checkpoint, part: Part) -> Checkpoint:
        """Apply a part statement by statement; give the checkpoint that was committed."""
        return self._apply(db, checkpoint, part, is_pipelined=False)

    def _apply(self, db: Connection, checkpoint: Checkpoint, part: Part, *, is_pipelined: bool) -> Checkpoint:
        try:
            with checkpoints.transaction(db, checkpoint, is_pipelined=is_pipelined):
                with db.guarded():
                    for event in part.events:
                        self._handle(event, db)
                # From here on it is the server that works, and its statement time-out that watches.
                self._slot.put_down()
                last_event_id = part.events[-1].event_id if part.events else None
                advanced = checkpoints.advance(
                    db, checkpoint, part.upto, last_event_id=last_event_id, applied=len(part.events)
                )
        finally:
            self._slot.put_down()
        return advanced

    def _handle(self, event: Event[Any], db: Connection) -> None:
        self._slot.take(event.sequence_number)
        for handler in self._definition.handlers_for(event.event_type):
            self.handler_name = handler.name
            try:
                handler.call(event, db)
            except psycopg.Rollback as error:
                raise TransactionControlError(
                    f"{handler.name} raised Rollback, but the transaction is the daemon's",
                    hint="raise it inside a `with db.transaction()` of the handler's own, or raise an error",
                ) from error
            except Exception:
                raise
            except BaseException as error:
                # SystemExit in a thread would end the runner without a word.
                raise PoisonError(f"{handler.name} raised {type(error).__name__}") from error
