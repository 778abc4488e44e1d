"""The reader that counts, and the plans of what runs over a range."""

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from projectiond import sql
from projectiond.event import Event
from projectiond.kinds.relation import InSql, RangeReader
from projectiond.postgres.database import Connection, connect
from projectiond.stream.reader import Batch
from tests.support.events import append, append_many
from tests.support.postgres import Database
from tests.support.relation import TABLES, Conn, make_kind, rows

pytestmark = pytest.mark.integration


@pytest.fixture
def db(database: Database) -> Iterator[Connection]:
    with connect(database.dsn, role="runner", statement_timeout_seconds=30) as db:
        yield db


@pytest.fixture
def conn(database: Database) -> Conn:
    conn = database.connect()
    conn.execute(TABLES)
    return conn


# --- the reader


def test_a_range_is_counted_and_its_last_event_named(db: Connection, conn: Conn) -> None:
    ids = {append(conn, kind, event_id=(event_id := uuid.uuid4())): event_id for kind in ("A", "B", "C") * 4}
    every, some = RangeReader(None), RangeReader(["A", "C"])
    assert every.read(db, 0, 12) == Batch(0, 12, (), 12, ids[12])
    assert every.read(db, 3, 12, 4) == Batch(3, 7, (), 4, ids[7])
    assert every.read(db, 3, 5, 4) == Batch(3, 5, (), 2, ids[5])
    assert every.read(db, 12, 40, 20) == Batch(12, 32, (), 0, None)
    assert some.read(db, 0, 12) == Batch(0, 12, (), 8, ids[12])
    assert some.read(db, 0, 12, 5) == Batch(0, 5, (), 3, ids[4])
    assert some.read(db, 1, 2) == Batch(1, 2, (), 0, None)
    assert RangeReader(["it's", "{A,B}", "%s"]).read(db, 0, 12) == Batch(0, 12, (), 0, None)
    assert RangeReader([]).read(db, 0, 12).count == 0
    assert every.read(db, 0, 5_000_000).upto == 5_000_000


def test_several_ranges_may_be_asked_for_in_a_pipeline(db: Connection, conn: Conn) -> None:
    append_many(conn, 10)
    reader = RangeReader(None)
    with db.pipelined():
        asked = [reader.ask(db, after, 10, 3) for after in (0, 3, 6, 9)]
        assert [(batch.upto, batch.count) for batch in (each.batch() for each in asked)] == [
            (3, 3),
            (6, 3),
            (9, 3),
            (10, 1),
        ]


def test_events_that_have_just_arrived_are_counted_without_a_question(db: Connection, conn: Conn) -> None:
    def recent(_db: Connection, after: int, upto: int) -> list[Event] | None:
        return [event for event in arrived if after < event.sequence_number <= upto] if after >= 2 else None

    for kind in ("A", "B", "A", "B"):
        append(conn, kind)
    columns = "event_id, aggregate_id, aggregate_type, event_type, '{}', NULL, version, sequence_number, created_at"
    arrived = [Event.from_row(row) for row in rows(conn, f"SELECT {columns} FROM event_store ORDER BY sequence_number")]
    conn.execute("DELETE FROM event_store WHERE sequence_number > 2")
    ids = [event.event_id for event in arrived]
    assert RangeReader(None, recent).read(db, 2, 4) == Batch(2, 4, (), 2, ids[3])
    assert RangeReader(["A"], recent).read(db, 2, 4) == Batch(2, 4, (), 1, ids[2])
    assert RangeReader([], recent).read(db, 2, 4) == Batch(2, 4, (), 0, None)
    assert RangeReader(None, recent).read(db, 0, 4) == Batch(0, 4, (), 2, ids[1])


# --- plans


@pytest.fixture
def seeded(conn: Conn) -> Conn:
    conn.execute(
        "INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version)"
        " SELECT gen_random_uuid(), 'Order', CASE WHEN n % 1000 = 0 THEN 'Rare' ELSE 'Frequent' END,"
        " jsonb_build_object('n', n, 'note', repeat(md5(n::text), 10)), 1 FROM generate_series(1, 30000) AS n"
    )
    conn.execute("VACUUM ANALYZE event_store")
    return conn


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def explained(conn: Conn, kind: InSql, after: int, upto: int) -> list[dict[str, Any]]:
    """Give the nodes of the plan of a kind's only statement, after executing it."""
    query = b"EXPLAIN (ANALYZE, FORMAT JSON) " + kind._queries[0]
    row = psycopg.RawCursor(conn).execute(query, [after, upto, *kind._event_types], prepare=False).fetchone()
    assert row is not None
    return list(nodes(row[0][0]["Plan"]))


def scans(plan: list[dict[str, Any]]) -> set[str]:
    """Give how tables are read."""
    return {node["Node Type"] for node in plan if "Relation Name" in node and "Scan" in node["Node Type"]}


SUM = "INSERT INTO totals SELECT event_type, count(*), sum((event_data ->> 'n')::int) FROM events GROUP BY 1"


def test_each_size_of_range_gets_its_own_plan(seeded: Conn) -> None:
    kind = make_kind(SUM)
    head = explained(seeded, kind, 29_999, 30_000)
    assert scans(head) == {"Index Scan"}
    seeded.execute("TRUNCATE totals")
    whole = explained(seeded, kind, 0, 30_000)
    assert scans(whole) == {"Seq Scan"}
    # Estimated from the bounds, which are known when the statement is planned.
    assert next(node["Plan Rows"] for node in whole if node["Node Type"] == "Seq Scan") > 25_000
    assert next(node["Plan Rows"] for node in head if node["Node Type"] == "Index Scan") < 10


@pytest.mark.parametrize("event_types", [None, ("Frequent", "Rare")])
def test_each_mention_of_the_relation_is_planned_by_itself(seeded: Conn, event_types: tuple[str, ...] | None) -> None:
    twice = (
        "INSERT INTO seen SELECT (SELECT count(*) FROM events WHERE event_type = 'Rare'),"
        " (SELECT max(sequence_number) FROM events)"
    )
    plan = explained(seeded, make_kind(twice, event_types=event_types), 0, 30_000)
    # Materialized, both would read all of it.
    assert "CTE Scan" not in scans(plan)
    read = [node["Actual Rows"] for node in plan if "Scan" in node["Node Type"] and "Relation Name" in node]
    assert max(read) < 100


@pytest.mark.parametrize("after", [0, 15_000, 29_999])
@pytest.mark.parametrize("event_types", [None, ["Rare"], ["Frequent"], ["Rare", "Never"], ["Never"]])
def test_counting_reads_an_index_and_hardly_an_event(seeded: Conn, after: int, event_types: list[str] | None) -> None:
    statement = sql.relation.COUNT_ALL_EVENTS if event_types is None else sql.relation.COUNT_EVENTS
    parameters = {"after": after, "upto": 30_000, "event_types": event_types}
    row = seeded.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + statement, parameters, prepare=False).fetchone()
    assert row is not None
    plan = list(nodes(row[0][0]["Plan"]))
    fetched = sum(
        node.get("Heap Fetches", 0) if node["Node Type"] == "Index Only Scan" else node["Actual Rows"]
        for node in plan
        if "Relation Name" in node
    )
    assert scans(plan) <= {"Index Only Scan", "Index Scan"}
    # The last event, whose id is asked for; and at the head the only one that is counted.
    assert fetched <= 2
