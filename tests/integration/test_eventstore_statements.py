"""The event store's statements go by their indexes, also when they were planned while the store was empty."""

import uuid
from typing import Any, LiteralString

import pytest

from projectiond.eventstore import Append, EventStore, NewEvent, statements
from projectiond.eventstore.new_event import Request
from tests.support.postgres import Database
from tests.support.queries import Connection

pytestmark = pytest.mark.integration

STREAM = uuid.uuid4()

PAGE = {"aggregate_id": STREAM, "after": 3, "upto": statements.UNBOUNDED, "batch_size": 10}
ONE = Request.of([Append(STREAM, [NewEvent("X", {})], 5, "X")], None)
SINGLE = ONE.single() or {}
APPEND = ONE.parameters()

HOT: list[tuple[str, LiteralString, dict[str, Any], str]] = [
    ("append one", statements.APPEND_ONE, SINGLE, "unique_aggregate_version"),
    ("append", statements.APPEND, APPEND, "unique_aggregate_version"),
    ("look at one version", statements.LOOK_ONE, SINGLE, "unique_aggregate_version"),
    ("look for one event", statements.LOOK_ONE, SINGLE, "event_store_pkey"),
    ("look at versions", statements.LOOK, APPEND, "unique_aggregate_version"),
    ("look for events", statements.LOOK, APPEND, "event_store_pkey"),
    ("events", statements.READ_EVENTS, PAGE, "unique_aggregate_version"),
    ("page", statements.READ_PAGE, {**PAGE, "most_stored": 100, "most_bytes": 100}, "unique_aggregate_version"),
    ("snapshot", statements.READ_SNAPSHOT, {"aggregate_id": STREAM, "shape": "x"}, "snapshots_pkey"),
]


def fill(conn: Connection) -> None:
    conn.execute(
        """
        INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version)
        SELECT md5((n / 10)::text)::uuid, 'X', 'X', '{}', n % 10 + 1 FROM generate_series(0, 19999) AS n;
        INSERT INTO snapshots (aggregate_id, aggregate_type, version, state)
        SELECT md5(n::text)::uuid, 'X', 1, '{"shape": "x"}' FROM generate_series(0, 1999) AS n
        """
    )


@pytest.mark.parametrize("state", ["empty", "filled", "analyzed"])
def test_hot_statements_go_by_their_index(database: Database, state: str) -> None:
    conn = database.connect()
    if state != "empty":
        fill(conn)
    if state == "analyzed":
        conn.execute("ANALYZE")
    # The plan that a prepared statement ends with, for whatever parameters.
    conn.execute("SET plan_cache_mode = force_generic_plan")
    for name, statement, parameters, index in HOT:
        plan = "\n".join(row[0] for row in conn.execute(f"EXPLAIN {statement}".encode(), parameters, prepare=True))
        assert index in plan, f"{name}:\n{plan}"
        assert "Seq Scan" not in plan, f"{name}:\n{plan}"


def test_an_append_takes_no_stronger_lock_than_an_insert(database: Database) -> None:
    mine, conn = database.connect(autocommit=False), database.connect()
    EventStore(mine).append(STREAM, [NewEvent("X", {}, aggregate_type="X")], 0)
    query = """
        SELECT DISTINCT mode FROM pg_locks
        WHERE pid = %s AND locktype = 'relation' AND relation = 'event_store'::regclass
    """
    modes = {row[0] for row in conn.execute(query, (mine.info.backend_pid,))}
    assert modes == {"AccessShareLock", "RowExclusiveLock"}
