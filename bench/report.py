"""Figures: what a measurement comes to, how it is summed up, and how it is shown.

Called by every measurement and by ``__main__``.  Absolute times of a shared machine mean little, so what is
compared is measured in turns (A B A B) and summed up as the median of the ratios of neighbours.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Bound:
    """What is expected of a figure."""

    limit: float
    is_least: bool

    def is_met_by(self, value: float) -> bool:
        """Say whether the value is on the right side; the limit itself is."""
        return value >= self.limit if self.is_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.is_least else '≤'} {self.limit:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report, with every sample that it was made of."""

    group: str
    name: str
    value: float
    unit: str
    bound: Bound | None = None
    samples: tuple[float, ...] = ()

    @property
    def is_met(self) -> bool:
        """Whether it is as expected; a figure of which nothing is expected is."""
        return self.bound is None or self.bound.is_met_by(self.value)


def at_least(limit: float) -> Bound:
    """Expect no less than this."""
    return Bound(limit, is_least=True)


def at_most(limit: float) -> Bound:
    """Expect no more than this."""
    return Bound(limit, is_least=False)


def ratios(over: Sequence[float], under: Sequence[float]) -> tuple[float, ...]:
    """Divide neighbours by one another, round by round.

    Raises:
        ValueError: A round has only one of the two.
    """
    return tuple(a / b for a, b in zip(over, under, strict=True))


def median_figure(group: str, name: str, unit: str, samples: Sequence[float], bound: Bound | None = None) -> Figure:
    """Sum samples up by their median."""
    return Figure(group, name, statistics.median(samples), unit, bound, tuple(samples))


def percentile(samples: Sequence[float], share: float) -> float:
    """Give the smallest sample that at least this share of the samples does not exceed (0 < share ≤ 1).

    Raises:
        ValueError: There are no samples.
    """
    if not samples:
        raise ValueError("a percentile of no samples")
    rank = -int(-share * len(samples) // 1)
    return sorted(samples)[max(rank, 1) - 1]


def percentile_figures(
    group: str, name: str, unit: str, samples: Sequence[float], bounds: dict[int, Bound]
) -> list[Figure]:
    """Give p50, p95 and p99; only the first carries the samples, which are the same for all."""
    return [
        Figure(
            group,
            f"{name}, p{share}",
            percentile(samples, share / 100),
            unit,
            bounds.get(share),
            tuple(samples) if share == 50 else (),
        )
        for share in (50, 95, 99)
    ]


def to_json(facts: dict[str, Any], figures: Sequence[Figure]) -> dict[str, Any]:
    """Put machine, settings and figures into one document."""
    return {**facts, "figures": [{**asdict(figure), "is_met": figure.is_met} for figure in figures]}


def show(figures: Sequence[Figure], console: Console) -> None:
    """Print the table."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for heading in ("median", "lowest", "highest", "goal"):
        table.add_column(heading, justify="right", no_wrap=True)
    group = ""
    for figure in figures:
        if figure.group != group:
            table.add_row(figure.group, style="bold")
        table.add_row(
            f"  {figure.name}",
            f"{shown(figure.value)} {figure.unit}",
            shown(min(figure.samples)) if len(figure.samples) > 1 else "",
            shown(max(figure.samples)) if len(figure.samples) > 1 else "",
            "" if figure.bound is None else f"{figure.bound} {'✓' if figure.is_met else '✗'}",
            style=None if figure.is_met else "yellow",
        )
        group = figure.group
    console.print(table)


def shown(value: float) -> str:
    """Give as many digits as mean something."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
