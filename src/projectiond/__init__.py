"""projectiond keeps read models up to date from a PostgreSQL event store.

This package root is what authors of projections import from; nothing else is public to them.
"""

from projectiond.errors import (
    AppendRefusedError,
    ConcurrencyError,
    ConfigurationError,
    ConflictError,
    DatabaseUnavailableError,
    EventDataError,
    EventIdTakenError,
    EventRegistryError,
    PoisonError,
    ProjectiondError,
    ProjectionPausedError,
    TransactionControlError,
    WaitTimeoutError,
)
from projectiond.event import Event
from projectiond.postgres.database import Connection
from projectiond.projection import (
    DELETE,
    BatchProjection,
    Delete,
    Projection,
    RowProjection,
    SqlProjection,
    handles,
)

__version__ = "0.1.0"

__all__ = [
    "DELETE",
    "AppendRefusedError",
    "BatchProjection",
    "ConcurrencyError",
    "ConfigurationError",
    "ConflictError",
    "Connection",
    "DatabaseUnavailableError",
    "Delete",
    "Event",
    "EventDataError",
    "EventIdTakenError",
    "EventRegistryError",
    "PoisonError",
    "Projection",
    "ProjectionPausedError",
    "ProjectiondError",
    "RowProjection",
    "SqlProjection",
    "TransactionControlError",
    "WaitTimeoutError",
    "__version__",
    "handles",
]
