"""``python -m bench [--quick] [--only NAME] [--json FILE] [--chart FILE]``: measure, and print a table.

Run by ``make bench``.  It starts a PostgreSQL of its own, ends every process that it started, and removes its data; it
writes no file that it was not asked for.
"""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from bench import (
    appends,
    catchup_loans,
    catchup_orders,
    chart,
    fan_out,
    growth,
    idle,
    latency,
    machine,
    report,
    scrapes,
    workers,
    writers,
)
from bench.context import FULL, QUICK, Context
from bench.report import Figure
from bench.server import running_server

MEASUREMENTS: Final[dict[str, Callable[[Context], list[Figure]]]] = {
    "catch-up": catchup_orders.measure,
    "loans": catchup_loans.measure,
    "growth": growth.measure,
    "latency": latency.measure,
    "fan-out": fan_out.measure,
    "writers": writers.measure,
    "appends": appends.measure,
    "idle": idle.measure,
}

# Left out of a run of everything, which has ten minutes.
WHEN_ASKED: Final[dict[str, Callable[[Context], list[Figure]]]] = {
    "scrapes": scrapes.measure,
    "workers": workers.measure,
}


def main(arguments: Sequence[str]) -> int:
    """Measure what is asked for; 1 when a figure is not as expected."""
    options = parse(arguments)
    # Whoever ends this ends what it has started, too: Python unwinds at an exception, and not at the signal.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    scale = QUICK if options.quick else FULL
    console = Console(width=None if sys.stdout.isatty() else 140)
    figures: list[Figure] = []
    with running_server() as server:
        bench = Context(server, scale)
        facts = machine.describe(server)
        for name in options.only or MEASUREMENTS:
            bench.say(f"measuring {name}")
            figures += (MEASUREMENTS | WHEN_ASKED)[name](bench)
    for what, value in facts.items():
        console.print(f"{what}: {_in_words(value)}", style="dim", highlight=False, soft_wrap=True)
    report.show(figures, console)
    console.print(f"measured in {bench.seconds():.0f} s", style="dim", highlight=False)
    document = report.to_json({**facts, "is_quick": options.quick}, figures)
    if options.json:
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    if options.chart:
        options.chart.write_text(chart.draw(document))
    missed = [figure for figure in figures if not figure.is_met]
    for figure in missed:
        console.print(f"missed: {figure.group}: {figure.name} is {figure.value:.3g} {figure.unit}, goal {figure.bound}")
    return 1 if missed else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure projectiond on this machine.")
    parser.add_argument("--quick", action="store_true", help="less of everything, within a minute: does it still work?")
    parser.add_argument(
        "--only",
        action="append",
        choices=[*MEASUREMENTS, *WHEN_ASKED],
        metavar="NAME",
        help=f"of {', '.join(MEASUREMENTS)}; and {', '.join(WHEN_ASKED)}, which a run of everything leaves out",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine, settings and every sample there")
    parser.add_argument(
        "--chart", type=Path, metavar="FILE.svg", help="draw how fast each kind catches up; needs catch-up"
    )
    options = parser.parse_args(arguments)
    if options.chart and "catch-up" not in (options.only or MEASUREMENTS):
        parser.error("--chart draws what catch-up measures; leave --only out, or add --only catch-up")
    return options


def _in_words(value: Any) -> str:  # noqa: ANN401 - a text or a table of texts
    return ", ".join(f"{key} {text}" for key, text in value.items()) if isinstance(value, dict) else str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
