"""Reads the options of a projection class (name, tables, schema, numbers, …), and says what is wrong with them.

Called by the registry. An option is a class attribute, so Python checks nothing: a number may be a string, a tuple may
be a string without its comma. All of that is found here, each fault in a sentence with the value and what to write
instead. Names that are no options are found by `members`.
"""

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from annotated_types import Le

from projectiond.plugins.event_types import find_fault
from projectiond.plugins.fault import shown
from projectiond.projection import BaseProjection, BatchProjection, RowProjection, SqlProjection
from projectiond.settings import ProjectionSettings

# projection_name is VARCHAR(100).
MAX_NAME = 100

# What belongs to the store and to the daemon. A projection's tables are emptied when it is rebuilt.
STORE_TABLES: Final = frozenset(
    {
        "event_store",
        "projection_builds",
        "projection_checkpoints",
        "projection_dead_letters",
        "projection_rebuilds",
        "projection_workers",
        "projectiond_high_water_mark",
        "snapshots",
    }
)

Complain: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """The options, checked; where one was wrong it has its default, and a fault says so."""

    tables: tuple[str, ...]
    schema: str
    batch_size: int | None
    checkpoint_every: int | None
    max_attempts: int | None
    on_error: Literal["pause", "skip"] | None
    on_change: Literal["warn", "rebuild", "pause"] | None
    synchronous_commit: Literal["on", "off"] | None
    version: str | None
    event_types: tuple[str, ...]
    """Of a kind that has no handlers; of the others, whose handlers say it, empty."""


def read_options(cls: type[BaseProjection], complain: Complain) -> Options:
    """Return the class's options, inherited ones included; complain about the wrong ones."""
    if issubclass(cls, RowProjection):
        _check_row(cls, complain)
    if issubclass(cls, SqlProjection):
        _check_sql(cls, complain)
    return Options(
        tables=_tables(cls, complain),
        schema=_schema(cls, complain),
        batch_size=_positive(cls, "batch_size", complain),
        checkpoint_every=_positive(cls, "checkpoint_every", complain),
        max_attempts=_positive(cls, "max_attempts", complain),
        on_error=_on_error(cls, complain),
        on_change=_on_change(cls, complain),
        synchronous_commit=_synchronous_commit(cls, complain),
        version=_version(cls, complain),
        event_types=_event_types(cls, complain) if issubclass(cls, (BatchProjection, SqlProjection)) else (),
    )


def read_name(cls: type[BaseProjection], complain: Complain) -> str | None:
    """Return the projection's name, or None when it can be nobody's name."""
    name: object = cls.name
    if not isinstance(name, str):
        complain(f"name is {name!r}; it must be a string")
    elif not name.strip():
        complain("name is empty")
    elif len(name) > MAX_NAME:
        complain(f"name {name[:40]!r}… has {len(name)} characters; {MAX_NAME} are the most")
    elif not name.isprintable() or name != name.strip():
        complain(f"name {name!r} has control characters, or spaces at an end")
    else:
        return name
    return None


def _tables(cls: type[BaseProjection], complain: Complain) -> tuple[str, ...]:
    tables: Any = cls.tables
    if isinstance(tables, str):
        complain(f"tables is the string {tables!r}; write tables = ({tables!r},), with the comma")
    elif not isinstance(tables, (tuple, list)):
        complain(f"tables is {type(tables).__name__} {tables!r}; it must be a tuple of table names")
    elif not all(isinstance(table, str) and table.strip() and "\0" not in table for table in tables):
        complain(f"tables is {tables!r}; each must be the name of a table")
    elif len(set(tables)) < len(tables):
        complain(f"tables is {tables!r}; it names one table twice")
    elif taken := [table for table in tables if table.removeprefix("public.") in STORE_TABLES]:
        complain(f"tables names {taken[0]!r}, which is not the projection's own: a rebuild would empty it; take it out")
    elif issubclass(cls, RowProjection) and len(tables) != 1:
        complain(f"tables is {tables!r}; the rows of a RowProjection are those of exactly one table, name that one")
    else:
        return tuple(tables)
    return ()


def _schema(cls: type[BaseProjection], complain: Complain) -> str:
    """Return the DDL text, from the class or from the file that the class names."""
    schema: object = cls.schema
    schema_file: object = cls.schema_file
    if not isinstance(schema, str):
        complain(f"schema is {schema!r}; it must be a string of SQL")
    elif not isinstance(schema_file, (str, Path)):
        complain(f"schema_file is {schema_file!r}; it must be the name of a file")
    elif schema and str(schema_file):
        complain("both schema and schema_file are set; keep one of them")
    elif schema_file == "":
        return schema
    else:
        # Relative to the file of the class that sets it, which may be a base class in another one.
        setter = next(base for base in cls.__mro__ if "schema_file" in vars(base))
        path = Path(inspect.getfile(setter)).parent / schema_file
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            complain(f"schema_file {shown(path)} cannot be read: {error.strerror}")
        except UnicodeDecodeError:
            complain(f"schema_file {shown(path)} is not UTF-8 text")
    return ""


def _positive(cls: type[BaseProjection], option: str, complain: Complain) -> int | None:
    value: object = getattr(cls, option)
    if value is None:
        return None
    # The bounds are those of the settings, which can override the attribute.
    most = next(m.le for m in ProjectionSettings.model_fields[option].metadata if isinstance(m, Le))
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= int(str(most)):
        return value
    complain(f"{option} is {value!r}; it must be a whole number from 1 to {most}")
    return None


def _on_error(cls: type[BaseProjection], complain: Complain) -> Literal["pause", "skip"] | None:
    value: object = cls.on_error
    match value:
        case None | "pause" | "skip":
            return cls.on_error
        case _:
            complain(f'on_error is {value!r}; it must be "pause" or "skip"')
            return None


def _on_change(cls: type[BaseProjection], complain: Complain) -> Literal["warn", "rebuild", "pause"] | None:
    value: object = cls.on_change
    match value:
        case None | "warn" | "rebuild" | "pause":
            return cls.on_change
        case _:
            complain(f'on_change is {value!r}; it must be "warn", "rebuild" or "pause"')
            return None


def _version(cls: type[BaseProjection], complain: Complain) -> str | None:
    value: object = cls.version
    if value is None or (isinstance(value, str) and value.strip() and value.isprintable()):
        return cls.version
    complain(f'version is {value!r}; it must be a text, as in version = "2"')
    return None


def _synchronous_commit(cls: type[BaseProjection], complain: Complain) -> Literal["on", "off"] | None:
    value: object = cls.synchronous_commit
    match value:
        case None | "on" | "off":
            return cls.synchronous_commit
        case _:
            complain(f'synchronous_commit is {value!r}; it must be "on" or "off", in quotes')
            return None


def _event_types(cls: type[BatchProjection | SqlProjection], complain: Complain) -> tuple[str, ...]:
    types: Any = cls.event_types
    if isinstance(types, str):
        complain(f"event_types is the string {types!r}; write event_types = ({types!r},), with the comma")
    elif not isinstance(types, (tuple, list)):
        complain(f"event_types is {type(types).__name__} {types!r}; it must be a tuple of event types")
    elif not types:
        complain('has no event_types; write event_types = ("SomeEvent",) with the types to read, or ("*",) for all')
    else:
        for fault in filter(None, map(find_fault, types)):
            complain(f"event_types: {fault}")
        return tuple(types)
    return ()


def _check_row(cls: type[RowProjection], complain: Complain) -> None:
    row: object = getattr(cls, "row", None)
    if row is None:
        complain("has no row; write row = OrderTotal, where OrderTotal is the dataclass of the table's rows")
    elif not dataclasses.is_dataclass(row):
        name = row.__name__ if isinstance(row, type) else repr(row)
        complain(f"row is {name}; it must be a dataclass, a class marked by @dataclass")
    elif not isinstance(row, type):
        name = type(row).__name__
        complain(f"row is an instance of {name}; it must be the class itself, so write row = {name}")
    elif not dataclasses.fields(row):
        complain(f"row is {row.__name__}, which has no fields; it needs one for each column, with an annotation")


def _check_sql(cls: type[SqlProjection], complain: Complain) -> None:
    sql: Any = cls.sql
    if not isinstance(sql, (str, tuple, list)):
        complain(f"sql is {type(sql).__name__} {sql!r}; it must be a string, or a tuple of strings")
        return
    statements = (sql,) if isinstance(sql, str) else tuple(sql)
    if not statements:
        complain(
            'has no sql; write the statement that reads the relation events, as in sql = "INSERT INTO … FROM events"'
        )
    for number, statement in enumerate(statements, 1):
        place = "sql" if isinstance(sql, str) else f"statement {number} of sql"
        if not isinstance(statement, str):
            complain(f"{place} is {statement!r}; it must be a string")
        elif not statement.strip():
            complain(f"{place} is empty")
