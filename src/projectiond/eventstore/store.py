"""The event store, for plain (synchronous) code; ``async_store`` is its twin and differs in the calls alone.

What is decided is in the plans of the neighbouring modules.  What is here: where a connection comes from, and how a
statement is run so that a transaction of the caller survives its failure.

A connection of a pool is set to autocommit while it is borrowed: an append is then one round trip, and what has
returned is committed.  A connection that the caller hands over is never committed or rolled back: it commits when the
caller does, and with autocommit at once.  In an open transaction a statement that may fail runs behind a savepoint.
Where the server serializes (``default_transaction_isolation``), a statement that is a transaction of its own is run
again when it fails for that.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar
from uuid import UUID

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import TupleRow, tuple_row
from psycopg_pool import ConnectionPool, PoolTimeout

from projectiond.event import Event
from projectiond.eventstore.aggregate import A, Loaded
from projectiond.eventstore.new_event import AnyVersion, Append
from projectiond.eventstore.plan import JSON_AS_BYTES, MAX_ATTEMPTS, Pause, Plan, Statement
from projectiond.eventstore.reading import Pages, by_sequence_number, by_version, read_events, settle
from projectiond.eventstore.registry import EventRegistry
from projectiond.eventstore.shared import (
    BATCH_SIZE,
    OWN_POOL,
    SNAPSHOT_THRESHOLD,
    STREAM_TIMEOUT_SECONDS,
    Plans,
    check_stream_connection,
    refuse_source,
    require_server,
)

T = TypeVar("T")


class EventStore:
    """Appends and reads events, and loads aggregates."""

    def __init__(
        self,
        source: "ConnectionPool[Any] | psycopg.Connection[Any] | str",
        *,
        registry: EventRegistry | None = None,
        snapshot_threshold: int | None = SNAPSHOT_THRESHOLD,
    ) -> None:
        """Make an event store.

        Args:
            source: A pool, which stays yours; a connection, which is used as it is and never committed; or a connection
                string, for which the store opens a pool that ``close`` (or ``with``) closes.
            registry: The classes of the events; without one, data is what the JSON has.
            snapshot_threshold: After how many events ``load`` takes a snapshot; None for never.
        """
        self._plans = Plans(registry, snapshot_threshold)
        self._own_pool: ConnectionPool[Any] | None = None
        self._dsn = source if isinstance(source, str) else ""
        self._has_connected = False
        if isinstance(source, str):
            source = self._own_pool = ConnectionPool(source, open=True, **OWN_POOL)
        if not isinstance(source, (ConnectionPool, psycopg.Connection)):
            raise refuse_source(source, "ConnectionPool or Connection")
        self._source = source

    def __repr__(self) -> str:
        return f"<EventStore on {self._source!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store's own pool, if it has one."""
        if self._own_pool is not None:
            self._own_pool.close()

    def append(
        self,
        aggregate_id: UUID,
        events: Sequence[object],
        expected_version: int | AnyVersion,
        *,
        aggregate_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        connection: "psycopg.Connection[Any] | None" = None,
    ) -> int:
        """Append events to one aggregate: all of them, in this order, or none.

        The same events again (by their ids) are found, not written: the result is the first one's.  Without events the
        version is checked, and nothing is written.

        Args:
            aggregate_id: Whose events they are.
            events: Instances of registered classes, NewEvents, or models with an ``event_type`` of their own.
            expected_version: The version that they follow: as loaded, 0 for a new aggregate, or ``ANY_VERSION``.
            aggregate_type: What the aggregate is; by default what the events or their registration say.
            metadata: For each of the events; an event's own metadata prevails.
            connection: Yours, to append within its transaction.

        Returns:
            The sequence number of the last event; without events, of the aggregate's last one, 0 when it has none.

        Raises:
            ConcurrencyError: The aggregate is at another version.
            EventIdTakenError: An event id is another event's, or some of these events are there and some are not.
            EventRegistryError: A class is not registered.
            EventDataError: An event cannot be stored as JSON.
        """
        return self._run(
            self._plans.append(aggregate_id, events, expected_version, aggregate_type, metadata), connection
        )

    def append_many(self, appends: Sequence[Append], *, connection: "psycopg.Connection[Any] | None" = None) -> int:
        """Append to several aggregates: everything or nothing, in one statement.

        Among the aggregates the events are numbered in the order of the aggregates' ids, which keeps writers from
        deadlock; within each in the order given.

        Returns:
            The last sequence number.

        Raises:
            ConcurrencyError: An aggregate is at another version; it is named. And what else ``append`` raises.
        """
        return self._run(self._plans.append_many(appends), connection)

    def get_events(
        self, aggregate_id: UUID, after_version: int = 0, *, connection: "psycopg.Connection[Any] | None" = None
    ) -> list[Event[Any]]:
        """Give the events of an aggregate after a version, in order; typed when the store has a registry."""
        return self._run(read_events(aggregate_id, after_version, self._plans.decode), connection)

    def stream_events(
        self,
        aggregate_id: UUID,
        after_version: int = 0,
        batch_size: int = BATCH_SIZE,
        *,
        connection: "psycopg.Connection[Any] | None" = None,
    ) -> Iterator[Event[Any]]:
        """Give the events of an aggregate as ``get_events`` does, however many, in bounded memory."""
        pages = Pages.of_aggregate(aggregate_id, after_version, batch_size)
        while not pages.is_done:
            for event in self._run(pages.read(by_version), connection):
                yield self._plans.decode(event)

    def stream_all(
        self,
        after_sequence: int = 0,
        batch_size: int = BATCH_SIZE,
        *,
        timeout_seconds: float | None = STREAM_TIMEOUT_SECONDS,
    ) -> Iterator[Event[Any]]:
        """Give all events of the store after a sequence number, in order, up to the end of what is there now.

        None is missed: when a number is not visible yet, its transaction is waited for.  So the last event's sequence
        number may be the next call's ``after_sequence``.  For the newest events as they come, write a projection.

        Args:
            after_sequence: Where to begin; 0 for all.
            batch_size: Events read at once.
            timeout_seconds: How long to wait for the transactions in flight at the start; None for as long as it takes.

        Raises:
            WaitTimeoutError: They took longer; the message names them.
            ConfigurationError: The server is a standby, or the store's connection is in a transaction.
        """
        db = self._given(None)
        if db is not None:
            check_stream_connection(db.info.transaction_status, is_autocommit=db.autocommit)
        upto = self._run(settle(after_sequence, timeout_seconds), None)
        pages = Pages.of_store(after_sequence, upto, batch_size)
        while not pages.is_done:
            for event in self._run(pages.read(by_sequence_number), None):
                yield self._plans.decode(event)

    def load(
        self,
        aggregate_id: UUID,
        aggregate: type[A],
        *,
        initial: A | None = None,
        connection: "psycopg.Connection[Any] | None" = None,
    ) -> Loaded[A]:
        """Load an aggregate: its latest snapshot, and the events after it applied in order.

        Args:
            aggregate_id: Which one.
            aggregate: Its class, which has ``apply`` and can be made without arguments.
            initial: The state before the first event, where the class cannot.
            connection: Yours, to read within its transaction; no snapshot is taken then.

        Returns:
            Its state and version; version 0, and the state before any event, when there are none.
        """
        db = self._given(connection)
        may_save = db is None or (
            connection is None and db.autocommit and db.info.transaction_status == TransactionStatus.IDLE
        )
        return self._run(self._plans.load(aggregate_id, aggregate, initial, may_save=may_save), connection)

    def save_snapshot(self, loaded: Loaded[A], *, connection: "psycopg.Connection[Any] | None" = None) -> bool:
        """Save a snapshot now; say whether it was written.  ``load`` does this by itself at the threshold."""
        return self._run(self._plans.save(loaded), connection)

    def _run(self, plan: Plan[T], connection: "psycopg.Connection[Any] | None") -> T:
        if connection is not None:
            return _run(connection, plan)
        if isinstance(self._source, psycopg.Connection):
            return _run(self._source, plan)
        # Not pool.connection(), which would commit: nothing is left to be committed.
        db = self._borrow(self._source)
        try:
            # Asked first, for it takes a twentieth of an append to set what is set already.
            was_autocommit = db.autocommit
            if not was_autocommit:
                db.autocommit = True
            return _run(db, plan)
        finally:
            try:
                if db.pgconn.transaction_status != TransactionStatus.IDLE:
                    # Interrupted: it must not go back as it is, and the pool replaces it.
                    db.close()
                elif not was_autocommit:
                    db.autocommit = False
            finally:
                self._source.putconn(db)

    def _borrow(self, pool: "ConnectionPool[Any]") -> "psycopg.Connection[Any]":
        db: psycopg.Connection[Any]
        if self._own_pool is None:
            db = pool.getconn()
            return db
        if not self._has_connected:
            require_server(self._dsn)
            self._has_connected = True
        try:
            db = pool.getconn()
        except PoolTimeout:
            require_server(self._dsn)
            raise
        return db

    def _given(self, connection: "psycopg.Connection[Any] | None") -> "psycopg.Connection[Any] | None":
        """Give the connection that is the caller's; None where one is to be borrowed from the pool."""
        if connection is not None:
            return connection
        return self._source if isinstance(self._source, psycopg.Connection) else None


def _run(db: "psycopg.Connection[Any]", plan: Plan[T]) -> T:
    try:
        step = next(plan)
        while True:
            try:
                rows = _take(db, step)
            except psycopg.Error as error:
                step = plan.throw(error)
            else:
                step = plan.send(rows)
    except StopIteration as end:
        result: T = end.value
        return result


def _take(db: "psycopg.Connection[Any]", step: Statement | Pause) -> Sequence[TupleRow]:
    if isinstance(step, Pause):
        time.sleep(step.seconds)
        return ()
    if _is_within(db):
        if not step.may_fail:
            return _execute(db, step)
        with db.transaction():
            return _execute(db, step)
    attempt = 0
    while True:
        attempt += 1
        try:
            return _execute(db, step)
        except psycopg.Error as error:
            if not db.autocommit and not db.closed:
                # The transaction had begun with this statement: there is nothing else in it.
                db.rollback()
            if attempt == MAX_ATTEMPTS or not isinstance(error, psycopg.errors.SerializationFailure):
                raise


def _is_within(db: "psycopg.Connection[Any]") -> bool:
    """Say whether there is more than a statement of ours: a transaction of the caller, or a pipeline."""
    if db.pgconn.pipeline_status != PipelineStatus.OFF:
        return True
    if db.pgconn.transaction_status == TransactionStatus.ACTIVE:
        # Another thread's statement is under way; only after it can be told what the caller has open.
        with db.lock:
            return db.pgconn.transaction_status != TransactionStatus.IDLE
    return db.pgconn.transaction_status != TransactionStatus.IDLE


def _execute(db: "psycopg.Connection[Any]", step: Statement) -> Sequence[TupleRow]:
    cursor = psycopg.Cursor(db, row_factory=tuple_row)
    cursor.format = psycopg.pq.Format.BINARY
    if step.has_json and JSON_AS_BYTES is not None:
        cursor.adapters.register_loader("text", JSON_AS_BYTES)
    return cursor.execute(step.query, step.parameters).fetchall()
