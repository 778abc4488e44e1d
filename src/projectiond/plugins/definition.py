"""What the runner gets of a projection: its `Definition`, checked, with handlers ready to be called.

Made by the registry, never by authors; `kinds` says how each kind applies events with it.

Everything that can be found out before the first event, and without a database, has been found out: signatures,
annotations, options.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter

from projectiond.event import Event
from projectiond.plugins.fingerprint import Fingerprint
from projectiond.projection import ANY_EVENT, BaseProjection


@dataclass(frozen=True, slots=True)
class Handler:
    """One handler, bound to its projection."""

    name: str
    """Class and method, for messages: "OrderSummary.placed"."""

    function: Callable[..., Any]
    """Takes (event, db); of a `RowProjection`, (row, event)."""

    adapter: TypeAdapter[Any] | None
    """Validates the data of a handler that is annotated `Event[Model]`; None where any data will do."""

    def event_for(self, event: Event[Any]) -> Event[Any]:
        """Give the event as this handler is to get it.

        It is an event of its own: whatever the handler does to the data, the next handler, and this one
        when the event has to be applied again, find the data as the store has it.

        Raises:
            EventDataError: the event's data does not fit the handler's model.
        """
        return event.pristine() if self.adapter is None else event.typed(self.adapter)


@dataclass(frozen=True, slots=True)
class Definition:
    """One projection, with what the class, its file and the settings say about it."""

    name: str
    projection: BaseProjection
    tables: tuple[str, ...]
    schema: str
    """DDL text, also where the class names a file; empty when it has none."""

    event_types: tuple[str, ...] | None
    """The types to read from the store, sorted; None for all."""

    handlers: Mapping[str, tuple[Handler, ...]]
    """By event type, in the order of their definition; those of "*" are under each type, and under "*". Of a kind
    that has no handlers: empty."""

    source: str
    """Where the class stands: "projections/order_summary.py:31"."""

    batch_size: int | None = None
    checkpoint_every: int | None = None
    max_attempts: int | None = None
    on_error: Literal["pause", "skip"] | None = None
    on_change: Literal["warn", "rebuild", "pause"] | None = None
    synchronous_commit: Literal["on", "off"] | None = None

    fingerprint: Fingerprint = field(default_factory=lambda: Fingerprint(code=None, schema="", options={}))
    """What the tables are made of, as the source was when it was loaded."""

    def handlers_for(self, event_type: str) -> tuple[Handler, ...]:
        """Return the handlers to call, in order, for an event of this type."""
        handlers = self.handlers.get(event_type)
        return self.handlers.get(ANY_EVENT, ()) if handlers is None else handlers
