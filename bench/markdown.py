"""``python -m bench.markdown FIGURES.json``: what ``--json`` wrote, as the tables of docs/performance.md.

One table for each group of figures.  Nothing is chosen or rounded by hand, so the page says what the run said.
"""

import json
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.report import Bound, shown


def tables(document: dict[str, Any]) -> str:
    """Give the tables, each with its group's name above it."""
    return "\n".join(
        f"**{group}**\n\n{_table(list(figures))}"
        for group, figures in groupby(document["figures"], key=lambda figure: str(figure["group"]))
    )


def _table(figures: list[dict[str, Any]]) -> str:
    lines = ["| | median | lowest | highest | goal |", "| --- | ---: | ---: | ---: | ---: |"]
    for figure in figures:
        samples = figure["samples"]
        bound = "" if figure["bound"] is None else f"{Bound(**figure['bound'])} {'✓' if figure['is_met'] else '✗'}"
        extremes = (shown(min(samples)), shown(max(samples))) if len(samples) > 1 else ("", "")
        cells = (figure["name"], f"{shown(figure['value'])} {figure['unit']}", *extremes, bound)
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(tables(json.loads(Path(sys.argv[1]).read_text())))
