"""What a projection needs before its first event: tables, and a row of its own."""

import re
import threading
from collections.abc import Iterator

import pytest

from projectiond import checkpoint as checkpoints
from projectiond.builds.build import record_build
from projectiond.errors import ConfigurationError
from projectiond.event import Event
from projectiond.plugins.definition import Definition
from projectiond.plugins.registry import define
from projectiond.postgres import database as databases
from projectiond.projection import Projection, handles
from projectiond.running.preparation import enroll, missing_tables, prepare
from tests.support.daemon import Daemon, journal
from tests.support.events import append_many
from tests.support.postgres import Database
from tests.support.queries import Connection, value
from tests.support.roles import granted_role

pytestmark = pytest.mark.integration


@pytest.fixture
def db(database: Database) -> Iterator[databases.Connection]:
    with databases.connect(database.dsn, role="runner", statement_timeout_seconds=30) as db:
        yield db


@pytest.fixture
def conn(database: Database) -> Connection:
    return database.connect()


def with_schema(ddl: str, *owned: str) -> Definition:
    class Orders(Projection):
        schema = ddl
        tables = owned

        @handles("*")
        def nothing(self, event: Event, db: databases.Connection) -> None:
            pass

    return define(Orders)


def unchecked(_: databases.Connection) -> None:
    """Stand for a kind that has nothing to check."""


def test_tables_are_made_once_and_found_again(db: databases.Connection, conn: Connection) -> None:
    definition = with_schema(
        "CREATE TABLE IF NOT EXISTS orders (n int); CREATE INDEX IF NOT EXISTS o ON orders (n)", "orders"
    )
    prepare(db, definition, unchecked)
    conn.execute("INSERT INTO orders VALUES (1)")
    prepare(db, definition, unchecked)
    assert value(conn, "SELECT count(*) FROM orders") == 1


def test_a_schema_with_percent_signs_is_run_as_it_stands(db: databases.Connection, conn: Connection) -> None:
    definition = with_schema("CREATE TABLE orders (n int DEFAULT 7 % 4, t text DEFAULT '%s %(x)s')", "orders")
    prepare(db, definition, unchecked)
    conn.execute("INSERT INTO orders DEFAULT VALUES")
    assert list(conn.execute("SELECT * FROM orders")) == [(3, "%s %(x)s")]


def test_a_table_that_is_declared_and_not_made_is_refused(db: databases.Connection) -> None:
    definition = with_schema("CREATE TABLE IF NOT EXISTS orders (n int)", "orders", "Lines", "elsewhere.orders")
    with pytest.raises(ConfigurationError) as raised:
        prepare(db, definition, unchecked)
    assert '"orders" declares tables that do not exist: Lines, elsewhere.orders' in str(raised.value)
    # Nothing is left of the attempt.
    assert missing_tables(db, definition) == ["orders", "Lines", "elsewhere.orders"]


def test_a_schema_that_postgresql_refuses_is_told_with_its_place(db: databases.Connection) -> None:
    with pytest.raises(
        ConfigurationError, match=r'the schema of "orders" .*test_preparation.py.* is refused: SyntaxError'
    ):
        prepare(db, with_schema("CREATE TABEL orders ()"), unchecked)


@pytest.mark.parametrize("statement", ["COMMIT", "BEGIN", "ROLLBACK"])
def test_a_schema_may_not_end_the_transaction(db: databases.Connection, statement: str) -> None:
    with pytest.raises(Exception, match="the transaction is the daemon's"):
        prepare(db, with_schema(f"{statement}; CREATE TABLE orders ()"), unchecked)


def test_two_workers_may_prepare_one_projection_at_once(database: Database) -> None:
    definition = with_schema("CREATE TABLE IF NOT EXISTS orders (n int); SELECT pg_sleep(0.02)", "orders")
    failures: list[Exception] = []

    def work() -> None:
        try:
            with databases.connect(database.dsn, role="runner", statement_timeout_seconds=30) as db:
                enroll(db, definition)
                prepare(db, definition, unchecked)
        except Exception as error:  # noqa: BLE001 -- a thread's error is the test's
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_enrolling_makes_a_row_once(db: databases.Connection, conn: Connection) -> None:
    definition = with_schema("CREATE TABLE orders ()", "orders")
    enroll(db, definition)
    assert checkpoints.load(db, "orders").position == 0
    conn.execute("UPDATE projection_checkpoints SET last_sequence_number = 7")
    enroll(db, definition)
    assert checkpoints.load(db, "orders").position == 7


def test_a_projection_without_a_row_does_not_begin_on_tables_that_hold_rows(
    database: Database, conn: Connection
) -> None:
    conn.execute("CREATE TABLE journal (place bigint GENERATED ALWAYS AS IDENTITY, sequence_number bigint NOT NULL)")
    conn.execute("INSERT INTO journal (sequence_number) VALUES (-1)")
    numbers = append_many(conn, 5)
    # Twice: the second start must not take the row that the first one made for a beginning.
    for _ in range(2):
        with Daemon(database, journal()) as daemon:
            row = daemon.wait_for_status("journal", "paused")
            assert "its table journal already holds rows" in row["error"]
            assert daemon.applied() == [-1]
    with Daemon(database, journal()) as daemon:
        daemon.wait_for_status("journal", "paused")
        daemon.rebuild_in_place("journal")
        daemon.wait_for_status("journal", "running")
        assert daemon.applied() == numbers


def test_a_row_that_was_inserted_by_hand_vouches_for_the_tables(database: Database, conn: Connection) -> None:
    conn.execute("CREATE TABLE journal (place bigint GENERATED ALWAYS AS IDENTITY, sequence_number bigint NOT NULL)")
    conn.execute("INSERT INTO journal (sequence_number) VALUES (-1)")
    numbers = append_many(conn, 5)
    conn.execute("INSERT INTO projection_checkpoints (projection_name, last_sequence_number) VALUES ('journal', 3)")
    with Daemon(database, journal()) as daemon:
        daemon.wait_until_at("journal", numbers[-1])
        assert daemon.applied() == [-1, 4, 5]


def test_a_table_that_was_dropped_is_not_made_anew_behind_everybodys_back(database: Database, conn: Connection) -> None:
    numbers = append_many(conn, 5)
    with Daemon(database, journal()) as daemon:
        daemon.wait_until_at("journal", numbers[-1])
    conn.execute("DROP TABLE journal")
    numbers += append_many(conn, 5)
    with Daemon(database, journal()) as daemon:
        row = daemon.wait_for_status("journal", "paused")
        assert f"journal anew and empty, although events up to {numbers[4]} have been applied" in row["error"]
        assert value(conn, "SELECT to_regclass('journal') IS NULL")
        daemon.rebuild_in_place("journal")
        daemon.wait_for_status("journal", "running")
        assert daemon.applied() == numbers


def test_a_table_that_a_new_version_has_is_made(database: Database, conn: Connection) -> None:
    numbers = append_many(conn, 5)
    with Daemon(database, journal()) as daemon:
        daemon.wait_until_at("journal", numbers[-1])
    conn.execute("DROP TABLE journal")
    conn.execute("UPDATE projection_builds SET fingerprint = jsonb_set(fingerprint, '{schema}', '\"another\"')")
    numbers = append_many(conn, 5)
    with Daemon(database, journal()) as daemon:
        daemon.wait_until_at("journal", numbers[-1])
        assert daemon.applied() == numbers


def test_a_table_that_an_accepted_version_has_more_is_made(
    database: Database, db: databases.Connection, conn: Connection
) -> None:
    before, more = journal(), "; CREATE TABLE IF NOT EXISTS further (n int)"
    after = journal(schema=f"{before.schema}{more}", tables=("journal", "further"))
    numbers = append_many(conn, 5)
    with Daemon(database, before) as daemon:
        daemon.wait_until_at("journal", numbers[-1])
    # As `projectiond plan --accept` does, before the daemon has met the new version.
    record_build(db, define(after), "accepted")
    numbers += append_many(conn, 5)
    with Daemon(database, after) as daemon:
        daemon.wait_until_at("journal", numbers[-1])
        assert daemon.applied() == numbers
    conn.execute("DROP TABLE journal, further")
    with pytest.raises(ConfigurationError, match="would make journal, further anew and empty"):
        prepare(db, define(after), unchecked)


def test_a_dropped_table_is_missed_also_where_the_handlers_are_others(
    database: Database, db: databases.Connection, conn: Connection
) -> None:
    with Daemon(database, journal()) as daemon:
        daemon.wait_until_at("journal", append_many(conn, 5)[-1])
    conn.execute("DROP TABLE journal")
    conn.execute("UPDATE projection_builds SET fingerprint = jsonb_set(fingerprint, '{code,note}', '\"another\"')")
    with pytest.raises(ConfigurationError, match="would make journal anew and empty"):
        prepare(db, define(journal()), unchecked)


def test_a_projection_that_was_set_to_0_by_hand_makes_its_tables_anew(database: Database, conn: Connection) -> None:
    numbers = append_many(conn, 5)
    with Daemon(database, journal()) as daemon:
        daemon.wait_until_at("journal", numbers[-1])
    conn.execute("DROP TABLE journal; UPDATE projection_checkpoints SET last_sequence_number = 0, last_event_id = NULL")
    with Daemon(database, journal()) as daemon:
        daemon.wait_until_at("journal", numbers[-1])
        assert daemon.applied() == numbers


def test_a_table_that_was_filled_is_not_hidden_by_an_empty_one(
    database: Database, db: databases.Connection, conn: Connection
) -> None:
    definition = with_schema("CREATE TABLE IF NOT EXISTS orders (n int)", "orders")
    enroll(db, definition)
    prepare(db, definition, unchecked)
    with granted_role(database, "of_its_own") as seen:
        with databases.connect(seen.dsn, role="runner", statement_timeout_seconds=30) as other:
            # Nothing was applied yet, so nothing is lost.
            with other.transaction(force_rollback=True):
                prepare(other, definition, unchecked)
            conn.execute("UPDATE projection_checkpoints SET last_sequence_number = 7")
            with pytest.raises(ConfigurationError, match=r'has filled public\."orders", .* in of_its_own') as caught:
                prepare(other, definition, unchecked)
            assert value(conn, "SELECT to_regclass('of_its_own.orders') IS NULL")
            first, second = re.findall("ALTER TABLE [^,]*", caught.value.message)
            conn.execute(first.encode())
            conn.execute(second.encode())
            prepare(other, definition, unchecked)
        assert value(conn, "SELECT to_regclass('public.orders') IS NULL")


def test_a_schema_that_is_mended_is_applied_when_the_projection_is_resumed(
    database: Database, conn: Connection
) -> None:
    class Waiting(Projection):
        tables = ("made_by_a_migration",)

        @handles("*")
        def nothing(self, event: Event, db: databases.Connection) -> None:
            pass

    numbers = append_many(conn, 5)
    with Daemon(database, Waiting, journal()) as daemon:
        row = daemon.wait_for_status("waiting", "paused")
        assert "made_by_a_migration" in row["error"]
        daemon.wait_until_at("journal", numbers[-1])
        conn.execute("CREATE TABLE made_by_a_migration ()")
        daemon.set_status("waiting", "running")
        daemon.wait_until_at("waiting", numbers[-1])
