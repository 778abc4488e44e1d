"""stream_all never passes a gap that may still be filled; and the loop that everybody writes first does."""

import random
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from projectiond.errors import ConfigurationError, WaitTimeoutError
from projectiond.eventstore import EventStore, NewEvent
from tests.support.events import append, append_many
from tests.support.eventstores import Store, opened
from tests.support.postgres import Database, LocalServer
from tests.support.queries import Connection
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration


@pytest.fixture(params=["sync", "async"])
def store(request: pytest.FixtureRequest, database: Database) -> Iterator[Store]:
    with opened(request.param, database.dsn) as store:
        yield store


@pytest.fixture
def conn(database: Database) -> Connection:
    return database.connect()


@pytest.fixture
def late(database: Database) -> Connection:
    """Connect a writer whose transactions stay open until it commits."""
    return database.connect(autocommit=False)


def numbers(store: Store, after: int = 0, **options: Any) -> list[int]:  # noqa: ANN401 -- passed through
    return [event.sequence_number for event in store.stream_all(after, **options)]


def test_an_empty_store_streams_nothing(store: Store) -> None:
    assert numbers(store) == []
    assert numbers(store, 100) == []


def test_a_gap_that_was_rolled_back_is_passed(store: Store, conn: Connection, late: Connection) -> None:
    append(late, "Lost")
    late.rollback()
    expected = append_many(conn, 10)
    append(late, "Lost")
    late.rollback()
    assert numbers(store) == expected
    assert numbers(store, expected[4], batch_size=2) == expected[5:]


def test_a_run_without_a_gap_does_not_wait(store: Store, conn: Connection, late: Connection) -> None:
    expected = append_many(conn, 10)
    append(late, "InFlight")
    assert numbers(store, timeout_seconds=None) == expected


def test_an_event_in_flight_below_a_visible_one_is_waited_for(store: Store, conn: Connection, late: Connection) -> None:
    held = append(late, "InFlight")
    expected = [held, append(conn, "Committed")]
    found: list[int] = []
    reader = threading.Thread(target=lambda: found.extend(numbers(store)))
    reader.start()
    eventually(lambda: _is_looking(conn), message="the reader did not look at the writers")
    late.commit()
    reader.join(timeout=30)
    assert found == expected


def test_a_writer_that_does_not_end_is_named(store: Store, conn: Connection, database: Database) -> None:
    with psycopg.connect(database.dsn, application_name="nightly import") as slow:
        append(slow, "InFlight")
        append(conn, "Committed")
        with pytest.raises(WaitTimeoutError, match=r"events after 0 are held back for 0.05 s by pid \d+ .*nightly imp"):
            numbers(store, timeout_seconds=0.05)


def test_a_stream_ends_at_the_mark_as_of_its_start(conn: Connection, database: Database) -> None:
    with EventStore(database.dsn) as store:
        expected = append_many(conn, 250)
        seen = []
        for event in store.stream_all():
            seen.append(event.sequence_number)
            append(conn, "Later")
        assert seen == expected


def test_a_number_that_was_chosen_by_hand_is_not_passed(store: Store, conn: Connection) -> None:
    expected = append_many(conn, 3)
    conn.execute(
        "INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version, sequence_number)"
        " VALUES (gen_random_uuid(), 'Order', 'Stray', '{}', 1, 1000)"
    )
    assert numbers(store) == expected


def test_a_role_that_may_only_read_can_stream(conn: Connection, database: Database) -> None:
    expected = append_many(conn, 3)
    role = f"reader_{uuid.uuid4().hex}"
    conn.execute(f"CREATE ROLE {role}; GRANT SELECT ON event_store TO {role}")
    reader = database.connect()
    reader.execute(f"SET ROLE {role}")
    try:
        assert numbers(EventStore(reader)) == expected
    finally:
        reader.close()
        conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.faults
def test_a_standby_is_refused(own_server: LocalServer, own_database: Database) -> None:
    """Its readers cannot see the locks of the writers; one aggregate's events can be read there."""
    order = uuid.uuid4()
    append(own_database.connect(), "OrderPlaced", aggregate_id=order)
    own_server.stop()
    (own_server.data_directory / "standby.signal").touch()
    own_server.start()
    store = EventStore(own_database.connect())
    assert len(store.get_events(order)) == 1
    with pytest.raises(ConfigurationError, match="the server is a standby, where stream_all could miss events"):
        list(store.stream_all())


# --- under load, and a design that must be found guilty


def naive(dsn: str, after: int) -> list[int]:
    """Read everything above the last number that was seen."""
    with psycopg.connect(dsn) as conn:
        query = "SELECT sequence_number FROM event_store WHERE sequence_number > %s ORDER BY sequence_number"
        return [row[0] for row in conn.execute(query, (after,))]


def ours(dsn: str, after: int) -> list[int]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        return numbers(EventStore(conn), after)


def lost(database: Database, read: Callable[[str, int], list[int]]) -> set[int]:
    """Follow writers that hold transactions open, each stream after the last; give what was never seen."""
    is_over = threading.Event()

    def write(seed: int) -> None:
        dice = random.Random(seed)  # noqa: S311 -- for variety, not for secrets
        with psycopg.connect(database.dsn) as conn:
            store = EventStore(conn)
            while not is_over.is_set():
                for _ in range(dice.randint(1, 3)):
                    store.append(uuid.uuid4(), [NewEvent("X", {})], 0, aggregate_type="X")
                    conn.execute("SELECT pg_sleep(%s)", (dice.random() * 0.005,))
                if dice.random() < 0.2:
                    conn.rollback()
                else:
                    conn.commit()

    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    for writer in writers:
        writer.start()
    seen: list[int] = []
    try:
        while len(seen) < 300:
            seen += read(database.dsn, seen[-1] if seen else 0)
    finally:
        is_over.set()
        for writer in writers:
            writer.join()
    seen += read(database.dsn, seen[-1])
    assert seen == sorted(set(seen))
    return set(naive(database.dsn, 0)) - set(seen)


def test_streams_one_after_the_other_lose_nothing(database: Database) -> None:
    assert lost(database, ours) == set()


def test_the_loop_that_reads_past_gaps_loses_events(database: Database) -> None:
    assert lost(database, naive)


def _is_looking(conn: Connection) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%%pg_locks AS held%%' AND pid <> pg_backend_pid()"
    (row,) = conn.execute(query)
    return bool(row[0])
