"""The runner: THE loop of one projection, in a thread of its own.

Started by the worker once it holds the projection's lease, stopped by it between transactions.  One pass of the loop
(:meth:`Runner.run_once`) takes the projection one step on; what that is, ``stepper`` knows.  Here it is decided when:

    ADVANCED    at once another
    CAUGHT_UP   when the mark has moved
    PAUSED      when the row has changed

What a step raises is classified by ``failure``: transient trouble is retried for ever with growing pauses, a lost
compare-and-set makes it read the row again, a fatal fault pauses the projection.  ``trouble`` says each in the log, and
in the row where an operator looks.

A pass in a pipeline pauses once it has sent its COMMIT (:meth:`Runner.steps`).  While the thread sleeps at the mark and
passes have been short (``probation``), ``lane`` may take them in its stead, many projections' in one thread; whatever
comes of them but having arrived again is left to the thread here.
"""

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Final, cast

from psycopg_pool import ConnectionPool
from tenacity import RetryCallState, Retrying, retry_if_exception, sleep_using_event, stop_when_event_set
from tenacity.wait import wait_exponential, wait_random

from projectiond.checkpoint import Checkpoint
from projectiond.errors import ConflictError
from projectiond.failure import is_absence, is_transient
from projectiond.plugins.definition import Definition
from projectiond.plugins.limits import Limits
from projectiond.postgres.database import Connection, borrow
from projectiond.processes.counters import Count, State
from projectiond.processes.recorder import Slot
from projectiond.running.probation import Probation
from projectiond.running.stepper import Outcome, Stepper
from projectiond.running.surroundings import Surroundings

LONGEST_RETRY_SECONDS: Final = 5.0

# While a runner waits for its turn it looks so often whether it is to end.
TURN_SECONDS: Final = 0.5

# A conflict is somebody else at work, or a status that changed: no reason to hurry.
PAUSE_AFTER_FAILURE_SECONDS: Final = 0.02

_STATES: Final = {
    Outcome.ADVANCED: State.WORKING,
    Outcome.CAUGHT_UP: State.CAUGHT_UP,
    Outcome.PAUSED: State.PAUSED,
}


class Runner:
    """Runs one projection."""

    def __init__(
        self,
        definition: Definition,
        limits: Limits,
        pool: ConnectionPool[Connection],
        slot: Slot,
        surroundings: Surroundings,
    ) -> None:
        """Make a runner; nothing runs before :meth:`start`.

        Args:
            definition: What to run.
            limits: Its batch and transaction sizes and its error policy.
            pool: Connections in autocommit mode; the runner holds one at a time, during a pass.
            slot: Where to note the event in hand.
            surroundings: What there is outside of it.
        """
        self.definition = definition
        self._pool = pool
        self._turns = surroundings.turns
        self._on_arrival = surroundings.on_arrival
        self._counters = slot.counters
        self._stopping = threading.Event()
        self._wake = threading.Event()
        # Whether it has arrived at the mark and waits for it to move; for the watcher, and for the lane.
        self.is_waiting = False
        # Held by whoever takes passes: the thread, or the lane while that sleeps.
        self._passes = threading.Lock()
        self._probation = Probation()
        # What the lane has come across, for the thread to deal with.
        self._left: BaseException | None = None
        self._stepper = Stepper(
            definition,
            limits,
            pool,
            slot,
            surroundings,
            self._probation,
            stopping=self._stopping,
            call_again=self._wake.set,
        )
        self._trouble = self._stepper.trouble
        self._thread = threading.Thread(target=self.run, name=f"runner {definition.name}", daemon=True)
        self._retrying = Retrying(
            retry=retry_if_exception(is_transient),
            wait=wait_exponential(multiplier=0.05, max=LONGEST_RETRY_SECONDS) + wait_random(0, 0.05),
            sleep=sleep_using_event(self._stopping),
            stop=stop_when_event_set(self._stopping),
            before_sleep=self._note_retry,
            retry_error_callback=lambda _: Outcome.PAUSED,
        )

    def __repr__(self) -> str:
        return f"<Runner {self.definition.name} {self.checkpoint}>"

    # --- what the worker calls

    @property
    def checkpoint(self) -> Checkpoint | None:
        """What this runner takes the row to be; ``None`` before it has read it."""
        return self._stepper.checkpoint

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Say that the mark has moved."""
        self._stepper.note_wake()
        self._wake.set()

    def recheck(self) -> None:
        """Say that the row may have changed."""
        self._stepper.stale.set()
        self._wake.set()

    def take_care(self, careful_upto: int) -> None:
        """Apply event by event up to this sequence number."""
        self._stepper.careful_upto = careful_upto

    def retry_letters(self) -> None:
        """Say that dead letters are to be tried again."""
        self._stepper.redelivery.ask()
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
        if not self._probation.is_over or not self._passes.acquire(blocking=False):
            return False
        if not (self.is_waiting and self._may_be_lent()):
            self._passes.release()
            return False
        self._stepper.note_wake()
        self.is_waiting = False
        self._probation.is_lent = True
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
        self._probation.begin_again()

    def give_back(self) -> None:
        """Go on in the thread."""
        self._probation.is_lent = False
        self._passes.release()

    def _may_be_lent(self) -> bool:
        return self._stepper.is_plain and not self._wake.is_set()

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
            self._stepper.stale.set()
            if isinstance(error, ConflictError):
                self._counters.note(Count.CONFLICTS)
            goes_on = self._stopping.is_set() or self._trouble.decide(error, self.checkpoint)
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
            if not is_mine:
                return Outcome.PAUSED
            with borrow(self._pool) as db:
                return (yield from self._stepper.take_step(db))

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        """Wait for a turn while far behind; say whether it has come before the end."""
        if not self._stepper.pace.is_behind:
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
        self._counters.note_state(state, None if self.checkpoint is None else self.checkpoint.position)

    def _note_retry(self, state: RetryCallState) -> None:
        self._counters.note_retry(is_database=is_absence(state.outcome.exception() if state.outcome else None))
        self._stepper.stale.set()
        self._trouble.note_retry(state)
