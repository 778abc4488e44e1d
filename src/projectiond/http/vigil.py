"""The vigil: does everything advance that should?

Kept by the server's thread, which looks at the crew once a second whether or not anybody asks, for how long something
has stood still cannot be told from one look.  It asks no database: a projection is behind when its position is below
the mark that its worker has proven, and both are in the memory that workers share.  From this follows what is no fault:

* nothing happens, for hours: no position is below the mark;
* a writer holds the mark: nothing below it is left to apply (who it is, ``/api/v1/projections`` says);
* a rebuild does not go on: its row says so, the live tables are served, and the foreman replaces a builder that hangs;
* the projection is paused, or runs in another daemon, or waits for its turn among many that are far behind;
* the database is away, as the worker says that retries for that reason.

A database that neither answers nor breaks connections is not to be seen from here.  So the faults of workers and
projections are excused while the supervisor's own reading fails too, which is asked only when there is a fault.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from projectiond.http.crew import Crew, Member
from projectiond.processes.counters import State
from projectiond.processes.recorder import Page

# The main thread of a worker beats each second; so long without a beat is a process that is stopped, or starved.
MUTE_SECONDS: Final = 10.0

# The supervisor publishes five times a second, but may wait for a database for some seconds.
STUCK_SECONDS: Final = 30.0

# Who queues waits for others of the worker, who are named if they do not get on.
_EXCUSED: Final = frozenset({State.ELSEWHERE, State.PAUSED, State.WAITING_FOR_DATABASE, State.QUEUED})


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that should advance and does not."""

    kind: Literal["supervisor", "worker", "projection"]
    name: str
    """Of the projection; else the worker's number."""
    worker: int | None
    reason: str
    seconds: float

    @property
    def is_excusable(self) -> bool:
        """Whether a database that is away explains it."""
        return self.kind != "supervisor"


class Vigil:
    """Remembers since when each projection has not advanced."""

    def __init__(self, *, stall_seconds: float, poll_interval_seconds: float) -> None:
        """Make one.

        Args:
            stall_seconds: So long something may stand still.
            poll_interval_seconds: How long a watcher may sleep.
        """
        self._stall_seconds = stall_seconds
        self._poll_interval_seconds = poll_interval_seconds
        # By worker and projection: its position, and since when it is there though there is more to apply.
        self._standing: dict[tuple[int, str], tuple[int, float]] = {}

    def observe(self, crew: Crew, now: float) -> None:
        """Take note of where everything is."""
        standing = {}
        for member in crew.members:
            if member.page is None:
                continue
            for name, position in _behind(member.page):
                key = member.number, name
                known = self._standing.get(key)
                standing[key] = known if known is not None and known[0] == position else (position, now)
        self._standing = standing

    def faults(self, crew: Crew, now: float) -> Sequence[Fault]:
        """Say what should advance and does not; nothing does while the daemon drains."""
        if crew.is_draining:
            return ()
        stuck_seconds = now - crew.taken_at
        found = []
        if stuck_seconds > STUCK_SECONDS:
            found.append(Fault("supervisor", "", None, "the supervisor's loop does not turn", stuck_seconds))
        found += [fault for member in crew.members if (fault := self._fault_of(member, now))]
        for (worker, name), (position, since) in self._standing.items():
            if now - since > self._stall_seconds:
                reason = f"it stands at {position}, and there is more to apply"
                found.append(Fault("projection", name, worker, reason, now - since))
        return found

    def _fault_of(self, member: Member, now: float) -> Fault | None:
        def fault(reason: str, seconds: float) -> Fault:
            return Fault("worker", str(member.number), member.number, reason, seconds)

        if member.idle_since is not None and now - member.idle_since > self._stall_seconds:
            end = f"; the last ended with {member.last_end}" if member.last_end else ""
            return fault(f"no worker has been at work in its place{end}", now - member.idle_since)
        page = member.page
        if page is None or not page.beaten_at:
            return None
        if now - page.beaten_at > MUTE_SECONDS:
            return fault(
                "it gives no sign of life: it is stopped, starved, or waits for the database", now - page.beaten_at
            )
        looked_at = page.worker.looked_at
        if looked_at is not None and now - looked_at > self._poll_interval_seconds + self._stall_seconds:
            return fault("its watcher does not look for events", now - looked_at)
        return None


def _behind(page: Page) -> list[tuple[str, int]]:
    """Give name and position of each projection that has something to apply and no excuse."""
    if page.worker.looked_at is None:
        return []
    return [
        (name, numbers.position)
        for name, numbers in page.projections().items()
        if numbers.state not in _EXCUSED and numbers.position < page.worker.mark
    ]
