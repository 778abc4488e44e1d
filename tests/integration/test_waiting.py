"""Read your writes: waiting for a projection from Python, sync and async, and from SQL, which all judge alike.

Most tests move the checkpoint by hand, for which projection is late and why is theirs to say; in the last ones a daemon
does the work.
"""

import asyncio
import contextlib
import os
import signal
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, LiteralString

import psycopg
import pytest
from psycopg import sql as pg
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow, dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from projectiond import sql
from projectiond.checkpoint import Checkpoint
from projectiond.cli import application, progress
from projectiond.errors import (
    ConfigurationError,
    DatabaseUnavailableError,
    ProjectiondError,
    ProjectionPausedError,
    WaitTimeoutError,
)
from projectiond.eventstore import AsyncEventStore, NewEvent
from projectiond.leases.lease import lease_key
from projectiond.postgres.database import connect
from projectiond.postgres.schema import apply_schema
from projectiond.waiting.arrival import Arrival
from projectiond.waiting.lateness import explain
from projectiond.waiting.wait import AsyncSource, Source, wait_for, wait_for_async
from tests.support.daemon import Daemon, journal
from tests.support.events import append, append_many
from tests.support.postgres import SCHEMA_FILE, Database, LocalServer
from tests.support.queries import Connection, become_new_role, value
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

# A test that needs as long has failed; one that waits in vain takes no longer than it must.
LONG_SECONDS: Final = 30.0
SHORT_SECONDS: Final = 0.05

# A way to wait for a projection: name, number, seconds.
Wait = Callable[[str, int, float], int]

SQLSTATES: Final = {
    "PJ004": WaitTimeoutError,
    "PJ005": ProjectionPausedError,
    "PJ006": ConfigurationError,
    "PJ007": ProjectiondError,
}


# --- the ways


@contextmanager
def by_dsn(dsn: str) -> Iterator[Source]:
    yield dsn


@contextmanager
def by_connection(dsn: str) -> Iterator[Source]:
    # It begins transactions by itself and gives dicts: the caller's business, which must stay as it was.
    with psycopg.connect(dsn, row_factory=dict_row) as own:
        yield own
        assert own.info.transaction_status is TransactionStatus.IDLE
        assert not own.autocommit


@contextmanager
def by_pool(dsn: str) -> Iterator[Source]:
    with ConnectionPool(dsn, min_size=1, max_size=2, open=True) as pool:
        yield pool
        with pool.connection() as own:
            assert not own.autocommit


@asynccontextmanager
async def by_async_dsn(dsn: str) -> AsyncIterator[AsyncSource]:
    yield dsn


@asynccontextmanager
async def by_async_connection(dsn: str) -> AsyncIterator[AsyncSource]:
    async with await psycopg.AsyncConnection.connect(dsn, row_factory=dict_row) as own:
        yield own
        assert own.info.transaction_status is TransactionStatus.IDLE
        assert not own.autocommit


@asynccontextmanager
async def by_async_pool(dsn: str) -> AsyncIterator[AsyncSource]:
    async with AsyncConnectionPool(dsn, min_size=1, max_size=2, open=False) as pool:
        yield pool
        async with pool.connection() as own:
            assert not own.autocommit


def waits(source: Callable[[str], AbstractContextManager[Source]], dsn: str) -> Wait:
    def wait(name: str, number: int, seconds: float) -> int:
        with source(dsn) as opened:
            return wait_for(opened, name, number, seconds)

    return wait


def waits_async(source: Callable[[str], AbstractAsyncContextManager[AsyncSource]], dsn: str) -> Wait:
    def wait(name: str, number: int, seconds: float) -> int:
        async def run() -> int:
            async with source(dsn) as opened:
                return await wait_for_async(opened, name, number, seconds)

        return asyncio.run(run())

    return wait


def wait_by_sql(conn: psycopg.Connection[TupleRow], name: str, number: int, seconds: float) -> int:
    try:
        row = conn.execute("SELECT projectiond_wait_for(%s, %s, make_interval(secs => %s))", (name, number, seconds))
        return int(row.fetchall()[0][0])
    except psycopg.Error as error:
        if error.sqlstate not in SQLSTATES:
            raise
        message, hint = error.diag.message_primary, error.diag.message_hint
        raise SQLSTATES[error.sqlstate](str(message), hint=str(hint)) from error


def waits_by_sql(dsn: str) -> Wait:
    def wait(name: str, number: int, seconds: float) -> int:
        with psycopg.connect(dsn, autocommit=True) as own:
            return wait_by_sql(own, name, number, seconds)

    return wait


WAYS: Final[dict[str, Callable[[str], Wait]]] = {
    "dsn": lambda dsn: waits(by_dsn, dsn),
    "connection": lambda dsn: waits(by_connection, dsn),
    "pool": lambda dsn: waits(by_pool, dsn),
    "async-dsn": lambda dsn: waits_async(by_async_dsn, dsn),
    "async-connection": lambda dsn: waits_async(by_async_connection, dsn),
    "async-pool": lambda dsn: waits_async(by_async_pool, dsn),
    "sql": waits_by_sql,
}


@pytest.fixture(params=WAYS)
def wait(request: pytest.FixtureRequest, database: Database) -> Wait:
    """Give each way."""
    return WAYS[request.param](database.dsn)


@pytest.fixture(params=["pool", "sql"])
def judge(request: pytest.FixtureRequest, database: Database) -> Wait:
    """Give the two ways that judge by code of their own: Python's and the server's."""
    return WAYS[request.param](database.dsn)


@pytest.fixture
def conn(database: Database) -> Connection:
    """Connect to a database with two projections at 0."""
    conn = database.connect()
    conn.execute("INSERT INTO projection_checkpoints (projection_name) VALUES ('orders'), ('sales')")
    return conn


def move(conn: Connection, position: int) -> None:
    conn.execute(
        "UPDATE projection_checkpoints SET last_sequence_number = %s WHERE projection_name = 'orders'", (position,)
    )


def burn(conn: Connection, count: int) -> None:
    """Draw numbers that no event gets, as appends that are rolled back do."""
    conn.execute("SELECT nextval('event_store_sequence_number_seq') FROM generate_series(1, %s)", (count,))


@contextmanager
def in_background(conn: Connection, wait: Wait, number: int) -> Iterator[Future[int]]:
    """Wait in another thread, and go on here once it has looked at least once."""
    asks: LiteralString = """
        SELECT count(*)
        FROM pg_stat_activity
        WHERE datname = current_database()
            AND pid <> pg_backend_pid()
            AND (query LIKE '%%FROM projection_checkpoints%%' OR query LIKE '%%projectiond_wait_for%%')
    """
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(wait, "orders", number, LONG_SECONDS)
        eventually(lambda: future.done() or value(conn, asks), 10, "it does not look")
        yield future


# --- what is reached


def test_what_is_applied_is_reached_at_once(conn: Connection, wait: Wait) -> None:
    append_many(conn, 3)
    move(conn, 3)
    assert wait("orders", 3, 0) == 3
    assert wait("orders", 1, 0) == 3
    assert wait("orders", 0, 0) == 3


def test_it_waits_until_the_position_is_reached(conn: Connection, wait: Wait) -> None:
    append_many(conn, 3)
    with in_background(conn, wait, 3) as future:
        move(conn, 2)
        assert not future.done()
        move(conn, 3)
        assert future.result(LONG_SECONDS) == 3


def test_a_number_that_was_rolled_back_is_reached_with_what_is_below_it(conn: Connection, wait: Wait) -> None:
    append_many(conn, 2)
    burn(conn, 1)
    with pytest.raises(WaitTimeoutError):
        wait("orders", 3, SHORT_SECONDS)
    move(conn, 2)
    assert wait("orders", 3, LONG_SECONDS) == 2


def test_numbers_rolled_back_above_all_events_are_reached_as_far_as_they_are_drawn(
    conn: Connection, judge: Wait
) -> None:
    append_many(conn, 2)
    burn(conn, 5)
    move(conn, 2)
    assert judge("orders", 7, LONG_SECONDS) == 2
    with pytest.raises(WaitTimeoutError):
        judge("orders", 8, SHORT_SECONDS)


def test_in_an_empty_store_a_number_that_was_rolled_back_is_reached(conn: Connection, judge: Wait) -> None:
    burn(conn, 2)
    assert judge("orders", 2, LONG_SECONDS) == 0


def test_a_number_that_is_yet_to_be_drawn_is_waited_for(conn: Connection, judge: Wait) -> None:
    append_many(conn, 2)
    move(conn, 2)
    with in_background(conn, judge, 3) as future:
        assert append(conn, "OrderPlaced") == 3
        assert not future.done()
        move(conn, 3)
        assert future.result(LONG_SECONDS) == 3


def test_a_number_in_an_open_transaction_is_waited_for_whatever_becomes_of_it(
    conn: Connection, database: Database, judge: Wait
) -> None:
    append_many(conn, 2)
    move(conn, 2)
    for end, reached in (("ROLLBACK", 2), ("COMMIT", 4)):
        writer = database.connect(autocommit=False)
        number = append(writer, "OrderPlaced")
        with pytest.raises(WaitTimeoutError):
            judge("orders", number, SHORT_SECONDS)
        with in_background(conn, judge, number) as future:
            writer.execute(end)
            if end == "COMMIT":
                assert not future.done()
                move(conn, number)
            assert future.result(LONG_SECONDS) == reached


def test_a_transaction_below_the_number_that_commits_late_is_not_passed_over(
    conn: Connection, database: Database, judge: Wait
) -> None:
    append_many(conn, 2)
    move(conn, 2)
    late = database.connect(autocommit=False)
    append(late, "OrderPlaced")
    burn(conn, 1)
    with pytest.raises(WaitTimeoutError):
        judge("orders", 4, SHORT_SECONDS)
    with in_background(conn, judge, 4) as future:
        late.commit()
        with pytest.raises(WaitTimeoutError):
            judge("orders", 4, SHORT_SECONDS)
        assert not future.done()
        move(conn, 3)
        assert future.result(LONG_SECONDS) == 3


def test_a_transaction_that_commits_between_two_statements_is_not_passed_over(
    conn: Connection, database: Database
) -> None:
    append_many(conn, 2)
    late = database.connect(autocommit=False)
    append(late, "OrderPlaced")
    burn(conn, 1)
    steps = Arrival(4).judge(2)
    question = next(steps)
    rows = conn.execute(question.statement, question.parameters).fetchall()
    # Seen as absent, and then gone from the locks: neither statement has it.
    late.commit()
    verdicts: list[bool] = []
    while not verdicts:
        try:
            question = steps.send(rows)
        except StopIteration as verdict:
            verdicts.append(verdict.value)
        else:
            rows = conn.execute(question.statement, question.parameters).fetchall()
    assert verdicts == [False]


def test_a_writer_of_a_partition_counts_as_a_writer_of_the_store(empty_database: Database) -> None:
    conn = empty_database.connect()
    conn.execute("""
        CREATE TABLE event_store (
            event_id UUID NOT NULL DEFAULT gen_random_uuid(),
            aggregate_id UUID NOT NULL,
            aggregate_type TEXT NOT NULL,
            event_type TEXT NOT NULL,
            event_data JSONB NOT NULL,
            metadata JSONB DEFAULT '{}',
            version INT NOT NULL,
            sequence_number BIGSERIAL NOT NULL,
            created_at TIMESTAMPTZ NOT NULL DEFAULT now()
        ) PARTITION BY RANGE (created_at);
        CREATE TABLE event_store_all PARTITION OF event_store DEFAULT;
    """)
    apply_schema(conn)
    conn.execute("INSERT INTO projection_checkpoints (projection_name) VALUES ('orders')")
    writer = empty_database.connect(autocommit=False)
    writer.execute(
        "INSERT INTO event_store_all (aggregate_id, aggregate_type, event_type, event_data, version)"
        " VALUES (gen_random_uuid(), 'Order', 'OrderPlaced', '{}', 1)"
    )
    for way in ("pool", "sql"):
        with pytest.raises(WaitTimeoutError):
            WAYS[way](empty_database.dsn)("orders", 1, SHORT_SECONDS)
    writer.rollback()
    for way in ("pool", "sql"):
        assert WAYS[way](empty_database.dsn)("orders", 1, LONG_SECONDS) == 0


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["restart", "crash of a session"])
def test_what_was_known_of_open_transactions_does_not_outlive_the_server(own_database: Database, fault: str) -> None:
    conn = own_database.connect()
    conn.execute("INSERT INTO projection_checkpoints (projection_name) VALUES ('orders')")
    conn.execute("SET projectiond.doorbell = off; BEGIN")
    append(conn, "OrderPlaced")
    conn.execute("PREPARE TRANSACTION 'late'")
    arrival = Arrival(1)
    with connect(own_database.dsn, role="wait", statement_timeout_seconds=0) as db:
        assert not arrival.is_reached(db, 0)
    server = own_database.server
    assert isinstance(server, LocalServer)
    if fault == "restart":
        server.restart()
    else:
        # The server ends all other sessions too, and recovers without being started again.
        witness = own_database.connect()
        os.kill(conn.info.backend_pid, signal.SIGKILL)
        eventually(lambda: is_closed(witness), 30, "the server has not noticed")
        eventually(server._accepts_connections, 30, "the server did not recover")
    # It still is open, under another name.
    with connect(own_database.dsn, role="wait", statement_timeout_seconds=0) as db:
        assert not arrival.is_reached(db, 0)
        assert not arrival.is_reached(db, 0)
        db.execute("ROLLBACK PREPARED 'late'")
        assert arrival.is_reached(db, 0)


def is_closed(conn: Connection) -> bool:
    with contextlib.suppress(psycopg.OperationalError):
        conn.execute("SELECT 1")
    return bool(conn.closed)


def test_a_position_beyond_the_end_of_the_store_is_not_believed(conn: Connection, judge: Wait) -> None:
    append_many(conn, 2)
    move(conn, 50)
    with pytest.raises(WaitTimeoutError):
        judge("orders", 2, SHORT_SECONDS)


# --- status


def test_a_paused_projection_that_lacks_an_event_is_an_error_at_once(conn: Connection, wait: Wait) -> None:
    append_many(conn, 3)
    move(conn, 2)
    conn.execute("UPDATE projection_checkpoints SET status = 'paused', error_message = 'event 3 is bad'")
    with pytest.raises(ProjectionPausedError) as raised:
        wait("orders", 3, LONG_SECONDS)
    assert raised.value.message.startswith('"orders" is paused at 2: event 3 is bad')
    assert '"projectiond resume orders"' in str(raised.value)
    assert wait("orders", 2, LONG_SECONDS) == 2


def test_a_projection_that_is_paused_meanwhile_ends_the_wait(conn: Connection, judge: Wait) -> None:
    append_many(conn, 3)
    with in_background(conn, judge, 3) as future:
        conn.execute("UPDATE projection_checkpoints SET status = 'paused'")
        with pytest.raises(ProjectionPausedError, match='"orders" is paused at 0'):
            future.result(LONG_SECONDS)


def test_during_a_rebuild_beside_the_live_tables_these_count(conn: Connection, judge: Wait) -> None:
    append_many(conn, 5)
    move(conn, 3)
    conn.execute("UPDATE projection_checkpoints SET status = 'rebuilding' WHERE projection_name = 'orders'")
    assert judge("orders", 3, LONG_SECONDS) == 3
    conn.execute("INSERT INTO projection_rebuilds (projection_name, position_sequence_number) VALUES ('orders', 1)")
    assert judge("orders", 3, LONG_SECONDS) == 3
    with in_background(conn, judge, 4) as future:
        move(conn, 4)
        assert future.result(LONG_SECONDS) == 4


def test_during_a_rebuild_in_place_the_new_history_counts(conn: Connection, judge: Wait) -> None:
    append_many(conn, 5)
    move(conn, 5)
    conn.execute("INSERT INTO projection_rebuilds (projection_name, mode) VALUES ('orders', 'in place')")
    conn.execute("UPDATE projection_checkpoints SET status = 'rebuilding' WHERE projection_name = 'orders'")
    # Its tables are about to be emptied.
    with pytest.raises(WaitTimeoutError):
        judge("orders", 3, SHORT_SECONDS)
    move(conn, 0)
    conn.execute("UPDATE projection_rebuilds SET is_begun = true")
    with in_background(conn, judge, 3) as future:
        move(conn, 2)
        assert not future.done()
        move(conn, 4)
        assert future.result(LONG_SECONDS) == 4


def test_an_unknown_projection_is_an_error_at_once(conn: Connection, judge: Wait) -> None:
    with pytest.raises(ConfigurationError, match=r'unknown projection "order".*orders'):
        judge("order", 1, LONG_SECONDS)
    conn.execute("DELETE FROM projection_checkpoints")
    with pytest.raises(ConfigurationError, match=r'unknown projection "order".*no projection has ever run'):
        judge("order", 1, LONG_SECONDS)


@pytest.mark.parametrize("seconds", [float("nan"), -1.0])
def test_a_timeout_that_would_never_be_up_is_refused(database: Database, seconds: float) -> None:
    for ask in (wait_for, lambda *it: asyncio.run(wait_for_async(*it))):
        with pytest.raises(ConfigurationError, match=r"timeout_seconds is .*; give seconds from 0"):
            ask(database.dsn, "orders", 9, seconds)


# --- the caller's own transaction


@pytest.mark.parametrize("way", ["connection", "sql"])
def test_in_a_transaction_of_read_committed_it_sees_what_is_committed_meanwhile(
    conn: Connection, database: Database, way: str
) -> None:
    append_many(conn, 3)
    own = database.connect(autocommit=False)
    own.execute("SELECT count(*) FROM event_store")

    def wait(name: str, number: int, seconds: float) -> int:
        ask = wait_for if way == "connection" else wait_by_sql
        return ask(own, name, number, seconds)

    with in_background(conn, wait, 3) as future:
        move(conn, 3)
        assert future.result(LONG_SECONDS) == 3
    assert own.info.transaction_status is TransactionStatus.INTRANS


@pytest.mark.parametrize("way", ["connection", "async", "sql"])
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_transaction_that_would_never_see_it_is_refused(
    conn: Connection, database: Database, way: str, level: LiteralString
) -> None:
    append_many(conn, 3)
    move(conn, 3)
    with pytest.raises(ProjectiondError) as raised:
        wait_in_transaction(database, way, f"SET TRANSACTION ISOLATION LEVEL {level}", 3)
    assert f"a transaction that is {level.lower()} sees nothing" in raised.value.message
    assert raised.value.hint == "wait before it begins, or use READ COMMITTED"


APPEND: LiteralString = (
    "INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version)"
    " VALUES (gen_random_uuid(), 'Order', 'OrderPlaced', '{}', 1)"
)


@pytest.mark.parametrize("way", ["connection", "async", "sql"])
def test_waiting_for_ones_own_append_before_it_is_committed_is_refused(
    conn: Connection, database: Database, way: str
) -> None:
    append_many(conn, 3)
    for number in (3, 4):
        with pytest.raises(ProjectiondError, match="would be waiting for itself") as raised:
            wait_in_transaction(database, way, APPEND, number)
        assert raised.value.hint == "commit first, then wait"


def wait_in_transaction(database: Database, way: str, beginning: LiteralString, number: int) -> int:
    async def run() -> int:
        async with await psycopg.AsyncConnection.connect(database.dsn) as own:
            await own.execute(beginning)
            return await wait_for_async(own, "orders", number)

    if way == "async":
        return asyncio.run(run())
    with psycopg.connect(database.dsn) as own:
        own.execute(beginning)
        return wait_for(own, "orders", number) if way == "connection" else wait_by_sql(own, "orders", number, 5)


# --- what it says when the time is over


def time_out(database: Database, number: int) -> str:
    with pytest.raises(WaitTimeoutError) as raised:
        wait_for(database.dsn, "orders", number, SHORT_SECONDS)
    return str(raised.value)


@pytest.fixture
def worker(database: Database) -> Connection:
    """Hold the locks by which a worker with the projection is known."""
    session = database.connect()
    session.execute("SELECT pg_advisory_lock_shared(%s)", (sql.keys.WORKERS_KEY,))
    session.execute("SELECT pg_advisory_lock(%s)", (lease_key("orders"),))
    return session


def test_the_message_has_the_lag_in_events_and_that_no_daemon_runs(conn: Connection, database: Database) -> None:
    append_many(conn, 12)
    burn(conn, 5)
    append(conn, "OrderPlaced")
    assert time_out(database, 18) == (
        'after 0.05 s "orders" is at 0, 13 events behind 18; '
        'no daemon is running on this database: start one with "projectiond run"'
    )


def test_the_message_says_that_no_worker_runs_the_projection(
    conn: Connection, database: Database, worker: Connection
) -> None:
    append(conn, "OrderPlaced")
    worker.execute("SELECT pg_advisory_unlock(%s)", (lease_key("orders"),))
    assert time_out(database, 1) == (
        'after 0.05 s "orders" is at 0, 1 event behind 1; '
        'no worker runs it: see "projectiond status" and "projectiond check"'
    )


@pytest.mark.usefixtures("worker")
def test_the_message_names_who_holds_the_mark(conn: Connection, database: Database) -> None:
    append_many(conn, 2)
    slow = database.connect(autocommit=False)
    slow.execute("SET application_name = 'import'")
    append(slow, "OrderPlaced")
    append(conn, "OrderPlaced")
    move(conn, 2)
    holder = f'pid {slow.info.backend_pid} (app "import", user "postgres", idle in transaction, open 0 s)'
    assert time_out(database, 4) == (
        'after 0.05 s "orders" is at 2, 1 event behind 4; '
        f'the high-water mark is held at 2 by {holder}, see "projectiond status"'
    )
    assert time_out(database, 3) == (
        'after 0.05 s "orders" is at 2, and an open transaction may yet add an event up to 3; '
        f'3 may yet be filled by {holder}, see "projectiond status"'
    )


@pytest.mark.usefixtures("worker")
def test_the_message_has_the_error_of_a_projection_in_trouble(conn: Connection, database: Database) -> None:
    append(conn, "OrderPlaced")
    conn.execute("UPDATE projection_checkpoints SET error_message = 'deadlock detected'")
    assert time_out(database, 1) == (
        'after 0.05 s "orders" is at 0, 1 event behind 1; its last error was: deadlock detected'
    )


@pytest.mark.usefixtures("worker")
def test_the_message_says_what_becomes_of_a_rebuild(conn: Connection, database: Database) -> None:
    append_many(conn, 5)
    move(conn, 5)
    conn.execute("INSERT INTO projection_rebuilds (projection_name, mode) VALUES ('orders', 'in place')")
    conn.execute("UPDATE projection_checkpoints SET status = 'rebuilding'")
    assert time_out(database, 3) == (
        'after 0.05 s "orders" is at 5 (rebuilding), and its rebuild has been asked for but not begun; '
        'it is at work: wait longer, or see "projectiond status"'
    )
    move(conn, 1)
    conn.execute("UPDATE projection_rebuilds SET is_begun = true")
    assert "is at 1 (rebuilding), 2 events behind 3; it is at work" in time_out(database, 3)


@pytest.mark.usefixtures("worker")
def test_the_message_says_where_the_store_ends(conn: Connection, database: Database) -> None:
    append_many(conn, 5)
    assert time_out(database, 9) == (
        'after 0.05 s "orders" is at 0, and the store ends at 5: no event up to 9 has been appended yet; '
        "wait for the number that an append has returned, once it is committed"
    )
    move(conn, 50)
    assert time_out(database, 3) == (
        'after 0.05 s "orders" is at 50, but the store ends at 5; '
        'the store was emptied, or restored from an older backup: run "projectiond rebuild orders"'
    )


def test_the_message_on_a_standby_sends_to_the_primary() -> None:
    steps = explain("orders", Checkpoint("orders", 5, "running", None, is_reset=False), Arrival(6), 5)
    next(steps)
    steps.send([(6, True, True, True)])
    with pytest.raises(StopIteration) as told:
        steps.send([(1,)])
    assert str(told.value.value) == (
        'after 5 s "orders" is at 5, 1 event behind 6; '
        'this server is a standby, so see "projectiond status" of the primary'
    )


def test_the_servers_message_has_the_lag_too(conn: Connection, database: Database) -> None:
    append_many(conn, 12)
    move(conn, 3)
    wait = waits_by_sql(database.dsn)
    with pytest.raises(WaitTimeoutError) as raised:
        wait("orders", 12, SHORT_SECONDS)
    assert str(raised.value) == (
        'after 0.05 s "orders" is at 3 (running), 9 events behind 12; '
        'no daemon is running on this database: start one with "projectiond run"'
    )
    assert str(sql.keys.WORKERS_KEY) in SCHEMA_FILE.read_text(encoding="utf-8")


def test_a_database_that_cannot_be_reached_is_named_without_its_password() -> None:
    dsn = "postgresql://app:secret@/orders?host=/nowhere"
    for ask in (wait_for, lambda *it: asyncio.run(wait_for_async(*it))):
        with pytest.raises(DatabaseUnavailableError, match='cannot connect to database "orders" at /nowhere') as raised:
            ask(dsn, "orders", 1)
        assert "secret" not in str(raised.value)


class Yielding(psycopg.AsyncConnection[Any]):
    """Lets the loop go on once autocommit is set, which psycopg does when the loop has been busy for some time."""

    has_set = asyncio.Event()

    async def set_autocommit(self, value: bool) -> None:  # noqa: FBT001 -- psycopg's
        await super().set_autocommit(value)
        self.has_set.set()
        await asyncio.sleep(0)


@pytest.mark.parametrize("call", ["wait", "append"])
def test_a_pool_gets_its_connection_back_as_it_was_whenever_a_task_is_cancelled(database: Database, call: str) -> None:
    async def story() -> None:
        async with AsyncConnectionPool(database.dsn, connection_class=Yielding, min_size=1, max_size=1) as pool:
            Yielding.has_set = asyncio.Event()
            order = NewEvent("Placed", {}, aggregate_type="Order")
            task = asyncio.create_task(
                wait_for_async(pool, "orders", 1)
                if call == "wait"
                else AsyncEventStore(pool).append(uuid.uuid4(), [order], 0)
            )
            await Yielding.has_set.wait()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert task.cancelled()
            async with pool.connection() as mine:
                assert not mine.autocommit

    asyncio.run(story())


def test_a_pool_without_a_free_connection_is_said_to_be_so(database: Database) -> None:
    with (
        ConnectionPool(database.dsn, min_size=1, max_size=1, open=True) as pool,
        pool.connection(),
        pytest.raises(WaitTimeoutError, match="no connection of the pool became free"),
    ):
        wait_for(pool, "orders", 1, SHORT_SECONDS)


# --- the function on the server


def test_who_waits_on_the_server_needs_to_read_three_tables_and_no_more(conn: Connection) -> None:
    append_many(conn, 2)
    move(conn, 2)
    burn(conn, 1)
    role = become_new_role(conn)
    conn.execute("RESET ROLE")
    grant = pg.SQL("GRANT SELECT ON event_store, projection_checkpoints, projection_rebuilds TO {}").format(role)
    conn.execute(grant)
    conn.execute(pg.SQL("SET ROLE {}").format(role))
    for ask in (wait_for, wait_by_sql):
        assert ask(conn, "orders", 2, SHORT_SECONDS) == 2
        # Whether 3 was ever drawn only the sequence knows.
        with pytest.raises(WaitTimeoutError):
            ask(conn, "orders", 3, SHORT_SECONDS)
    conn.execute("RESET ROLE")
    conn.execute(pg.SQL("GRANT USAGE ON SEQUENCE event_store_sequence_number_seq TO {}").format(role))
    conn.execute(pg.SQL("SET ROLE {}").format(role))
    for ask in (wait_for, wait_by_sql):
        assert ask(conn, "orders", 3, LONG_SECONDS) == 2


def test_the_server_looks_at_its_own_tables_whatever_the_search_path(conn: Connection) -> None:
    append_many(conn, 2)
    conn.execute("""
        CREATE SCHEMA hostile;
        CREATE TABLE hostile.projection_checkpoints (LIKE public.projection_checkpoints);
        INSERT INTO hostile.projection_checkpoints VALUES ('orders', 2, NULL, now(), 0, 'running', NULL);
        CREATE FUNCTION hostile.pg_sequence_last_value(regclass) RETURNS bigint LANGUAGE sql AS 'SELECT 99::bigint';
        CREATE TEMP TABLE projection_checkpoints (LIKE public.projection_checkpoints);
        SET search_path = hostile, pg_catalog
    """)
    query: LiteralString = "SELECT public.projectiond_wait_for('orders', 2, '50 ms')"
    for position in (0, 50):
        conn.execute("UPDATE public.projection_checkpoints SET last_sequence_number = %s", (position,))
        with pytest.raises(psycopg.Error, match=f"is at {position} "):
            conn.execute(query)
    conn.execute("UPDATE public.projection_checkpoints SET last_sequence_number = 2; SET search_path = ''")
    assert value(conn, query) == 2
    assert value(conn, "SHOW search_path") == '""'
    assert value(conn, "SHOW enable_seqscan") == "on"


def test_each_of_two_stores_in_one_database_has_its_own(empty_database: Database) -> None:
    conn = empty_database.connect()
    for number, name in enumerate(("first", "Second one"), start=1):
        conn.execute(pg.SQL("CREATE SCHEMA {0}; SET search_path = {0}").format(pg.Identifier(name)))
        apply_schema(conn)
        append_many(conn, number)
        conn.execute(
            "INSERT INTO projection_checkpoints (projection_name, last_sequence_number) VALUES ('orders', %s)",
            (number,),
        )
    assert value(conn, "SELECT projectiond_wait_for('orders', 1)") == 2
    assert value(conn, "SELECT first.projectiond_wait_for('orders', 1)") == 1


def test_the_callers_statement_timeout_ends_it(conn: Connection) -> None:
    append(conn, "OrderPlaced")
    conn.execute("SET statement_timeout = '100ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        conn.execute("SELECT projectiond_wait_for('orders', 1, NULL)")


@pytest.mark.parametrize("arguments", ["NULL, 1", "'orders', NULL"])
def test_null_is_no_argument(conn: Connection, arguments: LiteralString) -> None:
    with pytest.raises(psycopg.errors.NullValueNotAllowed):
        conn.execute("SELECT projectiond_wait_for(" + arguments + ")")


def test_init_adds_the_function_to_a_database_without_it(conn: Connection) -> None:
    conn.execute("DROP FUNCTION projectiond_wait_for")
    apply_schema(conn)
    assert value(conn, "SELECT projectiond_wait_for('orders', 0)") == 0


# --- with a daemon


def test_after_the_wait_the_read_model_has_what_was_written(database: Database) -> None:
    conn = database.connect()
    with (
        Daemon(database, journal("orders")) as daemon,
        ConnectionPool(database.dsn, min_size=1, max_size=2, open=True) as pool,
    ):
        daemon.wait_until_at("orders", 0)
        with waits_in_turn(database, pool) as ways:
            for way in ways:
                for _ in range(10):
                    number = append(conn, "OrderPlaced")
                    way(number)
                    assert value(conn, "SELECT max(sequence_number) FROM orders") == number


@contextmanager
def waits_in_turn(database: Database, pool: ConnectionPool[Any]) -> Iterator[list[Callable[[int], int]]]:
    own = database.connect()
    yield [
        lambda number: wait_for(pool, "orders", number, LONG_SECONDS),
        lambda number: wait_for(own, "orders", number, LONG_SECONDS),
        lambda number: wait_by_sql(own, "orders", number, LONG_SECONDS),
    ]


def test_a_wait_outlives_a_restart_of_the_daemon(database: Database, judge: Wait) -> None:
    conn = database.connect()
    with Daemon(database, journal("orders")) as daemon:
        daemon.wait_until_at("orders", 0)
    numbers = append_many(conn, 50)
    with in_background(conn, judge, numbers[-1]) as future:
        assert not future.done()
        with Daemon(database, journal("orders")):
            assert future.result(LONG_SECONDS) == numbers[-1]


def test_fifty_wait_at_once_over_a_pool_of_four(database: Database) -> None:
    conn = database.connect()
    with Daemon(database, journal("orders")) as daemon:
        daemon.wait_until_at("orders", 0)

        async def write_and_read(pool: AsyncConnectionPool[Any]) -> bool:
            async with pool.connection() as own:
                rows = await (await own.execute(APPEND + " RETURNING sequence_number")).fetchall()
            number = rows[0][0]
            await wait_for_async(pool, "orders", number, LONG_SECONDS)
            async with pool.connection() as own:
                found = await own.execute("SELECT FROM orders WHERE sequence_number = %s", (number,))
                return bool(found.rowcount == 1)

        async def run() -> list[bool]:
            async with AsyncConnectionPool(database.dsn, min_size=4, max_size=4, open=False) as pool:
                return await asyncio.gather(*(write_and_read(pool) for _ in range(50)))

        assert asyncio.run(run()) == [True] * 50
    assert value(conn, "SELECT count(*) FROM orders") == 50


def test_writers_that_roll_back_read_their_writes_too(database: Database) -> None:
    """What was committed before the number is in the read model when the wait ends, whatever the others do."""
    numbers = threading.Lock()
    misses: list[int] = []

    def write(seed: int, wait: Wait) -> None:
        with contextlib.closing(psycopg.connect(database.dsn, autocommit=True)) as own:
            for turn in range(15):
                own.execute("BEGIN")
                number = append(own, "OrderPlaced")
                is_kept = (seed + turn) % 3 > 0
                own.execute("COMMIT" if is_kept else "ROLLBACK")
                wait("orders", number, LONG_SECONDS)
                below = value(own, "SELECT count(*) FROM event_store WHERE sequence_number <= %s", number)
                applied = value(own, "SELECT count(*) FROM orders WHERE sequence_number <= %s", number)
                if applied < below:
                    with numbers:
                        misses.append(number)

    with Daemon(database, journal("orders")) as daemon:
        daemon.wait_until_at("orders", 0)
        ways = [waits(by_dsn, database.dsn), waits_by_sql(database.dsn)]
        with ThreadPoolExecutor(4) as threads:
            for done in [threads.submit(write, seed, ways[seed % 2]) for seed in range(4)]:
                done.result(LONG_SECONDS)
    assert misses == []


# --- the command


@pytest.mark.any_server
def test_a_command_that_answers_to_a_machine_tells_beside_its_answer_how_far_it_is(
    database: Database,
    conn: Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    append_many(conn, 2)
    conn.execute("INSERT INTO projection_checkpoints (projection_name, last_sequence_number) VALUES ('seen', 1)")
    monkeypatch.setenv("DATABASE_URL", database.dsn)
    monkeypatch.setenv("PROJECTIOND_PROJECTIONS", str(tmp_path))
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    assert application.main(["wait", "seen", "--timeout", "0.3", "--json"]) == application.TIMED_OUT
    told = capsys.readouterr()
    assert told.out == ""
    assert "projectiond: seen: 1 of 2 (50 %)" in told.err
    assert application.main(["wait", "seen", "--timeout", "0.3"]) == application.TIMED_OUT
    assert "seen: 1 of 2 (50 %)" in capsys.readouterr().out
