"""What metadata the event store knows of: where an event came from, and which version of its schema it has.

``correlation_id`` is the same for all events that one request or message set off; ``causation_id`` is the event (or
command) that led directly to this one.  Both are text.  ``schema_version`` is the store's own, see ``registry``.
"""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from projectiond.event import Event

CORRELATION_ID: Final = "correlation_id"
CAUSATION_ID: Final = "causation_id"
SCHEMA_VERSION: Final = "schema_version"


def correlated(correlation_id: UUID | str, causation_id: UUID | str | None = None) -> dict[str, Any]:
    """Give the metadata of events that a request set off; without a causation id it is the request itself."""
    return {CORRELATION_ID: str(correlation_id), CAUSATION_ID: str(causation_id or correlation_id)}


def caused_by(event: Event[Any]) -> dict[str, Any]:
    """Give the metadata of events that another event led to: its correlation goes on, or begins with it."""
    metadata: Mapping[str, Any] = event.metadata
    return correlated(metadata.get(CORRELATION_ID) or event.event_id, event.event_id)
