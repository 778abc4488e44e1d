"""The table of a ``RowProjection``: rows for keys, and back.

Made by ``row_fit``, which has found class and table to fit; called by ``row`` with the keys and rows of a batch.

What it may assume: nobody else writes the table.  A row that has appeared since it was looked for is overwritten and no
error, for then the checkpoint has been moved too, and nothing of this is committed.
"""

import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from psycopg.rows import TupleRow
from psycopg.sql import Identifier
from pydantic_core import PydanticSerializationError, to_json

from projectiond import sql
from projectiond.errors import PoisonError
from projectiond.kinds.row_codec import UnfitError, described
from projectiond.kinds.row_statements import Field, delete_rows, select_rows, upsert_rows
from projectiond.postgres.cursor import RawCursor
from projectiond.postgres.database import Connection

Key: TypeAlias = Any
"""The key field's value, or a tuple of them in the order of the primary key."""

Row: TypeAlias = Any
"""An instance of the author's dataclass."""


class RowTable:
    """Loads and writes instances of one dataclass."""

    def __init__(self, db: Connection, row: type, table: str, fields: Sequence[Field], key: Sequence[Field]) -> None:
        """Prepare all that is the same for each batch.

        Args:
            db: To quote names by.
            row: The dataclass.
            table: As the projection names it, perhaps with its schema.
            fields: All fields, in the dataclass's order.
            key: Those of the primary key, in its order.
        """
        self.row = row
        self.name = table
        self.key_of: Callable[[Row], Key] = operator.attrgetter(*(field.name for field in key))
        self._fields = fields
        self._key = key
        self._names = [field.name for field in fields]
        self._is_positional = not any(field.kw_only for field in dataclasses.fields(row))
        self._values_of = _tuple_getter(self._names)
        self._loads = [(place, field.codec.load) for place, field in enumerate(fields) if field.codec.load]
        self._settles = [(field.name, field.codec.settle) for field in fields if field.codec.settle]
        plain = [place for place, field in enumerate(fields) if field.codec.is_loaded_plain and field not in key]
        self._plain_of = _tuple_getter([self._names[place] for place in plain])
        self._plain_in = _tuple_picker(plain)
        name = Identifier(*table.split("."))
        self._select = select_rows(name, fields, key).as_bytes(db)
        self._upsert = upsert_rows(name, fields, key).as_bytes(db)
        self._delete = delete_rows(name, key).as_bytes(db)

    # --- loading

    def load(self, db: Connection, keys: Sequence[Key]) -> Mapping[Key, TupleRow]:
        """Give what the table holds for these keys, as it came."""
        if not keys:
            return {}
        db.execute(sql.rows.PREFER_INDEXES)
        cursor = RawCursor(db)
        # Binary: whatever the session's styles of dates and intervals are.
        cursor.execute(self._select, self._key_columns(keys), binary=True)
        # Which key a row belongs to is the database's word.
        return {keys[stored[-1] - 1]: stored for stored in cursor.fetchall()}

    def make(self, stored: TupleRow) -> Row:
        """Make an instance of a row as it came."""
        values = self._values_in(stored)
        return self.row(*values) if self._is_positional else self.row(**dict(zip(self._names, values, strict=True)))

    def make_new(self, key: Key) -> Row:
        """Make the instance that a key without a row begins with."""
        values = key if len(self._key) > 1 else (key,)
        return self.row(**{field.name: value for field, value in zip(self._key, values, strict=True)})

    def _values_in(self, stored: TupleRow) -> Sequence[Any]:
        values = list(stored[:-1])
        for place, load in self._loads:
            if values[place] is not None:
                try:
                    values[place] = load(values[place])
                except (UnfitError, ValueError) as error:
                    raise PoisonError(
                        f"the table holds what the class does not: {self.name}.{self._names[place]} "
                        f"{' '.join(str(error).split())}"
                    ) from None
        return values

    # --- between events

    def settle(self, row: Row) -> None:
        """Bring the fields into the form in which the database would give them back."""
        for name, settle in self._settles:
            value = getattr(row, name)
            if value is not None:
                settled = settle(value)
                if settled is not value:
                    # Of a frozen dataclass too.
                    object.__setattr__(row, name, settled)

    # --- writing

    def has_changed(self, row: Row, stored: TupleRow) -> bool:
        """Say whether a row would be stored differently from how it came."""
        if self._plain_of(row) != self._plain_in(stored):
            return True
        now = self._values_of(row)
        before = tuple(self._values_in(stored))
        # Equal is not yet the same: 1 and True, 1.0 and 1.00, or what stands in JSON.
        return now != before or self._text(row, now) != self._text(row, before)

    def delete(self, db: Connection, keys: Sequence[Key]) -> None:
        """Delete the rows of these keys."""
        if keys:
            RawCursor(db).execute(self._delete, self._key_columns(keys))

    def write(self, db: Connection, rows: Sequence[Row]) -> None:
        """Insert these rows, or update those that are there.

        Raises:
            PoisonError: A field holds what does not fit its column.
        """
        if rows:
            columns = zip(*map(self._values_of, rows), strict=True)
            texts = [self._column(field, values, rows) for field, values in zip(self._fields, columns, strict=True)]
            RawCursor(db).execute(self._upsert, texts)

    def _key_columns(self, keys: Sequence[Key]) -> list[str]:
        columns = zip(*keys, strict=True) if len(self._key) > 1 else (keys,)
        return [
            _json([field.codec.dumped(value) for value in values])
            for field, values in zip(self._key, columns, strict=True)
        ]

    def _column(self, field: Field, values: Sequence[Any], rows: Sequence[Row]) -> str:
        codec = field.codec
        # All values at once, where nothing has to be done to each.
        is_plain = codec.dump is None and codec.types is not None and {*map(type, values)} <= {*codec.types, type(None)}
        if not is_plain:
            values = [self._dumped(field, row, value) for row, value in zip(rows, values, strict=True)]
        try:
            return _json(values)
        except PydanticSerializationError as error:
            raise PoisonError(f"{self._named(field)} cannot be written: {error}") from None

    def _text(self, row: Row, values: Sequence[Any]) -> str:
        return _json([self._dumped(field, row, value) for field, value in zip(self._fields, values, strict=True)])

    def _dumped(self, field: Field, row: Row, value: Any) -> Any:  # noqa: ANN401 - a field's value
        try:
            return field.codec.dumped(value)
        except UnfitError as unfit:
            key = ", ".join(described(getattr(row, part.name)) for part in self._key)
            raise PoisonError(f"{self._named(field)} of the row {key} {unfit}") from None

    def _named(self, field: Field) -> str:
        return f"{self.row.__name__}.{field.name}"


def _json(values: Sequence[Any]) -> str:
    return to_json(values, inf_nan_mode="strings").decode()


def _tuple_getter(names: Sequence[str]) -> Callable[[Row], tuple[Any, ...]]:
    if len(names) > 1:
        return operator.attrgetter(*names)
    return lambda row: tuple(getattr(row, name) for name in names)


def _tuple_picker(places: Sequence[int]) -> Callable[[TupleRow], tuple[Any, ...]]:
    if len(places) > 1:
        return operator.itemgetter(*places)
    return lambda stored: tuple(stored[place] for place in places)
