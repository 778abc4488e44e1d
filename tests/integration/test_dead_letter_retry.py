"""A dead letter that is tried again: applied exactly once and the letter gone, or not at all and the letter kept."""

from collections.abc import Sequence
from typing import Any

import psycopg
import pytest

from projectiond import logs, sql
from projectiond.event import Event
from projectiond.operating import dead_letters
from projectiond.postgres.database import Connection, connect
from projectiond.projection import BaseProjection
from projectiond.running.stepper import Outcome
from tests.support.daemon import Daemon, Stage, journal
from tests.support.events import append, append_many
from tests.support.journals import KINDS, journal_of
from tests.support.postgres import Database
from tests.support.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.any_server]


def set_aside(database: Database, kind: str = "event") -> tuple[list[int], int]:
    """Let a projection pass over a bad event between good ones; give all numbers, and the bad one's."""
    conn = database.connect()
    numbers = [append(conn, event_type) for event_type in ("Good", "Bad", "Good")]
    projection = journal_of(kind)("journal", effect="statement", on_error="skip", max_attempts=1)
    with Stage(database, projection, mark=numbers[-1]) as stage:
        run_to_end(stage)
        assert letters(database) == [numbers[1]]
    return numbers, numbers[1]


def run_to_end(stage: Stage) -> None:
    while stage.runner.step() is Outcome.ADVANCED:
        pass


def ask(database: Database, numbers: Sequence[int] | None = None) -> Sequence[int]:
    with connect(database.dsn, role="test", statement_timeout_seconds=30) as db:
        return dead_letters.ask_for_retry(db, "journal", numbers)


def letters(database: Database) -> list[int]:
    return [
        row[0] for row in database.connect().execute("SELECT sequence_number FROM projection_dead_letters ORDER BY 1")
    ]


def letter(database: Database) -> dead_letters.DeadLetter:
    with connect(database.dsn, role="test", statement_timeout_seconds=30) as db:
        (found,) = dead_letters.read_letters(db, "journal", most=2)
    return found


def retried(stage: Stage) -> Outcome:
    stage.runner.retry_letters()
    return stage.runner.step()


@pytest.mark.parametrize("kind", KINDS)
def test_once_mended_it_is_applied_and_the_letter_goes(database: Database, kind: str) -> None:
    numbers, bad = set_aside(database, kind)
    with Stage(database, journal_of(kind)("journal"), mark=numbers[-1]) as stage:
        before = stage.checkpoint()
        # Nobody has asked yet.
        retried(stage)
        assert (sorted(stage.applied()), letters(database)) == ([numbers[0], numbers[2]], [bad])
        assert ask(database) == [bad]
        retried(stage)
        assert (sorted(stage.applied()), letters(database)) == (numbers, [])
        # The position stays, and the event is counted.
        assert stage.checkpoint() == {**before, "processed": 3}
        retried(stage)
        assert sorted(stage.applied()) == numbers


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_fails_again_keeps_its_letter_with_the_new_error_and_changes_nothing(
    database: Database, kind: str
) -> None:
    numbers, bad = set_aside(database, kind)
    ask(database, [bad])
    with Stage(database, journal_of(kind)("journal", effect="statement"), mark=numbers[-1]) as stage:
        retried(stage)
        assert stage.applied() == [numbers[0], numbers[2]]
        found = letter(database)
        assert (found.attempts, found.state) == (2, "kept")
        assert "DivisionByZero" in found.error
        assert (stage.checkpoint()["status"], stage.checkpoint()["error"]) == ("running", None)
        # It is tried once for each time that somebody asks.
        retried(stage)
        assert letter(database).attempts == 2
        stage.log.wait_for(logs.LETTER_FAILED, sequence_number=bad)


def test_new_events_are_applied_between_two_letters(database: Database) -> None:
    conn = database.connect()
    bad = [append(conn, "Bad") for _ in range(3)]
    with Stage(database, journal_of("event")("journal", effect="raise", on_error="skip"), mark=bad[-1]) as stage:
        run_to_end(stage)
    ask(database)
    with Stage(database, journal_of("event")("journal"), mark=bad[-1]) as stage:
        good = append(conn, "Good")
        retried(stage)
        assert stage.applied() == bad[:1]
        stage.mark = good
        stage.runner.step()
        assert stage.applied() == [*bad[:2], good]
        stage.runner.step()
        assert (stage.applied(), letters(database)) == ([*bad[:2], good, bad[2]], [])


def test_while_the_projection_is_paused_it_waits(database: Database) -> None:
    numbers, bad = set_aside(database)
    ask(database)
    with Stage(database, journal_of("event")("journal"), mark=numbers[-1]) as stage:
        stage.set_status("journal", "paused")
        assert retried(stage) is Outcome.PAUSED
        assert (letters(database), letter(database).state) == ([bad], "to be tried again")
        stage.set_status("journal", "running")
        stage.runner.recheck()
        stage.runner.step()
        assert (sorted(stage.applied()), letters(database)) == (numbers, [])


def interrupted(database: Database, statement: str) -> tuple[list[int], type[BaseProjection]]:
    """Make a projection in the middle of whose handler somebody does this; give the numbers too."""
    numbers, _ = set_aside(database)
    other = database.connect()

    def interrupt(_event: Event, _db: Connection) -> None:
        other.execute(statement.encode())

    return numbers, journal(effect=interrupt)


@pytest.mark.parametrize(
    ("statement", "state"),
    [
        ("UPDATE projection_checkpoints SET status = 'paused'", "to be tried again"),
        ("UPDATE projection_dead_letters SET retry_requested_at = now(), retry_begun_at = NULL", "to be tried again"),
        ("DELETE FROM projection_dead_letters", None),
    ],
)
def test_what_somebody_decides_meanwhile_is_what_holds(database: Database, statement: str, state: str | None) -> None:
    numbers, projection = interrupted(database, statement)
    ask(database)
    with Stage(database, projection, mark=numbers[-1]) as stage:
        retried(stage)
        assert stage.applied() == [numbers[0], numbers[2]]
        assert [letter(database).state for _ in letters(database)] == ([state] if state else [])
        assert stage.checkpoint()["processed"] == 2


def test_an_attempt_that_took_the_worker_with_it_is_not_made_again(database: Database) -> None:
    numbers, bad = set_aside(database)

    def end(_event: Event, db: Connection) -> None:
        with database.connect() as other:
            other.execute("SELECT pg_terminate_backend(%s)", (db.info.backend_pid,))

    ask(database)
    with Stage(database, journal(effect=end), mark=numbers[-1]) as stage:
        retried(stage)
        run_to_end(stage)
        assert (stage.applied(), letters(database)) == ([numbers[0], numbers[2]], [bad])
        assert (letter(database).state, letter(database).attempts) == ("tried, and not ended", 2)
        assert stage.checkpoint()["status"] == "running"


def test_what_is_not_to_be_tried_is_said(database: Database) -> None:
    numbers, bad = set_aside(database)
    conn = database.connect()
    with Stage(database, journal("journal", "Good"), mark=numbers[-1]) as stage:
        ask(database)
        retried(stage)
        assert "does not handle any more" in letter(database).error
        conn.execute("UPDATE projection_checkpoints SET last_sequence_number = %s", (bad - 1,))
        ask(database)
        stage.runner.recheck()
        retried(stage)
        assert "its turn is still to come" in letter(database).error


def test_a_daemon_notices_that_somebody_asks(database: Database) -> None:
    numbers, bad = set_aside(database)
    with Daemon(database, journal_of("event")("journal")) as daemon:
        # Others are told of too, and are not there.
        conn = database.connect()
        conn.execute(
            "INSERT INTO projection_dead_letters SELECT 'other', 1, event_id, event_type, aggregate_id,"
            " event_data, '', '', 1, now(), now() FROM event_store LIMIT 1"
        )
        ask(database, [bad])
        eventually(lambda: sorted(daemon.applied()) == numbers, 10, "the letter was not tried")
        assert letters(database) == [1]
        daemon.wait_until_at("journal", append_many(conn, 3, "Good")[-1])


def test_the_letters_to_be_tried_are_found_by_their_index(database: Database) -> None:
    conn: psycopg.Connection[Any] = database.connect()
    conn.execute(
        "INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version)"
        " VALUES (gen_random_uuid(), 'a', 'b', '{}', 1)"
    )
    conn.execute(
        "INSERT INTO projection_dead_letters SELECT 'p' || n % 9, n, event_id, event_type, aggregate_id,"
        " event_data, '', '', 1, now() FROM event_store, generate_series(1, 5000) AS n"
    )
    conn.execute("ANALYZE projection_dead_letters")
    for statement in (sql.dead_letters.READ_RETRIES, sql.dead_letters.BEGIN_RETRY):
        plan = "\n".join(row[0] for row in conn.execute("EXPLAIN " + statement, {"name": "p1"}))
        assert "idx_dead_letters_to_retry" in plan
        assert "Seq Scan" not in plan
