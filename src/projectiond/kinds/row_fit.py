"""Whether a ``RowProjection``'s dataclass and its table fit each other.

Called before the first event, and after each pause; it reads the catalogue and changes nothing.  Whatever is wrong is
said at once, each fault with what to write, for it is one class and one CREATE TABLE that have to be brought together.
"""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from psycopg.sql import Identifier

from projectiond import sql
from projectiond.errors import ConfigurationError
from projectiond.failure import describe
from projectiond.kinds.row_annotation import split_optional
from projectiond.kinds.row_codec import Change, Codec, UnfitError
from projectiond.kinds.row_statements import Field
from projectiond.kinds.row_table import RowTable
from projectiond.kinds.row_value import HOLDS, KEYS, ColumnType, codec_for, key_reader
from projectiond.plugins.definition import Definition
from projectiond.postgres.database import Connection
from projectiond.projection import RowProjection

Complain: TypeAlias = Callable[[str], None]

# pg_class.relkind of what can hold rows, and in words of what cannot.
_TABLES: Final = frozenset({"r", "p"})
_NO_TABLES: Final = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "i": "an index",
    "S": "a sequence",
}

# What to declare a column as, to hold a field.
_DECLARED: Final = {
    "str": "text",
    "int": "bigint",
    "float": "double precision",
    "Decimal": "numeric",
    "bool": "boolean",
    "bytes": "bytea",
    "UUID": "uuid",
    "date": "date",
    "time": "time",
    "datetime": "timestamptz",
    "timedelta": "interval",
}


@dataclass(frozen=True, slots=True)
class Fit:
    """A table, and how what `key` returns becomes its keys."""

    table: RowTable
    key_readers: Sequence[Change]
    """One for each column of the primary key."""


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    declared: str
    is_required: bool
    has_default: bool
    is_generated: bool
    is_exact: bool
    cast: Identifier
    type: ColumnType


@dataclass(frozen=True, slots=True)
class _Table:
    name: str
    columns: Mapping[str, _Column]
    key: Sequence[str]


@dataclass(frozen=True, slots=True)
class _FieldOfClass:
    name: str
    annotation: Any
    """Without None."""

    is_optional: bool
    has_default: bool
    shown: str


def fit(db: Connection, definition: Definition) -> Fit:
    """Bring class and table together.

    Raises:
        ConfigurationError: They do not fit; the message has every fault.
    """
    faults: list[str] = []
    projection = definition.projection
    row = getattr(projection, "row", None)
    fields = _read_fields(row, type(projection), faults.append)
    table = _read_table(db, definition.tables, faults.append)
    codecs: dict[str, Codec] = {}
    if table is not None:
        codecs = dict(_codecs(fields, table, faults.append))
        if fields:
            _check_unfilled(fields, table, faults.append)
        _check_key(fields, table, faults.append)
        if getattr(type(projection), "key", None) is RowProjection.key:
            _check_aggregate_key(table, faults.append)
    if faults or table is None or not isinstance(row, type):
        raise ConfigurationError(
            f'"{definition.name}" ({definition.source}) and its table do not fit: {"; ".join(faults)}',
            hint="mend the class or the table, restart the daemon with it, then set the status to running",
        )
    by_name = {field.name: field for field in fields}
    made = {field.name: Field(field.name, codecs[field.name], table.columns[field.name].cast) for field in fields}
    return Fit(
        table=RowTable(db, row, table.name, list(made.values()), [made[name] for name in table.key]),
        key_readers=[key_reader(by_name[name].annotation, codecs[name]) for name in table.key],
    )


# --- the class


def _read_fields(row: object, owner: type, complain: Complain) -> Sequence[_FieldOfClass]:
    if not isinstance(row, type) or not dataclasses.is_dataclass(row):
        complain(f"{owner.__name__}.row has to be the dataclass of the table's rows, as in row = OrderTotal")
        return []
    fields = dataclasses.fields(row)
    names = [field.name for field in fields]
    taken = inspect.signature(row).parameters
    for name in names:
        if name not in taken:
            complain(f'field "{name}" of {row.__name__} is not taken by its __init__; take init=False off')
    if other := [name for name in taken if name not in names]:
        complain(f"{row.__name__} takes what is no field of it ({', '.join(other)}); let it take its fields only")
    try:
        hints = typing.get_type_hints(row, include_extras=True)
    except Exception as error:  # noqa: BLE001 - whatever stands in an annotation
        complain(f"the annotations of {row.__name__} cannot be resolved: {describe(error)}; import what they name")
        return []
    return [_read_field(field, hints[field.name]) for field in fields]


def _read_field(field: "dataclasses.Field[Any]", hint: Any) -> _FieldOfClass:  # noqa: ANN401 - a type form
    annotation, is_optional = split_optional(hint)
    has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    return _FieldOfClass(field.name, annotation, is_optional, has_default, _shown(annotation))


def _shown(annotation: Any) -> str:  # noqa: ANN401 - a type form
    return annotation.__name__ if isinstance(annotation, type) else inspect.formatannotation(annotation)


# --- the table


def _read_table(db: Connection, tables: Sequence[str], complain: Complain) -> _Table | None:
    if len(tables) != 1:
        complain(f"tables names {len(tables)} tables; name the one whose rows these are")
        return None
    (name,) = tables
    quoted = Identifier(*name.split(".")).as_string(db)
    found = db.execute(sql.rows.ROW_TABLE, {"table": quoted}).fetchone()
    if found is None:
        complain(f"table {name} does not exist; create it in `schema`, or by a migration")
        return None
    oid, kind, key, is_deferrable = found
    if kind not in _TABLES:
        complain(f"{name} is {_NO_TABLES.get(kind, 'no table')}; rows are kept in a table")
        return None
    if is_deferrable:
        complain(f"the primary key of {name} is deferrable; take DEFERRABLE off")
    columns = [_read_column(row) for row in db.execute(sql.rows.ROW_COLUMNS, {"table": oid}).fetchall()]
    return _Table(name, {column.name: column for column in columns}, key or [])


def _read_column(row: Sequence[Any]) -> _Column:
    name, declared, is_required, has_default, is_generated, is_exact, *of_type = row
    schema, type_name, plain_name, modifier, is_array, labels = of_type
    return _Column(
        name,
        declared,
        is_required,
        has_default,
        is_generated,
        is_exact,
        Identifier(schema, type_name),
        ColumnType(plain_name, modifier, is_array, tuple(labels)),
    )


# --- both


def _codecs(fields: Sequence[_FieldOfClass], table: _Table, complain: Complain) -> Iterator[tuple[str, Codec]]:
    """Give the codec of each field that fits its column."""
    for field in fields:
        column = table.columns.get(field.name)
        said = f'field "{field.name}"'
        if column is None:
            declared = _DECLARED.get(field.shown, "…")
            complain(
                f'{said} has no column in {table.name}; add "{field.name} {declared}" there, or take the field out'
            )
            continue
        if column.is_generated:
            complain(f"column {table.name}.{field.name} is generated; take {said} out")
        elif field.is_optional and column.is_required:
            complain(
                f"{said} may be None, but column {table.name}.{field.name} is NOT NULL; "
                f'write "{field.name}: {field.shown}", or drop NOT NULL'
            )
        if field.name not in table.key and not field.has_default:
            complain(f"{said} has no default, which it needs in a row that is new; give it one")
        try:
            yield field.name, codec_for(field.annotation, column.type)
        except UnfitError as unfit:
            complain(f"{said} is {field.shown}, but column {table.name}.{field.name} is {column.declared}: {unfit}")


def _check_unfilled(fields: Sequence[_FieldOfClass], table: _Table, complain: Complain) -> None:
    names = {field.name for field in fields}
    for column in table.columns.values():
        needs_value = column.is_required and not column.has_default
        if column.name not in names and column.name not in table.key and needs_value:
            holds = HOLDS[column.type.name].__name__ if column.type.name in HOLDS else "…"
            complain(
                f"column {table.name}.{column.name} ({column.declared}) is NOT NULL, and nothing fills it; "
                f'add a field "{column.name}: {holds} = …", or a default to the column'
            )


def _check_key(fields: Sequence[_FieldOfClass], table: _Table, complain: Complain) -> None:
    if not table.key:
        complain(f"table {table.name} has no primary key; add PRIMARY KEY to the column that `key` gives")
    names = {field.name for field in fields}
    for name in table.key:
        column = table.columns[name]
        if fields and name not in names:
            holds = HOLDS[column.type.name].__name__ if column.type.name in HOLDS else "…"
            complain(f'primary-key column {table.name}.{name} ({column.declared}) is no field; add "{name}: {holds}"')
        elif column.type.name in HOLDS and (column.type.name not in KEYS or column.type.is_array):
            complain(f"column {table.name}.{name} is {column.declared}, which cannot be a key here; use another type")
        elif not column.is_exact:
            complain(f"column {table.name}.{name} has a collation by which different texts are equal; use another one")


def _check_aggregate_key(table: _Table, complain: Complain) -> None:
    """See that the aggregate id can be the key, as it is where the author does not say otherwise."""
    if len(table.key) > 1:
        complain(f"the primary key of {table.name} is ({', '.join(table.key)}); write `key`, which gives such a tuple")
    for name in table.key[:1]:
        column = table.columns[name]
        if column.type.name != "uuid" and len(table.key) == 1:
            complain(f"column {table.name}.{name} is {column.declared}, but an aggregate id is a uuid; write `key`")
