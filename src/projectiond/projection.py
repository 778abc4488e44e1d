"""What authors write: a `Projection` with methods marked by `@handles`.

A projection is a class that names the tables it owns and says, a method for each kind of event, which
statements bring them up to date. The daemon makes one instance, without arguments, and calls the handlers
in sequence order inside its own transaction; a handler neither commits nor rolls back.

Nothing is checked here except what Python would otherwise report in a way that nobody understands: the
registry checks everything else, so that `projectiond check` can report all faults of all files at once.
"""

import re
import sys
from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

ANY_EVENT = "*"
"""The event type that stands for all of them: `@handles("*")`."""

MARK = "__projectiond_event_types__"
"""The attribute by which `handles` marks a method."""


class Projection:
    """Base class of projections: subclass it, set `tables` and `schema`, write handlers.

    A subclass inherits its parent's handlers. A method of the same name replaces the inherited one, and keeps
    its event types unless it has its own `@handles`. A class whose name starts with an underscore is a base
    for others and is never run.
    """

    name: ClassVar[str] = "projection"
    """The key in projection_checkpoints, at most 100 characters; by default the class name in snake_case."""

    tables: ClassVar[tuple[str, ...]] = ()
    """The tables that this projection owns, and nobody else writes: a rebuild empties them."""

    schema: ClassVar[str] = ""
    """DDL that makes the tables; runs at every start, so `CREATE TABLE IF NOT EXISTS`."""

    schema_file: ClassVar[str] = ""
    """The same in a file beside the plugin's, instead of `schema`."""

    batch_size: ClassVar[int | None] = None
    """Events read at once; None for the daemon's setting, here and below."""

    checkpoint_every: ClassVar[int | None] = None
    """Events in a transaction at most, at the head of the store."""

    max_attempts: ClassVar[int | None] = None
    """How often an event that fails is tried before `on_error` decides."""

    on_error: ClassVar[Literal["pause", "skip"] | None] = None
    """What becomes of an event that keeps failing: stop before it, or set it aside and go on."""

    def __init_subclass__(cls, **keywords: Any) -> None:  # noqa: ANN401 - they belong to other base classes
        """Give the class its default name; an inherited one would make two projections of one name."""
        super().__init_subclass__(**keywords)
        if "name" not in vars(cls):
            cls.name = snake_case(cls.__name__)


def handles(*event_types: str) -> Callable[[F], F]:
    """Mark a method as the handler of events of these types; `"*"` stands for all types.

    Raises:
        TypeError: no type is given (or the parentheses are missing), one is not a string, or the class
            already has a handler by the method's name, which this one would silently replace.
    """
    if not event_types:
        raise TypeError('@handles needs at least one event type, as in @handles("OrderPlaced")')
    for event_type in event_types:
        if callable(event_type):
            raise TypeError('@handles needs event types in parentheses, as in @handles("OrderPlaced")')
        if not isinstance(event_type, str):
            raise TypeError(f"@handles takes event types as strings, not {type(event_type).__name__}")

    def mark(function: F) -> F:
        if not callable(function):
            raise TypeError(f"@handles marks methods, not {type(function).__name__}")
        # Two methods of one name in one class body: Python keeps the last, and the events of the first would
        # be dropped without a word. Here is the only place that still sees both.
        name = getattr(function, "__name__", "")
        previous = sys._getframe(1).f_locals.get(name)  # noqa: SLF001 - the class body being executed
        if previous is not None and previous is not function and hasattr(previous, MARK):
            raise TypeError(f"a second handler named {name!r} would replace the first; rename one of them")
        marked = dict.fromkeys((*event_types, *getattr(function, MARK, ())))
        setattr(function, MARK, tuple(marked))
        return function

    return mark


def snake_case(class_name: str) -> str:
    """Turn OrderSummary into order_summary, and HTTPRequests into http_requests."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", class_name).lower()
