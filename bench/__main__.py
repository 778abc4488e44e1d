"""``python -m bench [--quick] [--only NAME] [--json FILE]``: measure, print a table, write JSON.

Run by ``make bench``.  It starts a PostgreSQL of its own, ends every process that it started, and removes its data.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from bench import catchup, idle, latency, machine, report, writers
from bench.context import FULL, QUICK, Context
from bench.report import Figure
from bench.server import running_server

MEASUREMENTS: Final[dict[str, Callable[[Context], list[Figure]]]] = {
    "catch-up": catchup.measure,
    "latency": latency.measure,
    "writers": writers.measure,
    "idle": idle.measure,
}


def main(arguments: Sequence[str]) -> int:
    """Measure what is asked for; 1 when a figure is not as expected."""
    options = _parse(arguments)
    scale = QUICK if options.quick else FULL
    console = Console(width=None if sys.stdout.isatty() else 140)
    figures: list[Figure] = []
    with running_server() as server:
        bench = Context(server, scale)
        facts = machine.describe(server)
        for name in options.only or MEASUREMENTS:
            bench.say(f"measuring {name}")
            figures += MEASUREMENTS[name](bench)
    for what, value in facts.items():
        console.print(f"{what}: {_in_words(value)}", style="dim", highlight=False, soft_wrap=True)
    report.show(figures, console)
    if options.json:
        document = report.to_json({**facts, "is_quick": options.quick}, figures)
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0 if all(figure.is_met for figure in figures) else 1


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure projectiond on this machine.")
    parser.add_argument("--quick", action="store_true", help="less of everything, within a minute: does it still work?")
    parser.add_argument(
        "--only", action="append", choices=list(MEASUREMENTS), metavar="NAME", help=f"of {', '.join(MEASUREMENTS)}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine, settings and every sample there")
    return parser.parse_args(arguments)


def _in_words(value: Any) -> str:  # noqa: ANN401 - a text or a table of texts
    return ", ".join(f"{key} {text}" for key, text in value.items()) if isinstance(value, dict) else str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
