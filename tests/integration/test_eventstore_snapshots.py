"""Snapshots: taken at the threshold, used when they are right, and otherwise as if they were not there."""

import json
import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import psycopg
import pytest
from pydantic import BaseModel, Field, PrivateAttr

from projectiond.errors import ConfigurationError
from projectiond.eventstore import Event, EventStore, Loaded, NewEvent
from tests.support.eventstores import Order, OrderPlaced, Store, opened, registry
from tests.support.postgres import Database, Server, fresh_database
from tests.support.queries import Connection, value

pytestmark = pytest.mark.integration

THRESHOLD = 5


@pytest.fixture(scope="module")
def shared(server: Server, schema_template: str) -> Iterator[Database]:
    with fresh_database(server, schema_template) as database:
        yield database


@pytest.fixture(scope="module", params=["sync", "async"])
def store(request: pytest.FixtureRequest, shared: Database) -> Iterator[Store]:
    with opened(request.param, shared.dsn, snapshot_threshold=THRESHOLD) as store:
        yield store


@pytest.fixture
def conn(shared: Database) -> Iterator[Connection]:
    with shared.connect() as connection:
        yield connection


class Counter(BaseModel):
    """Which numbers it has seen; how many times it has applied an event is counted outside of it."""

    applied: ClassVar[int] = 0

    numbers: list[int] = []

    def apply(self, event: Event[Any]) -> None:
        Counter.applied += 1
        self.numbers.append(event.data["n"])


def counted(first: int, last: int) -> list[NewEvent]:
    return [NewEvent("Counted", {"n": n}, aggregate_type="Counter") for n in range(first, last + 1)]


def load(store: Store, counter: uuid.UUID, kind: type[Any] = Counter) -> tuple[Loaded[Any], int]:
    """Load, and say how many events had to be applied."""
    before = Counter.applied
    return store.load(counter, kind), Counter.applied - before


def snapshot(conn: Connection, counter: uuid.UUID) -> tuple[int, dict[str, Any]] | None:
    query = "SELECT version, state FROM snapshots WHERE aggregate_id = %s"
    return conn.execute(query, (counter,)).fetchone()


def test_an_aggregate_without_events_is_at_version_0(store: Store) -> None:
    counter = uuid.uuid4()
    loaded, applied = load(store, counter)
    assert (loaded.version, loaded.state, applied) == (0, Counter(), 0)


def test_a_snapshot_is_taken_at_the_threshold_and_used_from_then_on(store: Store, conn: Connection) -> None:
    counter = uuid.uuid4()
    store.append(counter, counted(1, 4), 0)
    assert load(store, counter)[1] == 4
    assert snapshot(conn, counter) is None
    store.append(counter, counted(5, 5), 4)
    assert load(store, counter)[1] == 5
    row = conn.execute("SELECT aggregate_type, version FROM snapshots WHERE aggregate_id = %s", (counter,)).fetchone()
    assert row == ("Counter", 5)
    store.append(counter, counted(6, 7), 5)
    loaded, applied = load(store, counter)
    assert (loaded.version, loaded.state.numbers, applied) == (7, [1, 2, 3, 4, 5, 6, 7], 2)
    assert loaded.aggregate_type == "Counter"
    store.append(counter, counted(8, 12), 7)
    assert load(store, counter)[1] == 7
    loaded, applied = load(store, counter)
    assert (loaded.version, loaded.state.numbers, applied) == (12, list(range(1, 13)), 0)


def test_a_load_of_many_pages_applies_every_event_once(store: Store) -> None:
    counter = uuid.uuid4()
    store.append(counter, counted(1, 1200), 0)
    loaded, applied = load(store, counter)
    assert (loaded.version, loaded.state.numbers, applied) == (1200, list(range(1, 1201)), 1200)
    assert load(store, counter)[1] == 0


class OtherCounter(Counter):
    """The same fields; it counts in another way."""

    def apply(self, event: Event[Any]) -> None:
        Counter.applied += 1
        self.numbers.append(-event.data["n"])


class NextCounter(Counter):
    snapshot_version: ClassVar[int] = 2


class WiderCounter(Counter):
    total: int = 0


@pytest.mark.parametrize("other", [OtherCounter, NextCounter, WiderCounter])
def test_a_snapshot_of_another_shape_is_not_used_but_overwritten(
    store: Store, conn: Connection, other: type[Counter]
) -> None:
    counter = uuid.uuid4()
    store.append(counter, counted(1, 6), 0)
    load(store, counter)
    before = snapshot(conn, counter)
    loaded, applied = load(store, counter, other)
    assert (loaded.version, applied, type(loaded.state)) == (6, 6, other)
    assert snapshot(conn, counter) != before
    assert load(store, counter, other)[1] == 0
    assert load(store, counter)[0].state.numbers == [1, 2, 3, 4, 5, 6]


def test_a_snapshot_that_does_not_fit_its_class_is_not_used(store: Store, conn: Connection) -> None:
    counter = uuid.uuid4()
    store.append(counter, counted(1, 6), 0)
    load(store, counter)
    conn.execute(
        "UPDATE snapshots SET state = jsonb_set(state, '{aggregate,numbers}', '\"none\"') WHERE aggregate_id = %s",
        (counter,),
    )
    assert load(store, counter)[0].state.numbers == [1, 2, 3, 4, 5, 6]
    assert load(store, counter)[1] == 0


def test_a_snapshot_of_somebody_else_s_is_not_used(store: Store, conn: Connection) -> None:
    counter = uuid.uuid4()
    store.append(counter, counted(1, 6), 0)
    conn.execute("INSERT INTO snapshots VALUES (%s, 'Counter', 4, '{\"numbers\": [7]}')", (counter,))
    assert load(store, counter)[0].state.numbers == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("then", [3, 20])
def test_a_snapshot_of_a_history_that_is_gone_is_not_used(store: Store, conn: Connection, then: int) -> None:
    """The store was restored to an earlier time, and other events have followed since: fewer, or more."""
    counter = uuid.uuid4()
    store.append(counter, counted(1, 10), 0)
    load(store, counter)
    assert snapshot(conn, counter)
    conn.execute("DELETE FROM event_store WHERE aggregate_id = %s AND version > 2", (counter,))
    store.append(counter, counted(101, 100 + then), 2)
    expected = [1, 2, *range(101, 101 + then)]
    loaded, applied = load(store, counter)
    assert (loaded.version, loaded.state.numbers, applied) == (2 + then, expected, 2 + then)
    # It has been overwritten, whatever its version was.
    assert load(store, counter)[1] == 0


def test_an_older_snapshot_never_replaces_a_newer_one(store: Store, conn: Connection) -> None:
    counter = uuid.uuid4()
    store.append(counter, counted(1, 3), 0)
    older = store.load(counter, Counter)
    store.append(counter, counted(4, 6), 3)
    newer = store.load(counter, Counter)
    assert not store.save_snapshot(older)
    assert not store.save_snapshot(newer)
    found = snapshot(conn, counter)
    assert found is not None
    assert found[0] == 6


def test_a_snapshot_can_be_saved_by_hand(store: Store, conn: Connection) -> None:
    counter = uuid.uuid4()
    assert not store.save_snapshot(store.load(counter, Counter))
    store.append(counter, counted(1, 1), 0)
    assert store.save_snapshot(store.load(counter, Counter))
    assert snapshot(conn, counter) is not None
    assert load(store, counter)[1] == 0


def test_in_the_caller_s_transaction_none_is_taken(shared: Database, conn: Connection) -> None:
    counter = uuid.uuid4()
    with EventStore(shared.dsn, snapshot_threshold=THRESHOLD) as store, shared.connect(autocommit=False) as mine:
        store.append(counter, counted(1, 9), 0, connection=mine)
        assert store.load(counter, Counter, connection=mine).version == 9
        assert EventStore(mine, snapshot_threshold=THRESHOLD).load(counter, Counter).version == 9
        mine.commit()
        assert snapshot(conn, counter) is None
        store.save_snapshot(store.load(counter, Counter, connection=mine), connection=mine)
        mine.rollback()
    assert snapshot(conn, counter) is None


def test_no_threshold_takes_no_snapshot(shared: Database, conn: Connection) -> None:
    counter = uuid.uuid4()
    with EventStore(shared.dsn, snapshot_threshold=None) as store:
        store.append(counter, counted(1, 200), 0)
        assert store.load(counter, Counter).version == 200
    assert snapshot(conn, counter) is None


def test_the_threshold_is_that_of_the_settings_by_default(shared: Database, conn: Connection) -> None:
    counter = uuid.uuid4()
    with EventStore(shared.dsn) as store:
        store.append(counter, counted(1, 49), 0)
        store.load(counter, Counter)
        assert snapshot(conn, counter) is None
        store.append(counter, counted(50, 50), 49)
        store.load(counter, Counter)
        assert snapshot(conn, counter) is not None


@pytest.mark.parametrize("how", ["read only", "no privilege"])
def test_who_may_not_write_loads_all_the_same(
    shared: Database, conn: Connection, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    counter = uuid.uuid4()
    EventStore(conn).append(counter, counted(1, 9), 0)
    reader = shared.connect()
    if how == "read only":
        reader.execute("SET default_transaction_read_only = on")
    else:
        role = f"reader_{uuid.uuid4().hex}"
        reader.execute(f"CREATE ROLE {role}; GRANT SELECT ON event_store, snapshots TO {role}; SET ROLE {role}")
    with caplog.at_level(logging.WARNING):
        assert EventStore(reader, snapshot_threshold=THRESHOLD).load(counter, Counter).version == 9
    assert f"no snapshot of aggregate {counter}" in caplog.text
    reader.close()
    if how != "read only":
        conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


class Forgetful(Counter):
    """Its JSON does not give it back as it was."""

    ratio: float = 0.0

    def apply(self, event: Event[Any]) -> None:
        super().apply(event)
        self.ratio = float("nan")


def test_what_json_does_not_give_back_is_never_saved(
    store: Store, conn: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    counter = uuid.uuid4()
    store.append(counter, counted(1, 6), 0)
    with caplog.at_level(logging.WARNING):
        assert load(store, counter, Forgetful)[0].version == 6
    assert "Forgetful is not the same once it has been through JSON" in caplog.text
    assert snapshot(conn, counter) is None


class Garbled(Counter):
    """Its JSON cannot be made at all, or not be stored."""

    text: str = ""
    wrong: ClassVar[str]

    def apply(self, event: Event[Any]) -> None:
        super().apply(event)
        self.text = self.wrong


@pytest.mark.parametrize("wrong", ["\ud800", "\0"])
def test_what_cannot_be_saved_is_loaded_all_the_same(
    store: Store, conn: Connection, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    counter = uuid.uuid4()
    store.append(counter, counted(1, 6), 0)
    Garbled.wrong = wrong
    with caplog.at_level(logging.WARNING):
        assert load(store, counter, Garbled)[0].version == 6
    assert f"no snapshot of aggregate {counter}" in caplog.text
    assert snapshot(conn, counter) is None


def test_a_snapshot_that_is_locked_for_too_long_is_done_without(
    shared: Database, conn: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    counter = uuid.uuid4()
    mine = shared.connect()
    store = EventStore(mine, snapshot_threshold=THRESHOLD)
    store.append(counter, counted(1, 6), 0)
    store.load(counter, Counter)
    store.append(counter, counted(7, 12), 6)
    mine.execute("SET lock_timeout = '20ms'")
    with conn.transaction(), caplog.at_level(logging.WARNING):
        conn.execute("SELECT FROM snapshots WHERE aggregate_id = %s FOR UPDATE", (counter,))
        assert store.load(counter, Counter).version == 12
    assert "lock timeout" in caplog.text


class Private(Counter):
    _seen: int = PrivateAttr(default=0)


class Excluded(Counter):
    seen: int = Field(default=0, exclude=True)


class Demanding(Counter):
    name: str


class NoApply(BaseModel):
    numbers: list[int] = []


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Private, "Private._seen would be missing in a snapshot"),
        (Excluded, "Excluded.seen would be missing in a snapshot"),
        (Demanding, "Demanding cannot be made without arguments"),
        (NoApply, "NoApply has no method apply"),
    ],
)
def test_what_cannot_be_an_aggregate_is_refused_at_the_first_load(store: Store, kind: type[Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        store.load(uuid.uuid4(), kind)


def test_a_state_of_one_s_own_can_be_the_beginning(store: Store) -> None:
    loaded = store.load(uuid.uuid4(), Demanding, initial=Demanding(name="mine"))
    assert loaded.state.name == "mine"


@dataclass(frozen=True)
class Total:
    """A frozen one: apply returns the next."""

    total: int = 0
    tags: frozenset[str] = field(default_factory=frozenset)

    def apply(self, event: Event[Any]) -> "Total":
        assert event.event_type in {"Counted", "Other"}
        return Total(self.total + event.data["n"], self.tags | {str(event.data["n"])})


def test_a_frozen_aggregate_returns_its_next_state(store: Store, conn: Connection) -> None:
    counter = uuid.uuid4()
    store.append(counter, counted(1, 6), 0)
    expected = Total(21, frozenset("123456"))
    assert store.load(counter, Total).state == expected
    assert snapshot(conn, counter) is not None
    assert store.load(counter, Total).state == expected


def test_typed_events_are_applied_as_their_classes(shared: Database) -> None:
    order = uuid.uuid4()
    with opened("sync", shared.dsn, registry=registry, snapshot_threshold=1) as store:
        store.append(order, [OrderPlaced(customer="Ada")], 0)
        old = {"sku": "TEA", "price": 5}
        store.append(order, [NewEvent("ItemAdded", old, metadata={"schema_version": 1})], 1)
        expected = Order(customer="Ada", items={"TEA": 1}, total_cents=500, events=2)
        assert store.load(order, Order).state == expected
        assert store.load(order, Order).state == expected


def test_a_snapshot_is_plain_json(store: Store, conn: Connection) -> None:
    counter = uuid.uuid4()
    events = counted(1, 5)
    store.append(counter, events, 0)
    store.load(counter, Counter)
    found = snapshot(conn, counter)
    assert found is not None
    assert found[1]["aggregate"] == {"numbers": [1, 2, 3, 4, 5]}
    assert found[1]["last_event_id"] == str(events[-1].event_id)
    json.dumps(found[1])


def test_a_threshold_is_a_number_from_1(conn: Connection) -> None:
    with pytest.raises(ConfigurationError, match="snapshot_threshold is 0"):
        EventStore(conn, snapshot_threshold=0)


def test_a_snapshot_that_is_being_saved_elsewhere_is_waited_for_and_the_newer_one_stays(
    shared: Database, conn: Connection
) -> None:
    counter = uuid.uuid4()
    store = EventStore(conn)
    store.append(counter, counted(1, 3), 0)
    older = store.load(counter, Counter)
    store.append(counter, counted(4, 6), 3)
    with psycopg.connect(shared.dsn) as first:
        newer = store.load(counter, Counter)
        assert store.save_snapshot(newer, connection=first)
    assert not store.save_snapshot(older)
    assert value(conn, "SELECT version FROM snapshots WHERE aggregate_id = %s", counter) == 6
