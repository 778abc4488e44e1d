"""What the event store costs: ``append`` beside an append that is written by hand and checks the same.

Called by ``__main__``.  Both append single events with data and metadata, from the threads (or tasks) of one process,
through the very same pool, which has a connection for each writer.  Commits do not wait for the disk
(``synchronous_commit`` off): what differs is processor time, and waiting for a disk would hide it.  A share of the
appends expects a version that is gone, and is told the true one.

Short runs are compared with their neighbours, by turns first, so that both meet the same machine and the same table.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol, Self
from uuid import UUID, uuid4

import psycopg
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from bench import append_by_hand
from bench.append_by_hand import VersionConflictError
from bench.context import Context
from bench.report import Figure, at_least, median_figure, ratios
from projectiond.eventstore import AsyncEventStore, ConcurrencyError, EventStore, NewEvent, correlated

SECONDS: Final = 0.06
"""Of one run: hundreds of appends."""

STALE_EVERY: Final = {"no conflicts": None, "10 % conflicts": 10, "50 % conflicts": 2}

EVENTS_OF_ORDER: Final = 8

EXPECTED: Final = at_least(0.9)

_REFUSALS: Final = (ConcurrencyError, VersionConflictError)

# Those who append give the same to both sides.
_EVENT_TYPE: Final = "ItemAdded"
_AGGREGATE_TYPE: Final = "Order"
_DATA: Final = {"sku": "TEA-4711", "quantity": 2, "unit_price_cents": 450, "customer": "Ada Lovelace"}
_METADATA: Final = correlated("request-4711")

Append = Callable[[UUID, int], int]
AsyncAppend = Callable[[UUID, int], Coroutine[Any, Any, int]]


@dataclass(slots=True)
class Decisions:
    """What one writer does: orders of eight events, with appends in between that expect a version that is gone."""

    stale_every: int | None
    """How many appends there are to one of them; None for none."""

    attempts: int = 0
    _order_id: UUID = field(default_factory=uuid4)
    _version: int = 0

    def decide(self) -> tuple[UUID, int, bool]:
        """Give an order, the version that is expected of it, and whether that is gone."""
        self.attempts += 1
        if self.stale_every and self.attempts % self.stale_every == 0:
            return self._order_id, self._version - 1, True
        if self._version == EVENTS_OF_ORDER:
            self._order_id, self._version = uuid4(), 0
        self._version += 1
        return self._order_id, self._version - 1, False


class Writers(Protocol):
    """Writers at work, in either way."""

    name: str

    def __enter__(self) -> Self:
        """Open the pool."""

    def __exit__(self, *_: object) -> None:
        """Close the pool."""

    def by_hand(self, stale_every: int | None) -> float:
        """Append by hand for a short while; give the appends per second."""

    def by_store(self, stale_every: int | None) -> float:
        """Append by the event store for a short while; give the appends per second."""


class Threads:
    """As many threads, each waiting for its appends."""

    name = "EventStore"

    def __init__(self, dsn: str, count: int) -> None:
        self._count = count
        self._pool = ConnectionPool(
            dsn, min_size=count, max_size=count, kwargs={"autocommit": True}, open=False, timeout=60
        )
        self._store = EventStore(self._pool)
        self._executor = ThreadPoolExecutor(count)

    def __enter__(self) -> Self:
        self._pool.open(wait=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        self._pool.close()

    def by_hand(self, stale_every: int | None) -> float:
        """Append by hand."""
        return self._run(self._append_by_hand, stale_every)

    def by_store(self, stale_every: int | None) -> float:
        """Append by the event store."""
        return self._run(self._append_by_store, stale_every)

    def _append_by_hand(self, order_id: UUID, expected: int) -> int:
        event = append_by_hand.NewEvent(_EVENT_TYPE, _DATA, _METADATA)
        return append_by_hand.append(self._pool, order_id, _AGGREGATE_TYPE, event, expected)

    def _append_by_store(self, order_id: UUID, expected: int) -> int:
        event = NewEvent(_EVENT_TYPE, _DATA)
        return self._store.append(order_id, [event], expected, aggregate_type=_AGGREGATE_TYPE, metadata=_METADATA)

    def _run(self, append: Append, stale_every: int | None) -> float:
        began = time.perf_counter()
        write = partial(_write, append, stale_every, began + SECONDS)
        attempts = sum(self._executor.map(lambda _: write(), range(self._count)))
        return attempts / (time.perf_counter() - began)


class Tasks:
    """As many tasks of one event loop."""

    name = "AsyncEventStore"

    def __init__(self, dsn: str, count: int) -> None:
        self._count = count
        self._runner = asyncio.Runner()
        self._pool = AsyncConnectionPool(
            dsn, min_size=count, max_size=count, kwargs={"autocommit": True}, open=False, timeout=60
        )
        self._store = AsyncEventStore(self._pool)

    def __enter__(self) -> Self:
        self._runner.run(self._pool.open(wait=True))
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._pool.close())
        self._runner.close()

    def by_hand(self, stale_every: int | None) -> float:
        """Append by hand."""
        return self._runner.run(self._run(self._append_by_hand, stale_every))

    def by_store(self, stale_every: int | None) -> float:
        """Append by the event store."""
        return self._runner.run(self._run(self._append_by_store, stale_every))

    async def _append_by_hand(self, order_id: UUID, expected: int) -> int:
        event = append_by_hand.NewEvent(_EVENT_TYPE, _DATA, _METADATA)
        return await append_by_hand.append_async(self._pool, order_id, _AGGREGATE_TYPE, event, expected)

    async def _append_by_store(self, order_id: UUID, expected: int) -> int:
        event = NewEvent(_EVENT_TYPE, _DATA)
        return await self._store.append(order_id, [event], expected, aggregate_type=_AGGREGATE_TYPE, metadata=_METADATA)

    async def _run(self, append: AsyncAppend, stale_every: int | None) -> float:
        began = time.perf_counter()
        writing = [_write_async(append, stale_every, began + SECONDS) for _ in range(self._count)]
        attempts = sum(await asyncio.gather(*writing))
        return attempts / (time.perf_counter() - began)


def measure(bench: Context) -> list[Figure]:
    """Measure both stores, with every number of writers and every share of conflicts."""
    dsn = bench.server.create_store("appends")
    figures: list[Figure] = []
    for kind in (Threads, Tasks):
        for count in bench.scale.append_writers:
            with kind(f"{dsn}&options=-csynchronous_commit%3Doff", count) as writers:
                for conflicts, stale_every in STALE_EVERY.items():
                    with psycopg.connect(dsn, autocommit=True) as db:
                        db.execute("TRUNCATE event_store")
                    name = f"{count} {'writer' if count == 1 else 'writers'}, {conflicts}"
                    figures += _compare(name, writers, stale_every, bench.scale.append_rounds)
                    bench.say(f"{writers.name}, {name}: {figures[-1].value:.3f}")
    return figures


def _compare(name: str, writers: Writers, stale_every: int | None, rounds: int) -> list[Figure]:
    # Not counted: statements are prepared.
    writers.by_hand(stale_every)
    writers.by_store(stale_every)
    by_hand: list[float] = []
    by_store: list[float] = []
    for number in range(rounds):
        if number % 2 == 0:
            by_hand.append(writers.by_hand(stale_every))
        by_store.append(writers.by_store(stale_every))
        if number % 2 == 1:
            by_hand.append(writers.by_hand(stale_every))
    group = f"appends, {writers.name} ÷ by hand"
    return [median_figure(group, name, "fold", ratios(by_store, by_hand), EXPECTED)]


def _write(append: Append, stale_every: int | None, until: float) -> int:
    """Append until the time is over; give the number of appends."""
    decisions = Decisions(stale_every)
    while time.perf_counter() < until:
        order_id, expected, is_stale = decisions.decide()
        try:
            append(order_id, expected)
        except _REFUSALS:
            if not is_stale:
                raise
    return decisions.attempts


async def _write_async(append: AsyncAppend, stale_every: int | None, until: float) -> int:
    """Do the same, asynchronously."""
    decisions = Decisions(stale_every)
    while time.perf_counter() < until:
        order_id, expected, is_stale = decisions.decide()
        try:
            await append(order_id, expected)
        except _REFUSALS:
            if not is_stale:
                raise
    return decisions.attempts
