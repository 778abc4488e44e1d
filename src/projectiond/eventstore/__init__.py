"""The event store for applications: append events, read them, load aggregates.

``EventStore`` is for plain code, ``AsyncEventStore`` for asynchronous code; docs/writing-events.md shows how they are
used.  Projections do not need any of this.
"""

from projectiond.errors import (
    AppendRefusedError,
    ConcurrencyError,
    EventDataError,
    EventIdTakenError,
    EventRegistryError,
)
from projectiond.event import Event
from projectiond.eventstore.aggregate import Aggregate, Loaded
from projectiond.eventstore.async_store import AsyncEventStore
from projectiond.eventstore.metadata import caused_by, correlated
from projectiond.eventstore.new_event import ANY_VERSION, AnyVersion, Append, NewEvent
from projectiond.eventstore.registry import EventRegistry
from projectiond.eventstore.store import EventStore

__all__ = [
    "ANY_VERSION",
    "Aggregate",
    "AnyVersion",
    "Append",
    "AppendRefusedError",
    "AsyncEventStore",
    "ConcurrencyError",
    "Event",
    "EventDataError",
    "EventIdTakenError",
    "EventRegistry",
    "EventRegistryError",
    "EventStore",
    "Loaded",
    "NewEvent",
    "caused_by",
    "correlated",
]
