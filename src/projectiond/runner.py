"""The runner: THE loop of one projection, in a thread of its own.

Started by the worker once it holds the projection's lease, stopped by it between transactions.  One pass of the
loop (:meth:`Runner.run_once`) takes the projection one step on::

    checkpoint ──paused──▶ PAUSED                 (waits for the status to change)
        │ ──rebuilding, not reset──▶ reset        (tables empty, position 0, one transaction)
        ▼
    mark ──nothing above the checkpoint──▶ CAUGHT_UP   (a rebuild is finished; waits for the mark)
        ▼
    read a batch ▶ apply its parts, each with its checkpoint in one transaction ──▶ ADVANCED

What a step raises is classified by ``failure``: transient trouble is retried for ever with growing pauses, a lost
compare-and-set makes it read the row again, a poison event is isolated by ``isolation`` and then paused or skipped,
a fatal fault pauses the projection.  Each is said in the log, and in the row's ``error_message`` where an operator
looks.

The row is read at the start, after every failure, and when the worker says that it changed; otherwise what was
committed last is what is true, for if it were not, the compare-and-set would fail.
"""

import enum
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final

import psycopg
from psycopg_pool import ConnectionPool
from tenacity import RetryCallState, Retrying, retry_if_exception, sleep_using_event, stop_when_event_set
from tenacity.wait import wait_exponential, wait_random

from projectiond import checkpoint as checkpoints
from projectiond import logs
from projectiond.applier import Applier, Part
from projectiond.checkpoint import Checkpoint
from projectiond.database import Connection
from projectiond.definition import Definition
from projectiond.errors import ConfigurationError, ProjectiondError
from projectiond.failure import Failure, classify, describe, is_transient
from projectiond.highwater import read_store_end
from projectiond.isolation import Isolation
from projectiond.limits import Limits
from projectiond.preparation import enroll, prepare
from projectiond.reader import Batch, Reader
from projectiond.recorder import Slot

LONGEST_RETRY_SECONDS: Final = 5.0

# Trouble that lasts longer is written into the row; shorter is nobody's business.
NOTED_AFTER_SECONDS: Final = 3.0

log = logs.get_logger()


class Outcome(enum.Enum):
    """What one pass came to."""

    ADVANCED = "advanced"
    CAUGHT_UP = "caught_up"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Fault:
    """Why the projection is to be paused, and where it stood (``None``: it never got so far)."""

    text: str
    position: int | None


class Runner:
    """Runs one projection."""

    def __init__(
        self,
        definition: Definition,
        limits: Limits,
        pool: ConnectionPool[Connection],
        settled: Callable[[Connection], int],
        slot: Slot,
        *,
        on_arrival: Callable[[], None] = lambda: None,
        careful_upto: int = 0,
    ) -> None:
        """Make a runner; nothing runs before :meth:`start`.

        Args:
            definition: What to run.
            limits: Its batch and transaction sizes and its error policy.
            pool: Connections in autocommit mode; the runner holds one at a time, during a pass.
            settled: Gives the high-water mark for a connection, -1 while it is unknown.
            slot: Where to note the event in hand.
            on_arrival: Called when there is nothing more to apply below the mark.
            careful_upto: Apply event by event up to this sequence number, because a worker died over it.
        """
        self.definition = definition
        self._limits = limits
        self._pool = pool
        self._settled = settled
        self._reader = Reader(definition.event_types, limits.batch_size)
        self._applier = Applier(definition, slot)
        self._is_pipelined = True
        self._careful_upto = careful_upto
        self._checkpoint: Checkpoint | None = None
        self._is_prepared = False
        self._is_behind = False
        self._trouble_since: float | None = None
        self._fault: Fault | None = None
        # Whether it has arrived at the mark and waits for it to move; for the watcher.
        self.is_waiting = False
        self._on_arrival = on_arrival
        self._stopping = threading.Event()
        self._wake = threading.Event()
        # Set by other threads; cleared here before the row is read, so that a change is never overlooked.
        self._is_stale = threading.Event()
        self._isolation = Isolation(limits, self._applier, self._stopping)
        self._thread = threading.Thread(target=self.run, name=f"runner {definition.name}", daemon=True)
        self._log = log.bind(projection=definition.name)
        self._repeats = logs.RateLimited(self._log)

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
        self._wake.set()

    def recheck(self) -> None:
        """Say that the row may have changed."""
        self._is_stale.set()
        self._wake.set()

    def take_care(self, careful_upto: int) -> None:
        """Apply event by event up to this sequence number."""
        self._careful_upto = careful_upto

    def stop(self) -> None:
        """Ask the thread to end after the transaction in hand."""
        self._stopping.set()
        self._wake.set()

    def join(self, timeout_seconds: float | None = None) -> bool:
        """Wait for the end of the thread; say whether it has come."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    # --- the loop

    def run(self) -> None:
        """Take one step after the other until stopped."""
        retrying = Retrying(
            retry=retry_if_exception(is_transient),
            wait=wait_exponential(multiplier=0.05, max=LONGEST_RETRY_SECONDS) + wait_random(0, 0.05),
            sleep=sleep_using_event(self._stopping),
            stop=stop_when_event_set(self._stopping),
            before_sleep=self._note_trouble,
            retry_error_callback=lambda _: Outcome.PAUSED,
        )
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                outcome = retrying(self.run_once)
                self._trouble_since = None
            except Exception as error:  # noqa: BLE001 - this is the place that decides, whatever it was
                outcome = self._decide(error)
            if outcome is not Outcome.ADVANCED and not self._stopping.is_set():
                self._wait(outcome)

    def run_once(self) -> Outcome:
        """Take the projection one step on.

        Raises:
            Exception: whatever went wrong; nothing of the transaction in hand was committed.
        """
        with self._borrowed_connection() as db:
            if self._fault is not None:
                return self._pause(db, self._fault)
            checkpoint = self._current_checkpoint(db)
            if checkpoint.status == "paused":
                return Outcome.PAUSED
            if not self._is_prepared:
                prepare(db, self.definition)
                self._is_prepared = True
            if checkpoint.status == "rebuilding" and not checkpoint.is_reset:
                return self._begin_rebuild(db, checkpoint)
            mark = self._settled(db)
            if checkpoint.position >= mark:
                return self._arrive(db, checkpoint, mark)
            batch = self._reader.read(db, checkpoint.position, mark)
            for part in self._parts(batch):
                self._checkpoint = checkpoint = self._apply(db, checkpoint, part)
            self._report(batch, mark)
            return Outcome.ADVANCED

    def _wait(self, outcome: Outcome) -> None:
        self.is_waiting = outcome is Outcome.CAUGHT_UP
        if self.is_waiting:
            self._on_arrival()
        self._wake.wait(LONGEST_RETRY_SECONDS if self._fault is not None else None)
        self.is_waiting = False

    # --- the steps

    @contextmanager
    def _borrowed_connection(self) -> Iterator[Connection]:
        with self._pool.connection() as db:
            try:
                yield db
            finally:
                if db.is_altered:
                    # Other projections would inherit the handler's search_path or role; the pool opens a new one.
                    db.close()

    def _current_checkpoint(self, db: Connection) -> Checkpoint:
        known = self._checkpoint
        if known is not None and not self._is_stale.is_set():
            return known
        self._is_stale.clear()
        if known is None:
            enroll(db, self.definition)
        self._checkpoint = now = checkpoints.load(db, self.definition.name)
        if known is None:
            self._log.info(logs.PROJECTION_STARTED, position=now.position, status=now.status)
        elif now.status != known.status:
            event = logs.PROJECTION_PAUSED if now.status == "paused" else logs.PROJECTION_RESUMED
            self._log.info(event, position=now.position, status=now.status, before=known.status)
        return now

    def _begin_rebuild(self, db: Connection, checkpoint: Checkpoint) -> Outcome:
        self._is_stale.set()
        target = read_store_end(db)
        if checkpoints.reset(db, checkpoint, self.definition.tables, target):
            self._log.info(logs.REBUILD_STARTED, tables=self.definition.tables, target=target)
        return Outcome.ADVANCED

    def _arrive(self, db: Connection, checkpoint: Checkpoint, mark: int) -> Outcome:
        """There is nothing to apply: see whether that is right, and tidy up."""
        if checkpoint.position > mark:
            # Right after a start, before the mark is proven this far.  Or the store has lost what we have seen.
            self._refuse_beyond_end(db, checkpoint)
            return Outcome.CAUGHT_UP
        if checkpoint.status == "rebuilding":
            self._is_stale.set()
            if checkpoints.finish_rebuild(db, checkpoint):
                self._log.info(logs.REBUILD_FINISHED, position=checkpoint.position)
            return Outcome.ADVANCED
        if checkpoint.error_message is not None:
            checkpoints.note_trouble(db, checkpoint.name, None)
            self._checkpoint = replace(checkpoint, error_message=None)
        if self._is_behind:
            self._is_behind = False
            self._log.info(logs.PROJECTION_CAUGHT_UP, position=checkpoint.position)
        return Outcome.CAUGHT_UP

    def _refuse_beyond_end(self, db: Connection, checkpoint: Checkpoint) -> None:
        end = read_store_end(db)
        if checkpoint.position > end:
            raise ConfigurationError(
                f'the checkpoint of "{checkpoint.name}" is {checkpoint.position}, beyond the end of the event store '
                f"at {end}: the store was restored from a backup or truncated",
                hint=f'run "projectiond rebuild {checkpoint.name}", or set last_sequence_number to the last event '
                "that its tables hold, then set the status to running",
            )

    def _parts(self, batch: Batch) -> Iterator[Part]:
        """Cut a batch into transactions; none is begun once the runner has been stopped."""
        size = self._limits.checkpoint_every
        for start in range(0, max(1, len(batch.events)), size):
            if self._stopping.is_set():
                return
            events = batch.events[start : start + size]
            is_last = start + size >= len(batch.events)
            yield Part(events, batch.upto if is_last else events[-1].sequence_number)

    def _apply(self, db: Connection, checkpoint: Checkpoint, part: Part) -> Checkpoint:
        if self._is_pipelined and checkpoint.position >= self._careful_upto:
            try:
                return self._applier.apply_pipelined(db, checkpoint, part)
            except psycopg.NotSupportedError as error:
                # A handler uses COPY or the like, which a pipeline cannot carry.
                self._is_pipelined = False
                self._log.info(logs.PIPELINE_ABANDONED, error=describe(error), handler=self._applier.handler_name)
            except Exception as error:
                if classify(error) in {Failure.TRANSIENT, Failure.CONFLICT}:
                    raise
        committed = checkpoint
        for committed in self._isolation.apply(db, checkpoint, part):
            # Kept at once: the event after this one may be the one that pauses the projection here.
            self._checkpoint = committed
        return committed

    def _report(self, batch: Batch, mark: int) -> None:
        is_full = len(batch.events) >= self._limits.batch_size
        self._is_behind = self._is_behind or is_full
        say = self._log.info if is_full else self._log.debug
        say(logs.BATCH_COMMITTED, events=len(batch.events), position=batch.upto, lag=mark - batch.upto)

    # --- when a step fails

    def _note_trouble(self, state: RetryCallState) -> None:
        """Say what is being waited for; after a while also in the row, if the database can be reached."""
        self._is_stale.set()
        error = state.outcome.exception() if state.outcome else None
        text = describe(error) if error else ""
        self._repeats.log("warning", logs.PROJECTION_RETRYING, key=text, error=text, attempt=state.attempt_number)
        self._trouble_since = self._trouble_since or time.monotonic()
        if isinstance(error, psycopg.OperationalError):
            # Its connection is gone or was closed with the server; so are, perhaps, those that lie idle.
            self._pool.check()
        if time.monotonic() - self._trouble_since > NOTED_AFTER_SECONDS:
            with suppress(psycopg.Error), self._pool.connection() as db:
                checkpoints.note_trouble(db, self.definition.name, f"retrying: {text}")

    def _decide(self, error: Exception) -> Outcome:
        """Decide what follows an error that is not transient."""
        self._is_stale.set()
        if classify(error) is Failure.CONFLICT:
            self._repeats.log("warning", logs.CHECKPOINT_CONFLICTED, key="conflict", error=describe(error))
            return Outcome.ADVANCED
        if self._fault is not None:
            # Not even the pause can be written: the table is gone, or a privilege.  Wait, and try again.
            self._repeats.log(
                "error", logs.PROJECTION_STOPPED, key="pause", error=describe(error), fault=self._fault.text
            )
            return Outcome.PAUSED
        if not self._stopping.is_set():
            known = self._checkpoint
            text = str(error) if isinstance(error, ProjectiondError) else describe(error)
            self._fault = Fault(text, None if known is None else known.position)
        return Outcome.ADVANCED

    def _pause(self, db: Connection, fault: Fault) -> Outcome:
        """Set the status to paused with its reason; a step of the loop, so that it too outlives an outage."""
        name = self.definition.name
        now = checkpoints.find(db, name)
        self._fault = None
        # Whatever was wrong may be mended when it is resumed, its tables included.
        self._is_prepared = False
        if now is None:
            self._log.error(logs.PROJECTION_STOPPED, error=fault.text)
            return Outcome.PAUSED
        if now.status == "paused":
            return Outcome.PAUSED
        if fault.position not in {None, now.position} or not checkpoints.pause_for_fault(db, now, fault.text):
            # Another runner has moved on, or the operator has changed the status: see what is there now.
            return Outcome.ADVANCED
        self._log.error(logs.PROJECTION_PAUSED, position=now.position, error=fault.text)
        return Outcome.PAUSED
