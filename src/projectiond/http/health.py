"""Health: the vigil's faults, and whether a database that is away explains them.

Judged once a second by the server's thread, whether or not anybody asks, so that a probe is answered from memory at
once: also the first one after the database began to hang, for which the judge has to wait.  A fault is told up to three
seconds late for it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from projectiond.http.crew import Crew
from projectiond.http.readings import Readings
from projectiond.http.vigil import Fault, Vigil


@dataclass(frozen=True, slots=True)
class Verdict:
    """What does not advance and should."""

    faults: Sequence[Fault] = ()
    excused: Sequence[Fault] = ()
    """What the database's absence explains."""
    excuse: str = ""

    @property
    def is_well(self) -> bool:
        """Whether there is no fault, explained or not."""
        return not self.faults and not self.excused


class Health:
    """Judges, and remembers the verdict."""

    def __init__(self, crew: Callable[[], Crew], vigil: Vigil, readings: Readings) -> None:
        self._crew = crew
        self._vigil = vigil
        self._readings = readings
        self.verdict = Verdict()

    async def judge(self) -> None:
        """Look at the crew; ask the database only once something is to be explained by it."""
        crew, now = self._crew(), time.monotonic()
        self._vigil.observe(crew, now)
        found = self._vigil.faults(crew, now)
        excusable = [fault for fault in found if fault.is_excusable]
        excuse = await self._excuse() if excusable else ""
        excused = excusable if excuse else []
        self.verdict = Verdict([fault for fault in found if fault not in excused], excused, excuse)

    async def _excuse(self) -> str:
        reading = await self._readings.get()
        if not reading.was_away(time.monotonic()):
            return ""
        return reading.error or "the database was away a moment ago"
