"""What built the tables of a projection is written down; a daemon that has other code acts on it, once."""

from collections.abc import Iterator
from typing import Any

import pytest

from projectiond import logs
from projectiond.builds.build import Build, read_builds, record_build
from projectiond.builds.change import meet_tables
from projectiond.event import Event
from projectiond.plugins.definition import Definition
from projectiond.plugins.limits import resolve_limits
from projectiond.plugins.registry import define
from projectiond.postgres import database as databases
from projectiond.postgres.database import Connection
from projectiond.projection import Projection, handles
from projectiond.running import report
from projectiond.running.preparation import enroll
from projectiond.settings import Settings
from tests.support.daemon import Daemon, Log, captured_log
from tests.support.events import append_many
from tests.support.postgres import Database

pytestmark = pytest.mark.integration


def old(**options: object) -> type[Projection]:
    class Counter(Projection):
        tables = ("counter",)
        schema = "CREATE TABLE IF NOT EXISTS counter (n bigint)"

        @handles("*")
        def note(self, event: Event, db: Connection) -> None:
            db.execute("INSERT INTO counter VALUES (%s)", (event.sequence_number,))

    for name, value in options.items():
        setattr(Counter, name, value)
    return Counter


def new(**options: object) -> type[Projection]:
    class Counter(Projection):
        tables = ("counter",)
        schema = "CREATE TABLE IF NOT EXISTS counter (n bigint)"

        @handles("*")
        def note(self, event: Event, db: Connection) -> None:
            db.execute("INSERT INTO counter VALUES (%s)", (-event.sequence_number,))

    for name, value in options.items():
        setattr(Counter, name, value)
    return Counter


@pytest.fixture
def db(database: Database) -> Iterator[Connection]:
    with databases.connect(database.dsn, role="runner", statement_timeout_seconds=30) as db:
        yield db


@pytest.fixture
def log() -> Iterator[Log]:
    with captured_log() as log:
        yield log


def meet(db: Connection, projection: type[Projection] | Definition, **settings: Any) -> bool:  # noqa: ANN401
    definition = projection if isinstance(projection, Definition) else define(projection)
    return meet_tables(db, definition, resolve_limits(definition, Settings(**settings)))


def build(db: Connection) -> Build:
    return read_builds(db)["counter"]


def status(db: Connection) -> tuple[str, str | None]:
    ((status, error),) = db.execute("SELECT status, error_message FROM projection_checkpoints").fetchall()
    return status, error


def test_a_projection_on_empty_tables_is_recorded_with_its_row(db: Connection) -> None:
    enroll(db, define(old()))
    assert (build(db).built_by, build(db).digest) == ("enrolled", define(old()).fingerprint.digest)
    assert build(db).fingerprint == define(old()).fingerprint


def test_tables_that_hold_rows_already_are_not_taken_for_its_own(db: Connection) -> None:
    db.execute("CREATE TABLE counter (n bigint); INSERT INTO counter VALUES (1)")
    enroll(db, define(old()))
    assert read_builds(db) == {}


def test_what_was_built_before_anybody_wrote_it_down_is_adopted_once(db: Connection, log: Log) -> None:
    db.execute("INSERT INTO projection_checkpoints (projection_name) VALUES ('counter')")
    assert not meet(db, old())
    assert (build(db).built_by, build(db).fingerprint) == ("adopted", define(old()).fingerprint)
    assert not meet(db, new())
    assert build(db).fingerprint == define(old()).fingerprint
    assert len(log.lines(logs.PROJECTION_CHANGED)) == 1


def test_a_change_is_told_once_and_again_after_it_was_taken_back(db: Connection, log: Log) -> None:
    enroll(db, define(old()))
    for projection in (old(), new(), new(), old(), new()):
        assert not meet(db, projection)
    lines = log.lines(logs.PROJECTION_CHANGED, projection="counter", level="warning")
    assert [line["changed"] for line in lines] == ["Counter.note changed, schema unchanged"] * 2
    assert "projectiond plan counter" in lines[0]["action"]
    assert status(db) == ("running", None)


def test_a_change_can_rebuild_but_not_again_after_it_was_called_off(db: Connection) -> None:
    enroll(db, define(old()))
    assert meet(db, new(), on_change="rebuild")
    assert status(db)[0] == "rebuilding"
    db.execute("UPDATE projection_checkpoints SET status = 'running'")
    assert not meet(db, new(), on_change="rebuild")
    assert status(db)[0] == "running"


def test_a_change_can_pause_with_its_reason_and_resuming_lets_it_go_on(db: Connection) -> None:
    enroll(db, define(old()))
    assert meet(db, new(on_change="pause"))
    paused, error = status(db)
    assert paused == "paused"
    assert error is not None
    assert '"counter" were built by something else (Counter.note changed, schema unchanged); run "projectiond' in error
    db.execute("UPDATE projection_checkpoints SET status = 'running'")
    assert not meet(db, new(on_change="pause"))


def test_old_and_new_code_side_by_side_do_not_rebuild_in_turns(db: Connection, log: Log) -> None:
    enroll(db, define(old()))
    assert meet(db, new(), on_change="rebuild")
    record_build(db, define(new()))
    db.execute("UPDATE projection_checkpoints SET status = 'running'")
    assert not meet(db, old(), on_change="rebuild")
    assert "just been rebuilt by other code" in log.lines(logs.PROJECTION_CHANGED)[-1]["action"]


def test_the_version_is_taken_over_while_the_code_is_the_same(db: Connection) -> None:
    enroll(db, define(old()))
    meet(db, old(version="1"))
    assert build(db).fingerprint == define(old(version="1")).fingerprint
    # From now on it stands for the code.
    assert not build(db).difference_to(define(new(version="1")))
    assert build(db).difference_to(define(new(version="2"))).parts == ("version 1 is now 2",)


def test_a_build_in_a_form_of_another_day_is_adopted_anew(db: Connection) -> None:
    enroll(db, define(old()))
    db.execute("UPDATE projection_builds SET fingerprint = jsonb_set(fingerprint, '{format}', '0')")
    assert not build(db).difference_to(define(new()))
    assert not meet(db, new(), on_change="rebuild")
    assert build(db).fingerprint == define(new()).fingerprint


def test_the_daemon_acts_on_a_change_and_knows_how_fast_it_once_caught_up(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "MEASURED_EVENTS", 500)
    append_many(database.connect(), 1200)
    with Daemon(database, old(), batch_size=100) as daemon:
        daemon.wait_until_at("counter", 1200)
        daemon.log.wait_for(logs.PROJECTION_CAUGHT_UP)
    with Daemon(database, new(), on_change="pause") as daemon:
        assert "were built by something else" in daemon.wait_for_status("counter", "paused")["error"]
        daemon.set_status("counter", "running")
        append_many(database.connect(), 1)
        daemon.wait_until_at("counter", 1201)
        assert daemon.ask(b"SELECT min(n), count(*) FROM counter") == [(-1201, 1201)]
        assert daemon.ask(b"SELECT events_per_second > 0 FROM projection_builds") == [(True,)]
