"""The history: lag and rate of each projection in the last minutes, and the errors that were seen.

Kept by the server's thread, whether or not anybody looks, for whoever is called at night wants to see what came before.
It asks no database: what this daemon's workers do is in the memory that they share, and what others do is taken from
the last reading, if there is a fresh one.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from projectiond.http.crew import Crew
from projectiond.http.readings import Reading
from projectiond.processes.counters import Count, State

SAMPLE_SECONDS: Final = 5.0
SAMPLES: Final = 120

# The rate is that of so many samples.
RATE_SAMPLES: Final = 2

# An older reading says nothing about now.
FRESH_SECONDS: Final = 2 * SAMPLE_SECONDS

MOST_ERRORS: Final = 20


@dataclass(frozen=True, slots=True)
class SeenError:
    """An error_message, and when it was first seen."""

    at: float
    """Since the epoch."""
    text: str


@dataclass(slots=True)
class Course:
    """How one projection has got on."""

    lags: deque[int | None] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    """In events, the oldest first; ``None`` where it was not known."""
    counts: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=RATE_SAMPLES + 1))
    """Events applied, and when that was."""
    errors: deque[SeenError] = field(default_factory=lambda: deque(maxlen=MOST_ERRORS))
    error: str = ""

    @property
    def rate(self) -> float | None:
        """Events per second of late; ``None`` while that is not known."""
        if len(self.counts) <= 1:
            return None
        (began_at, before), (ended_at, after) = self.counts[0], self.counts[-1]
        # Workers that are counted anew, or a rebuild in place, take counts back.
        return max(0.0, (after - before) / (ended_at - began_at))


class History:
    """Remembers."""

    def __init__(self) -> None:
        self._courses: dict[str, Course] = {}
        self.samples = 0
        """How many have been taken."""

    def course(self, name: str) -> Course:
        """Give one projection's."""
        return self._courses.get(name) or Course()

    def lags(self) -> Mapping[str, Sequence[int | None]]:
        """Give all lags by name."""
        return {name: list(course.lags) for name, course in self._courses.items()}

    def latest(self) -> Mapping[str, int | None]:
        """Give each projection's last lag."""
        return {name: course.lags[-1] for name, course in self._courses.items() if course.lags}

    def note_errors(self, reading: Reading) -> None:
        """Take note of errors that have not been there before."""
        for state in () if reading.overview is None else reading.overview.projections:
            text = state.error_message or ""
            course = self._courses.setdefault(state.name, Course())
            if text and text != course.error:
                course.errors.append(SeenError(time.time(), text))
            course.error = text

    def sample(self, crew: Crew, reading: Reading, now: float) -> None:
        """Take note of where everything is."""
        self.samples += 1
        lags, counts = self._of_others(reading, now)
        for name, numbers in crew.projections().items():
            if numbers.state is State.ELSEWHERE:
                continue
            counts[name] = numbers.count(Count.EVENTS)
            if crew.settled():
                lags[name] = max(0, crew.settled() - numbers.position)
        known = {*lags, *crew.names()}
        if reading.overview is not None:
            known |= {state.name for state in reading.overview.projections}
        for name in [name for name in self._courses if name not in known]:
            del self._courses[name]
        for name in known:
            course = self._courses.setdefault(name, Course())
            course.lags.append(lags.get(name))
            if name in counts:
                course.counts.append((now, counts[name]))
            else:
                course.counts.clear()

    @staticmethod
    def _of_others(reading: Reading, now: float) -> tuple[dict[str, int | None], dict[str, int]]:
        if reading.overview is None or reading.read_at is None or now - reading.read_at > FRESH_SECONDS:
            return {}, {}
        states = reading.overview.projections
        return {s.name: s.lag for s in states}, {s.name: s.events_processed or 0 for s in states}
