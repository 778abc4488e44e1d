"""The runner: THE loop of one projection, in a thread of its own.

Started by the worker once it holds the projection's lease, stopped by it between transactions.  One pass of the
loop (:meth:`Runner.run_once`) takes the projection one step on::

    checkpoint ──paused──▶ PAUSED                 (waits for the status to change)
        │ ──rebuilding in place, not reset──▶ reset    (tables empty, position 0, one transaction)
        ▼
    mark ──nothing above the checkpoint──▶ CAUGHT_UP   (a rebuild in place is finished; waits for the mark)
        ▼
    read and apply, with the checkpoint, in one transaction ──▶ ADVANCED

What a step raises is classified by ``failure``: transient trouble is retried for ever with growing pauses, a lost
compare-and-set makes it read the row again.  After any other failure ``pace`` lets it take half as many events, until
one fails alone: ``isolation`` tries that one again, then pauses the projection or sets the event aside.  A fatal fault
pauses the projection.  ``trouble`` says each in the log, and in the row where an operator looks.

A pass in a pipeline pauses once it has sent its COMMIT (:meth:`Runner.steps`).  While the thread sleeps at the mark and
passes have been short, ``lane`` may take them in its stead, many projections' in one thread; whatever comes of them but
having arrived again is left to the thread here.

While a rebuild beside the live tables is in progress it goes on as ever, and tells the supervisor, by the flight
recorder, that a builder is wanted.  Where it cannot go on it does not pause, for that would pause the rebuild: it
stands still, says why in the row, and waits for the rebuild's end.

Between two transactions a dead letter may be tried again (``redelivery``).

The row is read at the start, after every failure, and when the worker says that it changed; otherwise what was
committed last is what is true, for if it were not, the compare-and-set would fail.
"""

import enum
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, cast

from psycopg_pool import ConnectionPool
from tenacity import RetryCallState, Retrying, retry_if_exception, sleep_using_event, stop_when_event_set
from tenacity.wait import wait_exponential, wait_random

from projectiond import checkpoint as checkpoints
from projectiond import logs
from projectiond.applier import Applier, Attempt
from projectiond.build import note_rate, record_build
from projectiond.checkpoint import Checkpoint
from projectiond.counters import Count, State, Timing
from projectiond.database import Connection, borrow
from projectiond.definition import Definition
from projectiond.errors import ConfigurationError, ConflictError, UnreadableEventError
from projectiond.event import Event
from projectiond.failure import Failure, classify, describe, is_absence, is_transient
from projectiond.highwater import read_store_end
from projectiond.isolation import Isolation
from projectiond.limits import Limits
from projectiond.lineage import refuse_other_history
from projectiond.pace import Pace
from projectiond.preparation import enroll, prepare, refuse_beyond_end
from projectiond.recorder import Slot
from projectiond.redelivery import Redelivery
from projectiond.report import BatchReport
from projectiond.trouble import Trouble

LONGEST_RETRY_SECONDS: Final = 5.0

# So many failures in a row that are in a pipeline only, and not in single steps, say that it is the pipeline.
MAX_FALSE_ALARMS: Final = 3

# While a runner waits for its turn it looks so often whether it is to end.
TURN_SECONDS: Final = 0.5

# A conflict is somebody else at work, or a status that changed: no reason to hurry.
PAUSE_AFTER_FAILURE_SECONDS: Final = 0.02

# What fits into the lane: a pass that has sent its COMMIT after so long.  After one that took too long there so many
# have to be short in the thread; each time twice as many, for on a busy machine it may have been nobody's fault.
SHORT_SECONDS: Final = 0.005
SHORTEST_PROBATION: Final = 4
LONGEST_PROBATION: Final = 1024

log = logs.get_logger()


class Outcome(enum.Enum):
    """What one pass came to."""

    ADVANCED = "advanced"
    CAUGHT_UP = "caught_up"
    PAUSED = "paused"


_STATES: Final = {
    Outcome.ADVANCED: State.WORKING,
    Outcome.CAUGHT_UP: State.CAUGHT_UP,
    Outcome.PAUSED: State.PAUSED,
}


class Runner:
    """Runs one projection."""

    def __init__(  # noqa: PLR0913 - what a runner is made of, put together in one place: the worker
        self,
        definition: Definition,
        limits: Limits,
        pool: ConnectionPool[Connection],
        settled: Callable[[Connection], int],
        slot: Slot,
        *,
        recent: Callable[[Connection, int, int, float], Sequence[Event] | None] = lambda *_: None,
        turns: threading.Semaphore | None = None,
        on_arrival: Callable[[], None] = lambda: None,
        meet_tables: Callable[[Connection], bool] = lambda _: False,
        tidy_up: Callable[[Connection], None] = lambda _: None,
        careful_upto: int = 0,
        is_replay: bool = False,
    ) -> None:
        """Make a runner; nothing runs before :meth:`start`.

        Args:
            definition: What to run.
            limits: Its batch and transaction sizes and its error policy.
            pool: Connections in autocommit mode; the runner holds one at a time, during a pass.
            settled: Gives the high-water mark for a connection, -1 while it is unknown.
            slot: Where to note the event in hand.
            recent: The newest events, shared by all runners of the worker; asked after ``settled``, and with the time
                since when they must have been read.
            turns: Bounds how many runners that are far behind hold a connection, so that those at the head get one.
            on_arrival: Called when there is nothing more to apply below the mark.
            meet_tables: Called before the first event is applied with the status running, to see whether the tables
                were built by something else; says whether it has changed the row.
            tidy_up: Called, with a connection, when the row is read for the first time, and when a rebuild beside the
                live tables is over: what it may have left is to be dropped.
            careful_upto: Apply event by event up to this sequence number, because a worker died over it.
            is_replay: Whether it builds tables that are not served yet; the author's code is told.
        """
        self.definition = definition
        self._limits = limits
        self._pool = pool
        self._settled = settled
        self._turns = turns or threading.Semaphore()
        # Events that were read before the row was may have been mended since, by whoever then resumed the projection.
        self._row_read_at = 0.0
        self._is_replay = is_replay
        self._recent = recent
        self._applier = Applier(definition, limits, slot, self._read_recent)
        self._pace = Pace(limits, is_by_range=self._applier.is_by_range)
        self._is_pipelined = self._applier.is_pipelined
        # A failure in a pipeline whose culprit has not been found yet: up to where it may be, and what it was.
        self._alarm: tuple[int, Exception] | None = None
        self._false_alarms = 0
        self._searches = logs.RateLimited(log.bind(projection=definition.name))
        self._careful_upto = careful_upto
        self._checkpoint: Checkpoint | None = None
        self._is_prepared = False
        self._meet_tables = meet_tables
        self._has_met_tables = False
        # While a rebuild is in progress: whether the live tables cannot be kept up to date meanwhile.
        self._is_standing_still = False
        # Whether it has arrived at the mark and waits for it to move; for the watcher, and for the lane.
        self.is_waiting = False
        # Held by whoever takes passes: the thread, or the lane while that sleeps.
        self._passes = threading.Lock()
        self._is_lent = False
        # How many passes have to be short, in the thread, until the lane may take them; how many it was to be the last
        # time, and how many the lane has taken since.
        self._probation = 1
        self._last_probation = SHORTEST_PROBATION
        self._lent_passes = 0
        # Whether the failure that is looked into was in the lane; and whether handlers were found to need this thread.
        self._has_failed_lent = False
        self._is_bound_to_thread = False
        # What the lane has come across, for the thread to deal with.
        self._left: BaseException | None = None
        self._on_arrival = on_arrival
        self._tidy_up = tidy_up
        self._stopping = threading.Event()
        self._wake = threading.Event()
        # Set by other threads; cleared here before the row is read, so that a change is never overlooked.
        self._is_stale = threading.Event()
        self._counters = slot.counters
        # When the mark first moved beyond what the last transaction knew of; None: it has not.
        self._woken_at: float | None = None
        self._isolation = Isolation(limits, self._applier, slot.counters)
        self._redelivery = Redelivery(self._applier)
        self._thread = threading.Thread(target=self.run, name=f"runner {definition.name}", daemon=True)
        self._log = log.bind(projection=definition.name)
        self._report = BatchReport(self._log, limits.batch_size)
        self._trouble = Trouble(definition.name, pool, self._log)
        self._retrying = Retrying(
            retry=retry_if_exception(is_transient),
            wait=wait_exponential(multiplier=0.05, max=LONGEST_RETRY_SECONDS) + wait_random(0, 0.05),
            sleep=sleep_using_event(self._stopping),
            stop=stop_when_event_set(self._stopping),
            before_sleep=self._note_retry,
            retry_error_callback=lambda _: Outcome.PAUSED,
        )

    def __repr__(self) -> str:
        return f"<Runner {self.definition.name} {self._checkpoint}>"

    # --- what the worker calls

    @property
    def checkpoint(self) -> Checkpoint | None:
        """What this runner takes the row to be; ``None`` before it has read it."""
        return self._checkpoint

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Say that the mark has moved."""
        self._note_wake()
        self._wake.set()

    def recheck(self) -> None:
        """Say that the row may have changed."""
        self._is_stale.set()
        self._wake.set()

    def take_care(self, careful_upto: int) -> None:
        """Apply event by event up to this sequence number."""
        self._careful_upto = careful_upto

    def retry_letters(self) -> None:
        """Say that dead letters are to be tried again."""
        self._redelivery.ask()
        self._wake.set()

    def stop(self) -> None:
        """Ask the thread to end after the transaction in hand."""
        self._stopping.set()
        self._wake.set()

    def join(self, timeout_seconds: float | None = None) -> bool:
        """Wait for the end of the thread; say whether it has come."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    # --- what the lane calls

    def lend(self) -> bool:
        """Hand the next passes over, if the thread sleeps at the mark and they are likely to be short."""
        if self._probation or not self._passes.acquire(blocking=False):
            return False
        if not (self.is_waiting and self._may_be_lent()):
            self._passes.release()
            return False
        self._note_wake()
        self.is_waiting = False
        self._is_lent = True
        self._counters.note_state(State.WORKING, None)
        return True

    def take_note(self, end: object, *, is_summoned: bool) -> bool:
        """Hear what a lent pass came to, or the error that it ended with; say whether another is to follow there."""
        if self._may_be_lent() and (end is Outcome.ADVANCED or (end is Outcome.CAUGHT_UP and is_summoned)):
            return True
        if end is Outcome.CAUGHT_UP and not is_summoned:
            self._note_state(Outcome.CAUGHT_UP)
            self.is_waiting = True
            self._on_arrival()
            return False
        if isinstance(end, BaseException):
            self._left = end
        self._wake.set()
        return False

    def overstay(self) -> None:
        """Hear that a lent pass takes too long."""
        is_long_ago = self._lent_passes > LONGEST_PROBATION
        longer = SHORTEST_PROBATION if is_long_ago else min(2 * self._last_probation, LONGEST_PROBATION)
        self._probation = self._last_probation = longer
        self._lent_passes = 0

    def give_back(self) -> None:
        """Go on in the thread."""
        self._is_lent = False
        self._passes.release()

    def _may_be_lent(self) -> bool:
        is_wanted_here = self._wake.is_set() or self._careful_upto or self._is_bound_to_thread
        is_simple = self._is_pipelined and not (self._pace.is_behind or self._pace.is_searching)
        return is_simple and self._pace.most > 1 and not is_wanted_here

    def _note_wake(self) -> None:
        if self._woken_at is None:
            self._woken_at = time.monotonic()

    # --- the loop

    def run(self) -> None:
        """Take one step after the other until stopped."""
        self._counters.note_start()
        self._passes.acquire()
        while not self._stopping.is_set():
            self._wake.clear()
            outcome = self.step()
            self._note_state(outcome)
            if outcome is not Outcome.ADVANCED and not self._stopping.is_set():
                self._wait(outcome)
        self._counters.note_end()

    def step(self) -> Outcome:
        """Take the projection one step on, or decide what follows from what went wrong."""
        try:
            outcome = self._retrying(self.run_once)
        except Exception as error:  # noqa: BLE001 - this is the place that decides, whatever it was
            self._is_stale.set()
            if isinstance(error, ConflictError):
                self._counters.note(Count.CONFLICTS)
            goes_on = self._stopping.is_set() or self._trouble.decide(error, self._checkpoint)
            self._stopping.wait(PAUSE_AFTER_FAILURE_SECONDS)
            return Outcome.ADVANCED if goes_on else Outcome.PAUSED
        self._trouble.clear()
        return outcome

    def run_once(self) -> Outcome:
        """Take the projection one step on.

        Raises:
            Exception: whatever went wrong; nothing of the transaction in hand was committed.
        """
        left, self._left = self._left, None
        if left is not None:
            raise left
        steps = self.steps()
        try:
            while True:
                next(steps)
        except StopIteration as end:
            return cast("Outcome", end.value)

    def steps(self) -> Generator[None, None, Outcome]:
        """Take the projection one step on, with a pause once COMMIT has been sent."""
        with self._turn() as is_mine:
            return (yield from self._take_step()) if is_mine else Outcome.PAUSED

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        """Wait for a turn while far behind; say whether it has come before the end."""
        if not self._pace.is_behind:
            yield True
            return
        self._counters.note_state(State.QUEUED, None)
        while not self._turns.acquire(timeout=TURN_SECONDS):
            if self._stopping.is_set():
                yield False
                return
        self._counters.note_state(State.WORKING, None)
        try:
            yield True
        finally:
            self._turns.release()

    def _take_step(self) -> Generator[None, None, Outcome]:
        with borrow(self._pool) as db:
            if self._trouble.is_fatal:
                return self._pause(db)
            checkpoint = self._current_checkpoint(db)
            if not self._may_apply(db, checkpoint):
                return Outcome.PAUSED
            if checkpoint.is_about_to_be_reset:
                return self._begin_rebuild(db, checkpoint)
            if self._redelivery.is_asked:
                checkpoint = self._redeliver(db, checkpoint)
            mark = self._settled(db)
            if checkpoint.is_rebuilt_in_place and (
                checkpoint.position >= checkpoint.target or checkpoint.position == mark
            ):
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

    def _wait(self, outcome: Outcome) -> None:
        self.is_waiting = outcome is Outcome.CAUGHT_UP
        if self.is_waiting:
            self._on_arrival()
        self._passes.release()
        self._wake.wait(LONGEST_RETRY_SECONDS if self._trouble.is_fatal else None)
        self._passes.acquire()
        self.is_waiting = False
        self._counters.note_state(State.WORKING, None)

    def _note_state(self, outcome: Outcome) -> None:
        state = State.FAILING if self._trouble.is_fatal else _STATES[outcome]
        self._counters.note_state(state, None if self._checkpoint is None else self._checkpoint.position)

    def _note_retry(self, state: RetryCallState) -> None:
        self._counters.note_retry(is_database=is_absence(state.outcome.exception() if state.outcome else None))
        self._is_stale.set()
        self._trouble.note_retry(state)

    def _read_recent(self, db: Connection, after: int, upto: int) -> Sequence[Event] | None:
        # What is shared with others is not marked as replayed.
        is_shared = not self.definition.projection.is_rebuilding
        return self._recent(db, after, upto, self._row_read_at) if is_shared else None

    # --- the steps

    def _pause(self, db: Connection) -> Outcome:
        # Whatever was wrong may be mended when it is resumed, its tables included.
        self._is_prepared = False
        # Before the row is read, so that a change of it is seen by the next pass.
        self._is_stale.clear()
        now = checkpoints.find(db, self.definition.name)
        if now is not None and now.is_rebuilt_beside and self.definition.tables:
            self._trouble.stand_still(db, now)
            self._checkpoint, self._is_standing_still = now, True
            return Outcome.PAUSED
        self._is_stale.set()
        if not self._trouble.pause(db):
            return Outcome.ADVANCED
        # A row that is gone stays what it was: to begin anew at 0 would apply everything a second time.
        self._checkpoint = checkpoints.find(db, self.definition.name) or self._checkpoint
        return Outcome.PAUSED

    def _current_checkpoint(self, db: Connection) -> Checkpoint:
        known = self._checkpoint
        if known is not None and not self._is_stale.is_set():
            return known
        self._is_stale.clear()
        self._is_standing_still = False
        self._row_read_at = time.monotonic()
        self._applier.forget_ahead()
        if known is None:
            enroll(db, self.definition)
            self._tidy_up(db)
        now = checkpoints.load(db, self.definition.name)
        if now.status == "running" and not self._has_met_tables:
            # Before the tables are prepared: that they have another shape may be what was changed.
            if self._meet_tables(db):
                now = checkpoints.load(db, self.definition.name)
            self._has_met_tables = True
        self._checkpoint = now
        self._note_rebuild(known, now)
        if known is not None and known.rebuild_mode == "beside" and now.rebuild_mode is None:
            # A builder at work does so itself, but there may be none: it was paused, or has died.
            self._tidy_up(db)
        if known is None:
            self._log.info(logs.PROJECTION_STARTED, position=now.position, status=now.status)
        elif now.status != known.status and "paused" in {now.status, known.status}:
            event = logs.PROJECTION_PAUSED if now.status == "paused" else logs.PROJECTION_RESUMED
            self._log.info(event, position=now.position, status=now.status)
        return now

    def _note_rebuild(self, known: Checkpoint | None, now: Checkpoint) -> None:
        self._counters.note_rebuild(is_wanted=now.is_rebuilt_beside and bool(self.definition.tables))
        self.definition.projection.is_rebuilding = self._is_replay or now.is_rebuilt_in_place
        if known is not None and known.is_rebuilt_beside and now.status != known.status:
            # The tables may be others now.
            self._is_prepared = False

    def _redeliver(self, db: Connection, checkpoint: Checkpoint) -> Checkpoint:
        """Try one dead letter again, and have another pass after this one if there was one."""
        after = self._redelivery.deliver_next(db, checkpoint)
        if after is None:
            return checkpoint
        self._checkpoint = after
        self._wake.set()
        return after

    def _begin_rebuild(self, db: Connection, checkpoint: Checkpoint) -> Outcome:
        self._is_stale.set()
        self._careful_upto = 0
        target = read_store_end(db)
        with db.transaction():
            is_reset = checkpoints.reset(db, checkpoint, self.definition.tables, target)
            if is_reset:
                record_build(db, self.definition)
        if is_reset:
            self._log.info(logs.REBUILD_STARTED, tables=self.definition.tables, target=target)
        return Outcome.ADVANCED

    def _finish_rebuild(self, db: Connection, checkpoint: Checkpoint) -> Outcome:
        self._is_stale.set()
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
            self._checkpoint = replace(checkpoint, error_message=None)
        rate = self._report.note_arrival(checkpoint.position)
        if rate is not None:
            note_rate(db, checkpoint.name, rate)
        return Outcome.CAUGHT_UP

    def _apply(self, db: Connection, checkpoint: Checkpoint, mark: int) -> Generator[None]:
        """Apply what comes next in one transaction, or find out which event cannot be applied."""
        if checkpoint.position >= self._careful_upto:
            self._careful_upto = 0
        is_single = bool(self._careful_upto) or self._pace.most == 1
        if self._careful_upto:
            self._pace.search_one_by_one()
        attempt = Attempt(checkpoint.position)
        woken_at, self._woken_at = self._woken_at, None
        is_pipelined = self._is_pipelined and not is_single
        try:
            advanced = yield from self._applier.apply(
                db, checkpoint, mark, self._pace, attempt, is_pipelined=is_pipelined, is_to_end=self._is_to_end
            )
        except UnreadableEventError as error:
            self._checkpoint = self._isolation.settle(db, checkpoint, self._applier.unreadable(error), error)
            return
        except Exception as error:
            failure = classify(error)
            if failure is Failure.TRANSIENT:
                self._pace.note_trouble(self._applier.size(attempt))
            if failure in {Failure.TRANSIENT, Failure.CONFLICT}:
                raise
            if not attempt.count or isinstance(error, ConfigurationError):
                # No event's fault.
                raise
            if attempt.alone is None or (is_pipelined and not self._applier.is_by_range):
                self._search(attempt, error, is_pipelined=is_pipelined)
                return
            self._alarm = None
            event = self._applier.read_alone(db, attempt.alone)
            advanced = self._isolation.settle(db, checkpoint, event, error)
            self._checkpoint = advanced
            return
        self._checkpoint = advanced
        self._note_success(attempt, advanced.position, mark)
        if woken_at is not None and attempt.count:
            self._counters.observe(Timing.LATENCY, time.monotonic() - woken_at)

    def _is_to_end(self) -> bool:
        return self._stopping.is_set() or self._is_stale.is_set()

    def _search(self, attempt: Attempt, error: Exception, *, is_pipelined: bool) -> None:
        size = self._applier.size(attempt)
        self._pace.note_suspicion(size)
        self._searches.log(
            "warning", logs.EVENT_SEARCHED, key=type(error).__name__, error=describe(error), events=attempt.count
        )
        self._alarm = (attempt.upto, error) if is_pipelined else None
        self._has_failed_lent = self._is_lent

    def _note_success(self, attempt: Attempt, position: int, mark: int) -> None:
        is_normal = not self._pace.is_searching
        self._pace.note_success(self._applier.size(attempt), attempt.seconds, is_behind=position < mark)
        self._report.note(attempt.count, position, mark)
        self._note_length(attempt)
        self._counters.note_commit(attempt.count, attempt.seconds, attempt.batch_seconds)
        if self._alarm is not None and position >= self._alarm[0]:
            self._note_false_alarm(self._alarm[1])
        elif self._alarm is None and is_normal:
            self._false_alarms = 0

    def _note_length(self, attempt: Attempt) -> None:
        if self._is_lent:
            self._lent_passes += 1
        elif self._probation and attempt.count and attempt.seconds_to_send <= SHORT_SECONDS:
            self._probation -= 1

    def _note_false_alarm(self, error: Exception) -> None:
        """The events were fine: the handler does what a pipeline cannot carry (COPY, several statements in one)."""
        self._alarm = None
        if self._has_failed_lent:
            # Or it keeps something that belongs to one thread.
            self._is_bound_to_thread = True
            return
        self._false_alarms += 1
        if self._false_alarms >= MAX_FALSE_ALARMS:
            self._is_pipelined = False
            self._log.warning(logs.PIPELINE_ABANDONED, error=describe(error), handler=self._applier.at_work)
