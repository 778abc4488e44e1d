"""The high-water mark on a real server: who is waited for, who is not, and a stress that finds wrong designs guilty."""

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from typing import Any, LiteralString, Protocol

import psycopg
import pytest

from projectiond import sql
from projectiond.postgres import database as databases
from projectiond.stream import highwater
from projectiond.stream.highwater import HighWaterMark, Sighting, describe_holders, keep_proven_mark, read_store_end
from tests.support.events import append, append_many
from tests.support.postgres import Database, LocalServer, fresh_database
from tests.support.queries import Connection, value

pytestmark = pytest.mark.integration

NEW_EVENT: LiteralString = (
    "INSERT INTO {} (aggregate_id, aggregate_type, event_type, event_data, version)"
    " VALUES (gen_random_uuid(), 'Order', 'OrderPlaced', '{{}}', 1)"
)


@contextlib.contextmanager
def watching(database: Database) -> Iterator[databases.Connection]:
    with databases.connect(database.dsn, role="watcher", statement_timeout_seconds=30) as db:
        yield db


@pytest.fixture
def db(database: Database) -> Iterator[databases.Connection]:
    with watching(database) as watcher:
        yield watcher


@pytest.fixture
def conn(database: Database) -> Connection:
    return database.connect()


@pytest.fixture
def late(database: Database) -> Connection:
    """Connect a writer whose transactions stay open until it commits."""
    return database.connect(autocommit=False)


def looked(mark: HighWaterMark, db: databases.Connection, times: int = 2) -> int:
    """Look as often as a mark that can move needs at most, and return it."""
    for _ in range(times):
        mark.look(db)
    return mark.settled


# --- who is waited for


def test_the_mark_of_an_empty_store_is_0(db: databases.Connection) -> None:
    assert looked(HighWaterMark(), db) == 0


def test_an_event_in_flight_is_waited_for_and_then_passed(
    db: databases.Connection, conn: Connection, late: Connection
) -> None:
    mark = HighWaterMark()
    first = append(conn, "OrderPlaced")
    held = append(late, "OrderPlaced")
    last = append_many(conn, 100)[-1]
    assert looked(mark, db, 5) == first == held - 1
    assert mark.is_held
    late.commit()
    assert looked(mark, db, 1) == last
    assert not mark.is_held


def test_a_run_without_a_gap_is_settled_though_a_later_transaction_is_open(
    db: databases.Connection, conn: Connection, late: Connection
) -> None:
    mark = HighWaterMark()
    last = append_many(conn, 2500)[-1]
    append(late, "OrderPlaced")
    assert looked(mark, db, 3) == last


def test_a_number_that_was_rolled_back_delays_nothing_once_its_transaction_has_ended(
    db: databases.Connection, conn: Connection, late: Connection
) -> None:
    mark = HighWaterMark()
    dead = append(late, "OrderPlaced")
    last = append(conn, "OrderPlaced")
    assert looked(mark, db) == dead - 1
    late.rollback()
    assert looked(mark, db, 1) == last


def test_a_number_that_was_burnt_before_the_first_look_delays_nothing(
    db: databases.Connection, conn: Connection, late: Connection
) -> None:
    append(late, "OrderPlaced")
    late.rollback()
    last = append(conn, "OrderPlaced")
    assert looked(HighWaterMark(), db, 1) == last


def test_an_open_transaction_on_another_table_delays_nothing(
    db: databases.Connection, conn: Connection, late: Connection
) -> None:
    conn.execute("CREATE TABLE elsewhere (id int)")
    late.execute("INSERT INTO elsewhere VALUES (1)")
    late.execute("SELECT count(*) FROM event_store")
    burnt_by = conn
    with contextlib.suppress(psycopg.errors.NotNullViolation):
        burnt_by.execute("INSERT INTO event_store (aggregate_type) VALUES ('Order')")
    last = append(conn, "OrderPlaced")
    assert looked(HighWaterMark(), db, 1) == last


def test_a_transaction_in_another_database_delays_nothing(
    db: databases.Connection, conn: Connection, database: Database, schema_template: str
) -> None:
    """Both are copies of one template, so their event_store has the same OID."""
    with fresh_database(database.server, schema_template) as other:
        append(other.connect(autocommit=False), "OrderPlaced")
        append(conn, "OrderPlaced")
        conn.execute("SELECT nextval('event_store_sequence_number_seq')")
        last = append(conn, "OrderPlaced")
        assert looked(HighWaterMark(), db, 1) == last


def test_an_event_that_is_copied_in_is_waited_for(db: databases.Connection, conn: Connection, late: Connection) -> None:
    mark = HighWaterMark()
    columns = "aggregate_id, aggregate_type, event_type, event_data, version"
    with late.cursor().copy(f"COPY event_store ({columns}) FROM STDIN") as copy:
        copy.write_row(("00000000-0000-0000-0000-000000000001", "Order", "OrderPlaced", "{}", 1))
    last = append(conn, "OrderPlaced")
    assert looked(mark, db) == 0
    late.commit()
    assert looked(mark, db, 1) == last == 2


def test_an_insert_that_was_undone_by_its_savepoint_holds_no_number_but_a_later_one_does(
    db: databases.Connection, conn: Connection, late: Connection
) -> None:
    mark = HighWaterMark()
    with contextlib.suppress(psycopg.Rollback), late.transaction(), late.transaction() as savepoint:
        append(late, "OrderPlaced")
        raise psycopg.Rollback(savepoint)
    late.execute("SELECT 1")
    last = append(conn, "OrderPlaced")
    assert looked(mark, db) == last
    append(late, "OrderPlaced")
    append(conn, "OrderPlaced")
    assert looked(mark, db) == last


@pytest.mark.parametrize("target", ["event_store", "event_store_1"])
def test_an_event_in_a_partition_is_waited_for(empty_database: Database, target: LiteralString) -> None:
    conn = empty_database.connect()
    conn.execute(
        "CREATE TABLE event_store (sequence_number bigserial, aggregate_id uuid, aggregate_type text, event_type text,"
        " event_data jsonb, version int) PARTITION BY RANGE (sequence_number)"
    )
    conn.execute("CREATE TABLE event_store_1 PARTITION OF event_store FOR VALUES FROM (1) TO (1000)")
    late = empty_database.connect(autocommit=False)
    late.execute(NEW_EVENT.format(target))
    conn.execute(NEW_EVENT.format("event_store"))
    with watching(empty_database) as db:
        mark = HighWaterMark()
        assert looked(mark, db) == 0
        late.commit()
        assert looked(mark, db, 1) == 2


def test_the_lockers_are_read_after_the_sighting(
    db: databases.Connection, conn: Connection, late: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two statements one transaction draws a number, and another commits a larger one."""
    read_sighting, read_lockers = highwater._read_sighting, highwater._read_lockers
    drawn: list[int] = []

    def interfere() -> None:
        if not drawn:
            drawn.append(append(late, "OrderPlaced"))
            append(conn, "OrderPlaced")

    def sighting_then_interference(*reading: Any) -> Sighting:  # noqa: ANN401 -- passed through
        sighting = read_sighting(*reading)
        interfere()
        return sighting

    def lockers_then_interference(db: databases.Connection) -> frozenset[str]:
        lockers = read_lockers(db)
        interfere()
        return lockers

    monkeypatch.setattr(highwater, "_read_sighting", sighting_then_interference)
    monkeypatch.setattr(highwater, "_read_lockers", lockers_then_interference)
    # A gap from the beginning, so that the lockers are asked.
    append(late, "OrderPlaced")
    late.rollback()
    append(conn, "OrderPlaced")
    mark = HighWaterMark()
    for _ in range(3):
        mark.look(db)
        assert mark.settled < drawn[0]


# --- prepared transactions


def prepare(late: Connection, gid: LiteralString) -> int:
    # A transaction that rings the bell cannot be prepared; see schema.sql.
    late.execute("SET projectiond.doorbell = off")
    number = append(late, "OrderPlaced")
    late.execute(f"PREPARE TRANSACTION '{gid}'")
    return number


def test_a_prepared_transaction_that_holds_a_number_is_waited_for_and_named(
    db: databases.Connection, conn: Connection, database: Database
) -> None:
    mark = HighWaterMark()
    session = database.connect()
    session.execute("BEGIN")
    held = prepare(session, "transfer-1")
    session.close()
    last = append(conn, "OrderPlaced")
    assert looked(mark, db) == held - 1
    (holder,) = describe_holders(db, mark.blockers)
    assert str(holder).startswith('prepared transaction "transfer-1" (open ')
    conn.execute("COMMIT PREPARED 'transfer-1'")
    assert looked(mark, db, 1) == last


def test_a_transaction_that_is_prepared_after_its_window_was_opened_is_still_waited_for(
    db: databases.Connection, conn: Connection, database: Database
) -> None:
    mark = HighWaterMark()
    session = database.connect()
    session.execute("BEGIN")
    session.execute("SET projectiond.doorbell = off")
    held = append(session, "OrderPlaced")
    last = append(conn, "OrderPlaced")
    assert looked(mark, db) == held - 1
    session.execute("PREPARE TRANSACTION 'transfer-2'")
    session.close()
    assert looked(mark, db, 3) == held - 1
    conn.execute("ROLLBACK PREPARED 'transfer-2'")
    assert looked(mark, db, 1) == last


@pytest.mark.faults
def test_a_prepared_transaction_is_waited_for_over_a_restart_of_the_server(
    own_server: LocalServer, own_database: Database
) -> None:
    mark = HighWaterMark()
    session = own_database.connect()
    session.execute("BEGIN")
    session.execute("SET projectiond.doorbell = off")
    held = append(session, "OrderPlaced")
    append(own_database.connect(), "OrderPlaced")
    with watching(own_database) as db:
        assert looked(mark, db) == held - 1
        session.execute("PREPARE TRANSACTION 'transfer-3'")
        own_server.restart("immediate")
    with watching(own_database) as db:
        mark.reopen(db)
        assert looked(mark, db) == held - 1
        (holder,) = describe_holders(db, mark.blockers)
        assert holder.gid == "transfer-3"
        conn = own_database.connect()
        last = append(conn, "OrderPlaced")
        conn.execute("COMMIT PREPARED 'transfer-3'")
        assert looked(mark, db, 1) == last


# --- what is kept


def test_a_holder_is_described_by_its_session(db: databases.Connection, conn: Connection, database: Database) -> None:
    mark = HighWaterMark()
    late = psycopg.connect(database.dsn, application_name="nightly import")
    with contextlib.closing(late):
        append(late, "OrderPlaced")
        append(conn, "OrderPlaced")
        looked(mark, db)
        (holder,) = describe_holders(db, mark.blockers)
        assert (holder.pid, holder.application, holder.gid) == (late.info.backend_pid, "nightly import", None)
        assert holder.state == "idle in transaction"
        assert holder.open_seconds is not None
        assert holder.open_seconds >= 0


def test_a_mark_that_was_kept_is_where_the_next_one_begins(
    db: databases.Connection, conn: Connection, late: Connection
) -> None:
    append(late, "OrderPlaced")
    late.rollback()
    proven = append(conn, "OrderPlaced")
    append(late, "OrderPlaced")
    append(conn, "OrderPlaced")
    mark = HighWaterMark()
    mark.look(db)
    fresh = HighWaterMark()
    fresh.reopen(db)
    assert fresh.settled == 0
    keep_proven_mark(db, proven)
    fresh.reopen(db)
    assert fresh.settled == proven
    assert looked(fresh, db) == proven


def test_a_kept_mark_is_only_ever_raised(db: databases.Connection, conn: Connection) -> None:
    append_many(conn, 10)
    keep_proven_mark(db, 7)
    keep_proven_mark(db, 5)
    assert value(conn, "SELECT mark FROM projectiond_high_water_mark") == 7


def test_a_kept_mark_beyond_the_store_s_end_is_not_trusted(db: databases.Connection, conn: Connection) -> None:
    append_many(conn, 10)
    keep_proven_mark(db, 11)
    mark = HighWaterMark()
    mark.reopen(db)
    assert mark.settled == 0
    assert value(conn, "SELECT count(*) FROM projectiond_high_water_mark") == 0


def test_a_mark_begins_anew_with_each_connection(
    db: databases.Connection, conn: Connection, database: Database
) -> None:
    append_many(conn, 10)
    mark = HighWaterMark()
    looked(mark, db)
    with watching(database) as other:
        mark.reopen(other)
    assert mark.settled == 0
    assert not mark.is_held


@pytest.mark.faults
def test_numbers_that_a_crash_of_the_server_took_back_are_not_settled(
    own_server: LocalServer, own_database: Database
) -> None:
    """With synchronous_commit off a crash loses what has been seen, and its numbers are handed out again."""
    conn = own_database.connect()
    conn.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
    own_server.restart()
    mark = HighWaterMark()
    conn = own_database.connect()
    conn.execute("SET synchronous_commit = off")
    append_many(conn, 40)
    with watching(own_database) as db:
        assert looked(mark, db) == 40
        own_server.restart("immediate")
    with watching(own_database) as db:
        if read_store_end(db) >= 40:
            pytest.skip("the server wrote the events before it crashed")
        late = own_database.connect(autocommit=False)
        held = append(late, "OrderPlaced")
        append_many(own_database.connect(), 60)
        mark.reopen(db)
        assert looked(mark, db) < held
        late.commit()
        assert looked(mark, db, 1) == read_store_end(db)


def test_the_end_of_the_store_counts_numbers_that_were_burnt(
    db: databases.Connection, conn: Connection, late: Connection
) -> None:
    assert read_store_end(db) == 0
    append_many(conn, 3)
    append(late, "OrderPlaced")
    late.rollback()
    assert read_store_end(db) == 4


# --- a stress, and designs that it must find guilty


class Design(Protocol):
    """A way to read the store: each step returns the numbers of the events that it would apply."""

    def step(self, db: databases.Connection) -> list[int]: ...


def numbers(db: databases.Connection, after: int, upto: int) -> list[int]:
    query = "SELECT sequence_number FROM event_store WHERE sequence_number > %s AND sequence_number <= %s ORDER BY 1"
    return [row[0] for row in db.execute(query, (after, upto))]


class Ours:
    def __init__(self) -> None:
        self.mark = HighWaterMark()
        self.position = 0

    def step(self, db: databases.Connection) -> list[int]:
        self.mark.look(db)
        found = numbers(db, self.position, self.mark.settled)
        self.position = self.mark.settled
        return found


class ReadsPastGaps:
    """What the hand-written loop does, everybody's first one."""

    def __init__(self) -> None:
        self.position = 0

    def step(self, db: databases.Connection) -> list[int]:
        found = numbers(db, self.position, 2**62)
        self.position = found[-1] if found else self.position
        return found


class GivesUpOnGaps:
    """Waits at a gap, but not longer than a time-out."""

    TIMEOUT_SECONDS = 0.03

    def __init__(self) -> None:
        self.position = 0
        self.waiting_since: float | None = None

    def step(self, db: databases.Connection) -> list[int]:
        above = numbers(db, self.position, 2**62)
        run = [number for place, number in enumerate(above, self.position + 1) if number == place]
        if not run and above:
            self.waiting_since = self.waiting_since or time.monotonic()
            if time.monotonic() - self.waiting_since < self.TIMEOUT_SECONDS:
                return []
            run = above[:1]
        self.waiting_since = None
        self.position = run[-1] if run else self.position
        return run


class ProvesAndReadsInOneStatement:
    """Asks for events and lockers at once: a writer that commits in between is in neither."""

    # The pause makes the moment between the snapshot and the look at the locks longer; it is there without it too.
    STATEMENT: LiteralString = f"""
        WITH seen AS MATERIALIZED (
            SELECT array_agg(sequence_number ORDER BY sequence_number) AS numbers
            FROM event_store WHERE sequence_number > %s
        ), pause AS MATERIALIZED (SELECT pg_sleep(0.005) FROM seen)
        SELECT
            (SELECT numbers FROM seen),
            (SELECT array_agg(v) FROM ({sql.highwater.LOCKERS}) AS lockers (v) WHERE (SELECT count(*) FROM pause) = 1)
    """

    def __init__(self) -> None:
        self.mark = HighWaterMark()
        self.position = 0

    def step(self, db: databases.Connection) -> list[int]:
        row = db.execute(self.STATEMENT, (self.position,)).fetchone()
        assert row is not None
        seen: list[int] = row[0] or []
        run = [number for place, number in enumerate(seen, self.position + 1) if number == place]
        if self.mark.see(Sighting(max([self.position, *run]), max([self.position, *seen]))):
            self.mark.account(frozenset(row[1] or ()))
        self.position = self.mark.settled
        return [number for number in seen if number <= self.position]


class OrdersByTransaction:
    """Reads what is below the snapshot's xmin, in order of (transaction, number), and keeps the number alone."""

    STATEMENT: LiteralString = """
        SELECT sequence_number FROM event_store
        WHERE sequence_number > %s AND xmin::text::bigint < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
        ORDER BY xmin::text::bigint, sequence_number
    """

    def __init__(self) -> None:
        self.position = 0

    def step(self, db: databases.Connection) -> list[int]:
        found = [row[0] for row in db.execute(self.STATEMENT, (self.position,))]
        self.position = max([self.position, *found])
        return found


def write_at_random(dsn: str, seed: int, transactions: int) -> None:
    """Commit and roll back transactions of one to four events, with pauses inside."""
    chance = random.Random(seed)  # noqa: S311 -- load, not secrets
    idle = threading.Event()
    with psycopg.connect(dsn) as conn:
        for turn in range(transactions):
            for _ in range(chance.randint(1, 4)):
                append(conn, "Counted")
                idle.wait(chance.choice([0, 0, 0.001, 0.004]))
            if turn % 15 == 7:
                idle.wait(0.08)
            if chance.random() < 0.2:
                conn.rollback()
            else:
                conn.commit()


def stress(database: Database, design: Design, *, writers: int, transactions: int) -> tuple[list[int], list[int]]:
    """Read by a design while writers write; return what it read, and what there was."""
    applied: list[int] = []
    threads = [
        threading.Thread(target=write_at_random, args=(database.dsn, seed, transactions)) for seed in range(writers)
    ]
    with watching(database) as db:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            applied += design.step(db)
        for thread in threads:
            thread.join()
        for _ in range(200):
            applied += design.step(db)
        return applied, numbers(db, 0, 2**62)


def test_no_event_is_lost_or_repeated_or_out_of_order_under_stress(database: Database) -> None:
    applied, stored = stress(database, Ours(), writers=8, transactions=80)
    assert applied == stored
    assert len(stored) > 800


@pytest.mark.parametrize("design", [ReadsPastGaps, GivesUpOnGaps, ProvesAndReadsInOneStatement, OrdersByTransaction])
def test_the_stress_finds_a_wrong_design_guilty(database: Database, design: type[Design]) -> None:
    # On a busy machine one round may be too kind.
    for _ in range(6):
        applied, stored = stress(database, design(), writers=8, transactions=25)
        if set(stored) - set(applied):
            return
    pytest.fail("nothing was lost: the stress above proves nothing")
