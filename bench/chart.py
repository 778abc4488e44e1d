"""The chart of the README: how fast each kind of projection catches up, as a multiple of the hand-written loop.

Called by ``__main__`` with the document of a run; ``python -m bench.chart FIGURES.json CHART.svg`` draws it from a file
that ``--json`` wrote.  The SVG is plain text: it follows the reader's light or dark colours, its words are text, and
those who cannot see it are given them in order.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

from bench.catchup_orders import ENTRANTS, GROUP
from bench.race import HAND_WRITTEN, PSYCOPG

WIDTH: Final = 760
_LEFT: Final = 190
_RIGHT: Final = 590
_TOP: Final = 78
_STEP: Final = 38
_BAR: Final = 22

TIMES: Final = "\N{MULTIPLICATION SIGN}"

_LABELS: Final = {HAND_WRITTEN: "hand-written loop", PSYCOPG: "loop of plain psycopg"}

_UNIT: Final = "Events a second; the same read model from the same events, each by one process. Longer is faster."

_HOW: Final = "Medians of interleaved rounds of one run of make bench, the database on the same machine."

_STYLE: Final = """
    text { font: 14px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; }
    .title { font-size: 17px; font-weight: 600; }
    .small { font-size: 12px; fill: #59636e; }
    .value { font-variant-numeric: tabular-nums; }
    .loop { fill: #8c959f; }
    .kind { fill: #1a6fb5; }
    .axis { stroke: #8c959f; stroke-width: 1; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; }
      .small { fill: #9198a1; }
      .loop { fill: #6e7681; }
      .kind { fill: #4ea1e8; }
    }
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of the chart."""

    label: str
    fold: float
    events_per_second: float
    is_loop: bool


def draw(document: dict[str, Any]) -> str:
    """Give the SVG of a run's document.

    Raises:
        ValueError: The run did not measure catching up.
    """
    bars = read_bars(document)
    words = "; ".join(
        f"{bar.label}: {_number(bar.fold)} times, {_thousands(bar.events_per_second)} a second" for bar in bars
    )
    height = _TOP + _STEP * len(bars) + 60
    view = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
    lines = [
        f'<svg {view} role="img" aria-labelledby="title desc">',
        '  <title id="title">Catching up, compared with a hand-written loop</title>',
        f'  <desc id="desc">Events a second as a multiple of the hand-written loop. {escape(words)}.</desc>',
        f"  <style>{_STYLE}  </style>",
        '  <text class="title" x="16" y="30">Catching up, compared with a hand-written loop</text>',
        f'  <text class="small" x="16" y="52">{_UNIT}</text>',
        *_draw_bars(bars),
        f'  <text class="small" x="16" y="{height - 34}">{_HOW}</text>',
        f'  <text class="small" x="16" y="{height - 16}">{escape(_machine(document))}</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def read_bars(document: dict[str, Any]) -> list[Bar]:
    """Take the loops and the kinds out of a run's document, slowest first as they stand there."""
    figures = {figure["name"]: figure["value"] for figure in document["figures"] if figure["group"] == GROUP}
    kinds = [entrant.label for entrant in ENTRANTS.values()]
    if HAND_WRITTEN not in figures:
        raise ValueError("there is nothing to draw: the run did not measure catch-up")
    return [
        Bar(
            label=_LABELS.get(name, name),
            fold=1.0 if name == HAND_WRITTEN else figures[f"{name} ÷ {HAND_WRITTEN}"],
            events_per_second=figures[name],
            is_loop=name in _LABELS,
        )
        for name in (HAND_WRITTEN, PSYCOPG, *kinds)
    ]


def _draw_bars(bars: Sequence[Bar]) -> list[str]:
    longest = max(bar.fold for bar in bars)
    lines = []
    for number, bar in enumerate(bars):
        top = _TOP + _STEP * number
        baseline = top + _BAR - 6
        width = max(2, round((_RIGHT - _LEFT) * bar.fold / longest))
        shape = f'x="{_LEFT}" y="{top}" width="{width}" height="{_BAR}" rx="2"'
        speed = f'<tspan class="small" dx="8">{_thousands(bar.events_per_second)}/s</tspan>'
        lines += [
            f'  <text x="{_LEFT - 12}" y="{baseline}" text-anchor="end">{escape(bar.label)}</text>',
            f'  <rect class="{"loop" if bar.is_loop else "kind"}" {shape}/>',
            f'  <text class="value" x="{_LEFT + width + 10}" y="{baseline}">{_number(bar.fold)}{TIMES}{speed}</text>',
        ]
    bottom = _TOP + _STEP * len(bars) - (_STEP - _BAR) + 6
    return [*lines, f'  <line class="axis" x1="{_LEFT}" y1="{_TOP - 6}" x2="{_LEFT}" y2="{bottom}"/>']


def _number(fold: float) -> str:
    return f"{fold:.0f}" if fold >= 10 else f"{fold:.1f}"


def _thousands(value: float) -> str:
    """Give three digits that count; the others are of the machine and the minute."""
    digits = max(0, len(str(int(value))) - 3)
    return f"{round(value, -digits):,.0f}"


def _machine(document: dict[str, Any]) -> str:
    machine, versions, server = (document[name] for name in ("machine", "versions", "server"))
    return (
        f"{document['measured']}: {machine['cores']} cores, {machine['processor']}, "
        f"PostgreSQL {server['server_version']}, Python {versions['Python']}"
    )


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(draw(json.loads(source.read_text())))
