"""The stepper: what one pass of a projection's loop does.

A pass takes the projection one step on, on a connection that it is given (:meth:`Stepper.take_step`)::

    checkpoint ──paused──▶ PAUSED                 (waits for the status to change)
        │ ──rebuilding in place, not reset──▶ reset    (tables empty, position 0, one transaction)
        ▼
    mark ──nothing above the checkpoint──▶ CAUGHT_UP   (a rebuild in place is finished; waits for the mark)
        ▼
    read and apply, with the checkpoint, in one transaction ──▶ ADVANCED

When that has failed, and it is neither transient nor a lost compare-and-set, ``pace`` lets it take half as many events,
until one fails alone: ``isolation`` tries that one again, then pauses the projection or sets the event aside.  When a
pass takes place, and what becomes of errors that are no event's, is the runner's.

While a rebuild beside the live tables is in progress it goes on as ever, and tells the supervisor, by the flight
recorder, that a builder is wanted.  Where it cannot go on it does not pause, for that would pause the rebuild: it
stands still, says why in the row, and waits for the rebuild's end.

Between two transactions a dead letter may be tried again (``redelivery``).

The row is read at the start, after every failure, and when it is said to have changed; otherwise what was committed
last is what is true, for if it were not, the compare-and-set would fail.
"""

import enum
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

from psycopg_pool import ConnectionPool

from projectiond import checkpoint as checkpoints
from projectiond import logs
from projectiond.builds.build import note_rate, record_build
from projectiond.checkpoint import Checkpoint
from projectiond.errors import ConfigurationError, UnreadableEventError
from projectiond.event import Event
from projectiond.failure import Failure, classify, describe
from projectiond.plugins.definition import Definition
from projectiond.plugins.limits import Limits
from projectiond.postgres.database import Connection
from projectiond.processes.counters import Timing
from projectiond.processes.recorder import Slot
from projectiond.running.applier import Applier, Attempt
from projectiond.running.isolation import Isolation
from projectiond.running.lineage import refuse_other_history
from projectiond.running.pace import Pace
from projectiond.running.pipelining import Pipelining
from projectiond.running.preparation import enroll, prepare, refuse_beyond_end
from projectiond.running.probation import Probation
from projectiond.running.redelivery import Redelivery
from projectiond.running.report import BatchReport
from projectiond.running.surroundings import Surroundings
from projectiond.running.trouble import Trouble
from projectiond.stream.highwater import read_store_end


class Outcome(enum.Enum):
    """What one pass came to."""

    ADVANCED = "advanced"
    CAUGHT_UP = "caught_up"
    PAUSED = "paused"


class Stepper:
    """Takes one projection on, step by step."""

    def __init__(  # noqa: PLR0913 - what a projection is run with, put together in one place: its runner
        self,
        definition: Definition,
        limits: Limits,
        pool: ConnectionPool[Connection],
        slot: Slot,
        surroundings: Surroundings,
        probation: Probation,
        *,
        stopping: threading.Event,
        call_again: Callable[[], None],
    ) -> None:
        """Make a stepper; the first arguments are those of ``Runner``.

        Args:
            definition: What to take on.
            limits: Its batch and transaction sizes and its error policy.
            pool: Only told of trouble; each pass is given its connection.
            slot: Where to note the event in hand.
            surroundings: What there is outside of it.
            probation: Told how long passes take.
            stopping: Set when the transaction in hand is to be the last.
            call_again: Called when another pass is to follow, whatever this one comes to.
        """
        self.definition = definition
        self._log = logs.get_logger().bind(projection=definition.name)
        self.trouble = Trouble(definition.name, pool, self._log)
        self.checkpoint: Checkpoint | None = None
        # Set by other threads; cleared here before the row is read, so that a change is never overlooked.
        self.stale = threading.Event()
        # Up to here events are applied one by one.
        self.careful_upto = 0
        self._limits = limits
        self._surroundings = surroundings
        self._probation = probation
        self._stopping = stopping
        self._call_again = call_again
        self._counters = slot.counters
        self._applier = Applier(definition, limits, slot, self._read_recent)
        self.pace = Pace(limits, is_by_range=self._applier.is_by_range)
        self.pipelining = Pipelining(is_on=self._applier.is_pipelined, log=self._log)
        self.redelivery = Redelivery(self._applier)
        self._isolation = Isolation(limits, self._applier, slot.counters, is_replay=surroundings.is_replay)
        self._report = BatchReport(self._log, limits.batch_size)
        self._searches = logs.RateLimited(self._log)
        # Events that were read before the row was may have been mended since, by whoever then resumed the projection.
        self._row_read_at = 0.0
        self._is_prepared = False
        self._has_met_tables = False
        # While a rebuild is in progress: whether the live tables cannot be kept up to date meanwhile.
        self._is_standing_still = False
        # When the mark first moved beyond what the last transaction knew of; None: it has not.
        self._woken_at: float | None = None

    def __repr__(self) -> str:
        return f"<Stepper {self.definition.name} {self.checkpoint}>"

    @property
    def is_plain(self) -> bool:
        """Whether the next pass is an ordinary one: of what has just arrived, nothing to find out, in a pipeline."""
        is_at_head = not (self.pace.is_behind or self.pace.is_searching) and self.pace.most > 1
        return is_at_head and self.pipelining.is_on and not (self.careful_upto or self.pipelining.is_bound_to_thread)

    def note_wake(self) -> None:
        """Hear that the mark has moved."""
        if self._woken_at is None:
            self._woken_at = time.monotonic()

    def take_step(self, db: Connection) -> Generator[None, None, Outcome]:
        """Take the projection one step on, with a pause once COMMIT has been sent."""
        if self.trouble.is_fatal:
            return self._pause(db)
        checkpoint = self._current_checkpoint(db)
        if not self._may_apply(db, checkpoint):
            return Outcome.PAUSED
        if checkpoint.is_about_to_be_reset:
            return self._begin_rebuild(db, checkpoint)
        if self.redelivery.is_asked:
            checkpoint = self._redeliver(db, checkpoint)
        mark = self._surroundings.settled(db)
        if checkpoint.is_rebuilt_in_place and (checkpoint.position >= checkpoint.target or checkpoint.position == mark):
            return self._finish_rebuild(db, checkpoint)
        if checkpoint.position >= mark:
            return self._arrive(db, checkpoint, mark)
        yield from self._apply(db, checkpoint, mark)
        return Outcome.ADVANCED

    def _may_apply(self, db: Connection, checkpoint: Checkpoint) -> bool:
        """Prepare for the first event; say whether any is to be applied."""
        if checkpoint.status == "paused" or self._is_standing_still:
            return False
        if checkpoint.status == "rebuilding":
            checkpoints.refuse_rebuild_without_tables(checkpoint, self.definition.tables)
        if not self._is_prepared:
            prepare(db, self.definition, self._applier.check)
            if not checkpoint.is_about_to_be_reset:
                refuse_other_history(db, checkpoint, self.definition)
            self._is_prepared = True
        # Without a position it has not begun, or its tables were filled by somebody else: the replay begins it.
        return bool(checkpoint.position) or not checkpoint.is_rebuilt_beside

    def _read_recent(self, db: Connection, after: int, upto: int) -> Sequence[Event] | None:
        # What is shared with others is not marked as replayed.
        is_shared = not self.definition.projection.is_rebuilding
        return self._surroundings.recent(db, after, upto, self._row_read_at) if is_shared else None

    def _pause(self, db: Connection) -> Outcome:
        # Whatever was wrong may be mended when it is resumed, its tables included.
        self._is_prepared = False
        # Before the row is read, so that a change of it is seen by the next pass.
        self.stale.clear()
        now = checkpoints.find(db, self.definition.name)
        if now is not None and now.is_rebuilt_beside and self.definition.tables:
            self.trouble.stand_still(db, now)
            self.checkpoint, self._is_standing_still = now, True
            return Outcome.PAUSED
        self.stale.set()
        if not self.trouble.pause(db):
            return Outcome.ADVANCED
        # A row that is gone stays what it was: to begin anew at 0 would apply everything a second time.
        self.checkpoint = checkpoints.find(db, self.definition.name) or self.checkpoint
        return Outcome.PAUSED

    def _current_checkpoint(self, db: Connection) -> Checkpoint:
        known = self.checkpoint
        if known is not None and not self.stale.is_set():
            return known
        self.stale.clear()
        self._is_standing_still = False
        self._row_read_at = time.monotonic()
        self._applier.forget_ahead()
        if known is None:
            enroll(db, self.definition)
            self._surroundings.tidy_up(db)
        now = checkpoints.load(db, self.definition.name)
        if now.status == "running" and not self._has_met_tables:
            # Before the tables are prepared: that they have another shape may be what was changed.
            if self._surroundings.meet_tables(db):
                now = checkpoints.load(db, self.definition.name)
            self._has_met_tables = True
        self.checkpoint = now
        self._note_rebuild(known, now)
        if known is not None and known.rebuild_mode == "beside" and now.rebuild_mode is None:
            # A builder at work does so itself, but there may be none: it was paused, or has died.
            self._surroundings.tidy_up(db)
        if known is None:
            self._log.info(logs.PROJECTION_STARTED, position=now.position, status=now.status)
        elif now.status != known.status and "paused" in {now.status, known.status}:
            event = logs.PROJECTION_PAUSED if now.status == "paused" else logs.PROJECTION_RESUMED
            self._log.info(event, position=now.position, status=now.status)
        return now

    def _note_rebuild(self, known: Checkpoint | None, now: Checkpoint) -> None:
        is_wanted = now.is_rebuilt_beside and bool(self.definition.tables)
        self._counters.note_rebuild(is_wanted=is_wanted, is_new=now.rebuild_mode is None)
        self.definition.projection.is_rebuilding = self._surroundings.is_replay or now.is_rebuilt_in_place
        if known is not None and known.is_rebuilt_beside and now.status != known.status:
            # The tables may be others now.
            self._is_prepared = False

    def _redeliver(self, db: Connection, checkpoint: Checkpoint) -> Checkpoint:
        """Try one dead letter again, and have another pass after this one if there was one."""
        after = self.redelivery.deliver_next(db, checkpoint)
        if after is None:
            return checkpoint
        self.checkpoint = after
        self._call_again()
        return after

    def _begin_rebuild(self, db: Connection, checkpoint: Checkpoint) -> Outcome:
        self.stale.set()
        self.careful_upto = 0
        target = read_store_end(db)
        with db.transaction():
            is_reset = checkpoints.reset(db, checkpoint, self.definition.tables, target)
            if is_reset:
                record_build(db, self.definition)
        if is_reset:
            self._log.info(logs.REBUILD_STARTED, tables=self.definition.tables, target=target)
        return Outcome.ADVANCED

    def _finish_rebuild(self, db: Connection, checkpoint: Checkpoint) -> Outcome:
        self.stale.set()
        if checkpoints.finish_rebuild(db, checkpoint):
            self._log.info(logs.REBUILD_FINISHED, position=checkpoint.position)
        return Outcome.ADVANCED

    def _arrive(self, db: Connection, checkpoint: Checkpoint, mark: int) -> Outcome:
        """There is nothing to apply: see whether that is right, and tidy up."""
        # What it was woken for has been applied already, or is nothing of this projection's.
        self._woken_at = None
        if checkpoint.position > mark:
            # Right after a start, before the mark is proven this far.  Or the store has lost what we have seen.
            refuse_beyond_end(db, checkpoint)
            return Outcome.CAUGHT_UP
        if checkpoint.error_message is not None:
            checkpoints.note_trouble(db, checkpoint.name, None)
            self.checkpoint = replace(checkpoint, error_message=None)
        rate = self._report.note_arrival(checkpoint.position)
        if rate is not None:
            note_rate(db, checkpoint.name, rate)
        return Outcome.CAUGHT_UP

    def _apply(self, db: Connection, checkpoint: Checkpoint, mark: int) -> Generator[None]:
        """Apply what comes next in one transaction, or find out which event cannot be applied."""
        if self.careful_upto and checkpoint.position >= self.careful_upto:
            self.careful_upto = 0
        is_single = bool(self.careful_upto) or self.pace.most == 1
        if self.careful_upto:
            self.pace.search_one_by_one()
        attempt = Attempt(checkpoint.position)
        woken_at, self._woken_at = self._woken_at, None
        is_pipelined = self.pipelining.is_on and not is_single
        try:
            advanced = yield from self._applier.apply(
                db, checkpoint, mark, self.pace, attempt, is_pipelined=is_pipelined, is_to_end=self._is_to_end
            )
        except UnreadableEventError as error:
            self.checkpoint = self._isolation.settle(db, checkpoint, self._applier.unreadable(error), error)
            return
        except Exception as error:
            failure = classify(error)
            if failure is Failure.TRANSIENT:
                self.pace.note_trouble(self._applier.size(attempt))
            if failure in {Failure.TRANSIENT, Failure.CONFLICT}:
                raise
            if not attempt.count or isinstance(error, ConfigurationError):
                # No event's fault.
                raise
            if attempt.alone is None or (is_pipelined and not self._applier.is_by_range):
                self._search(attempt, error, is_pipelined=is_pipelined)
                return
            self.pipelining.note_culprit()
            event = self._applier.read_alone(db, attempt.alone)
            advanced = self._isolation.settle(db, checkpoint, event, error)
            self.checkpoint = advanced
            return
        self.checkpoint = advanced
        self._note_success(attempt, advanced.position, mark)
        if woken_at is not None and attempt.count:
            self._counters.observe(Timing.LATENCY, time.monotonic() - woken_at)

    def _is_to_end(self) -> bool:
        return self._stopping.is_set() or self.stale.is_set()

    def _search(self, attempt: Attempt, error: Exception, *, is_pipelined: bool) -> None:
        size = self._applier.size(attempt)
        self.pace.note_suspicion(size)
        self._searches.log(
            "warning", logs.EVENT_SEARCHED, key=type(error).__name__, error=describe(error), events=attempt.count
        )
        if is_pipelined:
            self.pipelining.note_failure(attempt.upto, error, is_lent=self._probation.is_lent)
        else:
            self.pipelining.note_culprit()

    def _note_success(self, attempt: Attempt, position: int, mark: int) -> None:
        is_searching = self.pace.is_searching
        self.pace.note_success(self._applier.size(attempt), attempt.seconds, is_behind=position < mark)
        self._report.note(attempt.count, position, mark)
        if attempt.count:
            self._probation.note_pass(attempt.seconds_to_send)
        self._counters.note_commit(attempt.count, attempt.seconds, attempt.batch_seconds)
        self.pipelining.note_success(position, self._applier.at_work, is_searching=is_searching)
