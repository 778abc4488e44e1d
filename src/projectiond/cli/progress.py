"""How far it is: a bar for each projection on a terminal, a line now and then elsewhere.

Shown by the commands that wait.  It draws in the caller's thread only: a drawing thread would take the signals that
the supervisor waits for in ``catchup``.
"""

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from projectiond.cli.output import is_terminal, tell
from projectiond.cli.target import say

# Without a terminal: often enough to see that it lives, seldom enough for a log.
LINE_SECONDS: Final = 5.0


@dataclass(slots=True)
class _Track:
    """One projection's way: where it was first seen, and when."""

    first: int
    since: float
    position: int
    bar: TaskID | None = None


class Progress:
    """Shows positions on their way to a target."""

    def __init__(self, *, is_aside: bool = False) -> None:
        """Begin to show.

        Args:
            is_aside: On stderr, for stdout is given to machines, which want the result alone.
        """
        self._bars = _bars() if is_terminal() and not is_aside else None
        self._tell = say if is_aside else tell
        self._tracks: dict[str, _Track] = {}
        self._told_at = time.monotonic()
        self._asked_at = time.monotonic()

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def show(self, name: str, position: int, target: int) -> None:
        """Say where a projection is."""
        now = time.monotonic()
        track = self._tracks.get(name)
        if track is None or position < track.position:
            # New, or reset by a rebuild: its rate counts from here.
            bar = None if track is None else track.bar
            track = self._tracks[name] = _Track(position, now, position, bar)
        track.position = position
        if self._bars is not None:
            self._draw(self._bars, name, track, target)

    def tick(self, target: int) -> None:
        """Give the picture to whoever looks; called once in each round, after show."""
        if self._bars is not None:
            self._bars.refresh()
        elif time.monotonic() - self._told_at >= LINE_SECONDS:
            self._told_at = time.monotonic()
            for name, track in self._tracks.items():
                if track.position < target:
                    self._tell(_line(name, track, target))

    def is_due(self) -> bool:
        """Say, now and then, that it is time to look for what holds things up."""
        if time.monotonic() - self._asked_at < LINE_SECONDS:
            return False
        self._asked_at = time.monotonic()
        return True

    @staticmethod
    def _draw(bars: Bars, name: str, track: _Track, target: int) -> None:
        if track.bar is None:
            track.bar = bars.add_task(name, total=target, rate="")
        bars.update(
            track.bar,
            total=max(target, 1),
            completed=min(track.position, target) if target else 1,
            rate=f"{_rate(track):,.0f}/s",
        )


def _bars() -> Bars:
    return Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(),
        auto_refresh=False,
    )


def _rate(track: _Track) -> float:
    seconds = time.monotonic() - track.since
    return (track.position - track.first) / seconds if seconds > 0 else 0.0


def _line(name: str, track: _Track, target: int) -> str:
    rate = _rate(track)
    left = f", {(target - track.position) / rate:,.0f} s left" if rate > 0 else ""
    return f"{name}: {track.position} of {target} ({100 * track.position // target} %), {rate:,.0f}/s{left}"
