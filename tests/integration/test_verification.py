"""``verify`` and ``materialize``: a replay beside the live read model, compared with it or kept."""

import random
import threading
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import pytest

from projectiond.errors import ConfigurationError, ReplayStoppedError, WaitTimeoutError
from projectiond.event import Event
from projectiond.plugins.limits import Limits
from projectiond.plugins.registry import define
from projectiond.postgres.database import Connection
from projectiond.projection import BaseProjection, Projection, handles
from projectiond.rebuild import materialization, statements, tables, verification
from projectiond.rebuild.materialization import Materialization, position_at
from projectiond.rebuild.verification import Verification, Verified
from tests.support.daemon import Daemon
from tests.support.events import append, append_many
from tests.support.postgres import Database

pytestmark = pytest.mark.integration

LIMITS = Limits(batch_size=100, checkpoint_every=100, max_attempts=1, on_error="pause", catchup_transaction_seconds=0.5)


class Tally(Projection):
    """Counts the events of each type."""

    name = "tally"
    tables = ("tally",)
    schema = "CREATE TABLE IF NOT EXISTS tally (event_type text PRIMARY KEY, total int NOT NULL, last bigint NOT NULL)"

    @handles("*")
    def count(self, event: Event, db: Connection) -> None:
        db.execute(
            "INSERT INTO tally VALUES (%s, 1, %s) ON CONFLICT (event_type)"
            " DO UPDATE SET total = tally.total + 1, last = excluded.last",
            (event.event_type, event.sequence_number),
        )


class Careless(Projection):
    """Keeps what no replay can give again."""

    name = "careless"
    tables = ("careless",)
    schema = "CREATE TABLE IF NOT EXISTS careless (n bigint PRIMARY KEY, chance float8 NOT NULL)"

    @handles("*")
    def note(self, event: Event, db: Connection) -> None:
        db.execute("INSERT INTO careless VALUES (%s, %s)", (event.sequence_number, random.random()))  # noqa: S311


def verification_of(database: Database, projection: type[BaseProjection] = Tally) -> Verification:
    return Verification(database.dsn, define(projection), LIMITS, statement_timeout_seconds=10)


def run_live(database: Database, projection: type[BaseProjection] = Tally) -> None:
    """Apply everything that is there."""
    row = database.connect().execute("SELECT max(sequence_number) FROM event_store").fetchone()
    with Daemon(database, projection) as daemon:
        daemon.wait_until_at(define(projection).name, int(row[0]) if row else 0)


def rows(database: Database, statement: LiteralString) -> list[tuple[Any, ...]]:
    return database.connect().execute(statement).fetchall()


def assert_nothing_left(database: Database) -> None:
    assert rows(database, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'projectiond%'") == []


def changes(verified: Verified) -> list[tuple[int, int, int]]:
    return [(t.change.changed, t.change.added, t.change.removed) for t in verified.tables]


def test_an_honest_read_model_is_equal(database: Database) -> None:
    append_many(database.connect(), 500, "Opened")
    append_many(database.connect(), 20, "Closed")
    run_live(database)
    verified = verification_of(database).run()
    assert verified.is_equal
    assert [table.change.total for table in verified.tables] == [2]
    assert_nothing_left(database)


def test_rows_that_were_edited_added_and_removed_by_hand_are_found_and_mended(database: Database) -> None:
    for event_type in ("A", "B", "C", "D"):
        append_many(database.connect(), 10, event_type)
    run_live(database)
    honest = rows(database, "SELECT * FROM tally ORDER BY 1")
    conn = database.connect()
    conn.execute("UPDATE tally SET total = 7 WHERE event_type = 'B'")
    conn.execute("DELETE FROM tally WHERE event_type = 'C'")
    conn.execute("INSERT INTO tally VALUES ('E', 1, 1)")
    before = rows(database, "SELECT * FROM projection_checkpoints")

    verified = verification_of(database).run()
    assert changes(verified) == [(1, 1, 1)]
    told = {row.kind: (row.key, [(c.name, c.old, c.new) for c in row.columns]) for row in verified.tables[0].samples}
    assert told["changed"] == ((("event_type", "B"),), [("total", "7", "10")])
    assert told["added"][0] == (("event_type", "C"),)
    assert told["removed"][0] == (("event_type", "E"),)
    assert ("B", 7, 20) in rows(database, "SELECT * FROM tally")

    assert verification_of(database).run(is_fixing=True).is_fixed
    assert rows(database, "SELECT * FROM tally ORDER BY 1") == honest
    assert rows(database, "SELECT * FROM projection_checkpoints") == before
    assert verification_of(database).run().is_equal
    assert_nothing_left(database)


def test_a_handler_that_depends_on_chance_is_found(database: Database) -> None:
    append_many(database.connect(), 30, "Opened")
    run_live(database, Careless)
    assert changes(verification_of(database, Careless).run()) == [(30, 0, 0)]


def test_it_is_compared_at_one_position_while_events_are_applied(database: Database) -> None:
    append_many(database.connect(), 1000, "Opened")
    stop = threading.Event()

    def write() -> None:
        conn = database.connect()
        while not stop.wait(0.002):
            append(conn, random.choice("ABC"))  # noqa: S311 - which does not matter

    with Daemon(database, Tally) as daemon:
        daemon.wait_until_at("tally", 1000)
        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(5):
                before = daemon.checkpoint("tally")["position"]
                verified = verification_of(database).run()
                assert verified.is_equal
                assert verified.position >= before
        finally:
            stop.set()
            writer.join()


def test_lost_history_is_found(database: Database) -> None:
    append_many(database.connect(), 30, "Opened")
    run_live(database)
    database.connect().execute("DELETE FROM event_store WHERE sequence_number = 7")
    assert changes(verification_of(database).run()) == [(1, 0, 0)]


def test_what_cannot_be_verified_says_why(database: Database) -> None:
    conn = database.connect()
    with pytest.raises(ConfigurationError, match="has never run"):
        verification_of(database).run()
    append_many(conn, 3, "Opened")
    run_live(database)
    conn.execute("ALTER TABLE tally ADD COLUMN note text")
    with pytest.raises(ConfigurationError, match="not as its `schema` makes them"):
        verification_of(database).run()
    conn.execute("ALTER TABLE tally DROP COLUMN note")
    conn.execute("UPDATE projection_checkpoints SET status = 'paused', last_sequence_number = 1000")
    with pytest.raises(ConfigurationError, match="beyond the end of the event store"):
        verification_of(database).run()
    assert_nothing_left(database)


def test_an_event_that_the_handlers_refuse_today_stops_it(database: Database) -> None:
    class Strict(Tally):
        name = "tally"

        @handles("Opened")
        def refuse(self, event: Event, _db: Connection) -> None:
            raise ValueError(f"no {event.event_type} any more")

    append_many(database.connect(), 3, "Opened")
    run_live(database)
    with pytest.raises(ReplayStoppedError, match="no Opened any more"):
        verification_of(database, Strict).run()
    assert_nothing_left(database)
    with Daemon(database, Tally) as daemon:
        assert daemon.checkpoint("tally")["status"] == "running"


def test_what_a_killed_verification_left_is_replaced(database: Database) -> None:
    append_many(database.connect(), 3, "Opened")
    run_live(database)

    class KilledError(BaseException):
        pass

    def be_killed(_position: int, _target: int) -> None:
        conn = database.connect()
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'projectiond/%' AND datname = current_database()"
        )
        raise KilledError

    killed = Verification(database.dsn, define(Tally), LIMITS, statement_timeout_seconds=10, tell=be_killed)
    with pytest.raises(BaseException):  # noqa: B017, PT011 - whichever of the two comes first
        killed.run()
    assert verification_of(database).run().is_equal
    assert_nothing_left(database)


def test_one_session_at_a_time_works_in_a_schema(database: Database) -> None:
    append_many(database.connect(), 3, "Opened")
    run_live(database)
    other = database.connect()
    for schema in ("projectiond_verify_tally", "then"):
        other.execute(statements.TRY_SPACE, {"schema": schema})
    with pytest.raises(ConfigurationError, match="is being verified by another session"):
        verification_of(database).run()
    with pytest.raises(ConfigurationError, match='another session is at work in the schema "then"'):
        materialize(database, "then", 3)
    for schema in ("projectiond_verify_tally", "then"):
        other.execute(statements.RELEASE_SPACE, {"schema": schema})
    assert verification_of(database).run().is_equal
    materialize(database, "then", 3)


# --- materialize


def materialize(database: Database, schema: str, upto: int, projection: type[BaseProjection] = Tally) -> None:
    Materialization(database.dsn, define(projection), LIMITS, statement_timeout_seconds=10).run(schema, upto)


def test_a_read_model_as_it_was_is_made_in_a_schema(database: Database) -> None:
    conn = database.connect()
    numbers = append_many(conn, 10, "Opened")
    append_many(conn, 5, "Closed")
    run_live(database)
    live = rows(database, "SELECT * FROM tally ORDER BY 1")
    materialize(database, "As of March", numbers[6])
    assert rows(database, 'SELECT * FROM "As of March".tally') == [("Opened", 7, numbers[6])]
    assert rows(
        database, "SELECT relname FROM pg_class WHERE relnamespace = '\"As of March\"'::regnamespace AND relkind = 'r'"
    ) == [("tally",)]
    assert rows(database, "SELECT * FROM tally ORDER BY 1") == live
    with pytest.raises(ConfigurationError, match="is in use"):
        materialize(database, "As of March", numbers[7])
    with pytest.raises(ConfigurationError, match="the event store ends at 15"):
        materialize(database, "later", 16)


def test_a_projection_that_was_never_deployed_can_be_made_too(database: Database) -> None:
    numbers = append_many(database.connect(), 10, "Opened")
    materialize(database, "trial", numbers[-1])
    assert rows(database, "SELECT total FROM trial.tally") == [(10,)]
    assert rows(database, "SELECT * FROM projection_checkpoints") == []


def test_a_time_is_the_last_event_before_the_first_that_is_later(database: Database) -> None:
    conn = database.connect()
    append_many(conn, 6, "Opened")
    noon = datetime(2026, 3, 31, 12, tzinfo=UTC)
    for number, minutes in enumerate((0, 10, 30, 20, 40, 50), start=1):
        conn.execute(
            "UPDATE event_store SET created_at = %s WHERE sequence_number = %s",
            (noon + timedelta(minutes=minutes), number),
        )
    with Connection.connect(database.dsn, autocommit=True) as db:
        told = {minutes: position_at(db, noon + timedelta(minutes=minutes)) for minutes in (-1, 0, 10, 20, 25, 30, 60)}
    assert told == {-1: 0, 0: 1, 10: 2, 20: 2, 25: 2, 30: 4, 60: 6}


def test_what_is_still_in_flight_is_waited_for(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(materialization, "HELD_SECONDS", 0.2)
    open_transaction = database.connect(autocommit=False)
    append(open_transaction, "Opened")
    last = append(database.connect(), "Opened")
    with pytest.raises(WaitTimeoutError, match="is held by pid"):
        materialize(database, "early", last)
    open_transaction.commit()
    materialize(database, "early", last)
    assert rows(database, "SELECT total FROM early.tally") == [(2,)]


def test_a_failure_leaves_nothing(database: Database) -> None:
    numbers = append_many(database.connect(), 3, "Opened")

    class Broken(Tally):
        @handles("Opened")
        def fail(self, _event: Event, _db: Connection) -> None:
            raise ValueError("broken")

    with pytest.raises(ReplayStoppedError, match="broken"):
        materialize(database, "gone", numbers[-1], Broken)
    assert rows(database, "SELECT nspname FROM pg_namespace WHERE nspname = 'gone'") == []


@pytest.mark.any_server
@pytest.mark.parametrize("schema", ["projectiond_rebuild_tally", "pg_tally", "x" * 64, ""])
def test_a_read_model_is_not_made_in_a_schema_of_the_daemons(database: Database, schema: str) -> None:
    append_many(database.connect(), 3)
    with pytest.raises(ConfigurationError, match="name another"):
        Materialization(database.dsn, define(Tally), LIMITS, statement_timeout_seconds=10).run(schema, 3)


@pytest.mark.any_server
def test_a_letter_whose_event_the_fix_has_applied_is_gone(database: Database) -> None:
    append_many(database.connect(), 3)
    run_live(database)
    conn = database.connect()
    conn.execute("DELETE FROM tally")
    conn.execute(
        "INSERT INTO projection_dead_letters (projection_name, sequence_number, event_id, event_type, aggregate_id,"
        " event_data, handler, error, attempts) SELECT 'tally', sequence_number, event_id, event_type, aggregate_id,"
        " event_data, 'Tally.count', 'an error of then', 1 FROM event_store WHERE sequence_number = 2"
    )
    assert verification_of(database).run(is_fixing=True).is_fixed
    assert rows(database, "SELECT total FROM tally") == [(3,)]
    assert rows(database, "SELECT sequence_number FROM projection_dead_letters") == []


@pytest.mark.any_server
def test_somebody_who_writes_the_tables_is_waited_for(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    append_many(database.connect(), 3)
    run_live(database)
    database.connect().execute("DELETE FROM tally")
    monkeypatch.setattr(tables, "WRITERS_TIMEOUT", "50ms")
    monkeypatch.setattr(verification, "BUSY_SECONDS", 0.02)
    somebody = database.connect(autocommit=False)
    somebody.execute("LOCK TABLE tally IN ROW EXCLUSIVE MODE")
    release = threading.Timer(0.5, somebody.rollback)
    release.start()
    assert verification_of(database).run(is_fixing=True).is_fixed
    release.join()
