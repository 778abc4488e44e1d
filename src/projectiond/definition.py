"""What the runner gets of a projection: its `Definition`, checked, with handlers ready to be called.

Made by the registry, never by authors. The runner applies a batch with it:

    for event in batch:
        for handler in definition.handlers_for(event.event_type):
            handler.call(event, connection)

Everything that can be found out before the first event has been found out: signatures, annotations, options.
What is left to go wrong in `call` is the event's data (`EventDataError`) and whatever the handler raises.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter

from projectiond.event import Event
from projectiond.projection import ANY_EVENT, Projection

if TYPE_CHECKING:
    # Only named here: definitions are made, and checked, where there is no database.
    from projectiond.database import Connection


@dataclass(frozen=True, slots=True)
class Handler:
    """One handler, bound to its projection."""

    name: str
    """Class and method, for messages: "OrderSummary.placed"."""

    function: Callable[[Event[Any], "Connection"], None]

    adapter: TypeAdapter[Any] | None
    """Validates the data of a handler that is annotated `Event[Model]`; None where any data will do."""

    def call(self, event: Event[Any], db: "Connection") -> None:
        """Apply one event.

        The handler gets an event of its own: whatever it does to the data, the next handler, and this one
        when the event has to be applied again, find the data as the store has it.

        Raises:
            EventDataError: the event's data does not fit the handler's model.
        """
        self.function(event.pristine() if self.adapter is None else event.typed(self.adapter), db)


@dataclass(frozen=True, slots=True)
class Definition:
    """One projection, with what the class, its file and the settings say about it."""

    name: str
    projection: Projection
    tables: tuple[str, ...]
    schema: str
    """DDL text, also where the class names a file; empty when it has none."""

    event_types: tuple[str, ...] | None
    """The types to read from the store, sorted; None for all."""

    handlers: Mapping[str, tuple[Handler, ...]]
    """By event type, in the order of their definition; those of "*" are under each type, and under "*"."""

    source: str
    """Where the class stands: "projections/order_summary.py:31"."""

    batch_size: int | None = None
    checkpoint_every: int | None = None
    max_attempts: int | None = None
    on_error: Literal["pause", "skip"] | None = None

    def handlers_for(self, event_type: str) -> tuple[Handler, ...]:
        """Return the handlers to call, in order, for an event of this type."""
        handlers = self.handlers.get(event_type)
        return self.handlers.get(ANY_EVENT, ()) if handlers is None else handlers
