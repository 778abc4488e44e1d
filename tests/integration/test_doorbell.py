"""The doorbell: writers ring only while somebody sleeps, and no ring is lost."""

import os
from collections.abc import Iterator

import pytest

from projectiond import sql
from projectiond.postgres import database as databases
from projectiond.stream.doorbell import Arming, Doorbell
from tests.support.events import append
from tests.support.postgres import Database
from tests.support.queries import Connection, heard
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration


@pytest.fixture
def db(database: Database) -> Iterator[databases.Connection]:
    with databases.connect(database.dsn, role="watcher", statement_timeout_seconds=30) as db:
        yield db


@pytest.fixture
def other_db(database: Database) -> Iterator[databases.Connection]:
    with databases.connect(database.dsn, role="watcher", statement_timeout_seconds=30) as db:
        yield db


@pytest.fixture
def bell(db: databases.Connection) -> Doorbell:
    bell = Doorbell(db)
    bell.listen()
    return bell


@pytest.fixture
def other_bell(other_db: databases.Connection) -> Doorbell:
    bell = Doorbell(other_db)
    bell.listen()
    return bell


@pytest.fixture
def writer(database: Database) -> Connection:
    return database.connect()


@pytest.fixture
def listener(database: Database) -> Connection:
    conn = database.connect()
    conn.execute(f"LISTEN {sql.keys.DOORBELL_CHANNEL}")
    return conn


def rings(listener: Connection) -> int:
    return len(heard(listener, sql.keys.DOORBELL_CHANNEL))


def hears(bell: Doorbell) -> list[str]:
    """Wait for what has been announced."""
    read, write = os.pipe()
    try:
        bell.sleep(5, read)
    finally:
        os.close(read)
        os.close(write)
    return [note.channel for note in bell.heard()]


def test_an_append_is_silent_while_nobody_is_armed(bell: Doorbell, writer: Connection, listener: Connection) -> None:
    append(writer, "OrderPlaced")
    assert rings(listener) == 0
    assert not bell.is_armed


def test_an_append_rings_while_the_bell_is_armed(bell: Doorbell, writer: Connection) -> None:
    assert bell.arm() is Arming.ARMED
    assert repr(bell) == "<Doorbell armed>"
    append(writer, "OrderPlaced")
    assert hears(bell) == [sql.keys.DOORBELL_CHANNEL]


def test_a_transaction_that_began_before_and_appends_after_the_arming_rings(bell: Doorbell, database: Database) -> None:
    writer = database.connect(autocommit=False)
    writer.execute("SELECT 1")
    assert bell.arm() is Arming.ARMED
    append(writer, "OrderPlaced")
    writer.commit()
    assert hears(bell) == [sql.keys.DOORBELL_CHANNEL]


def test_the_bell_cannot_be_armed_while_a_silent_writer_is_in_flight(bell: Doorbell, database: Database) -> None:
    writer = database.connect(autocommit=False)
    append(writer, "OrderPlaced")
    assert bell.arm() is Arming.BUSY
    assert not bell.is_armed
    writer.rollback()
    assert bell.arm() is Arming.ARMED


def test_the_bell_cannot_be_armed_while_a_prepared_writer_is_in_flight(bell: Doorbell, writer: Connection) -> None:
    writer.execute("SET projectiond.doorbell = off")
    writer.execute("BEGIN")
    append(writer, "OrderPlaced")
    writer.execute("PREPARE TRANSACTION 'silent'")
    assert bell.arm() is Arming.BUSY
    writer.execute("COMMIT PREPARED 'silent'")
    assert bell.arm() is Arming.ARMED


def test_a_bell_that_another_session_has_armed_is_armed_elsewhere(
    bell: Doorbell, other_bell: Doorbell, writer: Connection
) -> None:
    assert other_bell.arm() is Arming.ARMED
    assert bell.arm() is Arming.ELSEWHERE
    assert not bell.is_armed
    append(writer, "OrderPlaced")
    assert hears(bell) == [sql.keys.DOORBELL_CHANNEL]
    assert hears(other_bell) == [sql.keys.DOORBELL_CHANNEL]


def test_a_bell_of_another_database_is_none_of_ours(
    bell: Doorbell, database: Database, empty_database: Database
) -> None:
    with databases.connect(empty_database.dsn, role="watcher", statement_timeout_seconds=30) as elsewhere:
        assert Doorbell(elsewhere).arm() is Arming.ARMED
        assert bell.arm() is Arming.ARMED
        bell.disarm()
        writer = database.connect(autocommit=False)
        append(writer, "OrderPlaced")
        assert bell.arm() is Arming.BUSY


def test_disarming_rings_for_the_others_and_not_for_oneself(bell: Doorbell, other_bell: Doorbell) -> None:
    bell.arm()
    bell.disarm()
    assert hears(other_bell) == [sql.keys.DOORBELL_CHANNEL]
    assert list(bell.heard()) == []
    assert other_bell.arm() is Arming.ARMED


def test_disarming_what_is_not_armed_rings_nobody(bell: Doorbell, listener: Connection) -> None:
    bell.disarm()
    assert rings(listener) == 0


def test_writers_fall_silent_again_after_the_bell_was_disarmed(
    bell: Doorbell, writer: Connection, listener: Connection
) -> None:
    bell.arm()
    append(writer, "OrderPlaced")
    bell.disarm()
    assert rings(listener) == 2
    append(writer, "OrderPlaced")
    assert rings(listener) == 0


def test_a_ring_that_arrived_during_another_query_is_heard(
    bell: Doorbell, db: databases.Connection, writer: Connection
) -> None:
    bell.arm()
    append(writer, "OrderPlaced")
    for _ in range(3):
        db.execute("SELECT pg_sleep(0.01)")
    assert [note.channel for note in bell.heard()] == [sql.keys.DOORBELL_CHANNEL]


def test_a_holder_that_crashes_leaves_the_bell_to_the_others(
    bell: Doorbell, other_bell: Doorbell, db: databases.Connection, writer: Connection
) -> None:
    bell.arm()
    assert other_bell.arm() is Arming.ELSEWHERE
    writer.execute("SELECT pg_terminate_backend(%s)", (db.info.backend_pid,))
    eventually(lambda: other_bell.arm() is Arming.ARMED)


def test_a_change_of_status_is_heard(bell: Doorbell, writer: Connection) -> None:
    writer.execute("INSERT INTO projection_checkpoints (projection_name) VALUES ('orders')")
    assert hears(bell) == [sql.keys.STATUS_CHANNEL]
    writer.execute("UPDATE projection_checkpoints SET status = 'paused'")
    assert hears(bell) == [sql.keys.STATUS_CHANNEL]
    writer.execute("UPDATE projection_checkpoints SET status = 'paused', last_sequence_number = 7")
    append(writer, "OrderPlaced")
    assert list(bell.heard()) == []


def test_a_sleeper_is_woken_by_its_own_process(bell: Doorbell) -> None:
    read, write = os.pipe()
    os.write(write, b".")
    bell.sleep(60, read)
    # And the word was taken out: the next sleep is one.
    bell.sleep(0.01, read)
    os.set_blocking(read, False)
    with pytest.raises(BlockingIOError):
        os.read(read, 1)
    os.close(read)
    os.close(write)
