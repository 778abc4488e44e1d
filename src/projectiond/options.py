"""Reads the options of a projection class (name, tables, schema, numbers), and says what is wrong with them.

Called by the registry. An option is a class attribute, so Python checks nothing: a number may be a string, a
tuple may be a string without its comma, and a misspelt name is simply never read. All of that is found here,
each fault in a sentence with the value and what to write instead.
"""

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from annotated_types import Le

from projectiond.fault import shown
from projectiond.projection import Projection
from projectiond.settings import ProjectionSettings

# projection_name is VARCHAR(100).
MAX_NAME = 100

KNOWN = (
    "name",
    "tables",
    "schema",
    "schema_file",
    "batch_size",
    "checkpoint_every",
    "max_attempts",
    "on_error",
)

# How alike a name must be to a known one to count as misspelt: "table" and "batchsize" are, "title" is not.
MISSPELT = 0.85

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


def read_options(cls: type[Projection], complain: Complain) -> Options:
    """Return the class's options, inherited ones included; complain about the wrong ones."""
    _look_for_misspelt(cls, complain)
    return Options(
        tables=_tables(cls, complain),
        schema=_schema(cls, complain),
        batch_size=_positive(cls, "batch_size", complain),
        checkpoint_every=_positive(cls, "checkpoint_every", complain),
        max_attempts=_positive(cls, "max_attempts", complain),
        on_error=_on_error(cls, complain),
    )


def read_name(cls: type[Projection], complain: Complain) -> str | None:
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


def _look_for_misspelt(cls: type[Projection], complain: Complain) -> None:
    for base in cls.__mro__:
        if base is Projection or not issubclass(base, Projection):
            continue
        for attribute, value in vars(base).items():
            # A leading underscore is the author's way to say that it is no option.
            if attribute in KNOWN or attribute.startswith("_") or _is_code(value):
                continue
            spelling = attribute.lower().replace("_", "")
            near = [k for k in KNOWN if _likeness(spelling, k.replace("_", "")) >= MISSPELT]
            if near:
                complain(
                    f"{attribute} is no option of a projection; did you mean {near[0]}? "
                    f"(an attribute of your own: _{attribute})"
                )


def _is_code(value: object) -> bool:
    return callable(value) or isinstance(value, (property, staticmethod, classmethod))


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def _tables(cls: type[Projection], complain: Complain) -> tuple[str, ...]:
    tables: Any = cls.tables
    if isinstance(tables, str):
        complain(f"tables is the string {tables!r}; write tables = ({tables!r},), with the comma")
    elif not isinstance(tables, (tuple, list)):
        complain(f"tables is {type(tables).__name__} {tables!r}; it must be a tuple of table names")
    elif not all(isinstance(table, str) and table.strip() and "\0" not in table for table in tables):
        complain(f"tables is {tables!r}; each must be the name of a table")
    elif len(set(tables)) < len(tables):
        complain(f"tables is {tables!r}; it names one table twice")
    else:
        return tuple(tables)
    return ()


def _schema(cls: type[Projection], complain: Complain) -> str:
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


def _positive(cls: type[Projection], option: str, complain: Complain) -> int | None:
    value: object = getattr(cls, option)
    if value is None:
        return None
    # The bounds are those of the settings, which can override the attribute.
    most = next(m.le for m in ProjectionSettings.model_fields[option].metadata if isinstance(m, Le))
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= int(str(most)):
        return value
    complain(f"{option} is {value!r}; it must be a whole number from 1 to {most}")
    return None


def _on_error(cls: type[Projection], complain: Complain) -> Literal["pause", "skip"] | None:
    value: object = cls.on_error
    match value:
        case None | "pause" | "skip":
            return cls.on_error
        case _:
            complain(f'on_error is {value!r}; it must be "pause" or "skip"')
            return None
