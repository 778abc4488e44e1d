"""The foreman: has a builder at work while a rebuild beside the live tables is in progress.

Called by the supervisor a few times a second with the names of the projections that want one; their runners say so in
the flight recorder.  One builder works at a time, the other projections queue.  A builder takes its projection as far
as it goes and ends, so a rebuild that fails does not keep the next one waiting: it is tried again after a minute, or
at once when somebody asks for it anew.

A builder in which a handler hangs is killed, and one that dies with an event in hand is suspected of it, by the same
means as a worker.  What comes of it is another: nothing is paused, the rebuild's row says why it does not go on.
"""

import signal
import time
from collections.abc import Mapping
from typing import Final

import psycopg

from projectiond import logs, sql
from projectiond.errors import DatabaseUnavailableError
from projectiond.failure import printable
from projectiond.postgres.database import connect
from projectiond.processes.child import Child
from projectiond.processes.recorder import InHand
from projectiond.processes.suspicion import Suspicion
from projectiond.processes.wire import Briefing
from projectiond.rebuild.marker import RETRYING, note_failure
from projectiond.settings import Settings

# What a builder ends with: see rebuild.process.
EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1

# A builder that is done is not wanted any more; its runner says so a moment later.
DONE_SECONDS: Final = 1.0
FAILED_SECONDS: Final = 60.0

# Somebody else builds it, or the database went away.
ELSEWHERE_SECONDS: Final = 5.0

# A builder that dies is followed by another after this long, then after twice as long, and so on.
FIRST_RESTART_SECONDS: Final = 1.0

# Its heartbeat is a thread of its own; this is also what connecting to a dead server may take.
SILENT_SECONDS: Final = 30.0

MODULE: Final = "projectiond.rebuild.process"

log = logs.get_logger()


class Foreman:
    """Starts builders, and looks after the one at work."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._suspicion = Suspicion(settings.max_attempts)
        self._child: Child | None = None
        self._name = ""
        self._next_at: dict[str, float] = {}
        # The request that the last builder was started for.
        self._answered: dict[str, int] = {}
        self._deaths: dict[str, int] = {}
        # What could not be written into the rebuild's row yet.
        self._untold: list[tuple[str, InHand | None, str]] = []

    def __repr__(self) -> str:
        return f"<Foreman {self._name} {self._child}>"

    @property
    def children(self) -> list[Child]:
        """The builder at work, if there is one."""
        return [] if self._child is None else [self._child]

    @property
    def name(self) -> str | None:
        """The projection that is being built, if there is one."""
        return None if self._child is None else self._name

    def tend(self, wanted: Mapping[str, int]) -> None:
        """Look after the builder at work, or start the one whose turn it is.

        Args:
            wanted: The projections that are to be built anew, with the number of the request.
        """
        self._answered = {name: request for name, request in self._answered.items() if name in wanted}
        child = self._child
        if child is None:
            self._start(wanted)
        elif (exit_code := child.exit_code()) is not None:
            self._bury(child, exit_code)
        else:
            self._check(child)
        self._tell()

    def _start(self, wanted: Mapping[str, int]) -> None:
        now = time.monotonic()
        due = [
            name
            for name, request in sorted(wanted.items())
            if self._next_at.get(name, 0.0) <= now or self._answered.get(name) != request
        ]
        if not due:
            return
        # The one that has waited longest.
        name = min(due, key=lambda candidate: self._next_at.get(candidate, 0.0))
        try:
            briefing = Briefing(self._settings, self._suspicion.careful_upto)
            self._child = Child(0, briefing, module=MODULE, subject=name)
        except OSError as error:
            log.error(logs.BUILDER_EXITED, projection=name, how=f"it could not be started: {error}")  # noqa: TRY400
            self._next_at[name] = now + FAILED_SECONDS
        self._name = name
        self._answered[name] = wanted[name]

    def _check(self, child: Child) -> None:
        limit = self._settings.handler_timeout_seconds
        stuck = [item for item in child.in_hand() if item.seconds > limit]
        if stuck:
            reason = f"its handler had not returned after {limit:g} s"
        elif child.silent_seconds > max(limit, SILENT_SECONDS):
            reason = f"its builder was mute for {child.silent_seconds:.0f} s"
        else:
            return
        log.error(logs.BUILDER_KILLED, projection=self._name, reason=reason)
        child.kill()
        self._bury_dead(child, stuck, reason)

    def _bury(self, child: Child, exit_code: int) -> None:
        in_hand = [*child.in_hand()]
        if exit_code not in {EXIT_DONE, EXIT_FAILED, 2} or in_hand:
            how = f"signal {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"
            log.error(logs.BUILDER_EXITED, projection=self._name, how=how)
            self._bury_dead(child, in_hand, f"its builder ended with {how}")
            return
        seconds = {EXIT_DONE: DONE_SECONDS, EXIT_FAILED: FAILED_SECONDS}.get(exit_code, ELSEWHERE_SECONDS)
        self._next_at[self._name] = time.monotonic() + seconds
        self._deaths.pop(self._name, None)
        self._let_go(child)

    def _bury_dead(self, child: Child, in_hand: list[InHand], reason: str) -> None:
        deaths = self._deaths[self._name] = self._deaths.get(self._name, 0) + 1
        pause = min(FIRST_RESTART_SECONDS * 2.0 ** (deaths - 1), FAILED_SECONDS)
        self._next_at[self._name] = time.monotonic() + pause
        guilty = {verdict.sequence_number for verdict in self._suspicion.note_death(in_hand, reason)}
        suspects: list[InHand | None] = [*in_hand] or [None]
        for item in suspects:
            # Anybody may have killed it; what dies over one event again and again has stopped.
            is_guilty = item is not None and item.sequence_number in guilty
            self._untold.append((self._name, item, reason if is_guilty else f"{RETRYING}{reason}"))
        self._let_go(child)

    def _let_go(self, child: Child) -> None:
        child.close()
        self._child = None

    def _tell(self) -> None:
        """Write into the rebuild's row over which event builders die; that waits for a database that is away."""
        for name, item, reason in list(self._untold):
            try:
                self._note(name, item, reason)
            except (psycopg.Error, DatabaseUnavailableError):
                return
            self._untold.remove((name, item, reason))

    def _note(self, name: str, item: InHand | None, reason: str) -> None:
        dsn = self._settings.database_dsn() or ""
        # Short, for meanwhile nobody looks after the workers.
        with connect(dsn, role="supervisor", statement_timeout_seconds=2, connect_timeout_seconds=2) as db:
            if item is not None:
                row = db.execute(sql.events.NAME_EVENT, {"sequence_number": item.sequence_number}).fetchone()
                event_type, event_id = row or ("?", "?")
                reason += f', at event {item.sequence_number} ("{event_type}", id {event_id})'
            note_failure(db, name, printable(reason))
