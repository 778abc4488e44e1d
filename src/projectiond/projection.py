"""What authors write: a projection, of one of four kinds.

A projection is a class that names the tables it owns and says how events bring them up to date. The daemon makes one
instance, without arguments, and calls it in sequence order inside its own transaction; nothing that an author writes
commits or rolls back. The kinds differ in what is written, and in how fast they are:

    Projection        a method for each kind of event, which executes statements
    BatchProjection   one method that gets many events at once, for COPY and executemany
    RowProjection     a method for each kind of event, which changes one row, a dataclass, in memory
    SqlProjection     statements over the relation `events`; no event leaves the server

Nothing is checked here except what Python would otherwise report in a way that nobody understands: the
registry checks everything else, so that `projectiond check` can report all faults of all files at once.
"""

import enum
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeVar

from projectiond.event import Event

if TYPE_CHECKING:
    # Only named here: projections are found, and checked, where there is no database.
    from projectiond.postgres.database import Connection

F = TypeVar("F", bound=Callable[..., Any])

ANY_EVENT = "*"
"""The event type that stands for all of them: `@handles("*")`."""

MARK = "__projectiond_event_types__"
"""The attribute by which `handles` marks a method."""


def snake_case(class_name: str) -> str:
    """Turn OrderSummary into order_summary, and HTTPRequests into http_requests."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", class_name).lower()


class BaseProjection:
    """What the four kinds share: subclass one of them, set `tables` and `schema`.

    A class whose name starts with an underscore is a base for others and is never run.
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

    on_change: ClassVar[Literal["warn", "rebuild", "pause"] | None] = None
    """What happens when the daemon starts with other code or another schema than the tables were built with."""

    synchronous_commit: ClassVar[Literal["on", "off"] | None] = None
    """Off: the server does not wait for its disk.  A crash takes back the last half second, which is applied again."""

    version: ClassVar[str | None] = None
    """Stands for the code: as long as it is the same text, a change of the handlers is taken to be harmless."""

    is_rebuilding: bool = False
    """Whether the tables are being built anew, from the first event: for what must not happen twice, like an e-mail."""

    def __init_subclass__(cls, **keywords: Any) -> None:  # noqa: ANN401 - they belong to other base classes
        """Give the class its default name; an inherited one would make two projections of one name."""
        super().__init_subclass__(**keywords)
        if "name" not in vars(cls):
            cls.name = snake_case(cls.__name__)


class Projection(BaseProjection):
    """Event by event: write handlers, methods marked by `@handles` with the parameters (self, event, db).

    A subclass inherits its parent's handlers. A method of the same name replaces the inherited one, and keeps
    its event types unless it has its own `@handles`.
    """


class BatchProjection(BaseProjection):
    """Many events at once: write `apply`, which is free to use COPY and executemany."""

    event_types: ClassVar[tuple[str, ...]] = ()
    """The types to read; `("*",)` for all."""

    def apply(self, events: Sequence[Event], db: "Connection") -> None:
        """Bring the tables up to date with these events.

        Args:
            events: At least one and at most `batch_size`, in sequence order. After a failure they come in smaller
                batches, so nothing may depend on how they are cut.
            db: A connection inside the transaction that also holds the checkpoint.
        """
        raise NotImplementedError


class RowProjection(BaseProjection):
    """One row for each key, as a dataclass: write handlers with the parameters (self, row, event) that change it.

    The daemon loads the rows of many events in one query, calls the handlers, and writes what has changed in one
    statement. `tables` names the one table; its columns are the dataclass's fields. A handler changes its row in place,
    returns another one instead, or returns `DELETE`. For a key that has no row yet it gets a new one, with the key's
    fields set and defaults for the others; that row is inserted.
    """

    row: ClassVar[type]
    """The dataclass. Its fields that are the table's primary key need no default, all others do."""

    def key(self, event: Event) -> Any:  # noqa: ANN401 - whatever the primary key's columns hold
        """Say which row an event belongs to: the one of its aggregate, unless a subclass says otherwise.

        Returns:
            The primary key's value, or a tuple where it has several columns; a list of these when the event belongs to
            several rows, whose handlers are then called once for each; an empty list when it belongs to none.
        """
        return event.aggregate_id


class SqlProjection(BaseProjection):
    """Statements over the relation `events`, the columns of `event_store` for a batch of any size.

    Statements run in the order in which they are given, in the transaction that also holds the checkpoint.
    """

    event_types: ClassVar[tuple[str, ...]] = (ANY_EVENT,)
    """The types that `events` holds; all unless a subclass says otherwise."""

    sql: ClassVar[str | tuple[str, ...]] = ()
    """One statement, or several: INSERT, UPDATE, DELETE, MERGE or SELECT; each mentions `events`."""


class Delete(enum.Enum):
    """The type of `DELETE`."""

    DELETE = "delete"


DELETE: Final = Delete.DELETE
"""What a handler of a `RowProjection` returns to have its row deleted."""


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
