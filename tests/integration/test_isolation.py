"""When a handler fails: what precedes the event is committed, it is named, and nothing after it is applied."""

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from projectiond import logs
from projectiond.event import Event
from projectiond.postgres.database import Connection
from projectiond.projection import BaseProjection, Projection, handles
from tests.support.daemon import Daemon, Effect, journal
from tests.support.events import append, append_many
from tests.support.postgres import Database
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration


def hostile(effect: Effect, *, name: str = "hostile", **options: object) -> type[BaseProjection]:
    """Make a journal that does something else after it has noted an event of the type "Bad"."""
    return journal(name, "Good", "Bad", effect=effect, **options)


def append_around_a_bad_one(database: Database) -> tuple[list[int], int, list[int]]:
    """Append good events, a bad one and good ones again, all in one commit: one batch."""
    conn = database.connect()
    with conn.transaction():
        before = [append(conn, "Good") for _ in range(5)]
        bad = append(conn, "Bad", {"customer": "Ann"})
        after = [append(conn, "Good") for _ in range(5)]
    return before, bad, after


def fail(_event: Event, _db: Connection) -> None:
    raise ValueError("no such customer")


# --- poison


def test_a_poison_event_pauses_its_projection_with_its_whole_story(database: Database) -> None:
    before, bad, after = append_around_a_bad_one(database)
    with Daemon(database, hostile(fail), journal("other")) as daemon:
        row = daemon.wait_for_status("hostile", "paused")
        assert daemon.applied("hostile") == before
        assert row["position"] == before[-1]
        assert row["processed"] == len(before)
        (event_id,) = daemon.ask(b"SELECT event_id FROM event_store WHERE sequence_number = %s", bad)[0]
        for word in (str(bad), '"Bad"', str(event_id), "Journal.misbehave", "ValueError: no such customer"):
            assert word in row["error"]
        daemon.wait_until_at("other", after[-1])
        assert daemon.applied("other") == [*before, bad, *after]
        poisoned = daemon.log.wait_for(logs.EVENT_POISONED, projection="hostile")
        assert (poisoned["sequence_number"], poisoned["attempts"]) == (bad, 3)


def test_resuming_after_the_handler_is_mended_loses_and_repeats_nothing(database: Database) -> None:
    before, bad, after = append_around_a_bad_one(database)
    with Daemon(database, hostile(fail)) as daemon:
        daemon.wait_for_status("hostile", "paused")
    with Daemon(database, hostile(lambda *_: None)) as daemon:
        daemon.set_status("hostile", "running")
        daemon.wait_until_at("hostile", after[-1])
        assert daemon.applied("hostile") == [*before, bad, *after]
        assert daemon.checkpoint("hostile")["error"] is None
        assert daemon.checkpoint("hostile")["processed"] == 11


def test_resuming_without_mending_pauses_again_and_repeats_nothing(database: Database) -> None:
    before, _, _ = append_around_a_bad_one(database)
    with Daemon(database, hostile(fail)) as daemon:
        for _ in range(3):
            daemon.wait_for_status("hostile", "paused")
            daemon.set_status("hostile", "running")
        daemon.wait_for_status("hostile", "paused")
        assert daemon.applied("hostile") == before


def test_skipping_keeps_the_event_in_projection_dead_letters_and_goes_on(database: Database) -> None:
    before, bad, after = append_around_a_bad_one(database)
    with Daemon(database, hostile(fail, on_error="skip")) as daemon:
        daemon.wait_until_at("hostile", after[-1])
        assert daemon.applied("hostile") == [*before, *after]
        assert daemon.checkpoint("hostile")["status"] == "running"
        (letter,) = daemon.ask(
            b"SELECT d.sequence_number, d.event_type, d.event_data, d.handler, d.error, d.attempts,"
            b" d.event_id = e.event_id AND d.aggregate_id = e.aggregate_id"
            b" FROM projection_dead_letters d JOIN event_store e USING (sequence_number)"
        )
        data = {"customer": "Ann"}
        assert letter == (bad, "Bad", data, "Journal.misbehave", "ValueError: no such customer", 3, True)
        daemon.log.wait_for(logs.EVENT_DEAD_LETTERED, sequence_number=bad)


def test_a_handler_that_fails_twice_and_then_works_is_no_poison(database: Database) -> None:
    before, bad, after = append_around_a_bad_one(database)
    failures: list[int] = []

    def flaky(event: Event, _db: Connection) -> None:
        # The first failure is the pipeline's, which is no attempt yet.
        if len(failures) < 3:
            failures.append(event.sequence_number)
            raise ValueError("not yet")

    with Daemon(database, hostile(flaky, max_attempts=3)) as daemon:
        daemon.wait_until_at("hostile", after[-1])
        assert daemon.applied("hostile") == [*before, bad, *after]
        assert failures == [bad] * 3
        assert daemon.log.lines(logs.EVENT_POISONED) == []


def test_a_failed_statement_in_the_middle_of_a_pipeline_is_traced_to_its_event(database: Database) -> None:
    before, bad, _ = append_around_a_bad_one(database)

    def divide(_event: Event, db: Connection) -> None:
        db.execute("SELECT 1 / 0")

    with Daemon(database, hostile(divide)) as daemon:
        row = daemon.wait_for_status("hostile", "paused")
        assert daemon.applied("hostile") == before
        assert f"event {bad} " in row["error"]
        assert "DivisionByZero" in row["error"]


def test_a_constraint_that_fails_only_at_commit_is_traced_to_its_event(database: Database) -> None:
    before, bad, _ = append_around_a_bad_one(database)
    database.connect().execute("CREATE TABLE once (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")

    def twice(_event: Event, db: Connection) -> None:
        db.execute("INSERT INTO once VALUES (1), (1)")

    with Daemon(database, hostile(twice)) as daemon:
        row = daemon.wait_for_status("hostile", "paused")
        assert daemon.applied("hostile") == before
        assert f"event {bad} " in row["error"]
        assert "UniqueViolation" in row["error"]


def test_a_handler_that_swallows_a_database_error_is_found_out(database: Database) -> None:
    before, bad, _ = append_around_a_bad_one(database)

    def swallow(_event: Event, db: Connection) -> None:
        with contextlib.suppress(psycopg.Error):
            db.execute("SELECT 1 / 0").fetchone()

    with Daemon(database, hostile(swallow)) as daemon:
        row = daemon.wait_for_status("hostile", "paused")
        assert daemon.applied("hostile") == before
        assert f"event {bad} " in row["error"]


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), psycopg.Rollback()])
def test_whatever_a_handler_raises_is_its_events_trouble(database: Database, raised: BaseException) -> None:
    before, bad, after = append_around_a_bad_one(database)

    def leave(_event: Event, _db: Connection) -> None:
        raise raised

    with Daemon(database, hostile(leave, max_attempts=1), journal("other")) as daemon:
        row = daemon.wait_for_status("hostile", "paused")
        assert daemon.applied("hostile") == before
        assert f"event {bad} " in row["error"]
        assert type(raised).__name__ in row["error"]
        daemon.wait_until_at("other", after[-1])


def test_an_error_that_cannot_say_what_it_is_is_still_told_and_skipped(database: Database) -> None:
    before, _, after = append_around_a_bad_one(database)

    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    def mute(_event: Event, _db: Connection) -> None:
        raise MuteError

    with Daemon(database, hostile(mute, max_attempts=1, on_error="skip")) as daemon:
        daemon.wait_until_at("hostile", after[-1])
        assert daemon.applied("hostile") == [*before, *after]
        (error,) = daemon.ask(b"SELECT error FROM projection_dead_letters")[0]
        assert "MuteError" in error


HOSTILE_TEXT = "a\0b \ud800 \x1b[2J\x1b]0;owned\x07 \u202e " + "x" * 5_000_000


@pytest.mark.parametrize("on_error", ["pause", "skip"])
def test_a_hostile_error_text_is_stored_and_logged_safely(database: Database, on_error: str) -> None:
    _, bad, after = append_around_a_bad_one(database)

    def shout(_event: Event, _db: Connection) -> None:
        raise ValueError(HOSTILE_TEXT)

    with Daemon(database, hostile(shout, max_attempts=1, on_error=on_error)) as daemon:
        if on_error == "pause":
            told = daemon.wait_for_status("hostile", "paused")["error"]
        else:
            daemon.wait_until_at("hostile", after[-1])
            (told,) = daemon.ask(b"SELECT error FROM projection_dead_letters WHERE sequence_number = %s", bad)[0]
        assert r"a\x00b \ud800 \x1b[2J\x1b]0;owned\x07" in told
        assert told.isprintable()
        assert len(told) < 3000
        lines = daemon.log.stream.getvalue()
        assert lines.isascii()
        assert all(len(line) < 10_000 and json.loads(line) for line in lines.splitlines())


# --- fatal


@pytest.mark.parametrize("on_error", ["pause", "skip"])
def test_a_missing_table_pauses_at_once_whatever_the_policy(database: Database, on_error: str) -> None:
    before, bad, _ = append_around_a_bad_one(database)
    attempts: list[int] = []

    def write_elsewhere(event: Event, db: Connection) -> None:
        attempts.append(event.sequence_number)
        db.execute("INSERT INTO no_such_table VALUES (1)")

    with Daemon(database, hostile(write_elsewhere, on_error=on_error)) as daemon:
        row = daemon.wait_for_status("hostile", "paused")
        assert "no_such_table" in row["error"]
        assert f"event {bad} " in row["error"]
        assert daemon.applied("hostile") == before
        assert daemon.ask(b"SELECT count(*) FROM projection_dead_letters") == [(0,)]
        # In ever smaller transactions, until it is known whose it was; not max_attempts times after that.
        assert set(attempts) == {bad}
        assert len(attempts) <= 5


# --- the transaction is the daemon's


def committing(how: str) -> Effect:
    statements: dict[str, Callable[[Connection], object]] = {
        "commit()": lambda db: db.commit(),
        "rollback()": lambda db: db.rollback(),
        "close()": lambda db: db.close(),
        "COMMIT": lambda db: db.execute("COMMIT"),
        "bytes": lambda db: db.execute(b"commit"),
        "sql.SQL": lambda db: db.execute(sql.SQL("Commit")),
        "Composed": lambda db: db.execute(sql.SQL("COM{}").format(sql.SQL("MIT"))),
        "comments": lambda db: db.execute("-- done\n /* really */\n\tCOMMIT AND CHAIN"),
        "empty statements": lambda db: db.execute(" ; ;COMMIT"),
        "nested comments": lambda db: db.execute("/* /* */ */ COMMIT"),
        "BEGIN": lambda db: db.execute("begin"),
        "START": lambda db: db.execute("START  TRANSACTION"),
        "END": lambda db: db.execute("END"),
        "ABORT": lambda db: db.execute("abort"),
        "ROLLBACK": lambda db: db.execute("ROLLBACK"),
        "PREPARE": lambda db: db.execute("PREPARE TRANSACTION 'mine'"),
        "cursor": lambda db: db.cursor().execute("COMMIT"),
        "executemany": lambda db: db.cursor().executemany("COMMIT", [()]),
        "stream": lambda db: list(db.cursor().stream("COMMIT")),
        "foreign cursor": lambda db: psycopg.ClientCursor(db).execute("COMMIT"),
    }
    act = statements[how]
    return lambda _event, db: act(db)


REFUSED = [
    "commit()",
    "rollback()",
    "close()",
    "COMMIT",
    "bytes",
    "sql.SQL",
    "Composed",
    "comments",
    "empty statements",
]
REFUSED += ["BEGIN", "START", "END", "ABORT", "ROLLBACK", "PREPARE", "cursor", "executemany"]


@pytest.mark.parametrize("how", REFUSED)
def test_ending_the_transaction_in_a_handler_is_refused_and_nothing_of_the_event_is_kept(
    database: Database, how: str
) -> None:
    before, bad, _ = append_around_a_bad_one(database)

    def effect(event: Event, db: Connection) -> None:
        db.execute("INSERT INTO hostile (sequence_number) VALUES (-1)")
        committing(how)(event, db)

    with Daemon(database, hostile(effect, max_attempts=1)) as daemon:
        row = daemon.wait_for_status("hostile", "paused")
        assert "TransactionControlError" in row["error"]
        assert "the transaction is the daemon's" in row["error"]
        assert f"event {bad} " in row["error"]
        assert daemon.applied("hostile") == before


@pytest.mark.parametrize("how", ["nested comments", "foreign cursor", "stream"])
def test_a_transaction_that_was_ended_by_a_trick_is_noticed(database: Database, how: str) -> None:
    append_around_a_bad_one(database)
    with Daemon(database, hostile(committing(how), max_attempts=1)) as daemon:
        row = daemon.wait_for_status("hostile", "paused")
        assert "TransactionControlError" in row["error"] or "NotSupportedError" in row["error"], row


@pytest.mark.parametrize("tail", ["; COMMIT", "; COMMIT; BEGIN", "; ROLLBACK", "; ROLLBACK; BEGIN"])
def test_a_commit_that_hides_behind_another_statement_is_noticed_and_not_repeated(
    database: Database, tail: LiteralString
) -> None:
    append_around_a_bad_one(database)
    database.connect().execute("CREATE TABLE seen (n int)")

    def hide(_event: Event, db: Connection) -> None:
        db.execute("INSERT INTO seen VALUES (1)" + tail)

    with Daemon(database, hostile(hide, max_attempts=3)) as daemon:
        row = daemon.wait_for_status("hostile", "paused")
        assert "TransactionControlError" in row["error"]
        assert "ended the transaction" in row["error"]
        ((count,),) = daemon.ask(b"SELECT count(*) FROM seen")
        assert count <= 1


@pytest.mark.parametrize("is_result_read", [True, False])
def test_savepoints_are_welcome(database: Database, *, is_result_read: bool) -> None:
    before, bad, after = append_around_a_bad_one(database)

    def try_and_recover(_event: Event, db: Connection) -> None:
        try:
            with db.transaction():
                db.execute("INSERT INTO hostile (sequence_number) VALUES (-1)")
                result = db.execute("SELECT 1 / 0")
                if is_result_read:
                    result.fetchone()
        except psycopg.errors.DivisionByZero:
            pass
        db.execute("SAVEPOINT mine")
        db.execute("INSERT INTO hostile (sequence_number) VALUES (-2)")
        db.execute("ROLLBACK TO SAVEPOINT mine")
        db.execute("rollback to mine")
        db.execute("ROLLBACK WORK TO mine")
        db.execute("RELEASE SAVEPOINT mine")

    with Daemon(database, hostile(try_and_recover)) as daemon:
        daemon.wait_until_at("hostile", after[-1])
        assert daemon.applied("hostile") == [*before, bad, *after]


# --- what a handler may do


def test_a_handler_may_copy_though_a_pipeline_cannot(database: Database) -> None:
    before, bad, after = append_around_a_bad_one(database)

    def copy_in(event: Event, db: Connection) -> None:
        with db.cursor().copy("COPY hostile (sequence_number) FROM STDIN") as copy:
            copy.write_row((event.sequence_number + 1000,))

    with Daemon(database, hostile(copy_in)) as daemon:
        daemon.wait_until_at("hostile", after[-1])
        assert daemon.applied("hostile") in (
            [*before, bad, bad + 1000, *after],
            [*before, bad + 1000, bad, *after],
        )
        # Once is no proof that it is the pipeline's fault, and the others want to stay fast.
        assert not daemon.log.lines(logs.PIPELINE_ABANDONED)
        for _ in range(5):
            daemon.wait_until_at("hostile", append(database.connect(), "Bad"))
        assert len(daemon.log.lines(logs.PIPELINE_ABANDONED)) == 1


def test_bad_events_one_after_the_other_do_not_take_the_pipeline_from_the_good_ones(database: Database) -> None:
    conn = database.connect()
    with Daemon(database, hostile(fail, on_error="skip", max_attempts=1)) as daemon:
        for _ in range(5):
            daemon.wait_until_at("hostile", append(conn, "Bad"))
        assert not daemon.log.lines(logs.PIPELINE_ABANDONED)
        assert conn.execute("SELECT count(*) FROM projection_dead_letters").fetchall() == [(5,)]


def test_a_handler_may_read_what_earlier_handlers_wrote(database: Database) -> None:
    conn = database.connect()
    with conn.transaction():
        numbers = [append(conn, "Bad") for _ in range(30)]
    counts: list[int] = []

    def count(_event: Event, db: Connection) -> None:
        row = db.execute("SELECT count(*) FROM hostile").fetchone()
        assert row is not None
        counts.append(row[0])

    with Daemon(database, hostile(count)) as daemon:
        daemon.wait_until_at("hostile", numbers[-1])
        assert daemon.applied("hostile") == numbers
    assert counts in (list(range(30)), list(range(1, 31)))


def test_what_a_handler_does_to_its_connection_stays_its_own(database: Database) -> None:
    def tamper(_event: Event, db: Connection) -> None:
        setattr(db, "row_factory", dict_row)  # noqa: B010 -- authors do it, their type checker may complain
        db.prepare_threshold = None
        db.execute("SET default_transaction_read_only = on")
        db.execute("INSERT INTO tampered VALUES (1)")

    class Tampering(Projection):
        schema = "CREATE TABLE IF NOT EXISTS tampered (n int)"
        tables = ("tampered",)

        @handles("Bad")
        def note(self, event: Event, db: Connection) -> None:
            tamper(event, db)

    others = [journal(f"other_{n}") for n in range(3)]
    conn = database.connect()
    with Daemon(database, Tampering, *others, pool_size=4) as daemon:
        for _ in range(10):
            last = append(conn, "Bad")
            for name in ("tampering", "other_0", "other_1", "other_2"):
                daemon.wait_until_at(name, last)
        assert all(daemon.applied(f"other_{n}") == daemon.stored() for n in range(3))
        assert daemon.ask(b"SELECT count(*) FROM tampered") == [(10,)]


# --- transient


def test_a_deadlock_a_lock_time_out_and_a_serialization_failure_are_tried_again(database: Database) -> None:
    _, bad, after = append_around_a_bad_one(database)
    codes = iter(["40P01", "55P03", "40001", "57014", "57P03", "53100"])

    def stumble(_event: Event, db: Connection) -> None:
        if code := next(codes, None):
            db.execute(f"DO $$ BEGIN RAISE EXCEPTION 'stumbled' USING ERRCODE = '{code}'; END $$")

    with Daemon(database, hostile(stumble, max_attempts=1)) as daemon:
        daemon.wait_until_at("hostile", after[-1])
        assert daemon.applied("hostile") == daemon.stored()
        assert daemon.log.lines(logs.EVENT_POISONED) == []
        retried = daemon.log.lines(logs.PROJECTION_RETRYING)
        assert len(retried) == 6
        assert daemon.checkpoint("hostile")["status"] == "running"
        assert bad in daemon.applied("hostile")


def test_a_statement_time_out_is_tried_again_and_said_in_the_row_meanwhile(database: Database) -> None:
    append_around_a_bad_one(database)
    locker = database.connect(autocommit=False)

    def wait_for_lock(_event: Event, db: Connection) -> None:
        db.execute("LOCK TABLE slow")

    locker.execute("CREATE TABLE slow ()")
    locker.commit()
    locker.execute("LOCK TABLE slow")
    with Daemon(database, hostile(wait_for_lock), statement_timeout_seconds=0.2) as daemon:

        def trouble() -> str:
            error = daemon.checkpoint("hostile").get("error") or ""
            assert error.startswith("retrying: QueryCanceled")
            return str(error)

        assert "statement timeout" in eventually(trouble, 15)
        locker.rollback()
        daemon.wait_until_at("hostile", daemon.stored()[-1])
        assert daemon.applied("hostile") == daemon.stored()
        eventually(lambda: daemon.checkpoint("hostile")["error"] is None)


def test_a_slow_poison_event_does_not_hold_up_the_others(database: Database) -> None:
    _, _, after = append_around_a_bad_one(database)
    with Daemon(database, hostile(fail, max_attempts=100), journal("other")) as daemon:
        daemon.wait_until_at("other", after[-1])
        began = time.monotonic()
        last = append_many(database.connect(), 10)[-1]
        daemon.wait_until_at("other", last)
        assert time.monotonic() - began < 5
        assert daemon.checkpoint("hostile")["status"] == "running"


def test_many_poison_projections_do_not_starve_the_healthy_one(database: Database) -> None:
    conn = database.connect()
    with conn.transaction():
        append(conn, "Bad")
        append(conn, "Good")
    broken = [hostile(fail, name=f"broken_{n}", max_attempts=100) for n in range(4)]
    with Daemon(database, *broken, journal("healthy"), pool_size=4) as daemon:
        last = append(conn, "Good")
        daemon.wait_until_at("healthy", last, 8)


def stop_quickly(daemon: Daemon) -> float:
    began = time.monotonic()
    daemon.stop()
    return time.monotonic() - began


def test_a_pause_between_attempts_does_not_hold_up_the_drain(database: Database) -> None:
    append_around_a_bad_one(database)
    tried: list[Any] = []

    def fail_and_note(event: Event, _db: Connection) -> None:
        tried.append(event)
        raise ValueError("no")

    daemon = Daemon(database, hostile(fail_and_note, max_attempts=100)).start()
    eventually(lambda: len(tried) > 5, 20)
    assert stop_quickly(daemon) < 3
