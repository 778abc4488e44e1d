"""The roster: status knows who runs what and since when, and in what workers differ."""

import os
import socket
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from projectiond import sql
from projectiond.cli.picture import _remarks_on_workers
from projectiond.leases.lease import Leases
from projectiond.leases.roster import LiveWorker, differences, enter_worker, note_held, read_roster
from projectiond.operating.overview import Overview, as_object, read_overview
from projectiond.postgres import database as databases
from tests.support.daemon import Daemon, journal
from tests.support.postgres import Database
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


def read(database: Database) -> Overview:
    with databases.connect(database.dsn, role="test", statement_timeout_seconds=30) as db:
        return read_overview(db, None)


def worker_of(*projections: str, version: str = "1.0", number: int = 1) -> LiveWorker:
    return LiveWorker(number, "web", 7, number, version, projections, NOON, {})


@pytest.mark.any_server
def test_status_says_who_runs_a_projection_and_since_when(database: Database) -> None:
    before = datetime.now(UTC) - timedelta(minutes=1)
    with Daemon(database, journal()):
        (state,) = eventually(lambda: [s for s in read(database).projections if s.runner and s.runner.since])
        overview = read(database)
        runner = state.runner
        assert runner is not None
        assert (runner.host, runner.process_id, runner.worker) == (socket.gethostname(), os.getpid(), 1)
        assert runner.since is not None
        assert runner.since > before
        shape = as_object(overview)
        assert shape["projections"][0]["runner"]["since"] == runner.since.isoformat()
        assert shape["roster"][0]["projections"] == ["journal"]
        assert any(line.endswith("runs journal (for 0 s)") for line in _remarks_on_workers(overview))
    assert not read(database).roster
    assert read(database).projections[0].runner is None


@pytest.mark.any_server
def test_a_worker_that_has_died_is_told_no_more_and_is_removed_by_the_next(database: Database) -> None:
    conn = database.connect()
    with databases.connect(database.dsn, role="leases", statement_timeout_seconds=30) as db:
        Leases(db, ["a"])
        enter_worker(db, 1, "1.0", ["a"])
        note_held(db, ["a", "b"])
        (before,) = read_roster(db)
        note_held(db, ["c", "b"])
        (worker,) = read_roster(db)
        assert worker.held_since.keys() == {"b", "c"}
        assert worker.held_since["b"] == before.held_since["b"] < worker.held_since["c"]
        note_held(db, [])
        assert not read_roster(db)[0].held_since
    with databases.connect(database.dsn, role="leases", statement_timeout_seconds=30) as db:
        eventually(lambda: read_roster(db) == [])
        Leases(db, ["a"])
        enter_worker(db, 2, "1.0", ["a"])
        assert [known.number for known in read_roster(db)] == [2]
    assert conn.execute("SELECT array_agg(worker_number) FROM projection_workers").fetchone() == ([2],)


@pytest.mark.any_server
def test_whoever_may_not_read_the_roster_still_sees_the_rest(database: Database) -> None:
    conn = database.connect()
    conn.execute("DROP TABLE projection_workers")
    assert not read(database).roster
    with databases.connect(database.dsn, role="leases", statement_timeout_seconds=30) as db:
        db.execute(sql.leases.REGISTER_WORKER, {"key": sql.keys.WORKERS_KEY})
        assert read(database).live_workers == 1
        with pytest.raises(psycopg.errors.UndefinedTable):
            enter_worker(db, 1, "1.0", [])


def test_workers_that_differ_are_told() -> None:
    assert differences([worker_of("a"), worker_of("a", number=2)]) == []
    (versions,) = differences([worker_of("a"), worker_of("a", number=2, version="2.0")])
    assert versions == (
        "workers of several versions of projectiond are connected: 1.0 (worker 1 of web, pid 7), "
        "2.0 (worker 2 of web, pid 7); let one deployment end"
    )
    (sets,) = differences([worker_of("a", "b"), worker_of("b", number=2)])
    assert "worker 1 of web, pid 7 has a; worker 2 of web, pid 7 has no more than the others" in sets
