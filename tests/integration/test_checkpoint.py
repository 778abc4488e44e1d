"""The checkpoint's row: created, moved by compare-and-set, reset and paused."""

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from psycopg import errors
from psycopg.pq import TransactionStatus

from projectiond import checkpoint as checkpoints
from projectiond.checkpoint import Checkpoint
from projectiond.errors import ConfigurationError, ConflictError, TransactionControlError
from projectiond.operating import steering
from projectiond.postgres import database as databases
from tests.support.postgres import Database
from tests.support.queries import Connection, value

pytestmark = pytest.mark.integration


@pytest.fixture
def db(database: Database) -> Iterator[databases.Connection]:
    with databases.connect(database.dsn, role="runner", statement_timeout_seconds=30) as db:
        checkpoints.create(db, "orders")
        yield db


@pytest.fixture
def conn(database: Database) -> Connection:
    return database.connect()


def advance(
    db: databases.Connection,
    to: int,
    *,
    last_event_id: UUID | None = None,
    applied: int = 0,
    known: Checkpoint | None = None,
    is_pipelined: bool = False,
) -> Checkpoint:
    known = known or checkpoints.load(db, "orders")
    with checkpoints.transaction(db, known, is_pipelined=is_pipelined):
        return checkpoints.advance(db, known, to, last_event_id=last_event_id, applied=applied)


def test_a_new_row_is_running_at_0(db: databases.Connection) -> None:
    assert checkpoints.load(db, "orders") == Checkpoint("orders", 0, "running", None, is_reset=False)


def test_a_row_that_is_there_is_left_as_it_is(db: databases.Connection) -> None:
    advance(db, 7)
    assert checkpoints.create(db, "orders") is False
    assert checkpoints.load(db, "orders").position == 7


def test_a_row_that_was_deleted_is_an_error_and_no_new_beginning(db: databases.Connection, conn: Connection) -> None:
    conn.execute("DELETE FROM projection_checkpoints")
    with pytest.raises(ConfigurationError, match='the checkpoint row of "orders" was deleted') as raised:
        checkpoints.load(db, "orders")
    assert "projectiond rebuild orders" in str(raised.value)


def test_advancing_writes_position_count_and_event(db: databases.Connection, conn: Connection) -> None:
    event_id = uuid4()
    advance(db, 7, last_event_id=event_id, applied=5)
    advanced = advance(db, 9)
    assert advanced == checkpoints.load(db, "orders")
    (row,) = conn.execute("SELECT last_sequence_number, last_event_id, events_processed FROM projection_checkpoints")
    assert row == (9, event_id, 5)


def test_advancing_clears_the_error(db: databases.Connection) -> None:
    checkpoints.note_trouble(db, "orders", "retrying: no luck")
    assert advance(db, 3).error_message is None
    assert checkpoints.load(db, "orders").error_message is None


@pytest.mark.parametrize("is_pipelined", [False, True])
@pytest.mark.parametrize(
    "interference",
    [
        "UPDATE projection_checkpoints SET last_sequence_number = 1",
        "UPDATE projection_checkpoints SET status = 'paused'",
        "UPDATE projection_checkpoints SET status = 'rebuilding'",
        "DELETE FROM projection_checkpoints",
    ],
)
def test_a_row_that_somebody_else_touched_cannot_be_advanced(
    db: databases.Connection, conn: Connection, interference: str, *, is_pipelined: bool
) -> None:
    known = checkpoints.load(db, "orders")
    conn.execute(interference.encode())
    with (  # noqa: PT012 - the error may come at the end of the transaction
        pytest.raises(ConflictError, match='"orders" is no longer running at 0'),
        checkpoints.transaction(db, known, is_pipelined=is_pipelined),
    ):
        db.execute("CREATE TABLE effect ()")
        checkpoints.advance(db, known, 5, last_event_id=None, applied=5)
    assert value(conn, "SELECT to_regclass('effect')") is None
    assert db.info.transaction_status is TransactionStatus.IDLE


def test_whoever_waited_for_the_row_looks_at_it_again(db: databases.Connection, database: Database) -> None:
    """Two runners, one position: the second waits for the first one's commit, and must not go on from the old row."""
    known = checkpoints.load(db, "orders")
    with databases.connect(database.dsn, role="runner", statement_timeout_seconds=30) as other:
        with checkpoints.transaction(other, known):
            checkpoints.advance(other, known, 5, last_event_id=None, applied=5)
            db.execute("SET lock_timeout = '100ms'")
            with pytest.raises(errors.LockNotAvailable):
                advance(db, 5, known=known)
        with pytest.raises(ConflictError):
            advance(db, 5, known=known)
    assert checkpoints.load(db, "orders").position == 5


def test_a_checkpoint_cannot_be_advanced_after_its_transaction_was_ended(db: databases.Connection) -> None:
    known = checkpoints.load(db, "orders")
    with (  # noqa: PT012 - the error may come at the end of the transaction
        pytest.raises(TransactionControlError, match="ended the transaction"),
        checkpoints.transaction(db, known),
    ):
        db.pgconn.exec_(b"COMMIT")
        checkpoints.advance(db, known, 5, last_event_id=None, applied=5)
    assert checkpoints.load(db, "orders").position == 0


# --- pausing


def test_a_fault_pauses_with_its_reason(db: databases.Connection) -> None:
    assert checkpoints.pause_for_fault(db, checkpoints.load(db, "orders"), "no\0 good \ud800")
    paused = checkpoints.load(db, "orders")
    assert (paused.status, paused.error_message) == ("paused", r"no\x00 good \ud800")


def test_a_fault_of_a_runner_that_was_overtaken_pauses_nothing(db: databases.Connection) -> None:
    known = checkpoints.load(db, "orders")
    advance(db, 5)
    assert not checkpoints.pause_for_fault(db, known, "old news")
    assert checkpoints.load(db, "orders").status == "running"


def test_a_fault_does_not_overwrite_the_reason_of_a_projection_that_is_paused(db: databases.Connection) -> None:
    known = checkpoints.load(db, "orders")
    assert checkpoints.pause_for_fault(db, known, "the first")
    assert not checkpoints.pause_for_fault(db, known, "the second")
    assert checkpoints.load(db, "orders").error_message == "the first"


def test_trouble_is_not_noted_over_the_reason_of_a_pause(db: databases.Connection) -> None:
    checkpoints.pause_for_fault(db, checkpoints.load(db, "orders"), "the reason")
    checkpoints.note_trouble(db, "orders", None)
    assert checkpoints.load(db, "orders").error_message == "the reason"


# --- rebuilding


@pytest.fixture
def rebuilding(db: databases.Connection, conn: Connection) -> Checkpoint:
    conn.execute("CREATE TABLE orders (n int)")
    conn.execute("INSERT INTO orders VALUES (1), (2)")
    advance(db, 7, applied=7)
    steering.rebuild(db, "orders", is_in_place=True)
    return checkpoints.load(db, "orders")


def test_a_reset_empties_tables_and_row_in_one_transaction(
    db: databases.Connection, conn: Connection, rebuilding: Checkpoint
) -> None:
    conn.execute(
        "INSERT INTO projection_dead_letters VALUES"
        " ('orders', 1, gen_random_uuid(), 'Bad', gen_random_uuid(), '{}', 'h', 'e', 3, now()),"
        " ('sales', 1, gen_random_uuid(), 'Bad', gen_random_uuid(), '{}', 'h', 'e', 3, now())"
    )
    assert checkpoints.reset(db, rebuilding, ("orders",), 100)
    assert value(conn, "SELECT count(*) FROM orders") == 0
    row = checkpoints.load(db, "orders")
    assert (row.position, row.status, row.error_message, row.is_reset) == (0, "rebuilding", None, True)
    assert value(conn, "SELECT events_processed FROM projection_checkpoints") == 0
    assert value(conn, "SELECT array_agg(projection_name) FROM projection_dead_letters") == ["sales"]
    assert value(conn, "SELECT target_sequence_number FROM projection_rebuilds") == 100


def test_a_reset_of_a_row_that_moved_is_none(
    db: databases.Connection, conn: Connection, rebuilding: Checkpoint
) -> None:
    conn.execute("UPDATE projection_checkpoints SET last_sequence_number = 8")
    assert not checkpoints.reset(db, rebuilding, ("orders",), 100)
    assert value(conn, "SELECT count(*) FROM orders") == 2


def test_a_reset_is_not_done_twice(db: databases.Connection, conn: Connection, rebuilding: Checkpoint) -> None:
    assert checkpoints.reset(db, rebuilding, ("orders",), 100)
    conn.execute("INSERT INTO orders VALUES (3)")
    assert not checkpoints.reset(db, checkpoints.load(db, "orders"), ("orders",), 100)
    assert value(conn, "SELECT count(*) FROM orders") == 1


def test_a_projection_without_tables_cannot_be_reset(db: databases.Connection, rebuilding: Checkpoint) -> None:
    with pytest.raises(ConfigurationError, match='"orders" cannot be rebuilt: it declares no tables'):
        checkpoints.reset(db, rebuilding, (), 100)
    assert checkpoints.load(db, "orders") == rebuilding


def test_a_table_of_another_schema_is_reset(db: databases.Connection, conn: Connection, rebuilding: Checkpoint) -> None:
    conn.execute('CREATE SCHEMA "Read Models"; CREATE TABLE "Read Models"."Orders" (n int)')
    conn.execute('INSERT INTO "Read Models"."Orders" VALUES (1)')
    assert checkpoints.reset(db, rebuilding, ("orders", "Read Models.Orders"), 100)
    assert value(conn, 'SELECT count(*) FROM "Read Models"."Orders"') == 0


def test_a_reset_waits_for_readers_of_the_table_only_for_a_while(
    db: databases.Connection, database: Database, rebuilding: Checkpoint
) -> None:
    reader = database.connect(autocommit=False)
    reader.execute("SELECT * FROM orders")
    with pytest.raises(errors.LockNotAvailable):
        checkpoints.reset(db, rebuilding, ("orders",), 100)
    assert checkpoints.load(db, "orders") == rebuilding


def test_a_rebuild_that_is_finished_is_running_and_can_be_asked_for_again(
    db: databases.Connection, rebuilding: Checkpoint
) -> None:
    checkpoints.reset(db, rebuilding, ("orders",), 100)
    assert checkpoints.finish_rebuild(db, checkpoints.load(db, "orders"))
    assert checkpoints.load(db, "orders") == Checkpoint("orders", 0, "running", None, is_reset=False)
    steering.rebuild(db, "orders", is_in_place=True)
    assert checkpoints.load(db, "orders").is_about_to_be_reset


def test_a_rebuild_that_was_paused_meanwhile_is_not_finished(
    db: databases.Connection, conn: Connection, rebuilding: Checkpoint
) -> None:
    checkpoints.reset(db, rebuilding, ("orders",), 100)
    known = checkpoints.load(db, "orders")
    conn.execute("UPDATE projection_checkpoints SET status = 'paused'")
    assert not checkpoints.finish_rebuild(db, known)
    assert checkpoints.load(db, "orders").status == "paused"


def test_a_rebuild_in_place_that_is_asked_for_again_after_a_pause_begins_afresh(
    db: databases.Connection, conn: Connection, rebuilding: Checkpoint
) -> None:
    """The handlers may have been mended in the pause."""
    checkpoints.reset(db, rebuilding, ("orders",), 100)
    for status in ("paused", "rebuilding"):
        conn.execute("UPDATE projection_checkpoints SET status = %s", (status,))
    assert checkpoints.load(db, "orders").is_about_to_be_reset


def test_a_rebuild_that_was_asked_for_again_is_not_finished_by_the_old_one(db: databases.Connection) -> None:
    """Its reset is still to come."""
    steering.rebuild(db, "orders", is_in_place=True)
    assert not checkpoints.finish_rebuild(db, checkpoints.load(db, "orders"))
    db.execute("UPDATE projection_rebuilds SET is_begun = true")
    assert checkpoints.finish_rebuild(db, checkpoints.load(db, "orders"))
    assert checkpoints.load(db, "orders").status == "running"
