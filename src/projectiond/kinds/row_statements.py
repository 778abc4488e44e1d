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

    Parameters: a JSON array for each column of the key.
    """
    columns = (SQL("stored.{}{}").format(field.column, _suffix(field)) for field in fields)
    return SQL("SELECT found.*, given.place FROM {} WITH ORDINALITY AS given ({}, place) CROSS JOIN LATERAL {}").format(
        _arrays(key), _texts(key), _found(table, key, _COMMA.join(columns))
    )


def upsert_rows(table: Identifier, fields: Sequence[Field], key: Sequence[Field]) -> Composed:
    """Insert rows in the order in which they are given, or update all fields' columns of those that are there.

    Parameters: a JSON array for each field.
    """
    changes = [SQL("{0} = excluded.{0}").format(field.column) for field in fields if field not in key]
    return SQL("INSERT INTO {table} ({columns}) SELECT {values} FROM {given} ON CONFLICT ({key}) DO {action}").format(
        table=table,
        columns=_COMMA.join(field.column for field in fields),
        values=_values(fields),
        given=_given(fields),
        key=_COMMA.join(field.column for field in key),
        action=SQL("UPDATE SET {}").format(_COMMA.join(changes)) if changes else SQL("NOTHING"),
    )


def delete_rows(table: Identifier, key: Sequence[Field]) -> Composed:
    """Delete the rows of keys.

    They are found as `select_rows` finds them, and fetched from where they lie; since a place is one of a partition's,
    the key has the last word.

    Parameters: a JSON array for each column of the key.
    """
    return SQL(
        "DELETE FROM {table} AS stored WHERE stored.ctid = ANY (ARRAY("
        "SELECT found.ctid FROM {given} CROSS JOIN LATERAL {found})) "
        "AND (({columns}) IN (SELECT {values} FROM {given})) IS TRUE"
    ).format(
        table=table,
        given=_given(key),
        found=_found(table, key, SQL("stored.ctid")),
        columns=_COMMA.join(SQL("stored.{}").format(field.column) for field in key),
        values=_values(key),
    )


def _found(table: Identifier, key: Sequence[Field], columns: Composable) -> Composed:
    """Look for the row of each key that is given.

    OFFSET 0 (with ``sql.rows.PREFER_INDEXES``) keeps it a look into the primary key's index for each.  The planner
    cannot know how many keys there are, and what it plans while a table is small is used long after it has grown.
    """
    matches = (SQL("stored.{} = {}").format(field.column, _value(place, field)) for place, field in enumerate(key))
    return SQL("(SELECT {} FROM {} AS stored WHERE {} OFFSET 0) AS found").format(
        columns, table, SQL(" AND ").join(matches)
    )


def _given(fields: Sequence[Field]) -> Composed:
    """Make the parameters a relation, with a column of text for each."""
    return SQL("{} AS given ({})").format(_arrays(fields), _texts(fields))


def _arrays(fields: Sequence[Field]) -> Composed:
    arrays = (SQL("json_array_elements_text(${}::json)").format(place + 1) for place in range(len(fields)))
    return SQL("ROWS FROM ({})").format(_COMMA.join(arrays))


def _texts(fields: Sequence[Field]) -> Composed:
    return _COMMA.join(map(_text, range(len(fields))))


def _values(fields: Sequence[Field]) -> Composed:
    return _COMMA.join(_value(place, field) for place, field in enumerate(fields))


def _value(place: int, field: Field) -> Composed:
    return SQL("given.{}::{}").format(_text(place), field.cast)


def _text(place: int) -> Composed:
    return SQL("text{}").format(place)


def _suffix(field: Field) -> SQL:
    return SQL("::text") if field.codec.suffix == "::text" else SQL("::text[]") if field.codec.suffix else _NOTHING
