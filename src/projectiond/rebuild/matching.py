"""The rows of a live and of a built table, matched: the relation that comparing and merging both read.

Rows are the same row when their primary keys are equal, and differ when the stored image of any column does
(``*<>``): that sees ``1.0`` become ``1.00``, and works for types without equality, such as json.  Rows of a table
without a primary key are matched by their texts, and equal ones are counted off against each other.

It is one full join of two scans: the server hashes, in batches on disk where memory does not suffice.

Columns are called by number in these statements, ``l.c0`` and ``b.c0``, so that no name of an author's can clash with
ours; a statement is sent without parameters, for psycopg would take a ``%`` in a name for one.
"""

from collections.abc import Callable, Sequence
from typing import Final, LiteralString, TypeVar

from psycopg import errors
from psycopg.sql import SQL, Composable, Identifier

from projectiond.errors import ConfigurationError
from projectiond.postgres.database import Connection
from projectiond.rebuild.catalogue import Column, Table, trusted
from projectiond.rebuild.tables import Pair, with_settings

Result = TypeVar("Result")

# Texts have to hold all there is to a value; a role may have set otherwise.  Rows that are hidden from us would be
# inserted twice: rather an error.  Memory is this twice over (hash_mem_multiplier), however large the tables.
_SETTINGS: Final = {
    "extra_float_digits": "1",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "row_security": "off",
    "work_mem": "64MB",
    "jit": "off",
}


class Match:
    """Two tables of the same shape, and the parts of statements that read both."""

    def __init__(self, pair: Pair) -> None:
        if pair.live is None:
            raise ValueError(f"{pair.declared} has no live table to be matched with")
        self.declared = pair.declared
        self.live: Table = pair.live
        self.built: Table = pair.built
        self.columns: tuple[Column, ...] = tuple(column for column in self.live.columns if column.is_stored)
        self._number = {column.name: number for number, column in enumerate(self.columns)}

    def value(self, side: LiteralString, name: str) -> Composable:
        """Name a column of one side, "l" or "b"."""
        return Identifier(side, f"c{self._number[name]}")

    def image(self, side: LiteralString, names: Sequence[str]) -> Composable:
        """Give columns of one side as a record."""
        return SQL("ROW({})::record").format(SQL(", ").join(self.value(side, name) for name in names))

    def differ(self, names: Sequence[str]) -> Composable:
        """Say that the images of these columns differ."""
        return SQL("({} OPERATOR(pg_catalog.*<>) {})").format(self.image("l", names), self.image("b", names))

    @property
    def kind(self) -> Composable:
        """What has to become of the live row."""
        return SQL("CASE WHEN l.place IS NULL THEN 'added' WHEN b.is_there IS NULL THEN 'removed' ELSE 'changed' END")

    @property
    def is_different(self) -> Composable:
        """Say that a pair of rows is not the same, or no pair."""
        if not self.live.key:
            return SQL("(l.place IS NULL OR b.is_there IS NULL)")
        return SQL("(l.place IS NULL OR b.is_there IS NULL OR {})").format(self.differ(list(self._number)))

    @property
    def order(self) -> Composable:
        """Give rows in order of their key."""
        if not self.live.key:
            return SQL("coalesce(l.image, b.image), coalesce(l.nth, b.nth)")
        names = [column.name for column in self.live.key]
        return SQL(", ").join(
            SQL("coalesce({}, {})").format(self.value("l", name), self.value("b", name)) for name in names
        )

    @property
    def joined(self) -> Composable:
        """Both tables as ``l`` and ``b``, for a FROM."""
        return SQL("{} AS l FULL JOIN {} AS b ON {}").format(self._live_side(), self._built_side(), self._condition())

    def _live_side(self) -> Composable:
        values: list[Composable] = [Identifier(column.name) for column in self.columns]
        return self._side(self.live, values, SQL("ctid AS place, tableoid AS part"))

    def _built_side(self) -> Composable:
        values = [_as_live(column, self.built.by_name[column.name]) for column in self.columns]
        return self._side(self.built, values, SQL("true AS is_there"))

    def _side(self, table: Table, values: Sequence[Composable], extra: Composable) -> Composable:
        named = [SQL("{} AS {}").format(value, Identifier(f"c{number}")) for number, value in enumerate(values)]
        rows = SQL("SELECT {} FROM {}").format(SQL(", ").join([extra, *named]), table.relation)
        if self.live.key:
            return SQL("({})").format(rows)
        numbered = SQL(", ").join(Identifier("r", f"c{number}") for number in range(len(values)))
        return SQL(
            "(SELECT *, row_number() OVER (PARTITION BY image) AS nth "
            'FROM (SELECT *, ROW({})::text COLLATE "C" AS image FROM ({}) AS r) AS i)'
        ).format(numbered, rows)

    def _condition(self) -> Composable:
        if not self.live.key:
            return SQL("l.image = b.image AND l.nth = b.nth")
        return SQL(" AND ").join(
            SQL("{} OPERATOR({}.{}) {}").format(
                self.value("l", column.name),
                Identifier(column.operator[0]),
                trusted(column.operator[1]),
                self.value("b", column.name),
            )
            for column in self.live.key
        )


def reading(db: Connection, action: Callable[[], Result]) -> Result:
    """Run statements made of matches.

    Raises:
        ConfigurationError: Some of the rows cannot be seen or changed by this role.
    """
    try:
        return with_settings(db, _SETTINGS, action)
    except errors.InsufficientPrivilege as error:
        raise ConfigurationError(
            f"the rows of a table cannot be compared: {error.diag.message_primary}",
            hint="let the daemon's role own the table, or grant it; where policies hide rows, it needs BYPASSRLS",
        ) from error


def _as_live(live: Column, built: Column) -> Composable:
    """Give a built value the live column's type, where `schema` has made another of the same name in the space."""
    if live.type_oid == built.type_oid:
        return Identifier(built.name)
    value = SQL("{}::pg_catalog.text::{}").format(Identifier(built.name), trusted(live.type))
    return value if live.collation is None else SQL("{} COLLATE {}").format(value, trusted(live.collation))
