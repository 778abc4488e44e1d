"""Many writers on few aggregates: no version twice, none left out, nothing lost, and each loser is told the truth.

EVENTSTORE_RACE_SECONDS=60 runs them longer.
"""

import os
import random
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from projectiond.errors import ConcurrencyError
from projectiond.eventstore import ANY_VERSION, Append, EventStore, NewEvent
from tests.support.postgres import Database
from tests.support.queries import Connection, value

pytestmark = pytest.mark.integration

SECONDS = float(os.environ.get("EVENTSTORE_RACE_SECONDS", "2"))
WRITERS = 16


@dataclass
class Tally:
    """What one writer has been told."""

    written: list[uuid.UUID] = field(default_factory=list)
    refused: int = 0
    faults: list[str] = field(default_factory=list)


def new_events(count: int) -> list[NewEvent]:
    return [NewEvent("Raced", {"n": n}, aggregate_type="Race") for n in range(count)]


def current_version(conn: Connection, aggregate_id: uuid.UUID) -> int:
    return int(value(conn, "SELECT coalesce(max(version), 0) FROM event_store WHERE aggregate_id = %s", aggregate_id))


def run_writers(write: Callable[[int], Tally]) -> list[Tally]:
    with ThreadPoolExecutor(WRITERS) as threads:
        return list(threads.map(write, range(WRITERS)))


def check(conn: Connection, tallies: list[Tally]) -> None:
    assert [fault for tally in tallies for fault in tally.faults] == []
    stored = conn.execute("SELECT aggregate_id, version, event_id FROM event_store ORDER BY 1, 2").fetchall()
    streams: dict[uuid.UUID, list[int]] = {}
    for aggregate_id, version, _ in stored:
        streams.setdefault(aggregate_id, []).append(version)
    for versions in streams.values():
        assert versions == list(range(1, len(versions) + 1))
    written = [event_id for tally in tallies for event_id in tally.written]
    assert len(written) == len(set(written))
    assert {row[2] for row in stored} == set(written)


@pytest.mark.timeout(180 + SECONDS)
def test_sixteen_writers_race_on_ten_aggregates(database: Database) -> None:
    aggregates = [uuid.uuid4() for _ in range(10)]
    until = time.monotonic() + SECONDS

    def write(seed: int) -> Tally:
        dice, tally = random.Random(seed), Tally()  # noqa: S311 -- for variety, not for secrets
        with psycopg.connect(database.dsn, autocommit=True) as conn:
            while time.monotonic() < until or not tally.written:
                aggregate_id = dice.choice(aggregates)
                expected = current_version(conn, aggregate_id) + (dice.random() < 0.05)
                events = new_events(dice.randint(1, 3))
                try:
                    number = store.append(aggregate_id, events, expected)
                    if dice.random() < 0.1 and store.append(aggregate_id, events, expected) != number:
                        tally.faults.append("a retry had another result")
                    tally.written += [event.event_id for event in events]
                except ConcurrencyError as error:
                    tally.refused += 1
                    # True means: it was at that version at some time between our look and now.
                    actual = error.actual_version
                    if actual is None or actual == expected or not actual <= current_version(conn, aggregate_id):
                        tally.faults.append(str(error))
        return tally

    with ConnectionPool(database.dsn, min_size=WRITERS, max_size=WRITERS, open=True) as pool:
        store = EventStore(pool)
        tallies = run_writers(write)
    check(database.connect(), tallies)
    assert sum(tally.refused for tally in tallies) > 0


@pytest.mark.timeout(180 + SECONDS)
def test_writers_of_several_aggregates_and_of_any_version_race_without_a_deadlock(database: Database) -> None:
    aggregates = [uuid.uuid4() for _ in range(5)]
    until = time.monotonic() + SECONDS / 2

    def write(seed: int) -> Tally:
        dice, tally = random.Random(seed), Tally()  # noqa: S311 -- as above
        with psycopg.connect(database.dsn, autocommit=True) as conn:
            while time.monotonic() < until or not tally.written:
                chosen = dice.sample(aggregates, 3)
                is_any = dice.random() < 0.3
                appends = [
                    Append(each, new_events(2), ANY_VERSION if is_any else current_version(conn, each))
                    for each in chosen
                ]
                try:
                    store.append_many(appends)
                except ConcurrencyError as error:
                    tally.refused += 1
                    if is_any:
                        tally.faults.append(str(error))
                else:
                    for append in appends:
                        tally.written += [event.event_id for event in append.events if isinstance(event, NewEvent)]
        return tally

    with ConnectionPool(database.dsn, min_size=WRITERS, max_size=WRITERS, open=True) as pool:
        store = EventStore(pool)
        tallies = run_writers(write)
    conn = database.connect()
    check(conn, tallies)
    assert value(conn, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0


def test_the_same_retry_from_many_processes_at_once_is_written_once(database: Database) -> None:
    barrier = threading.Barrier(WRITERS)
    rounds = [(uuid.uuid4(), new_events(3)) for _ in range(20)]

    def write(_seed: int) -> list[int]:
        results = []
        for aggregate_id, events in rounds:
            barrier.wait(timeout=60)
            results.append(store.append(aggregate_id, events, 0))
        return results

    with ConnectionPool(database.dsn, min_size=WRITERS, max_size=WRITERS, open=True) as pool:
        store = EventStore(pool)
        with ThreadPoolExecutor(WRITERS) as threads:
            results = list(threads.map(write, range(WRITERS)))
    assert results == [results[0]] * WRITERS
    conn = database.connect()
    assert value(conn, "SELECT count(*) FROM event_store") == 3 * len(rounds)
