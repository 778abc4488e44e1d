"""Tables and lines, for people and for pipes.

On a terminal rich draws, and leaves columns out that would not fit; anywhere else come plain aligned lines, all of
them, without colours, boxes or cut words, so that grep and awk work.  Text from the database is hostile: it is made
printable before it goes anywhere.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from projectiond.failure import printable

AsJson = Annotated[bool, typer.Option("--json", help="For machines: one JSON object.")]

# Of an editor's terminal, for example; the names are those that rich goes by.
_DUMB: Final = ("dumb", "unknown")

# To less a column that may be folded is not narrowed, as long as another can be left out.
LEAST_WIDTH: Final = 20
_GAP: Final = 2


@dataclass(slots=True)
class Column:
    """A column's title, and how it is set."""

    title: str
    is_number: bool = False
    is_wide: bool = False
    """Whether it may be folded on a terminal that is too narrow."""
    rank: int = 0
    """On a terminal that is too narrow the highest is left out first; 0 never is."""


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

    def as_table(self, width: int) -> tuple[Table, Sequence[str]]:
        """Give it for rich, and the titles of the columns that were left out for want of width."""
        least = [
            min(natural, LEAST_WIDTH) if column.is_wide else natural
            for natural, column in zip(self._widths(), self.columns, strict=True)
        ]
        shown = list(range(len(self.columns)))
        while (is_crowded := sum(least[index] + _GAP for index in shown) - _GAP > width) and any(
            self.columns[index].rank for index in shown
        ):
            shown.remove(max(shown, key=lambda index: self.columns[index].rank))
        table = Table(box=None, pad_edge=False, header_style="bold")
        for index in shown:
            column = self.columns[index]
            table.add_column(
                column.title,
                justify="right" if column.is_number else "left",
                no_wrap=not column.is_wide,
                overflow="fold",
                min_width=None if is_crowded else least[index],
            )
        for cells, style in zip(self.rows, self.styles, strict=True):
            table.add_row(*(Text(cells[index]) for index in shown), style=style)
        return table, [column.title for index, column in enumerate(self.columns) if index not in shown]

    def as_lines(self) -> list[str]:
        """Give it as aligned lines."""
        widths = self._widths()
        return [
            "  ".join(
                _padded(cell, width, column) for cell, width, column in zip(cells, widths, self.columns, strict=True)
            ).rstrip()
            for cells in self._all_rows()
        ]

    def _all_rows(self) -> Sequence[Sequence[str]]:
        return [[column.title for column in self.columns], *self.rows]

    def _widths(self) -> Sequence[int]:
        # In cells: a Chinese character or an emoji takes two, an accent that is put onto a letter none.
        rows = self._all_rows()
        return [max(cell_len(cells[index]) for cells in rows) for index in range(len(self.columns))]


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
        console = Console()
        table, left_out = grid.as_table(console.width)
        console.print(table)
        if left_out:
            tell(sentence_of_left_out(left_out))
    else:
        tell(*grid.as_lines())


def sentence_of_left_out(titles: Sequence[str]) -> str:
    """Say what a narrow terminal does not show."""
    return f"(too narrow for {', '.join(titles)}: use a wider terminal, or --json)"


def tell(*lines: str) -> None:
    """Print lines of the command's result."""
    for line in lines:
        print(line, flush=True)  # noqa: T201 - it is the command's result


def _padded(cell: str, width: int, column: Column) -> str:
    blank = " " * (width - cell_len(cell))
    return blank + cell if column.is_number else cell + blank


def ago(seconds: float | None) -> str:
    """Say how long something is ago, as short as a table's cell."""
    if seconds is None:
        return "never"
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{max(0, seconds) / unit:.0f} {name} ago"
    return f"{seconds / 86_400:.0f} d ago"
