"""Whatever is appended, refused, repeated, rolled back, saved or upcast: load is the fold of all events."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projectiond.errors import ConcurrencyError, EventIdTakenError
from projectiond.eventstore import ANY_VERSION, Append, EventStore, NewEvent
from tests.support.eventstores import ItemAdded, Order, OrderPlaced, Store, opened, registry
from tests.support.postgres import Database, Server, fresh_database

pytestmark = pytest.mark.integration

STREAMS = 2


@pytest.fixture(scope="module")
def shared(server: Server, schema_template: str) -> Iterator[Database]:
    with fresh_database(server, schema_template) as database:
        yield database


@pytest.fixture(scope="module", params=["sync", "async"])
def store(request: pytest.FixtureRequest, shared: Database) -> Iterator[Store]:
    with opened(request.param, shared.dsn, registry=registry, snapshot_threshold=3) as store:
        yield store


# An event and what it means: (what is appended, what it is once it has been read).
Pair = tuple[Any, Any]

skus = st.sampled_from(["TEA", "MUG"])
amounts = st.integers(1, 9)


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    sku, quantity, price = draw(skus), draw(amounts), draw(amounts)
    data: dict[str, Any]
    match draw(st.integers(0, 3)):
        case 0:
            data, model = {"sku": sku, "price": price}, ItemAdded(sku=sku, quantity=1, unit_price_cents=price * 100)
            return NewEvent("ItemAdded", data, metadata={"schema_version": 1}), model
        case 1:
            data = {"sku": sku, "price": price, "quantity": quantity}
            model = ItemAdded(sku=sku, quantity=quantity, unit_price_cents=price * 100)
            return NewEvent("ItemAdded", data, metadata={"schema_version": 2}), model
        case 2:
            placed = OrderPlaced(customer=sku)
            return NewEvent.of(placed), placed
        case _:
            model = ItemAdded(sku=sku, quantity=quantity, unit_price_cents=price)
            return NewEvent.of(model), model


batches = st.lists(pairs(), min_size=0, max_size=4)
streams = st.integers(0, STREAMS - 1)
steps = st.one_of(
    st.tuples(st.just("append"), streams, batches),
    st.tuples(st.just("any"), streams, batches),
    st.tuples(st.just("conflict"), streams, batches, st.sampled_from([-2, -1, 1, 2])),
    st.tuples(st.just("both"), batches, batches),
    st.tuples(st.just("half"), batches, batches),
    st.tuples(st.just("retry"), st.integers(0, 100)),
    st.tuples(st.just("part"), st.integers(0, 100)),
    st.tuples(st.just("rollback"), streams, batches),
    st.tuples(st.just("load"), streams),
    st.tuples(st.just("restore"), streams, st.integers(0, 3)),
)


class Model:
    """What must be in the store, beside the store."""

    def __init__(self, store: Store, database: Database) -> None:
        self.store = store
        self.database = database
        self.ids = [uuid.uuid4() for _ in range(STREAMS)]
        self.streams: list[list[Pair]] = [[] for _ in range(STREAMS)]
        # What has been appended: (stream, events, the version before, the result).
        self.done: list[tuple[int, list[Pair], int, int]] = []

    def append(self, stream: int, batch: list[Pair]) -> None:
        before = len(self.streams[stream])
        self._wrote(stream, batch, self.store.append(self.ids[stream], _new(batch), before))

    def any(self, stream: int, batch: list[Pair]) -> None:
        self._wrote(stream, batch, self.store.append(self.ids[stream], _new(batch), ANY_VERSION))

    def conflict(self, stream: int, batch: list[Pair], off: int) -> None:
        actual = len(self.streams[stream])
        if (expected := actual + off) < 0:
            return
        with pytest.raises(ConcurrencyError) as caught:
            self.store.append(self.ids[stream], _new(batch), expected)
        assert (caught.value.expected_version, caught.value.actual_version) == (expected, actual)

    def both(self, one: list[Pair], two: list[Pair]) -> None:
        appends = [Append(self.ids[n], _new(batch), len(self.streams[n])) for n, batch in enumerate((one, two))]
        result = self.store.append_many(appends)
        assert self.store.append_many(appends) == result
        self.streams[0] += one
        self.streams[1] += two

    def half(self, one: list[Pair], two: list[Pair]) -> None:
        appends = [
            Append(self.ids[0], _new(one), len(self.streams[0])),
            Append(self.ids[1], _new(two), len(self.streams[1]) + 1),
        ]
        with pytest.raises(ConcurrencyError) as caught:
            self.store.append_many(appends)
        assert caught.value.aggregate_id == self.ids[1]

    def retry(self, which: int) -> None:
        if self.done:
            stream, batch, before, result = self.done[which % len(self.done)]
            assert self.store.append(self.ids[stream], _new(batch), before) == result

    def part(self, which: int) -> None:
        if self.done:
            stream, batch, before, _ = self.done[which % len(self.done)]
            with pytest.raises(EventIdTakenError):
                self.store.append(self.ids[stream], [*_new(batch), NewEvent.of(OrderPlaced(customer="x"))], before)

    def rollback(self, stream: int, batch: list[Pair]) -> None:
        with self.database.connect(autocommit=False) as conn:
            EventStore(conn, registry=registry).append(self.ids[stream], _new(batch), len(self.streams[stream]))
            conn.rollback()

    def load(self, stream: int) -> None:
        loaded = self.store.load(self.ids[stream], Order)
        expected = Order()
        for _, data in self.streams[stream]:
            expected.apply(_Seen(data))  # type: ignore[arg-type]
        assert (loaded.version, loaded.state) == (len(self.streams[stream]), expected)
        read = [event.data for event in self.store.get_events(self.ids[stream])]
        assert read == [data for _, data in self.streams[stream]]
        assert [event.data for event in self.store.stream_events(self.ids[stream], batch_size=2)] == read

    def restore(self, stream: int, lost: int) -> None:
        """Lose the last events, as a store does that is restored to an earlier time."""
        keep = max(len(self.streams[stream]) - lost, 0)
        with self.database.connect() as conn:
            conn.execute("DELETE FROM event_store WHERE aggregate_id = %s AND version > %s", (self.ids[stream], keep))
        del self.streams[stream][keep:]
        self.done = [each for each in self.done if each[0] != stream or each[2] + len(each[1]) <= keep]

    def _wrote(self, stream: int, batch: list[Pair], result: int) -> None:
        before = len(self.streams[stream])
        self.streams[stream] += batch
        if batch:
            self.done.append((stream, batch, before, result))


class _Seen:
    def __init__(self, data: object) -> None:
        self.data = data


def _new(batch: list[Pair]) -> list[Any]:
    return [event for event, _ in batch]


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.differing_executors],
)
@given(plan=st.lists(steps, max_size=14))
def test_load_is_the_fold_of_all_events(store: Store, shared: Database, plan: list[tuple[Any, ...]]) -> None:
    model = Model(store, shared)
    for name, *arguments in plan:
        getattr(model, name)(*arguments)
    for stream in range(STREAMS):
        model.load(stream)
        model.load(stream)
