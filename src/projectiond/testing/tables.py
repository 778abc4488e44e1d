"""The rows of a test's tables: which tables there are, what is in them, and in what two readings of them differ."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString

from psycopg import sql
from psycopg.rows import dict_row

from projectiond.postgres.database import Connection

MAX_ROWS_SHOWN: Final = 3
MAX_VALUE_SHOWN: Final = 80

# Tables of everybody: partitions are seen through the table that they belong to.
_FIND_TABLES: LiteralString = """
    SELECT
        CASE WHEN n.nspname = 'public' THEN c.relname::text ELSE n.nspname || '.' || c.relname END AS name,
        ARRAY(
            SELECT a.attname::text
            FROM pg_index AS i
            CROSS JOIN unnest(i.indkey) WITH ORDINALITY AS k (attnum, place)
            JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
            WHERE i.indrelid = c.oid AND i.indisprimary
            ORDER BY k.place
        ) AS key
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE
        c.relkind IN ('r', 'p')
        AND NOT c.relispartition
        AND n.nspname !~ '^pg_'
        AND n.nspname <> 'information_schema'
    ORDER BY 1
"""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """A table as it was read."""

    key: tuple[str, ...]
    """The primary key's columns; none where it has none."""

    rows: Sequence[Row]


Snapshot = Mapping[str, Table]


def find_tables(db: Connection) -> Mapping[str, tuple[str, ...]]:
    """Give the primary key's columns of each table, by the table's name."""
    return {name: tuple(key) for name, key in db.execute(_FIND_TABLES).fetchall()}


def read_rows(db: Connection, table: str, order_by: Sequence[str]) -> list[Row]:
    """Give the rows of a table in an order."""
    statement = sql.SQL("SELECT * FROM {}").format(_identifier(table))
    if order_by:
        columns = sql.SQL(", ").join(map(sql.Identifier, order_by))
        statement = sql.SQL("{} ORDER BY {}").format(statement, columns)
    return db.cursor(row_factory=dict_row).execute(statement).fetchall()


def take_snapshot(db: Connection, known: Collection[str]) -> Snapshot:
    """Read all tables but these."""
    return {name: Table(key, read_rows(db, name, ())) for name, key in find_tables(db).items() if name not in known}


def find_differences(
    before: Snapshot, after: Snapshot, ignored: Collection[str] = (), words: tuple[str, str] = ("first", "then")
) -> Iterator[str]:
    """Say what differs, a line for each row; columns may be left out by their name, or as table.column."""
    for name in sorted({*before, *after}):
        nothing = Table((), ())
        first, second = before.get(name, nothing), after.get(name, nothing)
        left_out = {column for column in ignored if "." not in column}
        left_out |= {column.removeprefix(f"{name}.") for column in ignored if column.startswith(f"{name}.")}
        lines = list(_compare(_without(first, left_out), _without(second, left_out), words))
        for line in lines[:MAX_ROWS_SHOWN]:
            yield f"{name}: {line}"
        if len(lines) > MAX_ROWS_SHOWN:
            yield f"{name}: and {len(lines) - MAX_ROWS_SHOWN} more rows"


def _compare(first: Table, second: Table, words: tuple[str, str]) -> Iterator[str]:
    counted_first, counted_second = Counter(map(repr, first.rows)), Counter(map(repr, second.rows))
    lost = _missing(first.rows, counted_first - counted_second)
    new = _missing(second.rows, counted_second - counted_first)
    others = {_key(second, row): row for row in new} if second.key else {}
    for row in lost:
        other = others.pop(_key(first, row), None)
        if other is None:
            yield f"only {words[0]}: {_shown_row(row)}"
        else:
            changes = [
                f"{column} {words[0]} {_shown(row[column])}, {words[1]} {_shown(other.get(column))}"
                for column in row
                if repr(row[column]) != repr(other.get(column))
            ]
            yield f"{_shown_row({column: row[column] for column in first.key})}: {'; '.join(changes)}"
    for row in others.values() if second.key else new:
        yield f"only {words[1]}: {_shown_row(row)}"


def _missing(rows: Sequence[Row], missing: Counter[str]) -> list[Row]:
    found = []
    for row in rows:
        if missing[repr(row)] > 0:
            missing[repr(row)] -= 1
            found.append(row)
    return found


def _without(table: Table, left_out: Collection[str]) -> Table:
    rows = [{column: value for column, value in row.items() if column not in left_out} for row in table.rows]
    # A key that is left out identifies nothing.
    return Table(() if {*left_out} & {*table.key} else table.key, rows)


def _key(table: Table, row: Row) -> str:
    return repr([row.get(column) for column in table.key])


def _shown_row(row: Row) -> str:
    return ", ".join(f"{column}={_shown(value)}" for column, value in row.items())


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, (str, bytes, type(None), bool, list, dict)) else str(value)
    return text if len(text) <= MAX_VALUE_SHOWN else f"{text[:MAX_VALUE_SHOWN]}…"


def _identifier(table: str) -> sql.Identifier:
    return sql.Identifier(*table.split("."))
