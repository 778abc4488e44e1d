"""The reader: bounded by count, by range and by weight, in order, from an index."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any, LiteralString

import pytest

from projectiond import sql
from projectiond.postgres import database as databases
from projectiond.stream import reader
from projectiond.stream.highwater import RUN_LIMIT
from projectiond.stream.reader import MAX_BATCH_BYTES, SCAN_RANGE, EventReader
from tests.support.daemon import Daemon, journal
from tests.support.events import append, append_many
from tests.support.postgres import Database, Server, fresh_database
from tests.support.queries import Connection

pytestmark = pytest.mark.integration


@pytest.fixture
def db(database: Database) -> Iterator[databases.Connection]:
    with databases.connect(database.dsn, role="runner", statement_timeout_seconds=30) as db:
        yield db


@pytest.fixture
def conn(database: Database) -> Connection:
    return database.connect()


def read_all(db: databases.Connection, reader: EventReader, mark: int) -> list[int]:
    """Read batch by batch to the mark."""
    found: list[int] = []
    after = 0
    while after < mark:
        batch = reader.read(db, after, mark)
        assert batch.after == after < batch.upto <= mark
        assert all(after < event.sequence_number <= batch.upto for event in batch.events)
        found += [event.sequence_number for event in batch.events]
        after = batch.upto
    return found


def append_heavy(conn: Connection, count: int, size: int, column: LiteralString) -> None:
    """Append events whose data or metadata weigh so many bytes, without sending them."""
    sizes = {"event_data": 0, "metadata": 0, column: size, "count": count}
    conn.execute(
        "INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, metadata, version)"
        " SELECT gen_random_uuid(), 'Order', 'Heavy', jsonb_build_object('x', repeat('x', %(event_data)s)),"
        " jsonb_build_object('x', repeat('x', %(metadata)s)), 1 FROM generate_series(1, %(count)s)",
        sizes,
    )


@pytest.mark.parametrize("event_types", [None, ["Counted"]])
def test_a_batch_holds_at_most_its_size_and_the_next_goes_on_behind_it(
    db: databases.Connection, conn: Connection, event_types: list[str] | None
) -> None:
    numbers = append_many(conn, 103)
    reader = EventReader(event_types, 20)
    batch = reader.read(db, 0, 103)
    assert (len(batch.events), batch.upto) == (20, numbers[19])
    assert read_all(db, reader, 103) == numbers


def test_a_batch_that_is_exactly_full_is_continued_and_not_believed_to_be_the_last(
    db: databases.Connection, conn: Connection
) -> None:
    append_many(conn, 40)
    batch = EventReader(None, 20).read(db, 0, 40)
    assert batch.upto == 20


def test_a_batch_that_is_not_full_reaches_to_the_mark(db: databases.Connection, conn: Connection) -> None:
    append_many(conn, 40)
    batch = EventReader(["NeverSeen"], 20).read(db, 0, 40)
    assert (list(batch.events), batch.upto) == ([], 40)


def test_nothing_behind_the_mark_is_read(db: databases.Connection, conn: Connection) -> None:
    numbers = append_many(conn, 40)
    assert read_all(db, EventReader(None, 7), 31) == numbers[:31]


@pytest.mark.parametrize("mark", [3, 30])
def test_only_the_types_that_are_asked_for_are_read(db: databases.Connection, conn: Connection, mark: int) -> None:
    numbers = [append(conn, kind) for kind in ("A", "B", "C") * 10]
    assert read_all(db, EventReader(["A", "C"], 4), mark) == [n for n in numbers[:mark] if n % 3 != 2]
    assert read_all(db, EventReader([], 4), mark) == []


def test_a_sparse_filter_advances_by_a_bounded_range(
    db: databases.Connection, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "SCAN_RANGE", 100)
    append_many(conn, 990)
    last = append(conn, "Rare")
    batch = EventReader(["Rare"], 50).read(db, 0, last)
    assert (list(batch.events), batch.upto) == ([], 100)
    assert read_all(db, EventReader(["Rare"], 50), last) == [last]
    assert SCAN_RANGE >= 10_000


@pytest.mark.parametrize("column", ["event_data", "metadata"])
def test_a_batch_is_ended_by_its_weight(db: databases.Connection, conn: Connection, column: LiteralString) -> None:
    append_heavy(conn, 40, MAX_BATCH_BYTES // 4, column)
    reader = EventReader(None, 500)
    batch = reader.read(db, 0, 40)
    assert 1 <= len(batch.events) <= 4
    assert batch.upto == batch.events[-1].sequence_number
    assert read_all(db, reader, 40) == list(range(1, 41))


def test_an_event_of_50_mb_is_a_batch_by_itself(db: databases.Connection, conn: Connection) -> None:
    append(conn, "Light")
    append_heavy(conn, 1, 50_000_000, "event_data")
    append_many(conn, 30)
    reader = EventReader(None, 500)
    batch = reader.read(db, 1, 32)
    assert [event.sequence_number for event in batch.events] == [2]
    assert len(batch.events[0].data["x"]) == 50_000_000
    assert read_all(db, reader, 32) == list(range(1, 33))


def test_an_event_of_50_mb_goes_through_a_projection(database: Database, conn: Connection) -> None:
    append_heavy(conn, 1, 50_000_000, "event_data")
    with Daemon(database, journal()) as daemon:
        daemon.wait_until_at("journal", append(conn, "Light"))
        assert daemon.applied() == [1, 2]


def test_json_stays_bytes_until_somebody_wants_it(db: databases.Connection, conn: Connection) -> None:
    append(conn, "OrderPlaced", {"n": 1}, metadata={"by": "Ann"})
    (event,) = EventReader(None, 5).read(db, 0, 1).events
    assert event._data_json == b'{"n": 1}'
    assert event.data == {"n": 1}
    assert event.metadata == {"by": "Ann"}
    # And only there: elsewhere the connection gives what psycopg gives.
    row = db.execute("SELECT '{}'::jsonb").fetchone()
    assert row == ({},)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "count", "megabytes"),
    [
        # Half a gigabyte, 500 events at once, of which a batch may hold some 8 MB.
        ("event_data", 100, 5),
        ("metadata", 30, 5),
        ("event_data", 16, 20),
    ],
)
def test_memory_stays_flat_however_heavy_the_backlog(
    database: Database, conn: Connection, column: LiteralString, count: int, megabytes: int
) -> None:
    append_heavy(conn, count, megabytes * 1_000_000, column)
    script = textwrap.dedent("""
        import resource, sys
        from projectiond.postgres.database import connect
        from projectiond.stream.reader import EventReader

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        dsn, count = sys.argv[1], int(sys.argv[2])
        with connect(dsn, role="runner", statement_timeout_seconds=60) as db:
            reader, after, seen = EventReader(None, 500), 0, 0
            before = peak()
            while after < count:
                batch = reader.read(db, after, count)
                after, seen = batch.upto, seen + len(batch.events)
            print(seen, (peak() - before) // 1024)
    """)
    told = subprocess.run(
        [sys.executable, "-c", script, database.dsn, str(count)],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    ).stdout
    seen, growth = map(int, told.split())
    assert seen == count
    # The batch, and a few copies of one event on its way.
    assert growth < 40 + 6 * megabytes


# --- plans

BOUNDS = {"batch_size": 50, "most_stored": 16_384, "most_bytes": MAX_BATCH_BYTES}


@pytest.fixture(scope="module")
def seeded(server: Server, schema_template: str) -> Iterator[Connection]:
    """Give a store that the tests of this module only read."""
    with fresh_database(server, schema_template) as database:
        yield seed(database.connect())


def seed(conn: Connection) -> Connection:
    conn.execute(
        "INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version)"
        " SELECT gen_random_uuid(), 'Order', CASE WHEN n % 1000 = 0 THEN 'Rare' ELSE 'Frequent' END, '{}', 1"
        " FROM generate_series(1, 30000) AS n"
    )
    conn.execute("VACUUM ANALYZE event_store")
    return conn


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def explained(conn: Connection, statement: LiteralString, **parameters: object) -> list[dict[str, Any]]:
    row = conn.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + statement, parameters).fetchone()
    assert row is not None
    return list(nodes(row[0][0]["Plan"]))


def rows_touched(plan: list[dict[str, Any]]) -> float:
    scans = [node for node in plan if "Scan" in node["Node Type"] and "Plans" not in node]
    return float(
        sum((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in scans)
    )


def test_the_sighting_reads_a_bounded_piece_of_an_index(seeded: Connection) -> None:
    for settled in (0, 29_000, 30_000):
        plan = explained(
            seeded,
            sql.highwater.SIGHTING,
            settled=settled,
            run_limit=RUN_LIMIT,
            sequence="event_store_sequence_number_seq",
        )
        assert not [node for node in plan if node["Node Type"] == "Seq Scan"]
        assert rows_touched(plan) <= RUN_LIMIT + 10


@pytest.mark.parametrize("after", [0, 15_000, 29_990])
@pytest.mark.parametrize("event_types", [["Frequent"], ["Rare"], ["Rare", "Never"], ["Frequent", "Rare"]])
def test_reading_some_types_uses_an_index(seeded: Connection, after: int, event_types: list[str]) -> None:
    plan = explained(seeded, sql.events.READ_EVENTS, after=after, upto=30_000, event_types=event_types, **BOUNDS)
    assert not [node for node in plan if node["Node Type"] == "Seq Scan"]
    assert rows_touched(plan) <= 2000


def test_reading_all_types_uses_an_index(seeded: Connection) -> None:
    plan = explained(seeded, sql.events.READ_ALL_EVENTS, after=15_000, upto=30_000, **BOUNDS)
    assert {node["Node Type"] for node in plan} == {"Subquery Scan", "WindowAgg", "Limit", "Index Scan"}
    assert rows_touched(plan) <= 51
