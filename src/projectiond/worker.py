"""A worker: one process that runs the projections that it holds leases on.

Started by the supervisor, which hands it the settings on standard input and shares the flight recorder.  Standard
input stays open: the line ``drain`` ends the worker, and so does its end, for then the supervisor is gone.

What is in it, from the outside in::

    main thread   heartbeat, leases (take, give back, start and stop runners), backstop for the status column
    watcher       doorbell and high-water mark, on a connection of its own
    runner …      one thread for each projection that it holds the lease on; connections from the pool
    lane …        two; each is one thread, seldom more, that takes the short passes of many runners

The connections that it may hold are ``pool_size`` in all: one for the leases, one for the watcher, the rest in the
pool.  Losing the leases' connection stops the runners; they are started again with new leases.
"""

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import psycopg

from projectiond import __version__, logs, sql
from projectiond.builds.change import meet_tables
from projectiond.errors import ConfigurationError, DatabaseUnavailableError
from projectiond.failure import describe
from projectiond.leases.lease import Leases
from projectiond.leases.roster import enter_worker, note_held
from projectiond.plugins.definition import Definition
from projectiond.plugins.limits import resolve_limits
from projectiond.plugins.registry import load_projections
from projectiond.postgres.database import Connection, check_server, connect, open_pool
from projectiond.processes.orphan import end_in_time
from projectiond.processes.prints import LinesToLog
from projectiond.processes.recorder import Recorder
from projectiond.processes.wire import Briefing, Care
from projectiond.rebuild.space import drop_orphan_of
from projectiond.running.lane import Lane
from projectiond.running.runner import Runner
from projectiond.running.surroundings import Surroundings
from projectiond.settings import Settings
from projectiond.stream.watcher import Watcher

TICK_SECONDS: Final = 1.0

# The tick while runners are about to end, for somebody waits for their leases, and so long after a worker has died.
SHORT_TICK_SECONDS: Final = 0.05
ALERT_SECONDS: Final = 1.0

# Exit code for "started again it would fail again"; the number that sysexits.h gives to a configuration error.
EXIT_CONFIGURATION: Final = 78

# Connections outside the pool: leases and watcher.
RESERVED_CONNECTIONS: Final = 2

# Two: while one waits for a processor, or takes answers, the other sends.  A third would wait for the interpreter.
LANES: Final = 2

log = logs.get_logger()


class Worker:
    """Runs projections until it is drained."""

    def __init__(
        self,
        settings: Settings,
        definitions: Sequence[Definition],
        recorder: Recorder,
        *,
        number: int = 1,
        careful_upto: Mapping[str, int] | None = None,
    ) -> None:
        """Make a worker.

        Args:
            settings: With ``database_url`` set.
            definitions: What there is to run.
            recorder: Where runners note what they have in hand.
            number: Which of the supervisor's workers this is; they begin to look for leases at different places.
            careful_upto: By projection, up to where to go event by event.
        """
        dsn = settings.database_dsn()
        if dsn is None:
            raise ConfigurationError("a worker was started without database_url")
        self._dsn = dsn
        self._settings = settings
        self._number = number
        self._recorder = recorder
        self._definitions = {definition.name: definition for definition in definitions}
        start = (number - 1) * len(definitions) // max(1, settings.workers) % max(1, len(definitions))
        self._order = [definition.name for definition in [*definitions[start:], *definitions[:start]]]
        self._slots = {d.name: recorder.slot(index, d.name) for index, d in enumerate(definitions)}
        self._careful_upto = careful_upto or {}
        self._runners: dict[str, Runner] = {}
        self._leaving: dict[str, Runner] = {}
        self._leases: Leases | None = None
        self._lease_db: Connection | None = None
        # What the roster says of this worker; None: it has to be entered first.
        self._noted: frozenset[str] | None = None
        self._was_connected = False
        self._draining = threading.Event()
        # Until then ticks are short.
        self._alert_until = 0.0
        # Ends the pause between two ticks.
        self._is_called = threading.Event()
        self._repeats = logs.RateLimited(log)
        self._pool = open_pool(
            dsn,
            role="runner",
            statement_timeout_seconds=settings.statement_timeout_seconds,
            size=settings.pool_size - RESERVED_CONNECTIONS,
        )
        # One connection of the pool is kept for runners at the head, which want it for milliseconds.
        self._turns = threading.Semaphore(max(1, settings.pool_size - RESERVED_CONNECTIONS - 1))
        self._lanes = [Lane((settings.pool_size - RESERVED_CONNECTIONS) // LANES) for _ in range(LANES)]
        self._watcher = Watcher(
            dsn,
            wakeup=settings.wakeup,
            poll_interval_seconds=settings.poll_interval_seconds,
            on_mark=self._wake_all,
            on_status=self._recheck,
            on_leases=self._is_called.set,
            is_awaited=lambda: any(runner.is_waiting for runner in list(self._runners.values())),
            counters=recorder.worker,
        )

    def __repr__(self) -> str:
        return f"<Worker runners={sorted(self._runners)} {self._watcher!r}>"

    def drain(self) -> None:
        """Ask for the end: transactions in hand are finished, then :meth:`run` returns.  From any thread."""
        self._draining.set()
        self._is_called.set()

    def take_care(self, careful_upto: Mapping[str, int]) -> None:
        """Apply these projections event by event up to these events, for a worker has died.  From any thread.

        What it ran is free as soon as the server has noticed, which takes milliseconds: no need to wait for a tick.
        """
        self._careful_upto = careful_upto
        for runner in list(self._runners.values()):
            runner.take_care(careful_upto.get(runner.definition.name, 0))
        self._alert_until = time.monotonic() + ALERT_SECONDS
        self._is_called.set()

    def run(self) -> None:
        """Work until drained."""
        self._recorder.beat(is_ready=False)
        self._watcher.start()
        while not self._draining.is_set():
            if not self._watcher.is_alive:
                raise RuntimeError("the watcher's thread has ended")
            if not all(lane.is_sound for lane in self._lanes):
                raise RuntimeError("a lane's thread has ended")
            is_connected = self._tick()
            if is_connected:
                self._await_first_look()
            self._recorder.beat(is_ready=is_connected and self._watcher.is_ready)
            self._recorder.worker.note_holdings(len(self._runners), self._pool.get_stats())
            self._is_called.wait(self._pause_seconds())
            self._is_called.clear()
        self._shut_down()

    def _pause_seconds(self) -> float:
        if self._leaving or time.monotonic() < self._alert_until:
            return SHORT_TICK_SECONDS
        return TICK_SECONDS if self._leases is None else min(TICK_SECONDS, self._leases.established_in_seconds)

    def _await_first_look(self) -> None:
        """Between the first connection and the first look lie milliseconds, and somebody waits for the word "ready"."""
        deadline = time.monotonic() + TICK_SECONDS
        while not self._watcher.is_ready and time.monotonic() < deadline and not self._draining.is_set():
            self._draining.wait(TICK_SECONDS / 100)

    # --- leases

    def _tick(self) -> bool:
        """Keep the leases right; say whether there is a connection to hold them."""
        try:
            leases = self._leases or self._open_leases()
            self._balance(leases)
            self._aside(self._check_statuses)
            self._aside(self._note_held)
        except (psycopg.OperationalError, DatabaseUnavailableError, ConfigurationError) as error:
            self._lose_leases(error)
            return False
        return True

    def _open_leases(self) -> Leases:
        db = connect(self._dsn, role="leases", statement_timeout_seconds=self._settings.statement_timeout_seconds)
        try:
            check_server(db)
            leases = Leases(db, self._definitions.keys())
        except BaseException:
            db.close()
            raise
        self._lease_db, self._leases, self._noted = db, leases, None
        if self._was_connected:
            log.info(logs.DATABASE_RESTORED)
        else:
            version = f"{db.info.server_version // 10000}.{db.info.server_version % 10000}"
            log.info(logs.WORKER_STARTED, projections=len(self._definitions), postgresql=version)
        self._was_connected = True
        return self._leases

    def _balance(self, leases: Leases) -> None:
        self._reap(leases)
        shares = leases.survey()
        self._watcher.note_bell(leases.bell_holder)
        # The newest leases: what has run well for long is left alone.
        for name in list(self._runners)[shares.keeping :]:
            self._leaving[name] = self._runners.pop(name)
            self._leaving[name].stop()
        for name in leases.acquire([name for name in self._order if name not in self._leaving], shares.taking):
            log.info(logs.LEASE_ACQUIRED, projection=name)
            self._start_runner(name)

    def _reap(self, leases: Leases | None) -> None:
        """Give back the leases of runners that have ended."""
        for name in [name for name, runner in self._runners.items() if runner.join(0)]:
            log.error(logs.PROJECTION_STOPPED, projection=name, error="its runner ended unexpectedly")
            self._leaving[name] = self._runners.pop(name)
        released = [name for name, runner in self._leaving.items() if runner.join(0)]
        for name in released:
            del self._leaving[name]
            if leases is not None and name in leases.held:
                leases.release(name)
                log.info(logs.LEASE_RELEASED, projection=name)
        if leases is not None and released:
            leases.announce()

    def _aside(self, step: Callable[[Connection], object]) -> None:
        """Do what no lease depends on; where somebody has a table locked or taken away, it is left for a later tick."""
        if self._lease_db is None:
            return
        try:
            step(self._lease_db)
        except (
            psycopg.errors.LockNotAvailable,
            psycopg.errors.QueryCanceled,
            # A table or a privilege that is gone; a server that is made to read only.
            psycopg.ProgrammingError,
            psycopg.errors.ReadOnlySqlTransaction,
        ) as error:
            self._repeats.log("warning", logs.LEASE_HINDERED, key="aside", error=describe(error))

    def _note_held(self, db: Connection) -> None:
        """Say in the roster what is run here, for people."""
        held = frozenset([*self._runners, *self._leaving])
        if self._noted is None:
            enter_worker(db, self._number, __version__, self._definitions.keys())
        if self._noted != held:
            note_held(db, held)
            self._noted = held

    def _start_runner(self, name: str) -> None:
        definition = self._definitions[name]
        limits = resolve_limits(definition, self._settings)
        self._runners[name] = Runner(
            definition,
            limits,
            self._pool,
            self._slots[name],
            Surroundings(
                settled=self._watcher.settled,
                recent=self._watcher.recent.read,
                turns=self._turns,
                on_arrival=self._watcher.nudge,
                tidy_up=lambda db: drop_orphan_of(db, name),
                meet_tables=partial(meet_tables, definition=definition, limits=limits),
            ),
        )
        self._runners[name].take_care(self._careful_upto.get(name, 0))
        self._runners[name].start()

    def _lose_leases(self, error: Exception) -> None:
        if self._lease_db is None:
            self._repeats.log("warning", logs.DATABASE_UNAVAILABLE, key="leases", error=str(error))
        else:
            log.warning(logs.LEASE_LOST, error=describe(error), projections=sorted(self._runners))
            self._lease_db.close()
        self._lease_db = self._leases = None
        for runner in self._runners.values():
            runner.stop()
        # A runner may still be in its last transaction; its projection is not started again here before it ends.
        self._leaving.update(self._runners)
        self._runners.clear()
        self._reap(None)

    # --- what the watcher and the row say; from the watcher's thread too

    def _wake_all(self) -> None:
        runners = list(self._runners.values())
        for place, lane in enumerate(self._lanes):
            # Whoever is in another lane still, because a runner has come or gone, is woken in its own thread.
            lane.summon(runners[place::LANES])

    def _recheck(self, name: str) -> None:
        """A projection's status has changed, or (with no name) any may have."""
        for runner in list(self._runners.values()):
            if name in {"", runner.definition.name}:
                runner.recheck()

    def _check_statuses(self, db: Connection) -> None:
        # Before the rows are: what a runner commits meanwhile is no news.
        known = {name: runner.checkpoint for name, runner in self._runners.items()}
        rows = {name: (status, position) for name, position, status in db.execute(sql.checkpoint.READ_STATUSES)}
        for name, checkpoint in known.items():
            status, position = rows.get(name, ("", 0))
            # Going back to retired tables moves the position alone, and back.
            if checkpoint is not None and (checkpoint.status != status or checkpoint.position > position):
                self._runners[name].recheck()
        for (name,) in db.execute(sql.dead_letters.READ_RETRIES):
            if name in self._runners:
                self._runners[name].retry_letters()

    # --- the end

    def _shut_down(self) -> None:
        for runner in self._runners.values():
            runner.stop()
        # First of all: a runner that waits for a connection of a server that is away gets an error instead.
        # A connection in use stays open until its transaction is done.
        self._pool.close()
        self._leaving.update(self._runners)
        self._runners.clear()
        self._hand_over()
        if self._lease_db is not None:
            self._lease_db.close()
        self._watcher.stop()
        for lane in self._lanes:
            lane.stop()

    def _hand_over(self) -> None:
        """Give each lease back as its runner ends; others need not wait for the slowest."""
        is_retired = False
        while self._leaving:
            try:
                if self._leases is not None and not is_retired:
                    self._leases.retire()
                    is_retired = True
                self._reap(self._leases)
                self._aside(self._note_held)
            except psycopg.OperationalError:
                self._leases = None
            self._recorder.beat(is_ready=True)
            for runner in list(self._leaving.values())[:1]:
                runner.join(SHORT_TICK_SECONDS)


def main(arguments: Sequence[str]) -> int:
    """Run a worker process: ``python -m projectiond.worker NUMBER RECORDER_DESCRIPTOR``."""
    number, descriptor = int(arguments[0]), int(arguments[1])
    # The terminal's interrupt goes to the whole group; when to end is the supervisor's word.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    briefing = Briefing.from_wire(sys.stdin.readline())
    settings = briefing.settings
    logs.configure_logging(settings.log_format, settings.log_level, context={"worker": number, "pid": os.getpid()})
    sys.stdout = LinesToLog()
    recorder = Recorder(descriptor)
    registry = load_projections(settings.projections, settings.projection)
    for fault in registry.faults if number == 1 else ():
        log.error(logs.PLUGIN_REJECTED, file=fault.file, line=fault.line, error=fault.message)
    if not registry.definitions:
        recorder.beat(is_ready=False, is_refused=True)
        return EXIT_CONFIGURATION
    _spare_collector()
    worker = Worker(settings, registry.definitions, recorder, number=number, careful_upto=briefing.careful_upto)
    signal.signal(signal.SIGTERM, lambda *_: worker.drain())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
    threading.Thread(target=_obey, args=(worker, settings.drain_seconds), name="control", daemon=True).start()
    worker.run()
    return 0


def _spare_collector() -> None:
    """Have the garbage collector look at young objects alone, and not at every seven hundred of them.

    Events and statements come and go by the hundred thousand a second, none of them in cycles: looking for cycles took
    a fifth of the processor's time of a worker that catches up.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def _obey(worker: Worker, drain_seconds: float) -> None:
    while (care := Care.from_wire(sys.stdin.readline())) is not None:
        worker.take_care(care.careful_upto)
    # Told to drain, or the end of the input: the supervisor has ended, or died.
    worker.drain()
    end_in_time(drain_seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
