"""What authors write in handlers and expect to work, though their statements travel in a pipeline."""

import psycopg
import pytest

from projectiond.event import Event
from projectiond.postgres.database import Connection
from tests.support.daemon import Daemon, journal
from tests.support.events import append, append_many
from tests.support.postgres import Database
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration


def test_a_handler_may_ask_how_many_rows_it_has_changed(database: Database) -> None:
    """The oldest of upserts: update, and insert where nothing was there to update."""
    conn = database.connect()
    conn.execute("CREATE TABLE total (id INT PRIMARY KEY, n INT NOT NULL)")

    def upsert(_event: Event, db: Connection) -> None:
        if db.execute("UPDATE total SET n = n + 1 WHERE id = 1").rowcount == 0:
            db.execute("INSERT INTO total VALUES (1, 1)")

    numbers = [append(conn, "Bad") for _ in range(20)]
    with Daemon(database, journal("counter", effect=upsert)) as daemon:
        daemon.wait_until_at("counter", numbers[-1])
    assert conn.execute("SELECT n FROM total").fetchall() == [(20,)]


def test_a_handler_may_ask_for_the_columns_and_the_status_of_its_statement(database: Database) -> None:
    seen: list[object] = []

    def look(_event: Event, db: Connection) -> None:
        cursor = db.execute("SELECT 1 AS one, 2 AS two")
        seen.append([column.name for column in cursor.description or ()])
        seen.append(db.execute("SELECT 3").statusmessage)

    number = append(database.connect(), "Bad")
    with Daemon(database, journal("curious", effect=look)) as daemon:
        daemon.wait_until_at("curious", number)
    assert seen == [["one", "two"], "SELECT 1"]


def test_a_handler_may_catch_an_error_inside_a_savepoint(database: Database) -> None:
    conn = database.connect()
    conn.execute("CREATE TABLE first_seen (id INT PRIMARY KEY)")
    caught: list[int] = []

    def insert_once(event: Event, db: Connection) -> None:
        try:
            with db.transaction():
                db.execute("INSERT INTO first_seen VALUES (1)")
        except psycopg.errors.UniqueViolation:
            caught.append(event.sequence_number)

    numbers = [append(conn, "Bad") for _ in range(5)]
    with Daemon(database, journal("once", effect=insert_once)) as daemon:
        daemon.wait_until_at("once", numbers[-1])
        assert daemon.applied("once") == numbers
    assert set(numbers[1:]) <= set(caught)
    assert conn.execute("SELECT count(*) FROM first_seen").fetchall() == [(1,)]


def test_a_table_that_is_altered_meanwhile_is_a_matter_of_a_moment(database: Database) -> None:
    """Prepared statements are then of before the change; what they run into is nobody's fault."""
    conn = database.connect()
    with Daemon(database, journal("steady")) as daemon:
        for _ in range(10):
            last = append(conn, "Counted")
            daemon.wait_until_at("steady", last)
        conn.execute("ALTER TABLE event_store ALTER COLUMN event_type TYPE TEXT")
        last = append_many(conn, 3)[-1]
        daemon.wait_until_at("steady", last)
        assert daemon.applied("steady") == daemon.stored()
        eventually(lambda: daemon.checkpoint("steady")["error"] is None)
        assert daemon.checkpoint("steady")["status"] == "running"


def test_a_store_that_is_emptied_under_the_daemon_is_said_and_not_ignored(database: Database) -> None:
    conn = database.connect()
    last = append_many(conn, 50)[-1]
    with Daemon(database, journal("orphan")) as daemon:
        daemon.wait_until_at("orphan", last)
        conn.execute("TRUNCATE event_store RESTART IDENTITY")
        append(conn, "Counted")
        paused = eventually(lambda: (c := daemon.checkpoint("orphan"))["status"] == "paused" and c)
        assert "is 50, beyond the end of the event store at 1" in paused["error"]
