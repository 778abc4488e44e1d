"""Appending within the caller's transaction: never committed, undone with it, and an error leaves it usable."""

import asyncio
import itertools
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool

from projectiond.errors import ConcurrencyError, ConfigurationError, EventDataError
from projectiond.eventstore import ANY_VERSION, Append, AsyncEventStore, EventStore, NewEvent
from projectiond.postgres.database import connect
from tests.support.events import append
from tests.support.eventstores import Order
from tests.support.postgres import Database, Server, fresh_database
from tests.support.queries import Connection, value
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

LEVELS = [
    psycopg.IsolationLevel.READ_COMMITTED,
    psycopg.IsolationLevel.REPEATABLE_READ,
    psycopg.IsolationLevel.SERIALIZABLE,
]


@pytest.fixture(scope="module")
def shared(server: Server, schema_template: str) -> Iterator[Database]:
    with fresh_database(server, schema_template) as database:
        yield database


@pytest.fixture
def conn(shared: Database) -> Iterator[Connection]:
    with shared.connect() as other:
        yield other


@pytest.fixture
def mine(shared: Database) -> Iterator[Connection]:
    connection = shared.connect(autocommit=False)
    yield connection
    connection.close()


def placed(number: int = 1, **envelope: Any) -> NewEvent:  # noqa: ANN401 -- passed through
    return NewEvent("OrderPlaced", {"number": number}, aggregate_type="Order", **envelope)


def count(conn: Connection, order: uuid.UUID) -> int:
    return int(value(conn, "SELECT count(*) FROM event_store WHERE aggregate_id = %s", order))


def test_events_are_committed_with_the_caller_s_own_rows(mine: Connection, conn: Connection) -> None:
    store, order = EventStore(mine), uuid.uuid4()
    store.append(order, [placed()], 0)
    assert count(conn, order) == 0
    mine.rollback()
    assert count(conn, order) == 0
    store.append(order, [placed()], 0)
    store.append(order, [placed(2), placed(3)], 1)
    mine.commit()
    assert count(conn, order) == 3


def test_a_connection_can_be_given_to_a_single_call(shared: Database, mine: Connection, conn: Connection) -> None:
    with EventStore(shared.dsn) as store:
        order = uuid.uuid4()
        mine.execute("SELECT 1")
        store.append(order, [placed()], 0, connection=mine)
        store.append_many([Append(order, [placed(2)], 1)], connection=mine)
        assert len(store.get_events(order)) == 0
        assert len(store.get_events(order, connection=mine)) == 2
        assert len(list(store.stream_events(order, connection=mine))) == 2
        mine.rollback()
        assert count(conn, order) == 0


def test_with_autocommit_each_append_is_committed_at_once(conn: Connection, mine: Connection) -> None:
    store, order = EventStore(conn), uuid.uuid4()
    store.append(order, [placed()], 0)
    assert count(mine, order) == 1


@pytest.mark.parametrize("is_begun", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_the_caller_goes_on_after_a_conflict(
    mine: Connection, conn: Connection, level: psycopg.IsolationLevel, *, is_begun: bool
) -> None:
    mine.isolation_level = level
    store, order, other = EventStore(mine), uuid.uuid4(), uuid.uuid4()
    append(conn, "OrderPlaced", aggregate_id=order)
    if is_begun:
        store.append(other, [placed()], 0)
    with pytest.raises(ConcurrencyError) as caught:
        store.append(order, [placed()], 0)
    assert caught.value.actual_version == 1
    store.append(order, [placed()], 1)
    mine.commit()
    assert (count(conn, order), count(conn, other)) == (2, int(is_begun))


def test_the_caller_goes_on_after_an_event_that_cannot_be_stored(mine: Connection, conn: Connection) -> None:
    store, order = EventStore(mine), uuid.uuid4()
    store.append(order, [placed()], 0)
    with pytest.raises(EventDataError):
        store.append(order, [placed("\0")], 1)  # type: ignore[arg-type]
    mine.commit()
    assert count(conn, order) == 1


def test_a_rival_that_commits_first_is_named_with_the_true_version(
    shared: Database, mine: Connection, conn: Connection
) -> None:
    """Both pass the look at the version; the constraint decides when the first one commits."""
    order, other = uuid.uuid4(), uuid.uuid4()
    rival = shared.connect(autocommit=False)
    EventStore(rival).append(order, [placed(n) for n in range(3)], 0)
    errors: list[ConcurrencyError] = []

    def lose() -> None:
        store = EventStore(mine)
        store.append(other, [placed()], 0)
        try:
            store.append(order, [placed()], 0)
        except ConcurrencyError as error:
            errors.append(error)
        mine.commit()

    thread = threading.Thread(target=lose)
    thread.start()
    _wait_until_blocked(conn, mine)
    rival.commit()
    thread.join(timeout=30)
    assert [(error.expected_version, error.actual_version) for error in errors] == [(0, 3)]
    assert (count(conn, order), count(conn, other)) == (3, 1)


def test_a_rival_that_rolls_back_leaves_the_version_to_the_one_that_waited(
    shared: Database, mine: Connection, conn: Connection
) -> None:
    order = uuid.uuid4()
    rival = shared.connect(autocommit=False)
    EventStore(rival).append(order, [placed()], 0)
    thread = threading.Thread(target=lambda: EventStore(mine).append(order, [placed(2)], 0))
    thread.start()
    _wait_until_blocked(conn, mine)
    rival.rollback()
    thread.join(timeout=30)
    mine.commit()
    assert value(conn, "SELECT event_data ->> 'number' FROM event_store WHERE aggregate_id = %s", order) == "2"


def test_a_twin_that_retries_at_the_same_time_gets_the_same_result(
    shared: Database, mine: Connection, conn: Connection
) -> None:
    order, events = uuid.uuid4(), [placed(1), placed(2)]
    twin = shared.connect(autocommit=False)
    first = EventStore(twin).append(order, events, 0)
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(EventStore(mine).append(order, events, 0)))
    thread.start()
    _wait_until_blocked(conn, mine)
    twin.commit()
    thread.join(timeout=30)
    assert results == [first]
    mine.commit()
    assert count(conn, order) == 2


def test_any_version_is_tried_again_when_a_rival_was_first(
    shared: Database, mine: Connection, conn: Connection
) -> None:
    order = uuid.uuid4()
    rival = shared.connect(autocommit=False)
    EventStore(rival).append(order, [placed(1)], 0)
    thread = threading.Thread(target=lambda: EventStore(mine).append(order, [placed(2)], ANY_VERSION))
    thread.start()
    _wait_until_blocked(conn, mine)
    rival.commit()
    thread.join(timeout=30)
    mine.commit()
    assert count(conn, order) == 2


def test_a_snapshot_that_hides_the_rival_says_that_the_transaction_must_begin_anew(
    mine: Connection, conn: Connection
) -> None:
    mine.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    store, order = EventStore(mine), uuid.uuid4()
    for expected in (0, ANY_VERSION):
        append(conn, "Other", aggregate_id=order, version=None)
        mine.rollback()
        loaded = store.load(order, Order)
        append(conn, "OrderPlaced", aggregate_id=order)
        with pytest.raises(ConcurrencyError, match="begin a new transaction") as caught:
            store.append(order, [placed()], loaded.version if expected == 0 else ANY_VERSION)
        assert caught.value.actual_version is None
        # The transaction itself is alive: the caller decides.
        assert mine.execute("SELECT 1").fetchone() == (1,)


def test_a_serializable_transaction_gets_the_server_s_word_or_a_conflict(mine: Connection, conn: Connection) -> None:
    mine.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    store, order = EventStore(mine), uuid.uuid4()
    loaded = store.load(order, Order)
    append(conn, "OrderPlaced", aggregate_id=order)
    with pytest.raises((psycopg.errors.SerializationFailure, ConcurrencyError)):
        store.append(order, [placed()], loaded.version)
    mine.rollback()
    store.append(order, [placed()], store.load(order, Order).version)
    mine.commit()
    assert count(conn, order) == 2


def test_a_handler_s_connection_can_append(shared: Database, conn: Connection) -> None:
    """Guarded and in a pipeline, as the daemon hands it to handlers."""
    order = uuid.uuid4()
    with connect(shared.dsn, role="test", statement_timeout_seconds=10) as db:
        with db.transaction(), db.pipelined(), db.guarded():
            store = EventStore(db)
            store.append(order, [placed(1)], 0)
            with pytest.raises(ConcurrencyError):
                store.append(order, [placed(2)], 0)
            store.append(order, [placed(2)], 1)
        assert count(conn, order) == 2


def test_a_stream_of_the_whole_store_refuses_a_transaction(mine: Connection, conn: Connection) -> None:
    with pytest.raises(ConfigurationError, match="stream_all needs a connection in autocommit mode"):
        list(EventStore(mine).stream_all())
    with conn.transaction(), pytest.raises(ConfigurationError, match="outside of a transaction"):
        list(EventStore(conn).stream_all())
    EventStore(conn).append(uuid.uuid4(), [placed()], 0)
    assert list(EventStore(conn).stream_all())


def test_an_asynchronous_caller_s_transaction_goes_on_after_errors(shared: Database, conn: Connection) -> None:
    order = uuid.uuid4()
    append(conn, "OrderPlaced", aggregate_id=order)

    async def use() -> None:
        async with await psycopg.AsyncConnection.connect(shared.dsn) as mine:
            store = AsyncEventStore(mine)
            for version in (1, 2):  # as the first statement, and within
                with pytest.raises(EventDataError):
                    await store.append(order, [NewEvent("X", "\0", aggregate_type="Order")], version)
                with pytest.raises(ConcurrencyError):
                    await store.append(order, [placed()], 0)
                await store.append(order, [placed()], version)
                assert count(conn, order) == 1
            await mine.commit()

    asyncio.run(use())
    assert count(conn, order) == 3


def test_a_cancelled_append_leaves_the_pool_usable(shared: Database) -> None:
    order = uuid.uuid4()
    rival = shared.connect(autocommit=False)
    EventStore(rival).append(order, [placed()], 0)

    async def use() -> int:
        async with AsyncEventStore(shared.dsn) as store:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(store.append(order, [placed(2)], 0), timeout=0.2)
            rival.rollback()
            await store.append(order, [placed(3)], 0)
            return (await store.get_events(order))[0].data["number"]  # type: ignore[no-any-return]

    assert asyncio.run(use()) == 3


def _wait_until_blocked(conn: Connection, blocked: Connection) -> None:
    pid = blocked.info.backend_pid
    eventually(lambda: value(conn, "SELECT cardinality(pg_blocking_pids(%s)) > 0", pid), 30, "nobody waited")


@pytest.mark.parametrize("is_autocommit", [False, True])
def test_a_pool_gets_its_connection_back_as_it_was_also_when_its_session_was_ended(
    shared: Database,
    conn: Connection,
    is_autocommit: bool,  # noqa: FBT001 -- a table
) -> None:
    event = NewEvent("Placed", {}, aggregate_type="Order")
    with ConnectionPool(
        shared.dsn, min_size=1, max_size=1, kwargs={"autocommit": is_autocommit}, timeout=10, open=True
    ) as pool:
        store = EventStore(pool)
        first = store.append(uuid.uuid4(), [event], 0)
        with pool.connection() as borrowed:
            assert borrowed.autocommit is is_autocommit
            ended = borrowed.info.backend_pid
        conn.execute("SELECT pg_terminate_backend(%s, 5000)", (ended,))
        with pytest.raises(psycopg.OperationalError):
            store.append(uuid.uuid4(), [event], 0)
        assert store.append(uuid.uuid4(), [NewEvent("Placed", {}, aggregate_type="Order")], 0) > first


def test_what_the_server_has_not_read_yet_is_refused_and_the_caller_goes_on(mine: Connection) -> None:
    """At a stale version it leaves the events unread, so it is the look afterwards that meets what cannot be stored."""
    store, order = EventStore(mine), uuid.uuid4()
    store.append(order, [placed()], 0)
    with pytest.raises(EventDataError, match="events of OrderPlaced, X cannot be stored"):
        store.append(order, [placed(2), NewEvent("X", "\0", aggregate_type="Order")], 0)
    assert store.append(order, [placed(2)], 1)


@pytest.mark.parametrize("is_autocommit", [False, True])
def test_a_pipeline_of_the_caller_goes_on_after_errors(
    shared: Database,
    is_autocommit: bool,  # noqa: FBT001 -- a table
) -> None:
    mine, order = shared.connect(autocommit=is_autocommit), uuid.uuid4()
    store = EventStore(mine)
    with mine.pipeline():
        mine.execute("SELECT 1")
        store.append(order, [placed()], 0)
        for events in ([NewEvent("X", "\0")], [NewEvent("X", "\0"), placed(2)]):
            with pytest.raises(EventDataError):
                store.append(order, events, 1, aggregate_type="Order")
        with pytest.raises(ConcurrencyError):
            store.append(order, [placed(2)], 0)
        store.append(order, [placed(2)], 1)
    assert [event.version for event in store.get_events(order)] == [1, 2]


def test_threads_share_a_connection_with_autocommit(shared: Database, conn: Connection) -> None:
    mine = shared.connect()
    store, orders = EventStore(mine), [uuid.uuid4() for _ in range(40)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda order: store.append(order, [placed()], 0), orders))
    assert mine.info.transaction_status == TransactionStatus.IDLE
    assert all(count(conn, order) == 1 for order in orders)


def test_tasks_share_a_connection_with_autocommit(shared: Database, conn: Connection) -> None:
    orders = [uuid.uuid4() for _ in range(8)]

    async def use() -> None:
        async with await psycopg.AsyncConnection.connect(shared.dsn, autocommit=True) as mine:
            store = AsyncEventStore(mine)
            await asyncio.gather(*(store.append(order, [placed()], 0) for order in orders))

    asyncio.run(use())
    assert all(count(conn, order) == 1 for order in orders)


def test_where_the_server_serializes_whoever_races_gets_the_conflict_all_the_same(
    shared: Database, conn: Connection
) -> None:
    order, start = uuid.uuid4(), threading.Barrier(4)
    options = {"autocommit": True, "options": "-c default_transaction_isolation=serializable"}

    def race(store: EventStore) -> list[int]:
        seen = []
        for version in range(15):
            start.wait(30)
            try:
                store.append(order, [placed()], version)
            except ConcurrencyError as error:
                seen.append(error.actual_version or 0)
        return seen

    with (
        ConnectionPool(shared.dsn, min_size=4, kwargs=options, open=True) as pool,
        ThreadPoolExecutor(4) as threads,
    ):
        seen = sorted(itertools.chain(*threads.map(race, [EventStore(pool)] * 4)))
    assert seen == sorted(list(range(1, 16)) * 3)
    assert count(conn, order) == 15
