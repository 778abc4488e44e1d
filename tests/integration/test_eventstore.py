"""The event store appends, refuses, recognises and reads; each test on the plain and on the asynchronous store.

Most of them share a database: each has aggregates of its own.
"""

# ruff: noqa: ANN401 -- an event may be anything

import asyncio
import dataclasses
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg_pool import ConnectionPool
from pydantic import BaseModel

from projectiond.errors import (
    AppendRefusedError,
    ConcurrencyError,
    ConfigurationError,
    DatabaseUnavailableError,
    EventDataError,
    EventIdTakenError,
    EventRegistryError,
)
from projectiond.eventstore import (
    ANY_VERSION,
    Append,
    AsyncEventStore,
    EventStore,
    NewEvent,
    caused_by,
    correlated,
    reading,
)
from tests.support.events import append
from tests.support.eventstores import ItemAdded, OrderPlaced, Store, opened, registry
from tests.support.postgres import Database, Server, fresh_database
from tests.support.queries import Connection, value

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def shared(server: Server, schema_template: str) -> Iterator[Database]:
    with fresh_database(server, schema_template) as database:
        yield database


@pytest.fixture(scope="module")
def store(kind: str, shared: Database) -> Iterator[Store]:
    with opened(kind, shared.dsn) as untyped:
        yield untyped


@pytest.fixture(scope="module")
def typed(kind: str, shared: Database) -> Iterator[Store]:
    with opened(kind, shared.dsn, registry=registry) as store:
        yield store


@pytest.fixture(scope="module")
def conn(shared: Database) -> Connection:
    return shared.connect()


@pytest.fixture
def lone(kind: str, database: Database) -> Iterator[Store]:
    """Make a store in a database of the test's own."""
    with opened(kind, database.dsn) as store:
        yield store


def placed(number: int = 1, **envelope: Any) -> NewEvent:
    return NewEvent("OrderPlaced", {"number": number}, aggregate_type="Order", **envelope)


def facts(store: Store, aggregate_id: uuid.UUID) -> list[tuple[int, Any]]:
    return [(event.version, event.data) for event in store.get_events(aggregate_id)]


# --- append


def test_events_are_appended_in_their_order_and_read_back(store: Store, conn: Connection) -> None:
    order = uuid.uuid4()
    events = [placed(n) for n in range(1, 51)]
    last = store.append(order, events, 0)
    rows = conn.execute(
        """
        SELECT event_id, version, event_data, sequence_number
        FROM event_store
        WHERE aggregate_id = %s
        ORDER BY sequence_number
        """,
        (order,),
    ).fetchall()
    assert [row[0] for row in rows] == [event.event_id for event in events]
    assert [row[1] for row in rows] == list(range(1, 51))
    assert last == rows[-1][3] == rows[0][3] + 49
    read = store.get_events(order)
    assert [event.data for event in read] == [event.data for event in events]
    assert {(event.aggregate_id, event.aggregate_type, event.event_type) for event in read} == {
        (order, "Order", "OrderPlaced")
    }
    assert [event.version for event in store.get_events(order, after_version=48)] == [49, 50]
    assert store.get_events(uuid.uuid4()) == []


def test_a_second_append_follows_the_first(store: Store) -> None:
    order = uuid.uuid4()
    first = store.append(order, [placed(1), placed(2)], 0)
    assert store.append(order, [placed(3)], 2) > first
    assert facts(store, order) == [(1, {"number": 1}), (2, {"number": 2}), (3, {"number": 3})]


@pytest.mark.parametrize("expected", [0, 1, 3, 100])
def test_another_version_than_the_expected_one_is_refused_and_named(
    store: Store, conn: Connection, expected: int
) -> None:
    order = uuid.uuid4()
    store.append(order, [placed(1), placed(2)], 0)
    drawn = value(conn, "SELECT last_value FROM event_store_sequence_number_seq")
    with pytest.raises(ConcurrencyError, match=f"{order} is at version 2, where version {expected}") as caught:
        store.append(order, [placed(3)], expected)
    error = caught.value
    assert (error.aggregate_id, error.expected_version, error.actual_version) == (order, expected, 2)
    assert len(facts(store, order)) == 2
    # A stale version costs no sequence number, so it makes no gap that a projection has to wait at.
    assert value(conn, "SELECT last_value FROM event_store_sequence_number_seq") == drawn


def test_a_version_of_an_aggregate_that_is_not_there_is_refused(store: Store) -> None:
    with pytest.raises(ConcurrencyError) as caught:
        store.append(uuid.uuid4(), [placed()], 1)
    assert caught.value.actual_version == 0


@pytest.mark.parametrize("expected", [-1, True, "1", None, 2**31])
def test_what_is_no_version_is_refused(store: Store, expected: Any) -> None:
    with pytest.raises(AppendRefusedError, match="the expected version is"):
        store.append(uuid.uuid4(), [placed()], expected)


def test_any_version_appends_to_what_is_there(store: Store) -> None:
    order = uuid.uuid4()
    store.append(order, [placed(1)], ANY_VERSION)
    store.append(order, [placed(2), placed(3)], ANY_VERSION)
    assert [version for version, _ in facts(store, order)] == [1, 2, 3]


def test_no_events_are_checked_but_nothing_is_written(store: Store, conn: Connection) -> None:
    order = uuid.uuid4()
    assert store.append(order, [], 0) == 0
    last = store.append(order, [placed(1), placed(2)], 0)
    append(conn, "Other")
    assert store.append(order, [], 2) == last
    with pytest.raises(ConcurrencyError):
        store.append(order, [], 1)
    assert len(facts(store, order)) == 2


def test_the_row_is_what_plain_sql_expects(store: Store, conn: Connection) -> None:
    order = uuid.uuid4()
    store.append(order, [NewEvent("X", {"a": [1, "ü", None]}, metadata={"m": 1})], 0, aggregate_type="Order")
    query = "SELECT aggregate_type, event_type, event_data, metadata, version FROM event_store WHERE aggregate_id = %s"
    (row,) = conn.execute(query, (order,))
    assert row == ("Order", "X", {"a": [1, "ü", None]}, {"m": 1}, 1)


@pytest.mark.parametrize("data", [None, [], "text", 1.5, True, {"a": None}, {"a": 'quoted "text" and \\'}])
def test_any_json_can_be_an_event_s_data(store: Store, data: Any) -> None:
    order = uuid.uuid4()
    events = [NewEvent('Any "thing"', data) for _ in range(3)]
    one, two = events[:1], events[1:]
    results = [store.append(order, one, 0, aggregate_type="Or\\der"), store.append(order, two, 1, aggregate_type="Or")]
    assert [event.data for event in store.get_events(order)] == [data] * 3
    assert store.append(order, one, 0, aggregate_type="Or") == results[0]
    assert store.append(order, two, 1, aggregate_type="Or") == results[1]


def test_metadata_of_the_append_goes_to_each_event_and_an_event_s_own_prevails(store: Store) -> None:
    request, order = uuid.uuid4(), uuid.uuid4()
    first = placed(1)
    store.append(order, [first, placed(2, metadata={"user": "b"})], 0, metadata={**correlated(request), "user": "a"})
    one, two = store.get_events(order)
    assert one.metadata == {"correlation_id": str(request), "causation_id": str(request), "user": "a"}
    assert two.metadata["user"] == "b"
    store.append(order, [placed(3)], 2, metadata=caused_by(one))
    (three,) = store.get_events(order, 2)
    assert three.metadata == {"correlation_id": str(request), "causation_id": str(first.event_id)}


def test_a_correlation_begins_with_the_first_cause(store: Store) -> None:
    order = uuid.uuid4()
    store.append(order, [placed()], 0)
    (event,) = store.get_events(order)
    assert caused_by(event) == {"correlation_id": str(event.event_id), "causation_id": str(event.event_id)}


# --- what cannot be appended


class Unregistered(BaseModel):
    customer: str = ""


class Ratio(BaseModel):
    a: float


@dataclasses.dataclass
class Named:
    event_type: str = "X"


@pytest.mark.parametrize(
    ("event", "error", "message"),
    [
        (NewEvent("X", {"a": "\0"}), EventDataError, "events of OrderPlaced, X cannot be stored"),
        (NewEvent("X", {"a": float("nan")}), EventDataError, "events of OrderPlaced, X cannot be stored"),
        (NewEvent("X", Ratio(a=float("nan"))), EventDataError, "events of OrderPlaced, X cannot be stored"),
        (NewEvent("X", {"a": "\ud800"}), EventDataError, "the data of 'X' cannot be made JSON"),
        (NewEvent("X", {"a": object()}), EventDataError, "the data of 'X' cannot be made JSON"),
        (NewEvent("X", {}, metadata={"a": object()}), EventDataError, "the metadata of 'X' cannot be made JSON"),
        (NewEvent("", {}), AppendRefusedError, "an event type is empty"),
        (NewEvent("X" * 101, {}), AppendRefusedError, "has 101 characters"),
        (Unregistered(), EventRegistryError, "Unregistered is not registered, for this event store has no registry"),
        ({"event_type": "X"}, EventRegistryError, "dict is not registered"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_its_type(
    store: Store, event: Any, error: type[Exception], message: str
) -> None:
    order = uuid.uuid4()
    with pytest.raises(error, match=message):
        store.append(order, [placed(), event], 0, aggregate_type="Order")
    assert store.get_events(order) == []


@pytest.mark.parametrize("aggregate_type", [None, "", "X" * 101])
def test_an_aggregate_type_is_needed(store: Store, aggregate_type: str | None) -> None:
    with pytest.raises(AppendRefusedError, match="the aggregate type of 'X' is"):
        store.append(uuid.uuid4(), [Named()], 0, aggregate_type=aggregate_type)


@pytest.mark.parametrize("events", [NewEvent("X", {}), Unregistered(), {"a": 1}, "X", None])
def test_the_events_are_a_list(store: Store, events: Any) -> None:
    with pytest.raises(AppendRefusedError, match=f"are a {type(events).__name__}; give a list"):
        store.append(uuid.uuid4(), events, 0)


def test_an_aggregate_type_that_cannot_be_stored_is_refused(store: Store) -> None:
    with pytest.raises(EventDataError, match="cannot contain NUL"):
        store.append(uuid.uuid4(), [Named()], 0, aggregate_type="\0")


def test_an_aggregate_id_is_a_uuid(store: Store) -> None:
    with pytest.raises(AppendRefusedError, match="'order-1' is no UUID"):
        store.append("order-1", [placed()], 0)  # type: ignore[arg-type]


def test_a_violated_rule_of_the_store_s_owner_is_shown_as_it_is(lone: Store, database: Database) -> None:
    database.connect().execute("CREATE UNIQUE INDEX one_name ON event_store ((event_data ->> 'number'))")
    lone.append(uuid.uuid4(), [placed(1)], 0)
    for expected in (0, ANY_VERSION):
        with pytest.raises(psycopg.errors.UniqueViolation, match="one_name"):
            lone.append(uuid.uuid4(), [placed(1)], expected)


# --- again


def test_the_same_events_again_are_not_written_twice_and_give_the_same_result(store: Store) -> None:
    order = uuid.uuid4()
    events = [placed(1), placed(2)]
    first = store.append(order, events, 0)
    assert store.append(order, events, 0) == first
    store.append(order, [placed(3)], 2)
    assert store.append(order, events, 0) == first
    # Whoever has loaded the aggregate meanwhile has the new version, and may still append them again.
    assert store.append(order, events, 3) == first
    assert store.append(order, events, ANY_VERSION) == first
    assert len(facts(store, order)) == 3


def test_another_event_under_the_same_id_is_refused(store: Store) -> None:
    order, event_id = uuid.uuid4(), uuid.uuid4()
    store.append(order, [placed(1, event_id=event_id)], 0)
    for other, aggregate, expected in (
        (placed(2, event_id=event_id), order, 0),
        (placed(2, event_id=event_id), order, 1),
        (NewEvent("Other", {"number": 1}, event_id), order, 1),
        (placed(1, event_id=event_id), uuid.uuid4(), 0),
    ):
        with pytest.raises(EventIdTakenError, match=f"event id {event_id} is in the store already"):
            store.append(aggregate, [other], expected, aggregate_type="Order")
    assert facts(store, order) == [(1, {"number": 1})]


def test_a_part_of_the_same_events_is_refused(store: Store) -> None:
    order = uuid.uuid4()
    events = [placed(1), placed(2)]
    store.append(order, events, 0)
    with pytest.raises(EventIdTakenError, match="2 of these 3 events are in the store already"):
        store.append(order, [*events, placed(3)], 0)
    with pytest.raises(EventIdTakenError, match="1 of these 2 events are in the store already"):
        store.append(order, [placed(3), events[1]], 2)
    with pytest.raises(EventIdTakenError, match="not next to each other in this order"):
        store.append(order, events[::-1], 2)
    with pytest.raises(EventIdTakenError, match="two events of this append have the id"):
        store.append(uuid.uuid4(), [events[0], events[0]], 0)
    assert len(facts(store, order)) == 2


# --- models


def test_instances_of_registered_classes_are_appended_and_come_back_as_them(typed: Store, conn: Connection) -> None:
    order = uuid.uuid4()
    events = [OrderPlaced(customer="Ada"), ItemAdded(sku="TEA", quantity=2, unit_price_cents=495)]
    typed.append(order, events, 0)
    assert [event.data for event in typed.get_events(order)] == events
    assert list(typed.stream_events(order))[1].data == events[1]
    (before,) = conn.execute("SELECT max(sequence_number) - 2 FROM event_store").fetchall()[0]
    assert [event.data for event in typed.stream_all(before)] == events
    query = "SELECT aggregate_type, event_type, metadata FROM event_store WHERE aggregate_id = %s ORDER BY version"
    rows = conn.execute(query, (order,)).fetchall()
    assert rows == [("Order", "OrderPlaced", {}), ("Order", "ItemAdded", {"schema_version": 3})]


def test_a_registered_class_can_have_an_id_and_metadata_of_its_own(typed: Store) -> None:
    order, event_id = uuid.uuid4(), uuid.uuid4()
    event = NewEvent.of(OrderPlaced(customer="Ada"), event_id=event_id, metadata={"user": "a"})
    assert typed.append(order, [event], 0) == typed.append(order, [event], 0)
    (read,) = typed.get_events(order)
    assert (read.event_id, read.data, read.metadata) == (event_id, OrderPlaced(customer="Ada"), {"user": "a"})


def test_events_of_older_versions_are_upcast_step_by_step(typed: Store) -> None:
    order = uuid.uuid4()
    old = [
        NewEvent("ItemAdded", {"sku": "TEA", "price": 5}, metadata={"schema_version": 1}),
        NewEvent("ItemAdded", {"sku": "TEA", "price": 5, "quantity": 7}, metadata={"schema_version": 2}),
        NewEvent("ItemAdded", {"sku": "TEA", "quantity": 7, "unit_price_cents": 495}),
    ]
    typed.append(order, old, 0)
    assert [event.data for event in typed.get_events(order)] == [
        ItemAdded(sku="TEA", quantity=1, unit_price_cents=500),
        ItemAdded(sku="TEA", quantity=7, unit_price_cents=500),
        ItemAdded(sku="TEA", quantity=7, unit_price_cents=495),
    ]


def test_an_event_without_a_version_is_of_the_first(typed: Store, conn: Connection) -> None:
    order = uuid.uuid4()
    append(conn, "ItemAdded", {"sku": "TEA", "price": 5}, order)
    (event,) = typed.get_events(order)
    assert event.data == ItemAdded(sku="TEA", quantity=1, unit_price_cents=500)


def test_an_unknown_type_is_an_error_that_names_the_nearest(typed: Store, conn: Connection) -> None:
    order = uuid.uuid4()
    number = append(conn, "OrderPlacedd", {}, order)
    with pytest.raises(EventRegistryError, match=r"'OrderPlacedd'.*the nearest that is known is 'OrderPlaced'"):
        typed.get_events(order)
    with pytest.raises(EventRegistryError):
        list(typed.stream_all(number - 1))


class SeedEvent(BaseModel):
    """As in the widely used set-up: the envelope is part of the model."""

    event_id: uuid.UUID
    aggregate_type: str = "Order"
    event_type: str = "OrderShipped"
    metadata: dict[str, Any] = {}
    carrier: str


def test_a_model_that_carries_its_envelope_is_appended_as_it_is(store: Store) -> None:
    order = uuid.uuid4()
    event = SeedEvent(event_id=uuid.uuid4(), metadata={"user": "a"}, carrier="DHL")
    assert store.append(order, [event], 0) == store.append(order, [event], 0)
    (read,) = store.get_events(order)
    assert (read.event_id, read.aggregate_type, read.event_type) == (event.event_id, "Order", "OrderShipped")
    assert read.metadata == {"user": "a"}
    assert read.data == event.model_dump(mode="json")


# --- several aggregates


def test_several_aggregates_are_appended_to_together(store: Store) -> None:
    one, two, three = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
    store.append(two, [placed(1)], 0)
    moves = [
        Append(one, [placed(1), placed(2)], 0),
        Append(two, [placed(2)], 1),
        Append(three, [placed(1)], ANY_VERSION, metadata={"user": "a"}),
    ]
    last = store.append_many(moves)
    assert [len(facts(store, each)) for each in (one, two, three)] == [2, 2, 1]
    assert last == max(event.sequence_number for each in (one, two, three) for event in store.get_events(each))
    assert store.append_many(moves) == last
    assert store.append_many([]) == 0


def test_a_conflict_of_one_aggregate_leaves_all_as_they_were(store: Store, conn: Connection) -> None:
    one, two = uuid.uuid4(), uuid.uuid4()
    store.append(two, [placed(1)], 0)
    with pytest.raises(ConcurrencyError) as caught:
        store.append_many([Append(one, [placed(1)], 0), Append(two, [placed(2)], 0)])
    assert (caught.value.aggregate_id, caught.value.expected_version, caught.value.actual_version) == (two, 0, 1)
    assert value(conn, "SELECT count(*) FROM event_store WHERE aggregate_id IN (%s, %s)", one, two) == 1
    with pytest.raises(AppendRefusedError, match="occurs twice"):
        store.append_many([Append(one, [placed(1)], 0), Append(one, [placed(2)], 1)])


# --- long streams


def test_a_long_stream_is_read_in_pages(lone: Store, database: Database) -> None:
    order = uuid.uuid4()
    lone.append(order, [placed(n) for n in range(1, 1001)], 0)
    append(database.connect(), "Other")
    assert [event.version for event in lone.stream_events(order, 10, batch_size=7)] == list(range(11, 1001))
    assert [event.version for event in lone.stream_events(order, 990, batch_size=10)] == list(range(991, 1001))
    assert list(lone.stream_events(uuid.uuid4())) == []
    assert len(list(lone.stream_all(batch_size=7))) == 1001
    with pytest.raises(ValueError, match="batch_size"):
        list(lone.stream_events(order, batch_size=0))


@pytest.mark.parametrize(("most_bytes", "most_stored"), [(1000, 10**6), (10**6, 1000), (10, 10)])
def test_a_page_is_bounded_by_bytes_and_what_is_too_large_comes_alone(
    lone: Store, monkeypatch: pytest.MonkeyPatch, most_bytes: int, most_stored: int
) -> None:
    monkeypatch.setattr(reading, "MOST_BYTES", most_bytes)
    monkeypatch.setattr(reading, "MOST_STORED_BYTES", most_stored)
    order = uuid.uuid4()
    sizes = [2000, 100, 100, 800, 700, 5000, 5000, 10, 600, 2000]
    # Random text, which is not compressed.
    texts = ["".join(str(uuid.uuid4()) for _ in range(size // 36 + 1)) for size in sizes]
    lone.append(order, [NewEvent("Big", {"text": text}) for text in texts], 0, aggregate_type="Order")
    assert [event.data["text"] for event in lone.stream_events(order)] == texts
    assert [event.data["text"] for event in lone.stream_all()] == texts
    assert [event.data["text"] for event in lone.stream_all(batch_size=3)] == texts


# --- where connections come from


def test_a_connection_string_that_leads_nowhere_says_why_at_once() -> None:
    dsn = "postgresql://app:secret@127.0.0.1:1/orders"

    async def append_async() -> None:
        async with AsyncEventStore(dsn) as store:
            await store.append(uuid.uuid4(), [placed()], 0)

    with EventStore(dsn) as store:
        for attempt in (lambda: store.append(uuid.uuid4(), [placed()], 0), lambda: asyncio.run(append_async())):
            with pytest.raises(DatabaseUnavailableError, match=r'"orders" at 127.0.0.1:1: .*refused') as raised:
                attempt()
            assert "secret" not in str(raised.value)


def test_a_store_can_open_its_own_pool(database: Database) -> None:
    with EventStore(database.dsn) as store:
        order = uuid.uuid4()
        store.append(order, [placed()], 0)
        assert len(store.get_events(order)) == 1


def test_an_asynchronous_store_can_open_its_own_pool(database: Database) -> None:
    async def use() -> int:
        async with AsyncEventStore(database.dsn) as store:
            order = uuid.uuid4()
            await store.append(order, [placed()], 0)
            return len(await store.get_events(order))

    assert asyncio.run(use()) == 1


def test_a_borrowed_connection_goes_back_as_it_was(kind: str, database: Database) -> None:
    if kind == "async":
        pytest.skip("the same code, apart from the calls")
    with ConnectionPool(database.dsn, min_size=1, max_size=1, open=True) as pool:
        store = EventStore(pool)
        order = uuid.uuid4()
        store.append(order, [placed()], 0)
        with pytest.raises(ConcurrencyError):
            store.append(order, [placed()], 0)
        with pool.connection() as db:
            assert not db.autocommit
            assert db.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_what_is_neither_pool_nor_connection_is_refused(shared: Database) -> None:
    with shared.connect() as connection:
        with pytest.raises(
            ConfigurationError, match=r"cannot work with a psycopg.Connection; give it .*AsyncConnection"
        ):
            AsyncEventStore(connection)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match=r"cannot work with a builtins.dict; give it .*ConnectionPool"):
            EventStore({"password": "secret"})  # type: ignore[arg-type]
