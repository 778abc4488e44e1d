"""Which kind a projection class is of, and which of its names mean something in that kind.

Called by the registry, before anything of a class is read. A name that no code asks for is never an error in
Python: a misspelt option would have no effect, and neither would `sql` in a class that has handlers. So every attribute
that looks like an option, or belongs to another kind, is asked about here.
"""

import difflib
import inspect
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from projectiond.projection import (
    MARK,
    BaseProjection,
    BatchProjection,
    Projection,
    RowProjection,
    SqlProjection,
)

Complain: TypeAlias = Callable[[str], None]

KINDS: Final = (Projection, BatchProjection, RowProjection, SqlProjection)

# Options of every kind.
SHARED: Final = (
    "name",
    "tables",
    "schema",
    "schema_file",
    "batch_size",
    "checkpoint_every",
    "max_attempts",
    "on_error",
    "on_change",
    "synchronous_commit",
    "version",
)

# Options, and then methods, that only some kinds have.
OWN: Final[dict[str, tuple[type[BaseProjection], ...]]] = {
    "event_types": (BatchProjection, SqlProjection),
    "row": (RowProjection,),
    "sql": (SqlProjection,),
}
OWN_METHODS: Final[dict[str, tuple[type[BaseProjection], ...]]] = {
    "apply": (BatchProjection,),
    "key": (RowProjection,),
}

# How alike a name must be to a known one to count as misspelt: "table" and "batchsize" are, "title" is not.
MISSPELT: Final = 0.85


def find_kind(cls: type[BaseProjection], complain: Complain) -> type[BaseProjection] | None:
    """Return the one kind that the class is of, or None, with a complaint, when it is of none or of several."""
    kinds = [kind for kind in KINDS if issubclass(cls, kind)]
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        names = " and ".join(kind.__name__ for kind in kinds)
        complain(f"is of several kinds, {names}; subclass one of them, and make another class of the rest")
    else:
        first, *others = (kind.__name__ for kind in reversed(KINDS))
        complain(f"is of no kind; instead of BaseProjection subclass {', '.join(reversed(others))} or {first}")
    return None


def look_for_strays(cls: type[BaseProjection], kind: type[BaseProjection], complain: Complain) -> None:
    """Complain about attributes that belong to another kind, and about misspelt ones."""
    options = (*SHARED, *(name for name, kinds in OWN.items() if kind in kinds))
    methods = tuple(name for name, kinds in OWN_METHODS.items() if kind in kinds)
    for attribute, value in _attributes(cls):
        if attribute in (*options, *methods) or is_handler(cls, attribute):
            continue
        is_code = callable(value) or isinstance(value, (property, staticmethod, classmethod))
        # A class may be the value of an option, but is not compared with their names: a `Row` inside its projection.
        is_option = attribute in OWN and (not is_code or inspect.isclass(value))
        if is_option or attribute in OWN_METHODS:
            complain(_sentence_of_stranger(attribute, kind))
            continue
        near = _nearest(attribute, methods if is_code else options)
        if near:
            complain(
                f"{attribute} is no {'method' if is_code else 'option'} of a projection; did you mean {near}? "
                f"(an attribute of your own: _{attribute})"
            )


def is_handler(cls: type[BaseProjection], name: str) -> bool:
    """Say whether the class, or a class that it inherits from, has marked a method of this name."""
    return any(event_types_of(vars(base).get(name)) for base in cls.__mro__)


def event_types_of(attribute: object) -> tuple[str, ...]:
    """Return the event types with which `@handles` has marked a method; none when it has not."""
    mark = getattr(attribute, MARK, None) or getattr(getattr(attribute, "__func__", None), MARK, None)
    return mark if isinstance(mark, tuple) else ()


def _attributes(cls: type[BaseProjection]) -> Iterator[tuple[str, object]]:
    """Yield what the classes define; what begins with an underscore is no option, and says so."""
    for base in cls.__mro__:
        if issubclass(base, BaseProjection):
            for attribute, value in vars(base).items():
                if not attribute.startswith("_"):
                    yield attribute, value


def _sentence_of_stranger(attribute: str, kind: type[BaseProjection]) -> str:
    if attribute == "event_types":
        return f"event_types means nothing in a {kind.__name__}, where @handles says which events are read; take it out"
    (owner,) = {**OWN, **OWN_METHODS}[attribute]
    return (
        f"{attribute} means nothing in a {kind.__name__}; subclass {owner.__name__} instead, "
        f"or call it _{attribute} if it is your own"
    )


def _nearest(attribute: str, known: tuple[str, ...]) -> str | None:
    spelling = attribute.lower().replace("_", "")
    near = [name for name in known if _likeness(spelling, name.replace("_", "")) >= MISSPELT]
    return near[0] if near else None


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
