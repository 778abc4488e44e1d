"""What differs between the live tables and the built ones: in numbers, and a few rows to look at.

Two statements a table, the second only where something differs.  Who wants all of it to be of one moment begins a
REPEATABLE READ transaction.  Nothing but counts and samples leaves the server.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast

from psycopg.sql import SQL, Composable, Composed
from psycopg.sql import Literal as Quoted

from projectiond.postgres.database import Connection
from projectiond.rebuild.matching import Match, reading
from projectiond.rebuild.tables import Pair, TableChange

MAX_VALUE_SHOWN: Final = 80

# A difference beyond it is not shown, only said to be there.
_MAX_VALUE_READ: Final = 4000

Kind = Literal["changed", "added", "removed"]


@dataclass(frozen=True, slots=True)
class ColumnDifference:
    """A value, live and built, fit to be printed; None on the side that does not have the row."""

    name: str
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class RowDifference:
    """A row: what it is known by, and of a changed one the columns that differ, else all."""

    kind: Kind
    key: tuple[tuple[str, str], ...]
    columns: tuple[ColumnDifference, ...]


@dataclass(frozen=True, slots=True)
class TableDifference:
    """What differs in one table."""

    change: TableChange
    samples: tuple[RowDifference, ...]


def compare(db: Connection, pairs: Sequence[Pair], *, samples: int = 0) -> tuple[TableDifference, ...]:
    """Compare tables of the same shape.

    Args:
        db: Inside a transaction.
        pairs: For which :func:`~projectiond.rebuild.shape.finish_by` says merge.
        samples: How many of the differing rows of each table to read, in order of their keys.

    Raises:
        ConfigurationError: The rows cannot be seen by this role.
    """
    return tuple(_compare(db, Match(pair), samples) for pair in pairs)


def count_differences(db: Connection, match: Match) -> TableChange:
    """Count the rows of one table that differ."""
    counted = reading(db, lambda: db.execute(_count(match)).fetchone())
    total, changed, added, removed = counted or (0, 0, 0, 0)
    return TableChange(match.declared, total, changed, added, removed)


def _compare(db: Connection, match: Match, samples: int) -> TableDifference:
    change = count_differences(db, match)
    if not samples or not (change.changed or change.added or change.removed):
        return TableDifference(change, ())
    rows = reading(db, lambda: db.execute(_sample(match, samples)).fetchall())
    names = [column.name for column in match.columns]
    return TableDifference(change, tuple(_read(names, match, *row) for row in rows))


def _count(match: Match) -> Composed:
    return SQL("""
        SELECT
            count(*) FILTER (WHERE b.is_there),
            count(*) FILTER (WHERE l.place IS NOT NULL AND b.is_there AND {is_different}),
            count(*) FILTER (WHERE l.place IS NULL),
            count(*) FILTER (WHERE b.is_there IS NULL)
        FROM {joined}
    """).format(is_different=match.is_different, joined=match.joined)


def _sample(match: Match, most: int) -> Composed:
    names = [column.name for column in match.columns]

    def listed(values: Sequence[Composable], kind: Composable) -> Composable:
        return SQL("ARRAY[{}]::{}[]").format(SQL(", ").join(values), kind)

    def texts(side: Literal["l", "b"]) -> Composable:
        cut = SQL("pg_catalog.left({}::pg_catalog.text, {})")
        return listed([cut.format(match.value(side, name), Quoted(_MAX_VALUE_READ)) for name in names], SQL("text"))

    return SQL("SELECT {}, {}, {}, {} FROM {} WHERE {} ORDER BY {} LIMIT {}").format(
        match.kind,
        listed([match.differ([name]) for name in names], SQL("bool")),
        texts("l"),
        texts("b"),
        match.joined,
        match.is_different,
        match.order,
        Quoted(most),
    )


def _read(
    names: Sequence[str],
    match: Match,
    kind: str,
    differing: Sequence[bool],
    old: Sequence[str | None],
    new: Sequence[str | None],
) -> RowDifference:
    keys = {column.name for column in match.live.key}
    columns = []
    for name, differs, before, after in zip(names, differing, old, new, strict=True):
        if kind == "added" and name not in keys:
            columns.append(ColumnDifference(name, None, show_value(after)))
        elif kind == "removed" and name not in keys:
            columns.append(ColumnDifference(name, show_value(before), None))
        elif kind == "changed" and differs:
            columns.append(ColumnDifference(name, *_show_both(before, after)))
    known = old if kind == "removed" else new
    key = tuple((name, show_value(value)) for name, value in zip(names, known, strict=True) if name in keys)
    return RowDifference(cast("Kind", kind), key, tuple(columns))


def show_value(text: str | None, start: int = 0) -> str:
    """Give a value in one short line of printable characters; what is left out is marked."""
    if text is None:
        return "NULL"
    part = text[start : start + MAX_VALUE_SHOWN]
    head = "…" if start else ""
    tail = "…" if len(text) > start + MAX_VALUE_SHOWN else ""
    shown = "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in part)
    return head + shown + tail


def _show_both(old: str | None, new: str | None) -> tuple[str, str]:
    """Begin shortly before the first character that differs, if it is far from the start."""
    if old is None or new is None:
        return show_value(old), show_value(new)
    same = next((at for at, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    if old == new:
        where = "beyond what is read of it" if len(old) >= _MAX_VALUE_READ else "in its stored form only"
        return show_value(old), f"{show_value(new)} (differs {where})"
    start = same - MAX_VALUE_SHOWN // 4 if same >= MAX_VALUE_SHOWN // 2 else 0
    return show_value(old, start), show_value(new, start)
