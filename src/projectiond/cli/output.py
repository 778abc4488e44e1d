"""Tables and lines, for people and for pipes.

On a terminal rich draws; anywhere else come plain aligned lines, without colours, boxes or cut words, so that grep
and awk work.  Text from the database is hostile: it is made printable before it goes anywhere.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from projectiond.failure import printable

# Of an editor's terminal, for example; the names are those that rich goes by.
_DUMB: Final = ("dumb", "unknown")


@dataclass(slots=True)
class Column:
    """A column's title, and how it is set."""

    title: str
    is_number: bool = False
    is_wide: bool = False
    """Whether it may be folded on a terminal that is too narrow."""


@dataclass(slots=True)
class Grid:
    """A table on its way to a terminal or a pipe."""

    columns: Sequence[Column]
    rows: list[Sequence[str]] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)

    def add(self, *cells: str, style: str = "") -> None:
        """Add a row; each cell becomes printable."""
        self.rows.append([printable(cell) for cell in cells])
        self.styles.append(style)

    def as_table(self) -> Table:
        """Give it for rich."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in self.columns:
            table.add_column(
                column.title,
                justify="right" if column.is_number else "left",
                no_wrap=not column.is_wide,
                overflow="fold",
            )
        for cells, style in zip(self.rows, self.styles, strict=True):
            table.add_row(*(Text(cell) for cell in cells), style=style)
        return table

    def as_lines(self) -> list[str]:
        """Give it as aligned lines."""
        table = [[column.title for column in self.columns], *self.rows]
        widths = [max(len(cells[index]) for cells in table) for index in range(len(self.columns))]
        return [
            "  ".join(
                cell.rjust(width) if column.is_number else cell.ljust(width)
                for cell, width, column in zip(cells, widths, self.columns, strict=True)
            ).rstrip()
            for cells in table
        ]


def printable_lines(text: str) -> list[str]:
    """Give a text of several lines with everything escaped that a terminal would act upon."""
    lines = text.split("\n")
    return ["".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line) for line in lines]


def is_terminal() -> bool:
    """Say whether the output is a terminal that can be drawn on; on a dumb one rich would show nothing."""
    return sys.stdout.isatty() and os.environ.get("TERM", "").lower() not in _DUMB


def show(grid: Grid) -> None:
    """Print a table."""
    if is_terminal():
        Console().print(grid.as_table())
    else:
        tell(*grid.as_lines())


def tell(*lines: str) -> None:
    """Print lines of the command's result."""
    for line in lines:
        print(line, flush=True)  # noqa: T201 - it is the command's result


def ago(seconds: float | None) -> str:
    """Say how long something is ago, as short as a table's cell."""
    if seconds is None:
        return "never"
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{max(0, seconds) / unit:.0f} {name} ago"
    return f"{seconds / 86_400:.0f} d ago"
