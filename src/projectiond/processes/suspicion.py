"""Suspicion: which projection do workers die over, and when is it enough?

Called by the supervisor at each death of a worker that nobody asked for.  The flight recorder tells which events
were in handlers at that moment.  One death proves little, for other runners of the same worker had events in hand
too; but a handler that hangs or ends the process does so at the same event again, while the others move on.  So a
projection is guilty once workers have died ``max_attempts`` times over the same event of it.  Meanwhile it is run
event by event up to that one, so that the event in hand is the right one and all before it are committed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from projectiond.processes.recorder import InHand


@dataclass(frozen=True, slots=True)
class Verdict:
    """A projection that has to be paused."""

    projection: str
    sequence_number: int
    deaths: int
    reason: str


class Suspicion:
    """Counts deaths by projection and event."""

    def __init__(self, max_attempts: int) -> None:
        self._max_attempts = max_attempts
        self._deaths: dict[str, tuple[int, int]] = {}

    @property
    def careful_upto(self) -> Mapping[str, int]:
        """By projection, the event up to which to go one by one."""
        return {projection: sequence_number for projection, (sequence_number, _) in self._deaths.items()}

    def clear(self) -> None:
        """Forget all deaths."""
        self._deaths.clear()

    def note_death(self, in_hand: Iterable[InHand], reason: str) -> list[Verdict]:
        """Count a death over these events; give the projections that are guilty by now."""
        verdicts = []
        for item in in_hand:
            before, deaths = self._deaths.get(item.projection, (0, 0))
            deaths = deaths + 1 if before == item.sequence_number else 1
            self._deaths[item.projection] = (item.sequence_number, deaths)
            if deaths >= self._max_attempts:
                del self._deaths[item.projection]
                verdicts.append(Verdict(item.projection, item.sequence_number, deaths, reason))
        return verdicts
