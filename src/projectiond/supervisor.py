"""The supervisor: ``projectiond run``.  It keeps worker processes alive and ends them in order.

It loads no plugin and runs no handler, so nothing of an author's can bring it down.  What it does, once a fifth of
a second or when a signal arrives::

    SIGTERM, SIGINT ──▶ drain: workers finish the transactions in hand; a second signal, or drain_seconds: kill
    a worker died ────▶ say why, count it against the events in hand, start another after a pause that grows
    a handler hangs ──▶ kill its worker (the flight recorder says which event it is)
    a worker is mute ─▶ kill it
    a rebuild is asked for ▶ have a builder at work (``foreman``)
    systemd ──────────▶ READY=1 when every worker works, STATUS=, WATCHDOG=1
    HTTP ─────────────▶ is shown how all workers stand; it answers in threads of its own (``http``)

Signals are taken synchronously (``sigtimedwait``), so there are no handlers and nothing can interrupt a step.  When
the supervisor itself is killed, workers see their standard input end, and drain by themselves.
"""

import random
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import psycopg

from projectiond import checkpoint as checkpoints
from projectiond import logs, sql, systemd
from projectiond.errors import ConfigurationError, DatabaseUnavailableError
from projectiond.foreman import Foreman
from projectiond.http.crew import Builder, Crew, Member, add_numbers
from projectiond.postgres.database import CONNECT_TIMEOUT_SECONDS, connect, count_hosts
from projectiond.processes.child import Child
from projectiond.processes.counters import ProjectionNumbers, Wakeup
from projectiond.processes.recorder import InHand
from projectiond.processes.suspicion import Suspicion, Verdict
from projectiond.processes.wire import Briefing, Care
from projectiond.running.isolation import MENDED
from projectiond.settings import Settings

if TYPE_CHECKING:
    from projectiond.http.server import HttpServer

TICK_SECONDS: Final = 0.2

# A worker that dies at once is started again after about this long, then after twice as long, and so on.
FIRST_RESTART_SECONDS: Final = 0.5
LONGEST_RESTART_SECONDS: Final = 30.0

# A worker that lived this long was not dying of its start.  Starting one each ten seconds is no burden, while a pause
# that has grown would leave a daemon short of workers, or without any, for deaths that had nothing to do with it.
HEALTHY_SECONDS: Final = 10.0

# Deaths so far apart have nothing to do with each other.
FORGET_SECONDS: Final = 3600.0

# The main thread of a worker beats each second.  Where it connects to servers that do not answer, it takes as long as
# they do: for each host of the connection string a while, and perhaps twice, for one that has two addresses.
SILENT_SECONDS: Final = 30.0
SILENT_SECONDS_PER_HOST: Final = 2.0 * CONNECT_TIMEOUT_SECONDS

_ENDING: Final = frozenset({signal.SIGTERM, signal.SIGINT})
_SIGNALS: Final = _ENDING | {signal.SIGCHLD}

log = logs.get_logger()


@dataclass(slots=True)
class Post:
    """One of the places for a worker: who has it, or when the next one gets it."""

    number: int
    child: Child | None = None
    failures: int = 0
    start_at: float = 0.0
    # For people, and whoever asks over HTTP.
    idle_since: float | None = field(default_factory=time.monotonic)
    starts: int = 0
    last_end: str = ""
    past_wakeups: Mapping[Wakeup, int] = field(default_factory=dict)

    def as_member(self) -> Member:
        """Tell of it."""
        return Member(
            number=self.number,
            pid=None if self.child is None else self.child.pid,
            page=None if self.child is None else self.child.page(),
            started_at=0.0 if self.child is None else self.child.started_at,
            idle_since=self.idle_since,
            restarts=max(0, self.starts - 1),
            last_end=self.last_end,
            past_wakeups=self.past_wakeups,
        )


class Supervisor:
    """Runs ``settings.workers`` worker processes until a signal or ``until`` says that it is over."""

    def __init__(
        self, settings: Settings, *, until: Callable[[], bool] = lambda: False, listener: socket.socket | None = None
    ) -> None:
        """Make a supervisor; nothing is started before :meth:`run`.

        Args:
            settings: With ``database_url`` set.
            until: Asked at each tick whether it is over.
            listener: What HTTP is served on, in place of the address of the settings.
        """
        self._settings = settings
        self._until = until
        self._listener = listener
        self._silent_seconds = max(SILENT_SECONDS, SILENT_SECONDS_PER_HOST * count_hosts(settings.database_dsn()))
        self._posts = [Post(number) for number in range(1, settings.workers + 1)]
        self._suspicion = Suspicion(settings.max_attempts)
        self._suspected_at = 0.0
        self._verdicts: list[Verdict] = []
        self._is_ready = False
        self._told_ready = -1
        self._repeats = logs.RateLimited(log)
        self._watchdog_seconds = systemd.watchdog_interval_seconds()
        self._watchdog_at = 0.0
        self._http: HttpServer | None = None
        self._foreman = Foreman(settings)
        # What was counted by workers that have ended.
        self._past: dict[str, ProjectionNumbers] = {}

    def run(self) -> int:
        """Supervise; give the exit code.

        Raises:
            ConfigurationError: No worker can run, whatever is tried; the log says why.  Or HTTP cannot be served.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            if self._settings.http_port:
                # Here, because importing it takes as long as a short command, and only the daemon serves anything.
                from projectiond.http.server import HttpServer  # noqa: PLC0415

                self._http = HttpServer(self._settings, self._listener)
            log.info(logs.DAEMON_STARTED, workers=len(self._posts))
            while not self._until():
                ending = _await_signal()
                if ending is not None:
                    log.info(logs.DAEMON_DRAINING, signal=ending.name)
                    break
                self._tend()
            return self._drain()
        finally:
            for child in [*self._children(), *self._foreman.children]:
                child.kill()
                child.close()
            if self._http is not None:
                self._http.stop()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _children(self) -> list[Child]:
        return [post.child for post in self._posts if post.child is not None]

    # --- while all is well

    def _tend(self) -> None:
        for post in self._posts:
            if post.child is None:
                self._start(post)
            elif (exit_code := post.child.exit_code()) is not None:
                self._bury(post, post.child, exit_code)
            else:
                self._check(post, post.child)
            self._note_readiness(post)
        self._foreman.tend({n: request for child in self._children() for n, request in child.wanting_builder().items()})
        self._show()
        self._execute_verdicts()
        self._tell_systemd()

    def _note_readiness(self, post: Post) -> None:
        if post.child is not None and post.child.is_ready:
            post.idle_since = None
        elif post.idle_since is None:
            post.idle_since = time.monotonic()

    def _show(self, *, is_draining: bool = False) -> None:
        """Show whoever asks over HTTP how all workers stand."""
        if self._http is not None:
            members = tuple(post.as_member() for post in self._posts)
            self._http.show(Crew(time.monotonic(), members, self._past, is_draining, self._builder()))

    def _builder(self) -> Builder | None:
        name = self._foreman.name
        builders = [] if name is None else [Builder(name, c.pid, c.heard_of_at) for c in self._foreman.children]
        return builders[0] if builders else None

    def _start(self, post: Post) -> None:
        if time.monotonic() < post.start_at:
            return
        try:
            post.child = Child(post.number, Briefing(self._settings, self._suspicion.careful_upto))
        except OSError as error:
            # Out of processes, descriptors or memory for now; the other workers go on.
            how = f"it could not be started: {error}"
            log.error(logs.WORKER_EXITED, worker=post.number, how=how)  # noqa: TRY400 - a traceback says no more
            self._plan_restart(post)
        else:
            post.starts += 1

    def _check(self, post: Post, child: Child) -> None:
        """Kill a worker in which a handler hangs, or whose main thread is mute."""
        limit = self._settings.handler_timeout_seconds
        stuck = [item for item in child.in_hand() if item.seconds > limit]
        if stuck:
            reason = f"its handler had not returned after {limit:g} s"
        elif child.silent_seconds > max(limit, self._silent_seconds):
            reason = f"its worker was mute for {child.silent_seconds:.0f} s"
        else:
            return
        log.error(
            logs.WORKER_KILLED,
            worker=post.number,
            reason=reason,
            in_hand=[f"{item.projection} at {item.sequence_number}" for item in stuck],
        )
        child.kill()
        self._suspect(stuck, reason)
        self._vacate(post, child, f"a kill, since {reason}")

    def _bury(self, post: Post, child: Child, exit_code: int) -> None:
        if child.has_refused and not any(other.is_ready for other in self._children() if other is not child):
            raise ConfigurationError(
                "no projection can be run",
                hint='mend what the log names, or see "projectiond check"; "projectiond new NAME" writes a first one',
            )
        in_hand = child.in_hand()
        how = f"signal {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"
        log.error(
            logs.WORKER_EXITED,
            worker=post.number,
            how=how,
            in_hand=[f"{item.projection} at {item.sequence_number}" for item in in_hand],
        )
        self._suspect(in_hand, f"its worker ended with {how}")
        self._vacate(post, child, how)

    def _suspect(self, in_hand: Iterable[InHand], reason: str) -> None:
        if time.monotonic() - self._suspected_at > FORGET_SECONDS:
            self._suspicion.clear()
        self._suspected_at = time.monotonic()
        self._verdicts += self._suspicion.note_death(in_hand, reason)
        # One of the others takes over the projection within a second.
        for child in self._children():
            child.take_care(Care(self._suspicion.careful_upto))

    def _vacate(self, post: Post, child: Child, how: str) -> None:
        """Let go of a dead worker, keep what it counted, and decide when the next one is started."""
        page = child.page()
        # Made anew, for what has been shown is read by other threads.
        past = dict(self._past)
        add_numbers(past, {name: numbers.ended() for name, numbers in page.projections().items()})
        self._past = past
        post.past_wakeups = {why: post.past_wakeups.get(why, 0) + page.worker.wakeups[why] for why in Wakeup}
        post.last_end = how
        if time.monotonic() - child.started_at > HEALTHY_SECONDS:
            post.failures = 0
        child.close()
        post.child = None
        self._plan_restart(post)

    def _plan_restart(self, post: Post) -> None:
        post.failures += 1
        pause = min(FIRST_RESTART_SECONDS * 2.0**post.failures, LONGEST_RESTART_SECONDS)
        pause *= random.uniform(0.5, 1.0)  # noqa: S311 - spreads restarts, guards no secret
        post.start_at = time.monotonic() + pause
        log.info(logs.WORKER_RESTARTING, worker=post.number, seconds=round(pause, 1))

    def _execute_verdicts(self) -> None:
        """Pause what workers keep dying over; a verdict waits for a database that is away."""
        for verdict in list(self._verdicts):
            try:
                self._pause(verdict)
            except (psycopg.Error, DatabaseUnavailableError) as error:
                self._repeats.log("warning", logs.DATABASE_UNAVAILABLE, key=verdict.projection, error=str(error))
                continue
            self._verdicts.remove(verdict)
            # What workers died over is out of the way: nobody else has to wait for the next one.
            for post in self._posts:
                post.failures, post.start_at = 0, 0.0

    def _pause(self, verdict: Verdict) -> None:
        dsn = self._settings.database_dsn() or ""
        # Short, for meanwhile nobody looks after the workers, or answers systemd's watchdog.
        with connect(dsn, role="supervisor", statement_timeout_seconds=2, connect_timeout_seconds=2) as db:
            kept = checkpoints.find(db, verdict.projection)
            row = db.execute(sql.events.NAME_EVENT, {"sequence_number": verdict.sequence_number}).fetchone()
            if kept is None or row is None or kept.position >= verdict.sequence_number:
                return
            event = f'event {verdict.sequence_number} ("{row[0]}", id {row[1]})'
            error = f"{event}: {verdict.reason}, {verdict.deaths} times; {MENDED}"
            is_paused = checkpoints.pause_for_fault(db, kept, error)
        if is_paused:
            log.error(logs.PROJECTION_PAUSED, projection=verdict.projection, error=error)

    def _tell_systemd(self) -> None:
        ready = sum(child.is_ready for child in self._children())
        if not self._is_ready and ready == len(self._posts):
            self._is_ready = True
            systemd.notify_ready()
        now = time.monotonic()
        if self._watchdog_seconds is not None and now >= self._watchdog_at:
            self._watchdog_at = now + self._watchdog_seconds
            systemd.notify_watchdog()
        if ready != self._told_ready:
            self._told_ready = ready
            where_to_look = "" if ready == len(self._posts) else '; "projectiond check" and the log say why'
            systemd.notify_status(f"{ready} of {len(self._posts)} workers are at work{where_to_look}")

    # --- the end

    def _drain(self) -> int:
        systemd.notify_stopping()
        children = [*self._children(), *self._foreman.children]
        for child in children:
            child.drain()
        deadline = time.monotonic() + self._settings.drain_seconds
        while (left := [child for child in children if child.exit_code() is None]) and time.monotonic() < deadline:
            self._show(is_draining=True)
            if _await_signal() is not None:
                break
        for child in left:
            child.kill()
            log.error(
                logs.WORKER_KILLED,
                worker=child.number,
                reason="it had not drained in time, or a second signal came",
            )
        log.info(logs.DAEMON_STOPPED, killed=len(left))
        return 1 if left else 0


def _await_signal() -> signal.Signals | None:
    """Wait for the next tick, or until something happens; give the signal that asks for the end, if it was that.

    A process that was stopped for longer and goes on (SIGCONT, a debugger, a machine that was asleep) gets any number
    here: CPython then returns what it had left uninitialised.
    """
    caught = signal.sigtimedwait(_SIGNALS, TICK_SECONDS)
    return signal.Signals(caught.si_signo) if caught is not None and caught.si_signo in _ENDING else None
