"""A rebuild beside the live tables: they are served and updated until they become what the replay gave."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch
from uuid import UUID

import psycopg
import pytest

from projectiond import checkpoint as checkpoints
from projectiond import logs, sql
from projectiond.builds.change import meet_tables
from projectiond.event import Event
from projectiond.operating import steering
from projectiond.operating.overview import read_overview
from projectiond.plugins.limits import resolve_limits
from projectiond.plugins.registry import define
from projectiond.postgres import database as databases
from projectiond.postgres.database import Connection
from projectiond.processes.recorder import nowhere
from projectiond.projection import BaseProjection, BatchProjection, Projection, handles
from projectiond.rebuild import retired, statements
from projectiond.rebuild import space as spaces
from projectiond.rebuild.builder import Result
from projectiond.rebuild.marker import note_failure
from projectiond.rebuild.replay import Replay
from projectiond.running.stepper import Outcome
from projectiond.settings import Settings
from tests.support.builders import Gate, build, building, gated
from tests.support.daemon import Daemon, Reporter, Stage, captured_log, journal
from tests.support.events import append, append_many
from tests.support.journals import KINDS, Journal, journal_of
from tests.support.postgres import Database, LocalServer
from tests.support.queries import value
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

SPACE = "projectiond_rebuild_journal"
SPACES = b"SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'projectiond%' ORDER BY 1"
REBUILD = b"SELECT position_sequence_number, error_message FROM projection_rebuilds"
WAIT_SECONDS = 20


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Journal:
    return journal_of(request.param)


def begin(database: Database, projection: type[BaseProjection], count: int = 60) -> list[int]:
    """Append events, have them applied, and ask for a rebuild."""
    numbers = append_many(database.connect(), count)
    with Daemon(database, projection) as daemon:
        daemon.wait_until_at(projection.name, numbers[-1])
        daemon.set_status(projection.name, "rebuilding")
    return numbers


def nothing_is_left(reporter: Reporter) -> bool:
    return reporter.ask(SPACES) == [] and reporter.ask(REBUILD) == []


# --- from the request to the finish


def test_a_new_request_is_told_from_one_that_has_failed(database: Database) -> None:
    number = append(database.connect(), "Anything")
    db = databases.connect(database.dsn, role="test", statement_timeout_seconds=30)
    with Daemon(database, journal("journal")) as daemon, db:
        daemon.wait_until_at("journal", number)
        steering.rebuild(db, "journal")
        eventually(lambda: daemon.recorder.read_wanting_builder() == {"journal": 1}, 10, "nobody asked for a builder")
        note_failure(db, "journal", "no space left")
        steering.rebuild(db, "journal")
        eventually(lambda: daemon.recorder.read_wanting_builder() == {"journal": 2}, 10, "it is as the one before")
        steering.pause(db, "journal")
        eventually(lambda: daemon.recorder.read_wanting_builder() == {}, 10, "somebody builds though it is paused")


def test_the_live_tables_are_served_and_updated_until_they_become_what_the_replay_gave(
    database: Database, kind: Journal
) -> None:
    conn = database.connect()
    projection = kind("journal")
    numbers = append_many(conn, 120)
    with Daemon(database, projection) as daemon:
        daemon.wait_until_at("journal", numbers[-1])
        # One row is missing, and one is too many.
        conn.execute("DELETE FROM journal WHERE sequence_number = 7")
        conn.execute("INSERT INTO journal (sequence_number) VALUES (-1)")
        daemon.set_status("journal", "rebuilding")
        numbers.append(append(conn, "OrderPlaced"))
        daemon.wait_until_at("journal", numbers[-1])
        assert sorted(daemon.applied()) == [-1, *[number for number in numbers if number != 7]]
        assert build(database, projection) is Result.FINISHED
        assert sorted(daemon.applied()) == numbers
        assert daemon.checkpoint() == {
            "position": numbers[-1], "status": "running", "error": None, "processed": len(numbers)
        }  # fmt: skip
        assert nothing_is_left(daemon)
        numbers.append(append(conn, "OrderPlaced"))
        daemon.wait_until_at("journal", numbers[-1])
        assert sorted(daemon.applied()) == numbers
        assert daemon.log.lines(logs.PROJECTION_PAUSED) == []


def test_tables_that_were_dropped_come_back(database: Database, kind: Journal) -> None:
    conn = database.connect()
    projection = kind("journal")
    numbers = append_many(conn, 20)
    with Daemon(database, projection) as daemon:
        daemon.wait_until_at("journal", numbers[-1])
    conn.execute("DROP TABLE journal")
    numbers += append_many(conn, 20)
    with Daemon(database, projection) as daemon:
        assert "is gone" in daemon.wait_for_status("journal", "paused")["error"]
        daemon.set_status("journal", "rebuilding")
        daemon.log.wait_for(logs.PROJECTION_STOOD_STILL)
        # Called off, it has not gone on in empty ones meanwhile.
        daemon.set_status("journal", "running")
        assert "is gone" in daemon.wait_for_status("journal", "paused")["error"]
        daemon.set_status("journal", "rebuilding")
        assert build(database, projection) is Result.FINISHED
        assert sorted(daemon.applied()) == numbers
        numbers.append(append(conn, "OrderPlaced"))
        daemon.wait_until_at("journal", numbers[-1])
        assert sorted(daemon.applied()) == numbers


class Totals(Projection):
    """A read model whose rows do not depend on how they were made, so that most of them stay as they are."""

    name = "totals"
    tables = ("totals",)
    schema = "CREATE TABLE IF NOT EXISTS totals (id uuid PRIMARY KEY, events int NOT NULL)"

    @handles("*")
    def count(self, event: Event, db: Connection) -> None:
        db.execute(
            "INSERT INTO totals VALUES (%s, 1) ON CONFLICT (id) DO UPDATE SET events = totals.events + 1",
            (event.aggregate_id,),
        )


def test_a_merge_changes_only_what_differs_and_says_how_many_rows_that_were(database: Database) -> None:
    conn = database.connect()
    streams = [UUID(int=n) for n in range(1, 41)]
    for stream in streams:
        append_many(conn, 3, aggregate_id=stream)
    numbers = [120]
    with Daemon(database, Totals) as daemon:
        daemon.wait_until_at("totals", numbers[-1])
        versions: dict[UUID, str] = dict(conn.execute("SELECT id, xmin::text FROM totals").fetchall())
        conn.execute("UPDATE totals SET events = 9 WHERE id = ANY(%s)", (streams[:3],))
        conn.execute("DELETE FROM totals WHERE id = %s", (streams[3],))
        conn.execute("INSERT INTO totals VALUES (%s, 1), (%s, 1)", (UUID(int=100), UUID(int=101)))
        daemon.set_status("totals", "rebuilding")
        with captured_log() as log:
            assert build(database, Totals) is Result.FINISHED
            told = log.lines(logs.REBUILD_FINISHED)[0]
        assert told["tables"] == "totals 3 changed, 1 added, 2 removed of 40"
        assert (told["method"], told["position"]) == ("merge", 120)
        now: dict[UUID, str] = dict(conn.execute("SELECT id, xmin::text FROM totals WHERE events = 3").fetchall())
        assert len(now) == 40
        assert [stream for stream in streams if now[stream] == versions[stream]] == streams[4:]
        history = conn.execute("SELECT projection_name, position, method, tables FROM projection_rebuild_history")
        ((name, position, method, tables),) = history.fetchall()
        assert (name, position, method) == ("totals", 120, "merge")
        assert {key: tables[0][key] for key in ("table", "total", "changed", "added", "removed")} == {
            "table": "totals", "total": 40, "changed": 3, "added": 1, "removed": 2
        }  # fmt: skip


def test_a_change_of_the_schema_makes_the_tables_change_places(database: Database) -> None:
    numbers = begin(database, Totals)

    class WithDay(Totals):
        name = "totals"
        schema = "CREATE TABLE IF NOT EXISTS totals (id uuid PRIMARY KEY, events int NOT NULL, day date)"

        @handles("*")
        def count(self, event: Event, db: Connection) -> None:
            db.execute(
                "INSERT INTO totals VALUES (%s, 1, %s) ON CONFLICT (id) DO UPDATE SET events = totals.events + 1",
                (event.aggregate_id, event.created_at),
            )

    with Daemon(database, WithDay) as daemon:
        numbers.append(append(database.connect(), "OrderPlaced"))
        # The new handlers do not fit the old table: they stand still, and the rebuild goes on.
        daemon.log.wait_for(logs.PROJECTION_STOOD_STILL)
        row = daemon.checkpoint("totals")
        assert (row["status"], row["position"]) == ("rebuilding", numbers[-2])
        assert 'column "day"' in row["error"] or "more expressions than target columns" in row["error"]
        assert build(database, WithDay) is Result.FINISHED
        daemon.wait_until_at("totals", numbers[-1])
        assert daemon.wait_for_status("totals", "running")["error"] is None
        last = append(database.connect(), "OrderPlaced")
        daemon.wait_until_at("totals", last)
        assert daemon.ask(b"SELECT sum(events), count(day) FROM totals") == [(62, 3)]


def test_two_rebuilds_of_one_projection_follow_upon_each_other(database: Database) -> None:
    numbers = begin(database, journal())
    reporter = Reporter(database)
    for _ in range(2):
        reporter.set_status("journal", "rebuilding")
        assert build(database, journal()) is Result.FINISHED
        assert sorted(reporter.applied()) == numbers
    assert len(reporter.ask(b"SELECT 1 FROM projection_rebuild_history")) == 2


def test_tables_that_somebody_else_has_filled_are_not_touched_before_the_finish(database: Database) -> None:
    conn = database.connect()
    numbers = append_many(conn, 20)
    conn.execute("CREATE TABLE journal (place bigint GENERATED ALWAYS AS IDENTITY, sequence_number bigint NOT NULL)")
    conn.execute("INSERT INTO journal (sequence_number) VALUES (-1)")
    with Stage(database, journal(), mark=20) as stage:
        assert stage.runner.run_once() is Outcome.PAUSED
        assert stage.checkpoint()["status"] == "paused"
        stage.set_status("journal", "rebuilding")
        stage.runner.recheck()
        for _ in range(3):
            assert stage.runner.run_once() is Outcome.PAUSED
        assert stage.applied() == [-1]
        assert build(database, journal()) is Result.FINISHED
        stage.runner.recheck()
        assert stage.runner.run_once() is Outcome.CAUGHT_UP
        assert stage.applied() == numbers


def test_a_projection_of_a_store_that_was_restored_is_rebuilt_though_it_was_beyond_the_end(database: Database) -> None:
    numbers = begin(database, journal())
    conn = database.connect()
    conn.execute("UPDATE projection_checkpoints SET last_sequence_number = 5000")
    with Daemon(database, journal()) as daemon:
        assert build(database, journal()) is Result.FINISHED
        row = daemon.wait_for_status("journal", "running")
        assert (row["position"], row["error"]) == (numbers[-1], None)


def test_the_authors_code_is_told_that_it_builds_anew(database: Database) -> None:
    seen: list[tuple[str, int, bool, bool]] = []

    class Told(Projection):
        name = "journal"
        tables = ("journal",)
        schema = "CREATE TABLE IF NOT EXISTS journal (place serial, sequence_number bigint)"

        @handles("*")
        def note(self, event: Event[dict[str, Any]], db: Connection) -> None:
            seen.append(("event", event.sequence_number, event.is_replay, self.is_rebuilding))
            db.execute("INSERT INTO journal (sequence_number) VALUES (%s)", (event.sequence_number,))

    class ToldInBatches(BatchProjection):
        name = "other"
        tables = ("other",)
        schema = "CREATE TABLE IF NOT EXISTS other (n int)"
        event_types = ("*",)

        def apply(self, events: Sequence[Event], db: Connection) -> None:
            del db
            seen.extend(("batch", event.sequence_number, event.is_replay, self.is_rebuilding) for event in events)

    conn = database.connect()
    append_many(conn, 3)
    with Daemon(database, Told, ToldInBatches) as daemon:
        for name in ("journal", "other"):
            daemon.wait_until_at(name, 3)
        assert set(seen) == {(what, n, False, False) for what in ("event", "batch") for n in (1, 2, 3)}
        seen.clear()
        for cls in (Told, ToldInBatches):
            daemon.set_status(cls.name, "rebuilding")
            assert build(database, cls) is Result.FINISHED
        assert set(seen) == {(what, n, True, True) for what in ("event", "batch") for n in (1, 2, 3)}
        seen.clear()
        daemon.rebuild_in_place("journal")
        daemon.wait_for_status("journal", "running")
        append(conn, "OrderPlaced")
        daemon.wait_until_at("journal", 4)
        assert [line for line in seen if line[0] == "event"] == [
            *(("event", n, True, True) for n in (1, 2, 3)),
            ("event", 4, False, False),
        ]


# --- pause, resume, call off, begin afresh


def test_a_rebuild_that_is_called_off_leaves_nothing_and_the_live_tables_as_they_are(database: Database) -> None:
    gate = Gate(at=31)
    numbers = begin(database, gated(gate))
    reporter = Reporter(database)
    with captured_log() as log, building(database, gated(gate), batch_size=10, checkpoint_every=10) as running:
        assert gate.is_reached.wait(WAIT_SECONDS)
        reporter.set_status("journal", "running")
        gate.open()
        assert running.wait() is Result.NOTHING
        assert log.lines(logs.REBUILD_CANCELLED)
    assert nothing_is_left(reporter)
    assert reporter.applied() == numbers


def test_g4_once_the_pause_has_committed_no_batch_of_the_rebuild_commits(database: Database) -> None:
    gate = Gate(at=31)
    begin(database, gated(gate))
    reporter = Reporter(database)
    with building(database, gated(gate), batch_size=10, checkpoint_every=10) as running:
        assert gate.is_reached.wait(WAIT_SECONDS)
        before = reporter.ask(REBUILD)
        reporter.set_status("journal", "paused")
        gate.open()
        assert running.wait() is Result.NOTHING
    assert reporter.ask(REBUILD) == before
    assert reporter.ask(f"SELECT last_sequence_number FROM {SPACE}.projection_checkpoints".encode()) == [
        (before[0][0],)
    ]
    assert reporter.checkpoint()["status"] == "paused"


def test_g4_a_pause_waits_for_the_commit_of_a_batch_that_has_moved_the_rebuild(database: Database) -> None:
    begin(database, journal())
    reporter, operator = Reporter(database), database.connect()
    is_moved, may_commit = threading.Event(), threading.Event()
    advance = checkpoints.advance

    def held(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 -- as it is
        advanced = advance(*args, **kwargs)
        args[0].settle()
        is_moved.set()
        assert may_commit.wait(WAIT_SECONDS)
        return advanced

    with (
        patch("projectiond.running.applier.checkpoints.advance", held),
        building(database, journal(), batch_size=10, checkpoint_every=10) as running,
    ):
        assert is_moved.wait(WAIT_SECONDS)
        operator.execute("SET lock_timeout = '200ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            operator.execute("UPDATE projection_checkpoints SET status = 'paused'")
        operator.execute("RESET lock_timeout")
        pausing = threading.Thread(
            target=operator.execute, args=("UPDATE projection_checkpoints SET status = 'paused'",)
        )
        pausing.start()
        may_commit.set()
        pausing.join(WAIT_SECONDS)
        moved = reporter.ask(REBUILD)
        assert running.wait() is Result.NOTHING
    assert moved[0][0] >= 10
    assert reporter.ask(REBUILD) == moved


def test_the_overview_has_how_far_it_is_and_what_keeps_it_back(database: Database) -> None:
    gate = Gate(at=31)
    begin(database, gated(gate))
    with (
        databases.connect(database.dsn, role="test", statement_timeout_seconds=30) as db,
        building(database, gated(gate), batch_size=15, checkpoint_every=15) as running,
    ):
        assert gate.is_reached.wait(WAIT_SECONDS)
        rebuild = read_overview(db, None).projections[0].rebuild
        assert rebuild is not None
        assert (rebuild.mode, rebuild.position, rebuild.share, rebuild.is_paused) == ("beside", 15, 0.25, False)
        assert rebuild.seconds_left is not None
        steering.pause(db, "journal")
        note_failure(db, "journal", "not while it is paused")
        paused = read_overview(db, None).projections[0].rebuild
        assert paused == replace(rebuild, is_paused=True, seconds_left=None)
        steering.resume(db, "journal")
        note_failure(db, "journal", "no space left")
        failed = read_overview(db, None).projections[0].rebuild
        assert failed is not None
        assert failed.error_message == "no space left"
        gate.open()
        running.wait()


@pytest.mark.any_server
def test_a_paused_rebuild_goes_on_where_it_was_and_begins_afresh_when_that_is_asked_for(database: Database) -> None:
    gate = Gate(at=31)
    numbers = begin(database, gated(gate))
    reporter = Reporter(database)
    with (
        captured_log() as log,
        databases.connect(database.dsn, role="test", statement_timeout_seconds=30) as db,
    ):
        with building(database, gated(gate), batch_size=10, checkpoint_every=10) as running:
            assert gate.is_reached.wait(WAIT_SECONDS)
            steering.pause(db, "journal")
            gate.open()
            assert running.wait() is Result.NOTHING
        position = reporter.ask(REBUILD)[0][0]
        assert 0 < position < 31
        steering.resume(db, "journal")
        assert reporter.checkpoint()["status"] == "rebuilding"
        assert build(database, gated(gate)) is Result.FINISHED
        assert len(log.lines(logs.REBUILD_STARTED)) == len(log.lines(logs.REBUILD_CONTINUED)) == 1
        assert log.lines(logs.PROJECTION_STARTED, position=position)
        assert reporter.applied() == numbers
        # And now one that is begun twice.
        gate = Gate(at=31)
        steering.rebuild(db, "journal")
        with building(database, gated(gate), batch_size=10, checkpoint_every=10) as running:
            assert gate.is_reached.wait(WAIT_SECONDS)
            steering.rebuild(db, "journal")
            gate.open()
            assert running.wait() is Result.NOTHING
        assert build(database, gated(gate)) is Result.FINISHED
        assert reporter.applied() == numbers
        assert len(log.lines(logs.REBUILD_CONTINUED)) == 1
    assert nothing_is_left(reporter)


def test_a_rebuild_begins_afresh_when_its_handlers_were_mended_meanwhile(database: Database) -> None:
    gate = Gate(at=31)
    begin(database, gated(gate))
    with building(database, gated(gate), batch_size=10, checkpoint_every=10) as running:
        assert gate.is_reached.wait(WAIT_SECONDS)
        running.builder.stop()
        gate.open()
        assert running.wait() is Result.INTERRUPTED

    class Mended(Projection):
        name = "journal"
        tables = ("journal",)
        schema = gated(gate).schema

        @handles("*")
        def note(self, event: Event, db: Connection) -> None:
            db.execute("INSERT INTO journal (sequence_number) VALUES (%s)", (-event.sequence_number,))

    with captured_log() as log:
        assert build(database, Mended) is Result.FINISHED
        assert log.lines(logs.REBUILD_STARTED)[0]["reason"]
    assert Reporter(database).applied() == [-number for number in range(1, 61)]


def test_a_builder_of_another_rebuild_cannot_commit_any_more(database: Database) -> None:
    begin(database, journal())
    settings = Settings(batch_size=10, checkpoint_every=10)
    definition = define(journal())
    with databases.connect(database.dsn, role="test", statement_timeout_seconds=30) as db:
        space = spaces.make_for_rebuild(db, definition, "one")
        with Replay(
            database.dsn,
            space.schema,
            definition,
            resolve_limits(definition, settings),
            nowhere(),
            statement_timeout_seconds=30,
            rebuild_id=space.rebuild_id,
        ) as zombie:
            assert zombie.advance(10)
            steering.rebuild(db, "journal")
            assert not zombie.advance(60, seconds=0.2)
            assert zombie.position == 10
            # The same name, the same tables: but not the same rebuild.
            with db.transaction():
                spaces.make_for_rebuild(db, definition, "two")
            assert not zombie.advance(60, seconds=0.2)
            assert value(db, f"SELECT count(*) FROM {SPACE}.journal") == 0


def test_of_two_builders_one_builds(database: Database) -> None:
    gate = Gate(at=31)
    numbers = begin(database, gated(gate))
    with building(database, gated(gate), batch_size=10, checkpoint_every=10) as running:
        assert gate.is_reached.wait(WAIT_SECONDS)
        assert build(database, gated(gate)) is Result.BUSY
        gate.open()
        assert running.wait() is Result.FINISHED
    assert Reporter(database).applied() == numbers


# --- what is refused


def test_a_handler_that_writes_another_table_is_refused_before_anything_is_committed(database: Database) -> None:
    conn = database.connect()
    conn.execute("CREATE TABLE outbox (n bigint)")

    class Sends(Projection):
        name = "journal"
        tables = ("journal",)
        schema = journal().schema
        statement = "INSERT INTO outbox VALUES (%s)"

        @handles("*")
        def note(self, event: Event, db: Connection) -> None:
            db.execute("INSERT INTO journal (sequence_number) VALUES (%s)", (event.sequence_number,))
            if not self.is_rebuilding or self.statement:
                db.execute(self.statement or "INSERT INTO outbox VALUES (%s)", (event.sequence_number,))

    numbers = begin(database, Sends, 10)
    reporter = Reporter(database)
    assert build(database, Sends) is Result.FAILED
    ((position, error),) = reporter.ask(REBUILD)
    assert position == 0
    assert error.startswith('"journal" cannot be rebuilt beside its tables: it writes public.outbox, which is not one')
    for statement in (
        "UPDATE public.journal SET sequence_number = 0 WHERE sequence_number = %s",
        "TRUNCATE outbox -- %s",
    ):
        Sends.statement = statement
        assert build(database, Sends) is Result.FAILED
        assert "it writes public." in reporter.ask(REBUILD)[0][1]
    assert reporter.ask(b"SELECT count(*) FROM outbox") == [(10,)]
    assert reporter.applied() == numbers
    assert reporter.checkpoint()["status"] == "rebuilding"
    Sends.statement = ""
    assert build(database, Sends) is Result.FINISHED
    assert reporter.ask(b"SELECT count(*) FROM outbox") == [(10,)]


@pytest.mark.parametrize(
    ("tables", "schema", "told"),
    [
        (
            ("journal",),
            "CREATE TABLE IF NOT EXISTS public.journal (sequence_number bigint)",
            "does not make journal in",
        ),
        (("journal",), "", "does not make journal in"),
        (("public.journal",), "", "it names them with their schema (public.journal)"),
        (
            ("journal",),
            "CREATE TABLE IF NOT EXISTS journal (n bigint); UPDATE public.journal SET sequence_number = 0",
            "its `schema` changes public.journal",
        ),
    ],
)
def test_a_schema_that_leaves_the_space_is_refused(
    database: Database, tables: tuple[str, ...], schema: str, told: str
) -> None:
    begin(database, journal(), 5)
    projection = type("Journal", (journal(),), {"name": "journal", "tables": tables, "schema": schema})
    assert build(database, projection) is Result.FAILED
    reporter = Reporter(database)
    ((_, error),) = reporter.ask(REBUILD)
    assert told in error
    assert "--in-place" in error
    assert reporter.ask(SPACES) == []
    assert reporter.applied() == [1, 2, 3, 4, 5]


def test_a_role_that_may_not_create_schemas_is_told_so_and_may_use_one_that_was_given_to_it(
    database: Database,
) -> None:
    numbers = begin(database, journal())
    admin = database.connect()
    role = database.name.replace("test", "builder")
    admin.execute(f"CREATE ROLE {role} LOGIN")
    try:
        admin.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}; ALTER TABLE journal OWNER TO {role}")
        admin.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}; GRANT CREATE ON SCHEMA public TO {role}")
        lowly = Database(database.server, database.name)
        dsn = database.dsn.replace("postgres@", f"{role}@")
        with patch.object(Database, "dsn", dsn):
            assert build(lowly, journal()) is Result.FAILED
        ((_, error),) = admin.execute(REBUILD).fetchall()
        assert (
            f'run GRANT CREATE ON DATABASE {database.name} TO {role}, or CREATE SCHEMA "{SPACE}" AUTHORIZATION' in error
        )
        admin.execute(f"CREATE SCHEMA {SPACE} AUTHORIZATION {role}")
        with patch.object(Database, "dsn", dsn):
            assert build(lowly, journal()) is Result.FINISHED
        # It could not be made again, so it is only emptied.
        assert admin.execute(SPACES).fetchall() == [(SPACE,)]
        assert value(admin, "SELECT count(*) FROM pg_class WHERE relnamespace = %s::regnamespace", SPACE) == 0
        assert sorted(Reporter(database).applied()) == numbers
    finally:
        admin.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


# --- what goes wrong


def test_a_bad_event_stops_the_replay_with_its_name_and_the_live_projection_goes_on(database: Database) -> None:
    class Picky(Projection):
        name = "journal"
        tables = ("journal",)
        schema = journal().schema
        is_broken = True

        @handles("*")
        def note(self, event: Event, db: Connection) -> None:
            if event.is_replay and event.sequence_number == 33 and self.is_broken:
                raise ValueError("no use for it")
            db.execute("INSERT INTO journal (sequence_number) VALUES (%s)", (event.sequence_number,))

    conn = database.connect()
    numbers = append_many(conn, 60)
    with Daemon(database, Picky) as daemon:
        daemon.wait_until_at("journal", numbers[-1])
        daemon.set_status("journal", "rebuilding")
        assert build(database, Picky) is Result.FAILED
        ((position, error),) = daemon.ask(REBUILD)
        assert position == 32
        assert 'event 33 ("Counted"' in error
        assert error.endswith("ValueError: no use for it; put it right, then ask for it again")
        assert daemon.log.lines(logs.REBUILD_FAILED)[0]["error"] == error
        numbers.append(append(conn, "OrderPlaced"))
        daemon.wait_until_at("journal", numbers[-1])
        assert daemon.checkpoint()["status"] == "rebuilding"
        Picky.is_broken = False
        assert build(database, Picky) is Result.FINISHED
        assert daemon.applied() == numbers


def test_the_dead_letters_of_the_new_history_take_the_place_of_the_old_ones(database: Database) -> None:
    conn = database.connect()
    kinds = ["Good", "Bad", "Good", "Bad", "Good"]
    numbers = [append(conn, kind) for kind in kinds]
    bad = {2}

    class Skips(Projection):
        name = "journal"
        tables = ("journal",)
        schema = journal().schema
        on_error = "skip"
        max_attempts = 1

        @handles("*")
        def note(self, event: Event, db: Connection) -> None:
            if event.sequence_number in bad:
                raise ValueError("no use for it")
            db.execute("INSERT INTO journal (sequence_number) VALUES (%s)", (event.sequence_number,))

    letters = b"SELECT sequence_number FROM projection_dead_letters WHERE projection_name = 'journal'"
    with Daemon(database, Skips) as daemon:
        daemon.wait_until_at("journal", numbers[-1])
        assert daemon.ask(letters) == [(2,)]
        daemon.set_status("journal", "rebuilding")
        bad.clear()
        bad.add(4)
        assert build(database, Skips) is Result.FINISHED
        assert daemon.ask(letters) == [(4,)]
        assert daemon.applied() == [1, 2, 3, 5]


def test_what_is_left_of_a_rebuild_is_dropped_at_the_next_start(database: Database) -> None:
    begin(database, journal())
    with databases.connect(database.dsn, role="test", statement_timeout_seconds=30) as db:
        spaces.make_for_rebuild(db, define(journal()), "one")
        # Its builder was killed before it could tidy up, and the rebuild called off.
        db.execute("UPDATE projection_checkpoints SET status = 'running'")
    reporter = Reporter(database)
    assert reporter.ask(SPACES) == [(SPACE,)]
    with Daemon(database, journal()) as daemon:
        eventually(lambda: daemon.ask(SPACES) == [])


def test_a_space_that_something_depends_on_is_not_dropped_with_it(database: Database) -> None:
    begin(database, journal())
    conn = database.connect()
    with databases.connect(database.dsn, role="test", statement_timeout_seconds=30) as db:
        space = spaces.make_for_rebuild(db, define(journal()), "one")
        conn.execute(f"CREATE VIEW peek AS SELECT * FROM {SPACE}.journal")
        with pytest.raises(Exception, match=r"public\.peek would go, or lose a column, with it"):
            spaces.drop(db, space.schema)
        with pytest.raises(Exception, match=r"public\.peek would go, or lose a column, with it"):
            spaces.make_for_rebuild(db, define(journal()), "two")
        assert conn.execute("SELECT * FROM peek").fetchall() == []


class KilledConnection:
    """Kills the builder's session before its nth statement of the finish."""

    def __init__(self, admin: psycopg.Connection[Any], at: int) -> None:
        self.admin = admin
        self.left = at
        self.is_finishing = False

    def note(self, db: Connection) -> None:
        if not self.is_finishing or self.left < 0:
            return
        self.left -= 1
        if self.left == 0:
            self.admin.execute("SELECT pg_terminate_backend(%s, 5000)", (db.info.backend_pid,))
            self.left = -1


@pytest.mark.faults
@pytest.mark.any_server
def test_a_builder_that_dies_in_the_finish_leaves_the_old_state_with_the_progress_or_the_new_one(
    database: Database,
) -> None:
    numbers = begin(database, journal())
    reporter, admin = Reporter(database), database.connect()
    execute = Connection.execute
    points = 0
    is_killed = True
    while is_killed:
        points += 5
        admin.execute("DELETE FROM journal WHERE sequence_number = 7")
        old = sorted(reporter.applied())
        reporter.set_status("journal", "rebuilding")
        killing = KilledConnection(admin, points)

        def counted(db: Connection, *args: Any, killing: KilledConnection = killing, **kwargs: Any) -> Any:  # noqa: ANN401
            if args and args[0] == statements.LIFT_TIMEOUTS:
                killing.is_finishing = True
            if db.info.parameter_status("application_name") == "projectiond/builder":
                killing.note(db)
            return execute(db, *args, **kwargs)

        with patch.object(Connection, "execute", counted):
            result = build(database, journal())
        is_killed = result is Result.INTERRUPTED
        if is_killed:
            assert sorted(reporter.applied()) == old
            assert reporter.checkpoint()["status"] == "rebuilding"
            ((position, _),) = reporter.ask(REBUILD)
            assert position == numbers[-1]
            assert build(database, journal()) is Result.FINISHED
        assert sorted(reporter.applied()) == numbers
        assert reporter.checkpoint()["position"] == numbers[-1]
        assert nothing_is_left(reporter)
    assert points > 20


@pytest.mark.faults
def test_a_rebuild_goes_on_after_the_servers_crash(own_server: LocalServer, own_database: Database) -> None:
    gate = Gate(at=31)
    numbers = begin(own_database, gated(gate))
    with building(own_database, gated(gate), batch_size=10, checkpoint_every=10) as running:
        assert gate.is_reached.wait(WAIT_SECONDS)
        own_server.restart("immediate")
        gate.open()
        assert running.wait() in {Result.INTERRUPTED, Result.FINISHED}
    reporter = Reporter(own_database)
    if reporter.checkpoint()["status"] == "rebuilding":
        assert build(own_database, gated(gate)) is Result.FINISHED
    assert reporter.applied() == numbers
    assert nothing_is_left(reporter)


# --- what is not to be lost, or left


@pytest.mark.any_server
def test_a_paused_rebuild_that_is_called_off_leaves_nothing(database: Database) -> None:
    gate = Gate(at=31)
    append_many(database.connect(), 60)
    with Daemon(database, gated(gate)) as daemon:
        daemon.wait_until_at("journal", 60)
        daemon.set_status("journal", "rebuilding")
        with building(database, gated(gate), batch_size=10, checkpoint_every=10) as running:
            assert gate.is_reached.wait(WAIT_SECONDS)
            daemon.set_status("journal", "paused")
            gate.open()
            assert running.wait() is Result.NOTHING
        daemon.log.wait_for(logs.PROJECTION_PAUSED)
        assert daemon.ask(SPACES) == [(SPACE,)]
        daemon.set_status("journal", "running")
        eventually(lambda: nothing_is_left(daemon), 10, "the space was left")


@pytest.mark.any_server
def test_a_space_that_cannot_be_dropped_keeps_no_other_projection_waiting(database: Database) -> None:
    begin(database, journal())
    begin(database, journal("other"))
    conn = database.connect()
    with databases.connect(database.dsn, role="test", statement_timeout_seconds=30) as db:
        spaces.make_for_rebuild(db, define(journal()), "one")
    conn.execute(f"CREATE VIEW mine AS SELECT * FROM {SPACE}.journal")
    conn.execute("UPDATE projection_checkpoints SET status = 'running' WHERE projection_name = 'journal'")
    with captured_log() as log:
        assert build(database, journal("other")) is Result.FINISHED
        assert "public.mine" in log.lines(logs.REBUILD_FAILED, projection="journal")[0]["error"]


@pytest.mark.any_server
def test_the_wish_for_a_rebuild_in_place_is_not_overridden_by_a_builder_that_begins(database: Database) -> None:
    begin(database, journal())
    make = spaces._make

    def make_and_think_again(*arguments: Any) -> None:  # noqa: ANN401
        make(*arguments)
        with databases.connect(database.dsn, role="test", statement_timeout_seconds=30) as db:
            steering.rebuild(db, "journal", is_in_place=True)

    with patch.object(spaces, "_make", make_and_think_again):
        assert build(database, journal()) is Result.NOTHING
    assert Reporter(database).ask(b"SELECT mode, is_begun FROM projection_rebuilds") == [("in place", False)]
    assert Reporter(database).ask(SPACES) == []


@pytest.mark.any_server
def test_in_place_is_asked_for_though_a_builder_has_said_why_it_cannot_begin(database: Database) -> None:
    begin(database, journal())
    with databases.connect(database.dsn, role="test", statement_timeout_seconds=30) as db:
        note_failure(db, "journal", "it cannot begin")
        # As if that had been written between the two statements of the request.
        db.execute(sql.steering.ASK_IN_PLACE, {"name": "journal"})
    assert Reporter(database).ask(b"SELECT mode, error_message FROM projection_rebuilds") == [("in place", None)]


@pytest.mark.any_server
@pytest.mark.parametrize(
    ("thing", "kind"),
    [
        ("VIEW per_day AS SELECT 1 AS n", "view"),
        ("TYPE mood AS ENUM ('ok')", "type"),
        ("TABLE journal (n int)", "table"),
    ],
)
def test_what_schema_drops_to_make_it_anew_is_not_dropped_where_it_is_served(
    database: Database, thing: str, kind: str
) -> None:
    begin(database, journal())
    conn = database.connect()
    name = thing.split()[1]
    if name != "journal":
        conn.execute(f"CREATE {thing}".encode())
    schema = f"DROP {kind} IF EXISTS {name}; CREATE {thing}; {journal().schema}"
    assert build(database, journal(schema=schema)) is Result.FAILED
    assert f"its `schema` drops {kind} public.{name}" in Reporter(database).ask(REBUILD)[0][1]
    assert Reporter(database).applied() == [*range(1, 61)]
    if name != "journal":
        conn.execute(f"DROP {kind} {name}".encode())
        # Its own it may drop again.
        assert build(database, journal(schema=f"{schema}; DROP {kind} {name}")) is Result.FINISHED


@pytest.mark.any_server
def test_an_extension_is_not_made_in_the_space_and_dropped_with_it(database: Database) -> None:
    begin(database, journal())
    schema = f"CREATE EXTENSION IF NOT EXISTS citext; {journal().schema}"
    assert build(database, journal(schema=schema)) is Result.FAILED
    assert "CREATE EXTENSION citext in the database" in Reporter(database).ask(REBUILD)[0][1]


@pytest.mark.any_server
def test_what_keeps_the_live_tables_from_becoming_it_is_said_before_anything_is_replayed(database: Database) -> None:
    begin(database, journal())
    database.connect().execute("CREATE RULE nothing AS ON UPDATE TO journal DO NOTHING")
    assert build(database, journal()) is Result.FAILED
    position, error = Reporter(database).ask(REBUILD)[0]
    assert position == 0
    assert "has rules" in error


@pytest.mark.any_server
def test_going_back_is_seen_without_a_notification_and_not_undone_by_on_change(database: Database) -> None:
    begin(database, journal())
    wide = journal(schema=journal().schema.replace("sequence_number bigint", "more int, sequence_number bigint"))
    assert build(database, wide) is Result.FINISHED
    with (
        Daemon(database, journal(), wakeup="poll", poll_interval_seconds=0.1) as daemon,
        databases.connect(database.dsn, role="test", statement_timeout_seconds=30) as db,
    ):
        numbers = append_many(database.connect(), 5)
        daemon.wait_until_at("journal", numbers[-1])
        with db.transaction():
            assert retired.roll_back(db, "journal").position == 60
        daemon.wait_until_at("journal", numbers[-1])
        assert daemon.applied() == daemon.stored()
        limits = resolve_limits(define(wide), Settings(on_change="rebuild"))
        assert not meet_tables(db, define(wide), limits)
        assert daemon.checkpoint()["status"] == "running"


@pytest.mark.any_server
def test_a_rebuild_begins_afresh_after_an_upgrade_that_added_columns(database: Database) -> None:
    begin(database, journal())
    with databases.connect(database.dsn, role="test", statement_timeout_seconds=30) as db:
        spaces.make_for_rebuild(db, define(journal()), define(journal()).fingerprint.digest)
    database.connect().execute("ALTER TABLE projection_dead_letters ADD COLUMN later int")
    with captured_log() as log:
        assert build(database, journal()) is Result.FINISHED
        assert "columns" in log.lines(logs.REBUILD_STARTED)[0]["reason"]
