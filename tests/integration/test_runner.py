"""The runner: what one projection does, from its first event to its rebuild."""

import threading
import time
from types import SimpleNamespace

import psycopg
import pytest

from projectiond import checkpoint as checkpoints
from projectiond import logs
from projectiond.event import Event
from projectiond.postgres.database import Connection
from projectiond.projection import Projection, handles
from projectiond.running import applier
from projectiond.running.stepper import Outcome
from projectiond.stream.reader import Asked
from tests.support.daemon import Daemon, Stage, journal
from tests.support.events import append, append_many
from tests.support.postgres import Database, LocalServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration


def test_a_worker_applies_what_is_there_and_what_arrives(database: Database) -> None:
    conn = database.connect()
    append_many(conn, 120)
    with Daemon(database, journal()) as daemon:
        daemon.wait_until_at("journal", 120)
        last = append(conn, "OrderPlaced")
        daemon.wait_until_at("journal", last)
        assert daemon.applied() == daemon.stored()
        assert daemon.checkpoint()["processed"] == 121


def test_an_event_type_may_be_any_text(database: Database) -> None:
    conn = database.connect()
    kinds = ["Größe geändert", "日本 語", "a'b\"c;--", "%s {} \\", "x" * 100]
    with Daemon(database, journal("journal", *kinds)) as daemon:
        numbers = [append(conn, kind) for kind in [*kinds, "other"]]
        daemon.wait_until_at("journal", numbers[-1])
        assert daemon.applied() == numbers[:-1]


TRANSACTIONS = b"SELECT count(*) FROM journal GROUP BY xmin::text ORDER BY min(place)"


def test_a_transaction_takes_checkpoint_every_events_and_grows_while_behind(database: Database) -> None:
    conn = database.connect()
    numbers = append_many(conn, 100)
    with Stage(database, journal(), mark=100, batch_size=20, checkpoint_every=8) as stage:
        for expected in ([(8,)], [(8,), (16,)], [(8,), (16,), (32,)], [(8,), (16,), (32,), (44,)]):
            assert stage.runner.run_once() is Outcome.ADVANCED
            assert stage.ask(TRANSACTIONS) == expected
        assert stage.runner.run_once() is Outcome.CAUGHT_UP
        assert stage.applied() == numbers
        assert stage.checkpoint()["processed"] == 100


def test_a_transaction_grows_no_longer_than_its_time(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = append_many(database.connect(), 80)
    now = [0.0]
    monkeypatch.setattr(applier, "time", SimpleNamespace(monotonic=lambda: now[0]))

    class Slow(Projection):
        name = "journal"
        tables = ("journal",)
        schema = "CREATE TABLE journal (place serial, sequence_number bigint)"

        @handles("*")
        def note(self, event: Event, db: Connection) -> None:
            now[0] += 0.01
            db.execute("INSERT INTO journal (sequence_number) VALUES (%s)", (event.sequence_number,))

    with Stage(database, Slow, mark=80, batch_size=5, checkpoint_every=5, catchup_transaction_seconds=0.3) as stage:
        while stage.runner.run_once() is Outcome.ADVANCED:
            pass
        assert stage.applied() == numbers
        # Twenty take 200 ms, so forty would not be done in time.
        assert stage.ask(TRANSACTIONS) == [(5,), (10,), (20,), (20,), (20,), (5,)]


def test_what_was_read_ahead_is_not_read_again(database: Database) -> None:
    numbers = append_many(database.connect(), 60)
    with Stage(
        database, journal(), mark=60, batch_size=10, checkpoint_every=10, catchup_transaction_seconds=10
    ) as stage:
        asked = []
        ask = stage.runner._stepper._applier._reader.ask

        def noted(db: Connection, after: int, mark: int, limit: int | None) -> Asked:
            asked.append(after)
            return ask(db, after, mark, limit)

        stage.runner._stepper._applier._reader.ask = noted  # type: ignore[method-assign]
        while stage.runner.run_once() is Outcome.ADVANCED:
            pass
        assert stage.applied() == numbers
        # How far each goes depends on the time that they take; none is asked for twice.
        assert len(asked) >= 6
        assert asked == sorted(set(asked))


def test_a_batch_without_a_matching_event_still_advances_to_the_mark(database: Database) -> None:
    append_many(database.connect(), 25)
    with Stage(database, journal("journal", "NeverSeen"), mark=25) as stage:
        assert stage.runner.run_once() is Outcome.ADVANCED
        assert stage.checkpoint()["position"] == 25
        assert stage.checkpoint()["processed"] == 0


def test_nothing_is_read_past_the_mark(database: Database) -> None:
    numbers = append_many(database.connect(), 25)
    with Stage(database, journal(), mark=11) as stage:
        while stage.runner.run_once() is Outcome.ADVANCED:
            pass
        assert stage.applied() == numbers[:11]


def test_a_mark_that_is_not_known_yet_is_waited_for(database: Database) -> None:
    append_many(database.connect(), 5)
    with Stage(database, journal(), mark=-1) as stage:
        assert stage.runner.run_once() is Outcome.CAUGHT_UP
        assert stage.applied() == []


def test_a_start_position_that_was_inserted_by_hand_is_where_a_projection_begins(database: Database) -> None:
    conn = database.connect()
    numbers = append_many(conn, 20)
    conn.execute("INSERT INTO projection_checkpoints (projection_name, last_sequence_number) VALUES ('journal', 15)")
    with Daemon(database, journal()) as daemon:
        daemon.wait_until_at("journal", numbers[-1])
        assert daemon.applied() == numbers[15:]


def test_a_projection_that_was_paused_before_the_start_does_nothing_until_it_is_resumed(database: Database) -> None:
    conn = database.connect()
    conn.execute("INSERT INTO projection_checkpoints (projection_name, status) VALUES ('journal', 'paused')")
    numbers = append_many(conn, 20)
    with Daemon(database, journal(), journal("other")) as daemon:
        daemon.wait_until_at("other", numbers[-1])
        assert daemon.checkpoint()["position"] == 0
        daemon.set_status("journal", "running")
        daemon.wait_until_at("journal", numbers[-1])


def test_a_row_that_is_deleted_while_the_projection_runs_stops_it_with_a_word_and_repeats_nothing(
    database: Database,
) -> None:
    conn = database.connect()
    with Daemon(database, journal()) as daemon:
        first = append(conn, "OrderPlaced")
        daemon.wait_until_at("journal", first)
        conn.execute("DELETE FROM projection_checkpoints")
        second = append(conn, "OrderPlaced")
        stopped = daemon.log.wait_for(logs.PROJECTION_STOPPED, projection="journal")
        assert 'the checkpoint row of "journal" was deleted' in stopped["error"]
        assert daemon.applied() == [first]
        # And put back with its position it goes on.
        conn.execute(
            "INSERT INTO projection_checkpoints (projection_name, last_sequence_number) VALUES ('journal', %s)",
            (first,),
        )
        daemon.wait_until_at("journal", second)
        assert daemon.applied() == [first, second]


def test_a_deleted_row_is_not_made_again_at_0_whatever_arrives(database: Database) -> None:
    """It owns no tables, so nothing else would show that it is not at its beginning."""

    class Mailer(Projection):
        schema = "CREATE TABLE IF NOT EXISTS sent (sequence_number bigint)"

        @handles("*")
        def send(self, event: Event, db: Connection) -> None:
            db.execute("INSERT INTO sent VALUES (%s)", (event.sequence_number,))

    conn = database.connect()
    numbers = append_many(conn, 3)
    with Daemon(database, Mailer, journal()) as daemon:
        daemon.wait_until_at("mailer", numbers[-1])
        conn.execute("DELETE FROM projection_checkpoints WHERE projection_name = 'mailer'")
        for _ in range(3):
            last = append(conn, "OrderPlaced")
            daemon.wait_until_at("journal", last)
            daemon.log.wait_for(logs.PROJECTION_STOPPED, projection="mailer")
        daemon.set_status("journal", "paused")
        daemon.wait_for_status("journal", "paused")
        assert daemon.ask(b"SELECT sequence_number FROM sent ORDER BY 1") == [(number,) for number in numbers]
        assert daemon.checkpoint("mailer") == {}


def test_a_checkpoint_beyond_the_end_of_the_store_pauses_with_a_word(database: Database) -> None:
    conn = database.connect()
    last = append_many(conn, 5)[-1]
    conn.execute("INSERT INTO projection_checkpoints (projection_name, last_sequence_number) VALUES ('journal', 1000)")
    with Daemon(database, journal()) as daemon:
        row = daemon.wait_for_status("journal", "paused")
        assert '"journal" is 1000, beyond the end of the event store at 5' in row["error"]
        assert "projectiond rebuild journal" in row["error"]
        conn.execute("UPDATE projection_checkpoints SET last_sequence_number = 3, status = 'running'")
        daemon.wait_until_at("journal", last)
        assert daemon.applied() == [4, 5]


def test_a_checkpoint_at_a_number_that_was_burnt_is_not_beyond_the_end(database: Database) -> None:
    conn = database.connect()
    append_many(conn, 5)
    conn.execute("SELECT nextval('event_store_sequence_number_seq')")
    conn.execute("INSERT INTO projection_checkpoints (projection_name, last_sequence_number) VALUES ('journal', 6)")
    with Daemon(database, journal()) as daemon:
        last = append(conn, "OrderPlaced")
        daemon.wait_until_at("journal", last)
        assert daemon.applied() == [last]


# --- rebuild in place


def test_a_rebuild_in_place_builds_the_same_read_model_again(database: Database) -> None:
    conn = database.connect()
    numbers = append_many(conn, 150)
    with Daemon(database, journal()) as daemon:
        daemon.wait_until_at("journal", numbers[-1])
        conn.execute("INSERT INTO journal (sequence_number) VALUES (-1)")
        for _ in range(2):
            daemon.rebuild_in_place("journal")
            daemon.wait_for_status("journal", "running")
            assert daemon.applied() == numbers
            assert daemon.checkpoint()["processed"] == 150
            assert daemon.checkpoint()["position"] == numbers[-1]
        # The row is committed a moment before the line is written.
        eventually(lambda: len(daemon.log.lines(logs.REBUILD_FINISHED)) == 2)
        numbers.append(append(conn, "OrderPlaced"))
        daemon.wait_until_at("journal", numbers[-1])
        assert daemon.applied() == numbers


def test_a_rebuild_that_is_interrupted_goes_on_and_does_not_begin_again(database: Database) -> None:
    numbers = append_many(database.connect(), 60)
    is_halfway, may_go_on = threading.Event(), threading.Event()

    def wait(event: Event, _db: Connection) -> None:
        if event.sequence_number == 31 and not may_go_on.is_set():
            is_halfway.set()
            assert may_go_on.wait(20)

    class Slow(Projection):
        name = "journal"
        tables = ("journal",)
        schema = "CREATE TABLE IF NOT EXISTS journal (place serial, sequence_number bigint)"

        @handles("*")
        def note(self, event: Event, db: Connection) -> None:
            wait(event, db)
            db.execute("INSERT INTO journal (sequence_number) VALUES (%s)", (event.sequence_number,))

    may_go_on.set()
    with Daemon(database, Slow) as daemon:
        daemon.wait_until_at("journal", numbers[-1])
    may_go_on.clear()
    daemon = Daemon(database, Slow, checkpoint_every=10, batch_size=10).start()
    daemon.rebuild_in_place("journal")
    assert is_halfway.wait(20)
    runner = daemon.worker._runners["journal"]
    daemon.worker.drain()
    assert eventually(runner._stopping.is_set)
    may_go_on.set()
    daemon.stop()
    assert 30 <= daemon.checkpoint()["position"] < 60
    assert daemon.checkpoint()["status"] == "rebuilding"
    with Daemon(database, Slow) as again:
        again.wait_for_status("journal", "running")
        assert again.log.lines(logs.REBUILD_STARTED) == []
        assert again.applied() == numbers
        assert again.checkpoint()["processed"] == 60


def test_a_projection_without_tables_is_not_rebuilt_but_paused_with_a_word(database: Database) -> None:
    class Tableless(Projection):
        @handles("*")
        def nothing(self, event: Event, db: Connection) -> None:
            pass

    last = append_many(database.connect(), 5)[-1]
    with Daemon(database, Tableless) as daemon:
        daemon.wait_until_at("tableless", last)
        daemon.set_status("tableless", "rebuilding")
        row = daemon.wait_for_status("tableless", "paused")
        assert '"tableless" cannot be rebuilt: it declares no tables' in row["error"]
        assert row["position"] == last


def test_a_rebuild_that_is_called_off_goes_on_from_where_it_is(database: Database) -> None:
    numbers = append_many(database.connect(), 40)
    with Stage(database, journal(), mark=40, batch_size=10) as stage:
        for _ in range(6):
            stage.runner.run_once()
        stage.rebuild_in_place("journal")
        stage.runner.recheck()
        stage.runner.run_once()
        stage.runner.run_once()
        assert stage.applied() == numbers[:10]
        stage.set_status("journal", "running")
        stage.runner.recheck()
        while stage.runner.run_once() is Outcome.ADVANCED:
            pass
        assert stage.applied() == numbers
        assert stage.ask(b"SELECT count(*) FROM projection_rebuilds") == [(0,)]


# --- faults that must not become storms


def passes(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note the time of each pass of the runner's loop."""
    noted: list[float] = []
    step = stage.runner.run_once

    def counted() -> Outcome:
        noted.append(time.monotonic())
        return step()

    monkeypatch.setattr(stage.runner, "run_once", counted)
    return noted


def test_a_projection_that_is_paused_for_a_fault_rests(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Projection):
        schema = "CREATE TABEL broken ()"

        @handles("*")
        def nothing(self, event: Event, db: Connection) -> None:
            pass

    append_many(database.connect(), 5)
    with Stage(database, Broken, mark=5) as stage:
        noted = passes(stage, monkeypatch)
        stage.runner.start()
        assert "TABEL" in stage.wait_for_status("broken", "paused")["error"]
        for _ in range(50):
            stage.runner.wake()
            stage.runner.recheck()
        eventually(lambda: not stage.runner._wake.is_set())
        noted.clear()
        stage.runner.join(1)
        assert len(noted) < 5


def test_a_row_that_cannot_be_written_is_said_and_not_tried_in_a_storm(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn = database.connect()
    append_many(conn, 5)
    with Stage(database, journal(), mark=5) as stage:
        noted = passes(stage, monkeypatch)
        stage.runner.start()
        stage.wait_until_at("journal", 5)
        conn.execute("ALTER TABLE projection_checkpoints RENAME TO gone")
        stage.runner.recheck()
        eventually(lambda: stage.log.lines(level="error"))
        noted.clear()
        stage.runner.join(1)
        assert len(noted) < 10
        assert len(stage.log.lines(level="error")) < 5
        conn.execute("ALTER TABLE gone RENAME TO projection_checkpoints")
        stage.mark = append(conn, "OrderPlaced")
        stage.runner.wake()
        # Paused with the fault, or on its way again: either is a state that an operator finds in the row.
        eventually(lambda: stage.checkpoint()["error"] or stage.checkpoint()["position"] == stage.mark, 15)


@pytest.mark.faults
def test_a_drain_does_not_wait_for_a_server_that_is_away(own_server: LocalServer, own_database: Database) -> None:
    daemon = Daemon(own_database, journal(), journal("other"), poll_interval_seconds=0.1).start()
    daemon.wait_until_at("journal", append(own_database.connect(), "OrderPlaced"))
    own_server.stop("immediate")
    daemon.log.wait_for(logs.LEASE_LOST)
    began = time.monotonic()
    daemon.stop()
    assert time.monotonic() - began < 8


def test_a_connection_lost_in_the_commit_itself_is_no_second_application(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server commits, the answer is lost: the row says what happened."""
    numbers = append_many(database.connect(), 9)
    with Stage(database, journal(), mark=9, checkpoint_every=3) as stage:
        advance = checkpoints.advance
        losses = iter([True, False, True])

        def advance_and_lose(db: Connection, *args: object, **kwargs: object) -> object:
            moved = advance(db, *args, **kwargs)  # type: ignore[arg-type]
            if next(losses, False):
                db.pgconn.exec_(b"COMMIT")
                raise psycopg.OperationalError("the connection is lost")
            return moved

        monkeypatch.setattr(checkpoints, "advance", advance_and_lose)
        monkeypatch.setattr(stage.runner._stepper.pipelining, "is_on", False)
        stage.runner.start()
        stage.wait_until_at("journal", 9)
        assert stage.applied() == numbers
        assert stage.checkpoint()["processed"] == 9
