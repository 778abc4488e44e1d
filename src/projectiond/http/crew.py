"""The crew: what the supervisor knows of its workers at one moment.

Made by the supervisor in each turn of its loop, and never changed: it may be read by any thread, also after the
workers that it tells of have ended.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from projectiond.processes.counters import ProjectionNumbers, State, Wakeup
from projectiond.processes.recorder import Page


@dataclass(frozen=True, slots=True)
class Member:
    """One of the places for a worker, and who has it."""

    number: int
    pid: int | None
    """``None`` while it waits for the next start."""
    page: Page | None
    started_at: float
    idle_since: float | None
    """Since when no worker in this place has been at work; ``None`` while one is."""
    restarts: int = 0
    last_end: str = ""
    """How the last worker in this place ended."""
    past_wakeups: Mapping[Wakeup, int] = field(default_factory=dict)
    """Of those that have ended."""

    @property
    def is_ready(self) -> bool:
        """Whether it is connected and works."""
        return self.page is not None and self.page.is_ready

    def wakeups(self, why: Wakeup) -> int:
        """Give how often the watcher was woken, by all workers that had this place."""
        return self.past_wakeups.get(why, 0) + (0 if self.page is None else self.page.worker.wakeups[why])


@dataclass(frozen=True, slots=True)
class Builder:
    """The process that builds a projection anew, while there is one."""

    projection: str
    pid: int
    beaten_at: float
    """When it was last heard of; its start, before that."""


@dataclass(frozen=True, slots=True)
class Crew:
    """All places, and what the workers that have ended leave behind.  Times are CLOCK_MONOTONIC."""

    taken_at: float = 0.0
    members: tuple[Member, ...] = ()
    past: Mapping[str, ProjectionNumbers] = field(default_factory=dict)
    is_draining: bool = False
    builder: Builder | None = None

    def projections(self) -> Mapping[str, ProjectionNumbers]:
        """Give, by name, the sums over all workers, dead and alive."""
        sums = dict(self.past)
        for member in self.members:
            if member.page is not None:
                add_numbers(sums, member.page.projections())
        return sums

    def runners(self) -> Mapping[str, int]:
        """Give, by name, which worker runs it; those that none does are left out."""
        return {
            name: member.number
            for member in reversed(self.members)
            if member.page is not None
            for name, numbers in member.page.projections().items()
            if numbers.state is not State.ELSEWHERE
        }

    def names(self) -> frozenset[str]:
        """Give the names of the projections that this daemon can run."""
        return frozenset(name for member in self.members if member.page for name in member.page.projections())

    def settled(self) -> int:
        """Give the highest mark that one of the workers has proven; 0 while none has."""
        marks = (member.page.worker for member in self.members if member.page is not None)
        return max((worker.mark for worker in marks if worker.looked_at is not None), default=0)


def add_numbers(sums: dict[str, ProjectionNumbers], numbers: Mapping[str, ProjectionNumbers]) -> None:
    """Add the numbers of one worker."""
    for name, more in numbers.items():
        sums[name] = sums[name].plus(more) if name in sums else more
