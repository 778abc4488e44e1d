"""Event stores as the tests use them: some events, an aggregate, and the asynchronous store driven by plain tests."""

# ruff: noqa: ANN401 -- arguments are passed through

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar
from uuid import UUID

from psycopg_pool import AsyncConnectionPool, ConnectionPool
from pydantic import BaseModel

from projectiond.eventstore import AsyncEventStore, Event, EventRegistry, EventStore, Loaded

registry = EventRegistry()


@registry.register(aggregate_type="Order")
class OrderPlaced(BaseModel):
    customer: str


@registry.register(name="ItemAdded", version=3, aggregate_type="Order")
class ItemAdded(BaseModel):
    sku: str
    quantity: int
    unit_price_cents: int


@registry.upcast("ItemAdded", from_version=1)
def _quantity_was_one(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "quantity": 1}


@registry.upcast("ItemAdded", from_version=2)
def _prices_were_in_euros(data: dict[str, Any]) -> dict[str, Any]:
    return {"sku": data["sku"], "quantity": data["quantity"], "unit_price_cents": data["price"] * 100}


class Order(BaseModel):
    """An aggregate: what was ordered."""

    snapshot_version: ClassVar[int] = 1

    customer: str = ""
    items: dict[str, int] = {}
    total_cents: int = 0
    events: int = 0

    def apply(self, event: Event[Any]) -> None:
        self.events += 1
        match event.data:
            case OrderPlaced():
                self.customer = event.data.customer
            case ItemAdded():
                self.items[event.data.sku] = self.items.get(event.data.sku, 0) + event.data.quantity
                self.total_cents += event.data.quantity * event.data.unit_price_cents


class Blocking:
    """The asynchronous store with the methods of the other one, so that one test tries both."""

    def __init__(self, runner: asyncio.Runner, store: AsyncEventStore) -> None:
        self._runner = runner
        self._store = store

    def append(self, *args: Any, **kwargs: Any) -> int:
        return self._runner.run(self._store.append(*args, **kwargs))

    def append_many(self, *args: Any, **kwargs: Any) -> int:
        return self._runner.run(self._store.append_many(*args, **kwargs))

    def get_events(self, *args: Any, **kwargs: Any) -> list[Event[Any]]:
        return self._runner.run(self._store.get_events(*args, **kwargs))

    def load(self, aggregate_id: UUID, aggregate: type[Any], **kwargs: Any) -> Loaded[Any]:
        return self._runner.run(self._store.load(aggregate_id, aggregate, **kwargs))

    def save_snapshot(self, loaded: Loaded[Any]) -> bool:
        return self._runner.run(self._store.save_snapshot(loaded))

    def stream_events(self, *args: Any, **kwargs: Any) -> Iterator[Event[Any]]:
        return iter(self._runner.run(self._collect(self._store.stream_events(*args, **kwargs))))

    def stream_all(self, *args: Any, **kwargs: Any) -> Iterator[Event[Any]]:
        return iter(self._runner.run(self._collect(self._store.stream_all(*args, **kwargs))))

    @staticmethod
    async def _collect(events: Any) -> list[Event[Any]]:
        return [event async for event in events]


Store = EventStore | Blocking


@contextlib.contextmanager
def opened(kind: str, dsn: str, **options: Any) -> Iterator[Store]:
    """Make a store of a kind, on a pool whose connections are as a transaction pooler leaves them.

    Each time a connection comes back, its session is wiped; statements are never prepared.
    """
    if kind == "sync":
        with ConnectionPool(
            dsn, min_size=1, max_size=3, kwargs={"prepare_threshold": None}, reset=_wipe, open=True
        ) as pool:
            # The pool's threads draw random numbers to connect, which hypothesis takes for those of a strategy.
            pool.wait()
            yield EventStore(pool, **options)
    else:
        with asyncio.Runner() as runner:
            asynchronous = runner.run(_open(dsn))
            try:
                yield Blocking(runner, AsyncEventStore(asynchronous, **options))
            finally:
                runner.run(asynchronous.close())


async def _open(dsn: str) -> AsyncConnectionPool[Any]:
    pool = AsyncConnectionPool(
        dsn, min_size=1, max_size=3, kwargs={"prepare_threshold": None}, reset=_wipe_async, open=False
    )
    await pool.open()
    return pool


def _wipe(connection: Any) -> None:
    connection.autocommit = True
    connection.execute("DISCARD ALL")
    connection.autocommit = False


async def _wipe_async(connection: Any) -> None:
    await connection.set_autocommit(True)
    await connection.execute("DISCARD ALL")
    await connection.set_autocommit(False)
