"""Applying events: read model and checkpoint in one transaction, of one batch or of several.

Called by the runner.  Two ways, one result:

* *pipelined*: statements are sent without waiting for their results, which is where the time of a projection goes
  otherwise.  A statement that fails is reported later, so it cannot be told whose it was.
* *single*: each statement is waited for.  A transaction that failed is tried again with fewer events (see ``pace``),
  and the last of these tries is one event in this way: so what precedes a bad event is committed, and it is known.

Since nothing had been committed, applying again is never a second effect.

While a batch is applied the server reads the next one already: its query is sent before the handlers' statements, in
the same pipeline.  So reading costs no time of its own, and no second connection.  What has been read when the
transaction ends is kept for the next one, if that begins where this ended and on the same server: events below the mark
do not change, but a server that took over from a failed one may have others.

Whatever a handler does to its connection that would break "one transaction" is an error of that handler: see
``database`` for what is refused beforehand, and ``checkpoint`` for what is found afterwards.
"""

import time
import traceback
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from uuid import UUID

from projectiond import checkpoint as checkpoints
from projectiond import sql
from projectiond.checkpoint import Checkpoint
from projectiond.errors import AttemptFailedError, PoisonError, UnreadableEventError
from projectiond.event import Event
from projectiond.kinds import make_kind, make_reader
from projectiond.kinds.kind import AuthorCode
from projectiond.plugins.definition import Definition
from projectiond.plugins.limits import Limits
from projectiond.postgres.database import Connection
from projectiond.processes.recorder import Slot
from projectiond.projection import SqlProjection
from projectiond.running.pace import Pace
from projectiond.stream.reader import Asked, Batch, EventReader, Recent, none_recent


@dataclass(slots=True)
class Attempt:
    """What a transaction has taken on; known also when it fails.  It holds no events, for there may be very many."""

    upto: int
    count: int = 0
    """Events."""

    numbers: int = 0
    """Sequence numbers, whether there is an event or not."""

    last_event_id: UUID | None = None
    seconds: float = 0.0
    batch_seconds: list[float] = field(default_factory=list)
    """How long the handlers took for each batch."""

    seconds_to_send: float = 0.0
    """How long it took until its COMMIT was on the way."""

    alone: Batch | None = None
    """The batch that has the only event, while there is only one."""

    def take(self, batch: Batch) -> None:
        """Add a batch."""
        self.upto = batch.upto
        self.count += batch.count
        self.numbers += batch.upto - batch.after
        self.last_event_id = batch.last_event_id or self.last_event_id
        if batch.count:
            self.alone = batch if self.count == 1 else None


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A batch that has been read before it was wanted, and the server that it was read from."""

    batch: Batch
    incarnation: datetime | None


class Applier:
    """Applies the events of one projection."""

    def __init__(self, definition: Definition, limits: Limits, slot: Slot, recent: Recent) -> None:
        self._definition = definition
        self._limits = limits
        self._author = AuthorCode(slot)
        self._kind = make_kind(definition, self._author)
        self._reader = make_reader(definition, limits, recent)
        # For the event that fails alone, also where events stay on the server.
        self._event_reader = EventReader(definition.event_types, 1)
        self._is_durable = limits.synchronous_commit == "on"
        self._ahead: _Ahead | None = None
        # Instead of what the kind was doing, while it was none of its doing.
        self._reading = ""
        self.is_by_range = isinstance(definition.projection, SqlProjection)

    @property
    def is_pipelined(self) -> bool:
        """Whether statements may be sent without waiting."""
        return self._kind.is_pipelined

    @property
    def at_work(self) -> str:
        """What was called or executed last."""
        return self._reading or self._kind.at_work

    def check(self, db: Connection) -> None:
        """See that the database is as the projection needs it.

        Raises:
            ConfigurationError: It is not.
        """
        self._kind.check(db)

    def where(self, error: BaseException) -> str:
        """Name what was at work, and the line of its file that the error came through."""
        file = Path(self._definition.source.rpartition(":")[0]).name
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name == file
        ]
        return f"{self.at_work} ({file}:{lines[-1]})" if lines else self.at_work

    def read_alone(self, db: Connection, batch: Batch) -> Event:
        """Give the only event of a batch, also when it was only counted.

        Raises:
            AttemptFailedError: There is none any more: it was erased, or mended, since it was counted.
        """
        upto = batch.upto
        while not batch.events and batch.after < upto:
            found = self._event_reader.read(db, batch.after, upto)
            batch = found if found.events else Batch.of(found.upto, upto, ())
        if not batch.events:
            raise AttemptFailedError(f"the event before {upto} that failed is no longer there")
        return batch.events[0]

    def unreadable(self, error: UnreadableEventError) -> Event:
        """Give what is known of an event whose row cannot be read, and say that it was reading that failed."""
        self._reading = "reading the event"
        return Event(
            event_type=error.event_type,
            data=None,
            event_id=error.event_id,
            sequence_number=error.sequence_number,
        )

    def forget_ahead(self) -> None:
        """Drop what was read ahead: the row is read again, so somebody may have changed more than the row."""
        self._ahead = None

    def size(self, attempt: Attempt) -> int:
        """Give what ``Pace.most`` bounds: events, or sequence numbers where events stay on the server."""
        return attempt.numbers if self.is_by_range else attempt.count

    def apply(
        self,
        db: Connection,
        checkpoint: Checkpoint,
        mark: int,
        pace: Pace,
        attempt: Attempt,
        *,
        is_pipelined: bool,
        is_to_end: Callable[[], bool],
    ) -> Generator[None, None, Checkpoint]:
        """Apply what comes after the checkpoint in one transaction; give the checkpoint that was committed.

        In a pipeline it pauses once, when everything has been sent and COMMIT is to be waited for.

        Args:
            db: In autocommit mode.
            checkpoint: Below the mark.
            mark: Settled on this connection.
            pace: How much to take.
            attempt: Filled with what is taken.
            is_pipelined: Whether to send statements without waiting.
            is_to_end: Asked between batches: whether to commit without taking a further one.
        """
        began = time.monotonic()
        self._reading = ""
        batch = self._take_ahead(db, checkpoint.position, pace.most)
        batch = batch or self._ask(db, checkpoint.position, mark, pace.most).batch()
        asked: Asked | None = None
        try:
            with checkpoints.transaction(
                db, checkpoint, is_pipelined=is_pipelined, is_durable=self._is_durable
            ) as commit:
                while True:
                    attempt.take(batch)
                    taken_at = time.monotonic()
                    with db.guarded():
                        self._kind.load(db, batch)
                    left = pace.most - self.size(attempt)
                    has_more = batch.upto < mark and left > 0
                    # When this transaction is full: for the next.
                    is_wanted = batch.upto < mark and (left > 0 or not (pace.is_searching or self.is_by_range))
                    if is_wanted and is_pipelined:
                        asked = self._ask_within(db, batch.upto, mark, left if left > 0 else pace.most)
                    with db.guarded():
                        self._kind.apply(db, batch)
                    self._author.put_down()
                    attempt.batch_seconds.append(time.monotonic() - taken_at)
                    if not has_more or time.monotonic() - began >= pace.seconds or is_to_end():
                        break
                    try:
                        batch = (asked or self._ask_within(db, batch.upto, mark, left)).batch()
                    except UnreadableEventError:
                        # What precedes it is committed; it is met again, and told, when its turn has come.
                        break
                    finally:
                        asked = None
                if db.has_failed:
                    raise PoisonError(f"a statement failed, and {self.at_work} went on")
                advanced = checkpoints.advance(
                    db, checkpoint, attempt.upto, last_event_id=attempt.last_event_id, applied=attempt.count
                )
                commit()
                attempt.seconds_to_send = time.monotonic() - began
                if is_pipelined:
                    yield
        finally:
            self._author.put_down()
            attempt.seconds = time.monotonic() - began
        if asked is not None:
            # The transaction is committed: whatever is wrong with what comes next is said when its turn has come.
            with suppress(Exception):
                self._ahead = _Ahead(asked.batch(), db.incarnation)
        return advanced

    def apply_alone(
        self, db: Connection, checkpoint: Checkpoint, number: int, conclude: Callable[[], object]
    ) -> Checkpoint:
        """Apply one event at or below the checkpoint, which stays where it is; give the row as it is then.

        Args:
            db: In autocommit mode.
            checkpoint: As this runner last read or wrote it.
            number: The event's.
            conclude: Called inside the transaction, after the compare-and-set.
        """
        self._reading = "reading the event"
        # Not what is kept in memory: the event may have been mended since.
        batch = make_reader(self._definition, self._limits, none_recent).ask(db, number - 1, number, 1).batch()
        if not batch.count:
            raise PoisonError(f"event {number} is gone, or of a type that the projection does not handle any more")
        self._reading = ""
        try:
            with checkpoints.transaction(db, checkpoint):
                with db.guarded():
                    self._kind.load(db, batch)
                    self._kind.apply(db, batch)
                if db.has_failed:
                    raise PoisonError(f"a statement failed, and {self.at_work} went on")
                advanced = checkpoints.advance(db, checkpoint, checkpoint.position, last_event_id=None, applied=1)
                conclude()
        finally:
            self._author.put_down()
        return advanced

    def _ask(self, db: Connection, after: int, mark: int, most: int) -> Asked:
        return self._reader.ask(db, after, mark, most)

    def _ask_within(self, db: Connection, after: int, mark: int, most: int) -> Asked:
        db.execute(sql.session.RESTORE_SEARCH_PATH, {"search_path": db.search_path})
        return self._ask(db, after, mark, most)

    def _take_ahead(self, db: Connection, position: int, most: int) -> Batch | None:
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead.batch.after != position or ahead.incarnation != db.incarnation:
            return None
        return ahead.batch if ahead.batch.count <= most else None
