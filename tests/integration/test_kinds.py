"""What holds for every kind of projection: a poison event, batches of any size, and what is read ahead."""

from collections.abc import Sequence
from typing import Any

import psycopg
import pytest

from projectiond import logs
from projectiond.errors import ConfigurationError
from projectiond.event import Event
from projectiond.postgres.database import Connection
from projectiond.projection import BatchProjection, Projection, handles
from projectiond.running.stepper import Outcome
from projectiond.stream import reader
from tests.support.daemon import Daemon, Stage
from tests.support.events import append, append_many
from tests.support.journals import KINDS, Effect, Journal, journal_of
from tests.support.postgres import Database

pytestmark = pytest.mark.integration

# How an event can be bad: in the author's code, or in what the server does with it.
BAD = [(kind, effect) for kind in KINDS for effect in ("raise", "statement") if (kind, effect) != ("sql", "raise")]


@pytest.fixture(params=KINDS)
def journal(request: pytest.FixtureRequest) -> Journal:
    return journal_of(request.param)


def append_around(database: Database, count: int, bad_places: Sequence[int]) -> tuple[list[int], list[int]]:
    """Append so many events in one commit, bad ones at these places; give the numbers of the good and the bad."""
    conn = database.connect(autocommit=False)
    numbers = [append(conn, "Bad" if place in bad_places else "Good") for place in range(count)]
    conn.commit()
    return [n for p, n in enumerate(numbers) if p not in bad_places], [numbers[p] for p in bad_places]


@pytest.mark.parametrize(("kind", "effect"), BAD)
def test_a_poison_event_in_a_large_batch_is_named_and_nothing_behind_it_is_applied(
    database: Database, kind: str, effect: Effect
) -> None:
    good, (bad,) = append_around(database, 1000, [617])
    before = [number for number in good if number < bad]
    projection = journal_of(kind)("journal", effect=effect, batch_size=1000, checkpoint_every=1000)
    with Daemon(database, projection, max_attempts=2) as daemon:
        row = daemon.wait_for_status("journal", "paused")
        assert daemon.applied() == before
        assert (row["position"], row["processed"]) == (before[-1], len(before))
        assert f'event {bad} ("Bad"' in row["error"]
        assert ("BadEventError" if effect == "raise" else "DivisionByZero") in row["error"]
    # Mended, it goes on where it stopped.
    with Daemon(database, journal_of(kind)()) as daemon:
        daemon.set_status("journal", "running")
        daemon.wait_until_at("journal", good[-1])
        assert daemon.applied() == sorted([*good, bad])
        assert daemon.checkpoint()["processed"] == 1000


@pytest.mark.parametrize(("kind", "effect"), BAD)
def test_poison_events_are_set_aside_and_all_others_applied(database: Database, kind: str, effect: Effect) -> None:
    places = [0, 1, 100, 101, 102, 250, 399]
    good, bad = append_around(database, 400, places)
    projection = journal_of(kind)("journal", effect=effect, on_error="skip", batch_size=200, checkpoint_every=50)
    with Daemon(database, projection, max_attempts=1) as daemon:
        daemon.wait_until_at("journal", bad[-1])
        assert daemon.applied() == good
        assert daemon.checkpoint()["processed"] == len(good)
        assert daemon.checkpoint()["status"] == "running"
        letters = daemon.ask(b"SELECT sequence_number, event_type FROM projection_dead_letters ORDER BY 1")
        assert letters == [(number, "Bad") for number in bad]
        assert daemon.log.lines(logs.PIPELINE_ABANDONED) == []


def test_events_that_it_does_not_take_are_passed_and_not_counted(database: Database, journal: Journal) -> None:
    conn = database.connect()
    numbers = [append(conn, kind) for kind in ("Good", "Other", "Other", "Good", "Bad", "Other")]
    with Daemon(database, journal("journal", "Good", "Bad")) as daemon:
        daemon.wait_until_at("journal", numbers[-1])
        assert daemon.applied() == [numbers[0], numbers[3], numbers[4]]
        assert daemon.checkpoint()["processed"] == 3
        (last,) = daemon.ask(
            b"SELECT e.sequence_number FROM projection_checkpoints JOIN event_store e ON event_id = last_event_id"
        )
        assert last == (numbers[4],)


@pytest.mark.parametrize("batch_size", [1, 7, 100, 5000])
def test_a_backlog_is_applied_once_and_in_order_however_it_is_cut(
    database: Database, journal: Journal, batch_size: int
) -> None:
    numbers = append_many(database.connect(), 2000)
    settings: dict[str, Any] = {"batch_size": batch_size, "checkpoint_every": 3, "catchup_transaction_seconds": 0.02}
    with Stage(database, journal(), mark=numbers[-1], **settings) as stage:
        while stage.runner.run_once() is Outcome.ADVANCED:
            pass
        assert stage.applied() == numbers
        assert stage.checkpoint()["processed"] == len(numbers)


def test_a_rebuild_in_place_builds_the_same_again(database: Database, journal: Journal) -> None:
    numbers = append_many(database.connect(), 500)
    with Daemon(database, journal()) as daemon:
        daemon.wait_until_at("journal", numbers[-1])
        daemon.rebuild_in_place("journal")
        daemon.log.wait_for(logs.REBUILD_FINISHED, projection="journal")
        assert daemon.applied() == numbers
        assert daemon.checkpoint()["processed"] == 500


def test_a_batch_projection_may_copy(database: Database) -> None:
    numbers = append_many(database.connect(), 300)

    class Copied(BatchProjection):
        name = "journal"
        tables = ("journal",)
        schema = "CREATE TABLE journal (place serial, sequence_number bigint)"
        event_types = ("*",)

        def apply(self, events: Sequence[Event], db: Connection) -> None:
            with db.cursor() as cursor, cursor.copy("COPY journal (sequence_number) FROM STDIN") as copy:
                for event in events:
                    copy.write_row((event.sequence_number,))

    with Daemon(database, Copied) as daemon:
        daemon.wait_until_at("journal", numbers[-1])
        assert daemon.applied() == numbers
        assert daemon.log.lines(logs.PIPELINE_ABANDONED) == []


def test_a_batch_gets_its_events_anew_when_it_is_applied_again(database: Database) -> None:
    append_many(database.connect(), 20)
    seen: list[object] = []

    class Spoiling(BatchProjection):
        tables = ("spoiling",)
        schema = "CREATE TABLE spoiling (n bigint CHECK (n < 20))"
        event_types = ("*",)

        def apply(self, events: Sequence[Event], db: Connection) -> None:
            for event in events:
                seen.append(event.data.pop("n"))
                db.execute("INSERT INTO spoiling VALUES (%s)", (event.sequence_number,))

    with Daemon(database, Spoiling, batch_size=20, checkpoint_every=20) as daemon:
        daemon.wait_for_status("spoiling", "paused")
    assert set(seen) == set(range(1, 21))


def test_a_search_path_that_a_handler_sets_for_its_transaction_leads_to_no_other_store_or_checkpoint(
    database: Database,
) -> None:
    conn = database.connect()
    numbers = append_many(conn, 50)
    conn.execute(
        "CREATE SCHEMA tenant; CREATE TABLE tenant.event_store (LIKE event_store INCLUDING ALL);"
        " CREATE TABLE tenant.projection_checkpoints (LIKE projection_checkpoints INCLUDING ALL);"
        " INSERT INTO tenant.projection_checkpoints (projection_name) VALUES ('journal')"
    )

    class Tenant(Projection):
        name = "journal"
        tables = ("journal",)
        schema = "CREATE TABLE journal (place serial, sequence_number bigint)"

        @handles("*")
        def note(self, event: Event, db: Connection) -> None:
            db.execute("SET LOCAL search_path = tenant, public")
            db.execute("INSERT INTO journal (sequence_number) VALUES (%s)", (event.sequence_number,))

    with Stage(database, Tenant, mark=numbers[-1], batch_size=5, checkpoint_every=5) as stage:
        while stage.runner.run_once() is Outcome.ADVANCED:
            pass
        assert stage.applied() == numbers


def test_a_fault_that_is_no_event_s_pauses_at_once_and_is_not_searched_for(database: Database) -> None:
    append_many(database.connect(), 1000)
    tries: list[int] = []

    class Misconfigured(BatchProjection):
        tables = ("misconfigured",)
        schema = "CREATE TABLE misconfigured (n bigint)"
        event_types = ("*",)

        def apply(self, events: Sequence[Event], db: Connection) -> None:
            tries.append(len(events))
            if len(events) > 1:
                raise ConfigurationError("it cannot take several events", hint="make it")
            db.execute("INSERT INTO misconfigured VALUES (1)")

    with Daemon(database, Misconfigured, on_error="skip") as daemon:
        row = daemon.wait_for_status("misconfigured", "paused")
        assert "it cannot take several events" in row["error"]
        assert row["position"] == 0
    assert len(tries) == 1


@pytest.mark.parametrize("on_error", ["pause", "skip"])
@pytest.mark.parametrize("kind", ["event", "batch", "row"])
def test_an_event_whose_row_cannot_be_read_is_named_and_no_other_is_held_back_or_blamed(
    database: Database, kind: str, on_error: str
) -> None:
    conn = database.connect()
    numbers = append_many(conn, 20)
    conn.execute("UPDATE event_store SET created_at = 'infinity' WHERE sequence_number = %s", (numbers[9],))
    with Daemon(database, journal_of(kind)("journal", on_error=on_error, batch_size=9), max_attempts=1) as daemon:
        if on_error == "pause":
            row = daemon.wait_for_status("journal", "paused")
            assert daemon.applied() == numbers[:9]
            assert f'event {numbers[9]} ("Counted"' in row["error"]
            assert "cannot be read: timestamp too large" in row["error"]
        else:
            daemon.wait_until_at("journal", numbers[-1])
            assert daemon.applied() == numbers[:9] + numbers[10:]
            assert daemon.ask(b"SELECT sequence_number FROM projection_dead_letters") == [(numbers[9],)]


@pytest.mark.parametrize("on_error", ["pause", "skip"])
def test_a_bad_event_far_into_a_range_on_the_server_is_found(
    database: Database, on_error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "SCAN_RANGE", 100)
    conn = database.connect()
    append_many(conn, 700)
    bad = append(conn, "Bad")
    projection = journal_of("sql")("journal", "Bad", effect="statement", on_error=on_error)
    with Daemon(database, projection, max_attempts=1) as daemon:
        if on_error == "pause":
            assert f"event {bad} " in daemon.wait_for_status("journal", "paused")["error"]
        else:
            daemon.wait_until_at("journal", bad)
            assert daemon.ask(b"SELECT sequence_number FROM projection_dead_letters") == [(bad,)]


def test_a_failure_that_another_event_s_handler_catches_is_not_committed_around(database: Database) -> None:
    """The error of an unawaited statement surfaces later, where a handler's savepoint would heal the transaction."""
    conn = database.connect()
    conn.execute("CREATE TABLE taken (number bigint PRIMARY KEY)")
    numbers = append_many(conn, 20)
    conn.execute("INSERT INTO taken VALUES (%s), (%s)", (numbers[3], numbers[6]))
    conflicts: list[int] = []

    class Saving(Projection):
        name = "journal"
        tables = ("journal",)
        schema = "CREATE TABLE journal (place serial, sequence_number bigint)"

        @handles("*")
        def note(self, event: Event, db: Connection) -> None:
            number = event.sequence_number
            db.execute("SAVEPOINT mine")
            try:
                if db.execute("UPDATE journal SET place = place WHERE sequence_number = %s", (number,)).rowcount == 0:
                    db.execute("INSERT INTO taken VALUES (%s)", (number,))
            except psycopg.Error:
                db.execute("ROLLBACK TO SAVEPOINT mine")
                conflicts.append(number)
            db.execute("INSERT INTO journal (sequence_number) VALUES (%s)", (number,))

    with Daemon(database, Saving, max_attempts=1) as daemon:
        daemon.wait_until_at("journal", numbers[-1])
        assert daemon.applied() == numbers
        assert daemon.ask(b"SELECT number FROM taken ORDER BY number") == [(number,) for number in numbers]
        # In the end each where it belongs; before that, in a pipeline, perhaps elsewhere.
        assert {numbers[3], numbers[6]} <= set(conflicts)
