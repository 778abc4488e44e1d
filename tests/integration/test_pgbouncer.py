"""Writers behind a real PgBouncer in transaction mode, with and without prepared statements."""

import asyncio
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from examples.sqlalchemy_app import box_office
from examples.sqlalchemy_app.concert import SoldOutError
from examples.sqlalchemy_app.models import Base
from projectiond.errors import ConcurrencyError
from projectiond.eventstore import AsyncEventStore, EventStore, NewEvent
from projectiond.waiting.wait import wait_for
from tests.support.eventstores import Order, OrderPlaced, registry
from tests.support.pgbouncer import knows_prepared_statements, needs_pgbouncer, running_pgbouncer
from tests.support.postgres import Database
from tests.support.queries import value

pytestmark = [pytest.mark.integration, pytest.mark.any_server, needs_pgbouncer]

# More than PgBouncer's pools have sessions, and more appends than psycopg sees of a statement before it prepares it.
WRITERS = 4
APPENDS = 12


@dataclass(frozen=True)
class Behind:
    """A database behind PgBouncer, and how a connection to it has to be made."""

    database: Database
    dsn: str
    prepare_threshold: int | None

    @property
    def options(self) -> dict[str, Any]:
        """Return psycopg's arguments."""
        return {"prepare_threshold": self.prepare_threshold}


@pytest.fixture(params=[0, 50], ids=["not prepared", "prepared"])
def behind(request: pytest.FixtureRequest, database: Database) -> Iterator[Behind]:
    most = request.param
    if most and not knows_prepared_statements():
        pytest.skip("this pgbouncer is older than 1.21, and loses prepared statements")
    settings = {"max_prepared_statements": most} if knows_prepared_statements() else {}
    with running_pgbouncer(database.server, "transaction", **settings) as bouncer:
        yield Behind(database, bouncer.dsn(database.name), 2 if most else None)


def events() -> list[object]:
    return [OrderPlaced(customer="Ada")]


def write(store: EventStore) -> uuid.UUID:
    """Append to an order of one's own, run into a conflict, and append the same again, over and over."""
    order_id = uuid.uuid4()
    for version in range(APPENDS):
        event = NewEvent.of(OrderPlaced(customer=f"{version}"))
        number = store.append(order_id, [event], version)
        assert store.append(order_id, [event], version) == number
        with pytest.raises(ConcurrencyError) as caught:
            store.append(order_id, events(), version)
        assert caught.value.actual_version == version + 1
    store.append(order_id, [*events(), *events()], APPENDS)
    assert store.load(order_id, Order).state.events == APPENDS + 2
    return order_id


async def write_async(store: AsyncEventStore) -> uuid.UUID:
    """Do the same, asynchronously."""
    order_id = uuid.uuid4()
    for version in range(APPENDS):
        event = NewEvent.of(OrderPlaced(customer=f"{version}"))
        number = await store.append(order_id, [event], version)
        assert await store.append(order_id, [event], version) == number
        with pytest.raises(ConcurrencyError) as caught:
            await store.append(order_id, events(), version)
        assert caught.value.actual_version == version + 1
    await store.append(order_id, [*events(), *events()], APPENDS)
    assert (await store.load(order_id, Order)).state.events == APPENDS + 2
    return order_id


def check(behind: Behind, order_ids: list[uuid.UUID]) -> None:
    conn = behind.database.connect()
    for order_id in order_ids:
        assert value(conn, "SELECT count(*) FROM event_store WHERE aggregate_id = %s", order_id) == APPENDS + 2
    sessions = "SELECT count(DISTINCT pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> %s"
    assert value(conn, sessions, conn.info.backend_pid) == 2, "the writers did not share sessions"


def test_threads_write_and_read_through_few_sessions(behind: Behind) -> None:
    with ConnectionPool(behind.dsn, min_size=WRITERS, kwargs=behind.options, open=True) as pool:
        store = EventStore(pool, registry=registry, snapshot_threshold=5)
        with ThreadPoolExecutor(WRITERS) as threads:
            order_ids = list(threads.map(lambda _: write(store), range(WRITERS)))
        check(behind, order_ids)
        assert sum(1 for _ in store.stream_all()) == WRITERS * (APPENDS + 2)


def test_tasks_write_and_read_through_few_sessions(behind: Behind) -> None:
    async def run() -> list[uuid.UUID]:
        async with AsyncConnectionPool(behind.dsn, min_size=WRITERS, kwargs=behind.options, open=False) as pool:
            store = AsyncEventStore(pool, registry=registry, snapshot_threshold=5)
            order_ids = await asyncio.gather(*[write_async(store) for _ in range(WRITERS)])
            check(behind, order_ids)
            assert len([event async for event in store.stream_all()]) == WRITERS * (APPENDS + 2)
            return order_ids

    asyncio.run(run())


def test_an_append_joins_a_transaction_of_the_callers(behind: Behind) -> None:
    order_id = uuid.uuid4()
    with psycopg.connect(behind.dsn, **behind.options) as conn:
        store = EventStore(conn, registry=registry)
        store.append(order_id, events(), 0)
        with pytest.raises(ConcurrencyError):
            store.append(order_id, events(), 0)
        store.append(order_id, events(), 1)
        conn.rollback()
        store.append(order_id, events(), 0)
    assert value(behind.database.connect(), "SELECT count(*) FROM event_store") == 1


def test_the_example_with_sqlalchemy_sells_every_seat_once(behind: Behind) -> None:
    engine = create_engine(
        behind.dsn.replace("postgresql://", "postgresql+psycopg://"), connect_args=behind.options, pool_size=WRITERS
    )
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    concert_id = box_office.open_concert(sessions, 20)

    def buy(number: int) -> bool:
        try:
            box_office.sell(sessions, concert_id, f"buyer {number}", 2)
        except SoldOutError:
            return False
        return True

    with ThreadPoolExecutor(2) as threads:
        assert sum(threads.map(buy, range(14))) == 10
    engine.dispose()


def test_waiting_for_a_projection_needs_no_session(behind: Behind) -> None:
    conn = behind.database.connect()
    conn.execute("INSERT INTO projection_checkpoints (projection_name) VALUES ('orders')")
    with psycopg.connect(behind.dsn, autocommit=True, **behind.options) as pooled:
        number = EventStore(pooled, registry=registry).append(uuid.uuid4(), events(), 0)
        advance = "UPDATE projection_checkpoints SET last_sequence_number = %s"
        later = threading.Timer(0.1, conn.execute, (advance, (number,)))
        later.start()
        assert value(pooled, "SELECT projectiond_wait_for('orders', %s)", number) == number
        later.join()
        wait_for(pooled, "orders", number)
