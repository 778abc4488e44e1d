"""Rebuilds by the real daemon that are killed at random moments, through replay and finish, by merge and by swap.

A builder or the supervisor gets SIGKILL, or the server is stopped immediately and started again.  Meanwhile a writer
appends, and a reader looks in REPEATABLE READ transactions whether position and rows belong together.  After each
rebuild the table must equal what SQL counts, and nothing of the rebuild may be left.  `PROJECTIOND_TEST_KILLS=100`
kills so often, which takes some minutes; with -rP it says what was done.
"""

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.daemon import Reporter
from tests.support.events import append, append_many
from tests.support.postgres import Database, LocalServer
from tests.support.process import DaemonProcess
from tests.support.waiting import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.faults, pytest.mark.any_server, pytest.mark.timeout(1200)]

KILLS = int(os.environ.get("PROJECTIOND_TEST_KILLS", "4"))
EVENTS = 10_000

# So many in one rebuild; then it may finish in peace.
MOST_KILLS_OF_ONE = 8

PLUGIN = """
from projectiond import Connection, Event, Projection, handles


class Tally(Projection):
    tables = ("tally",)
    schema = '''CREATE TABLE IF NOT EXISTS tally (
        remainder bigint PRIMARY KEY, total bigint NOT NULL{column})'''

    @handles("*")
    def count(self, event: Event, db: Connection) -> None:
        db.execute(
            "INSERT INTO tally (remainder, total) VALUES (%s, 1) "
            "ON CONFLICT (remainder) DO UPDATE SET total = tally.total + 1",
            (event.sequence_number % 97,),
        )
"""

LOOK = b"""
SELECT
    last_sequence_number,
    (SELECT sum(total) FROM tally),
    (SELECT count(*) FROM event_store WHERE sequence_number <= last_sequence_number)
FROM projection_checkpoints
WHERE projection_name = 'tally'
"""

DIFFERENCES = b"""
SELECT *
FROM (SELECT remainder, total FROM tally) AS live
FULL JOIN (SELECT sequence_number % 97 AS remainder, count(*) AS total FROM event_store GROUP BY 1) AS wanted
    USING (remainder)
WHERE live.total IS DISTINCT FROM wanted.total
"""

SPACES = b"SELECT nspname FROM pg_namespace WHERE nspname LIKE 'projectiond\\_rebuild\\_%'"
POSITION = b"SELECT position_sequence_number FROM projection_rebuilds WHERE projection_name = 'tally'"


class Again(threading.Thread):
    """Does something on a connection again and again, a new one where the server was restarted."""

    def __init__(self, database: Database, pause_seconds: float) -> None:
        super().__init__(daemon=True)
        self._database = database
        self._pause_seconds = pause_seconds
        self.is_over = threading.Event()
        self.count = 0

    def run(self) -> None:
        while not self.is_over.is_set():
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self._database.dsn) as conn:
                conn.autocommit = True
                while not self.is_over.wait(self._pause_seconds):
                    self.act(conn)
                    self.count += 1

    def act(self, conn: psycopg.Connection) -> None:
        raise NotImplementedError


class Writer(Again):
    def act(self, conn: psycopg.Connection) -> None:
        append(conn, "OrderPlaced")


class Reader(Again):
    def __init__(self, database: Database, pause_seconds: float) -> None:
        super().__init__(database, pause_seconds)
        self.inconsistent: list[object] = []

    def act(self, conn: psycopg.Connection) -> None:
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with conn.transaction():
            row = conn.execute(LOOK).fetchone()
        if row is None or row[1] != row[2]:
            self.inconsistent.append(row)


@contextlib.contextmanager
def at_work(*threads: Again) -> Iterator[None]:
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.is_over.set()
        thread.join(20)


def kill(daemon: DaemonProcess, server: LocalServer, chance: random.Random) -> str:
    """Kill something; give what."""
    what = chance.choice(["builder", "builder", "supervisor", "server"])
    if what == "builder":
        builders = daemon.builder_pids()
        for pid in builders:
            os.kill(pid, signal.SIGKILL)
        return what if builders else ""
    if what == "supervisor":
        daemon.kill()
        daemon.start()
        return what
    server.restart("immediate")
    if not daemon.is_running():
        # It had found no database at its start.
        daemon.start()
    return what


def status_of(reporter: Reporter) -> str:
    with contextlib.suppress(psycopg.OperationalError):
        return str(reporter.checkpoint("tally").get("status"))
    return "unknown"


def rebuilt_upto(reporter: Reporter) -> int | None:
    """Give how far the rebuild is; None when it is over."""
    found = reporter.ask(POSITION)
    return int(found[0][0]) if found else None


def test_a_rebuild_that_is_killed_leaves_the_old_state_or_the_new_one(
    own_server: LocalServer, own_database: Database, tmp_path: Path
) -> None:
    plugins = tmp_path / "projections"
    plugins.mkdir()
    chance = random.Random(11)  # noqa: S311 -- load, not secrets
    reporter = Reporter(own_database)
    append_many(own_database.connect(), EVENTS)
    done: Counter[str] = Counter()
    settings = {"workers": 1, "batch_size": 200, "rebuild_niceness": 0, "catchup_transaction_seconds": 0.05}
    (plugins / "tally.py").write_text(PLUGIN.format(column=""))
    writer, reader = Writer(own_database, 0.01), Reader(own_database, 0.005)
    with DaemonProcess(own_database.dsn, plugins, tmp_path / "log", **settings) as daemon:
        reporter.wait_until_at("tally", EVENTS, 60)
        with at_work(writer, reader):
            rounds = 0
            while done["builder"] + done["supervisor"] + done["server"] < KILLS:
                is_swap = rounds % 2 == 1
                rounds += 1
                if is_swap:
                    # Another shape each time: the tables that are served take the place of the former ones.
                    (plugins / "tally.py").write_text(PLUGIN.format(column=f", shape_{rounds} integer"))
                    daemon.kill()
                    daemon.start()
                reporter.set_status("tally", "rebuilding")
                run_rebuild(daemon, own_server, reporter, chance, done)
                eventually(lambda: reporter.ask(SPACES) == [], 30, "the rebuild has left something behind")
                done["swapped" if is_swap else "merged"] += 1
        last = reporter.stored()[-1]
        reporter.wait_until_at("tally", last, 60)
        assert reporter.ask(DIFFERENCES) == []
        assert reporter.checkpoint("tally")["error"] is None
        assert daemon.is_running()
    assert reader.inconsistent == []
    assert reader.count > KILLS
    print(f"{dict(done)}, {writer.count} events meanwhile, {reader.count} looks")  # noqa: T201 -- for a run by hand


def run_rebuild(
    daemon: DaemonProcess, server: LocalServer, reporter: Reporter, chance: random.Random, done: Counter[str]
) -> None:
    """Kill at random moments until the rebuild is done; see that it does not fall back."""
    reached, kills = 0, 0
    deadline = time.monotonic() + 240
    while (status := status_of(reporter)) != "running":
        assert status in {"rebuilding", "unknown"}, reporter.checkpoint("tally")
        assert time.monotonic() < deadline, reporter.ask(b"SELECT * FROM projection_rebuilds")
        time.sleep(chance.uniform(0.02, 1.2))
        if not daemon.is_running():
            daemon.start()
        if kills < MOST_KILLS_OF_ONE and (what := kill(daemon, server, chance)):
            done[what] += 1
            kills += 1
            position = rebuilt_upto(reporter)
            if position is not None:
                assert position >= reached, "the rebuild began anew"
                reached = position
