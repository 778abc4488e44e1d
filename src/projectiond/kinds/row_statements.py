"""The statements that load and write the rows of a ``RowProjection``, for one table each.

Called by ``row_table``.  Each is one statement for any number of rows: keys and values travel as one JSON array for
each column.  Measured against arrays, rows as JSON objects, ``executemany`` and a long ``VALUES``, this was the fastest
to write in Python, and the fastest on the server by a fifth.

Parameters are numbered: a name may hold a per cent sign.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.sql import SQL, Composable, Composed, Identifier

from projectiond.kinds.row_codec import Codec

_NOTHING = SQL("")
_COMMA = SQL(", ")


@dataclass(frozen=True, slots=True)
class Field:
    """A field and its column, which have the same name."""

    name: str
    codec: Codec
    cast: Identifier
    """The type of the column without its length."""

    @property
    def column(self) -> Identifier:
        """The column's name, quoted."""
        return Identifier(self.name)


def select_rows(table: Identifier, fields: Sequence[Field], key: Sequence[Field]) -> Composed:
    """Give the fields of each key's row, and the place of that key among those asked for.

    With OFFSET 0 (and ``sql.PREFER_INDEXES``) it is a look into the primary key's index for each key.  The planner
    cannot know how many keys there are, and what it plans while the table is small is used long after it has grown.

    Parameters: a JSON array for each column of the key.
    """
    columns = (SQL("stored.{}{}").format(field.column, _suffix(field)) for field in fields)
    return SQL(
        "SELECT found.*, given.place FROM {given} CROSS JOIN LATERAL "
        "(SELECT {columns} FROM {table} AS stored WHERE {matches} OFFSET 0) AS found"
    ).format(
        given=_given(key, SQL(" WITH ORDINALITY"), SQL("place")),
        columns=_COMMA.join(columns),
        table=table,
        matches=_matches(key),
    )


def upsert_rows(table: Identifier, fields: Sequence[Field], key: Sequence[Field]) -> Composed:
    """Insert rows in the order in which they are given, or update all fields' columns of those that are there.

    Parameters: a JSON array for each field.
    """
    changes = [SQL("{0} = excluded.{0}").format(field.column) for field in fields if field not in key]
    return SQL("INSERT INTO {table} ({columns}) SELECT {values} FROM {given} ON CONFLICT ({key}) DO {action}").format(
        table=table,
        columns=_COMMA.join(field.column for field in fields),
        values=_COMMA.join(_value(place, field) for place, field in enumerate(fields)),
        given=_given(fields),
        key=_COMMA.join(field.column for field in key),
        action=SQL("UPDATE SET {}").format(_COMMA.join(changes)) if changes else SQL("NOTHING"),
    )


def delete_rows(table: Identifier, key: Sequence[Field]) -> Composed:
    """Delete the rows of keys.

    LIMIT takes nothing away: it tells the planner that there are few.

    Parameters: a JSON array for each column of the key, and the number of keys.
    """
    return SQL(
        "DELETE FROM {table} AS stored USING (SELECT * FROM {given} LIMIT {count}) AS given WHERE {matches}"
    ).format(table=table, given=_given(key), count=SQL("${}").format(len(key) + 1), matches=_matches(key))


def _given(fields: Sequence[Field], ordinality: Composable = _NOTHING, *more: Composable) -> Composed:
    """Make the parameters a relation, with a column of text for each."""
    arrays = [SQL("json_array_elements_text(${}::json)").format(place + 1) for place in range(len(fields))]
    names = [*map(_text, range(len(fields))), *more]
    return SQL("ROWS FROM ({}){} AS given ({})").format(_COMMA.join(arrays), ordinality, _COMMA.join(names))


def _matches(key: Sequence[Field]) -> Composed:
    pairs = (SQL("stored.{} = {}").format(field.column, _value(place, field)) for place, field in enumerate(key))
    return SQL(" AND ").join(pairs)


def _value(place: int, field: Field) -> Composed:
    return SQL("given.{}::{}").format(_text(place), field.cast)


def _text(place: int) -> Composed:
    return SQL("text{}").format(place)


def _suffix(field: Field) -> SQL:
    return SQL("::text") if field.codec.suffix == "::text" else SQL("::text[]") if field.codec.suffix else _NOTHING
