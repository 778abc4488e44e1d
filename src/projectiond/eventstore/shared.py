"""What both event stores are made of, apart from the calls to psycopg."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg.pq import TransactionStatus

from projectiond.errors import ConfigurationError
from projectiond.eventstore.aggregate import A, Loaded, Shape
from projectiond.eventstore.append import append
from projectiond.eventstore.loading import load, save
from projectiond.eventstore.new_event import AnyVersion, Append, Request
from projectiond.eventstore.plan import Plan
from projectiond.eventstore.reading import decoder
from projectiond.eventstore.registry import EventRegistry
from projectiond.postgres.database import CONNECT_TIMEOUT_SECONDS, unreachable
from projectiond.settings import Settings

SNAPSHOT_THRESHOLD: Final[int] = Settings.model_fields["snapshot_threshold"].default

# How many events are read at once, and how long a stream waits for the writers in flight at its start.
BATCH_SIZE: Final = 100
STREAM_TIMEOUT_SECONDS: Final = 60.0

# The pool that a store opens for itself, of a connection string.
OWN_POOL: Final[Mapping[str, Any]] = {"min_size": 0, "max_size": 10, "kwargs": {"autocommit": True}}


class Plans:
    """Makes the plans of one event store."""

    def __init__(self, registry: EventRegistry | None, snapshot_threshold: int | None) -> None:
        if snapshot_threshold is not None and snapshot_threshold < 1:
            raise ConfigurationError(
                f"snapshot_threshold is {snapshot_threshold}", hint="give a number from 1, or None for no snapshots"
            )
        self.registry = registry
        self.decode = decoder(registry)
        self._snapshot_threshold = snapshot_threshold
        self._shapes: dict[type, Shape[Any]] = {}

    def append(
        self,
        aggregate_id: UUID,
        events: Sequence[object],
        expected_version: int | AnyVersion,
        aggregate_type: str | None,
        metadata: Mapping[str, Any] | None,
    ) -> Plan[int]:
        """Append to one aggregate."""
        return self.append_many([Append(aggregate_id, events, expected_version, aggregate_type, metadata)])

    def append_many(self, appends: Sequence[Append]) -> Plan[int]:
        """Append to several aggregates."""
        return append(Request.of(appends, self.registry))

    def load(self, aggregate_id: UUID, aggregate: type[A], initial: A | None, *, may_save: bool) -> Plan[Loaded[A]]:
        """Load an aggregate."""
        shape = self._shape_of(aggregate)
        start = self._make(aggregate) if initial is None else initial
        return load(aggregate_id, start, shape, self.decode, self._snapshot_threshold if may_save else None)

    def save(self, loaded: Loaded[A]) -> Plan[bool]:
        """Save a snapshot."""
        return save(loaded, self._shape_of(type(loaded.state)))

    def _shape_of(self, aggregate: type[A]) -> Shape[A]:
        shape = self._shapes.get(aggregate)
        if shape is None:
            shape = self._shapes[aggregate] = Shape.of(aggregate)
        return shape

    @staticmethod
    def _make(aggregate: type[A]) -> A:
        try:
            return aggregate()
        except (TypeError, ValueError) as error:  # pydantic's are ValueErrors
            raise ConfigurationError(
                f"{aggregate.__name__} cannot be made without arguments",
                hint="give its fields defaults, or pass initial=... to load",
            ) from error


def refuse_source(source: object, wanted: str) -> ConfigurationError:
    """Say that an event store cannot work with what it was given; never its value, which may hold a password."""
    return ConfigurationError(
        f"an event store cannot work with a {type(source).__module__}.{type(source).__name__}",
        hint=f"give it a connection string, or psycopg's {wanted}",
    )


def require_server(dsn: str) -> None:
    """Open a connection and close it again.

    A store does it before it first borrows from the pool that it has opened for itself, and when that has none to give:
    a pool tries for half a minute and then says that it took too long, but not what the server said.

    Raises:
        DatabaseUnavailableError: No connection could be made; the message says why.
    """
    try:
        psycopg.connect(dsn, connect_timeout=CONNECT_TIMEOUT_SECONDS).close()
    except psycopg.Error as error:
        raise unreachable(dsn, error) from error


def check_stream_connection(status: TransactionStatus, *, is_autocommit: bool) -> None:
    """Refuse a connection on which a stream of the whole store could lose events.

    Raises:
        ConfigurationError: Its statements would see one snapshot, or events that are not committed.
    """
    if status != TransactionStatus.IDLE or not is_autocommit:
        raise ConfigurationError(
            "stream_all needs a connection in autocommit mode, outside of a transaction",
            hint="make the event store with a pool or a connection string",
        )
