"""A real event log, appended by eight writers at once while all kinds of projection run: no event lost or repeated.

Three times over: undisturbed; with the daemon killed (SIGKILL, the supervisor or a worker) at random moments; with the
server stopped immediately and started again. Afterwards each read model must equal what SQL computes from the store.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.postgres import Database, LocalServer
from tests.support.process import DaemonProcess
from tests.support.queries import value
from tests.support.real_events import EXPECTED, HAS_TIME, PLUGIN, Writers, needs_real_events, read_events
from tests.support.waiting import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.slow, pytest.mark.timeout(400), needs_real_events]

# Enough for many batches, rollbacks and disturbances. The whole log has 262,200.
UNDISTURBED = None if HAS_TIME else 40_000
DISTURBED = 40_000 if HAS_TIME else 20_000

# On a slow machine hardly anything is done between one disturbance and the next; it would never end.
MAX_CRASHES = 100 if HAS_TIME else 6
MAX_KILLS = 100 if HAS_TIME else 12

SETTINGS = {"workers": 2, "pool_size": 8, "batch_size": 500, "checkpoint_every": 100, "statement_timeout_seconds": 10}


@pytest.fixture
def daemon(own_database: Database, tmp_path: Path) -> Iterator[DaemonProcess]:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "loans.py").write_text(PLUGIN)
    with DaemonProcess(own_database.dsn, plugins, tmp_path / "daemon.log", **SETTINGS) as running:
        yield running
        # Shown where the test has failed.
        sys.stdout.writelines(running.log_file.read_text().splitlines(keepends=True)[-200:])


def behind(database: Database, end: int) -> list[object]:
    """Return the rows of the projections that have not reached the end, or why that cannot be told just now."""
    try:
        with psycopg.connect(database.dsn, autocommit=True) as conn:
            rows = conn.execute(
                "SELECT last_sequence_number, projection_name, status, error_message FROM projection_checkpoints"
            ).fetchall()
    except psycopg.OperationalError as error:
        return [error]
    missing = EXPECTED.keys() - {row[1] for row in rows}
    return [*missing, *(row for row in rows if row[0] < end)]


def check_caught_up(database: Database, end: int) -> bool:
    late = behind(database, end)
    assert not late, f"the end is {end}, and behind are {late}"
    return True


def check_read_models(database: Database) -> None:
    """Compare each read model with what SQL says, row by row, and the daemon's own figures with both."""
    conn = database.connect()
    end = value(conn, "SELECT max(sequence_number) FROM event_store")
    for name, (actual, expected, handled) in EXPECTED.items():
        surplus = conn.execute(f"SELECT count(*) FROM ({actual} EXCEPT ALL {expected}) AS surplus".encode()).fetchone()
        missing = conn.execute(f"SELECT count(*) FROM ({expected} EXCEPT ALL {actual}) AS missing".encode()).fetchone()
        assert (surplus, missing) == ((0,), (0,)), f"{name} differs from what the store says"
        checkpoint = conn.execute(
            "SELECT last_sequence_number, events_processed, status, error_message FROM projection_checkpoints "
            "WHERE projection_name = %s",
            (name,),
        ).fetchone()
        assert checkpoint == (end, value(conn, handled.replace("%%", "%")), "running", None)
    audit = conn.execute(
        """
        SELECT count(*), count(DISTINCT sequence_number), bool_and(sequence_number > before IS NOT FALSE)
        FROM (SELECT sequence_number, lag(sequence_number) OVER (ORDER BY place) AS before FROM loan_audit) AS lines
        """
    ).fetchone()
    stored = value(conn, "SELECT count(*) FROM event_store")
    assert audit == (stored, stored, True), "the audit shows an event applied twice, never, or out of order"


def run_log(database: Database, disturb: Callable[[], None], limit: int | None) -> None:
    """Write the log, disturb while it is written and applied, then compare."""
    events = list(read_events(limit))
    writers = Writers(database.dsn, events)
    writers.start()
    while writers.is_busy():
        disturb()
    writers.join(10)
    assert writers.rollbacks > 0
    end = value(database.connect(), "SELECT max(sequence_number) FROM event_store")
    assert value(database.connect(), "SELECT count(*) FROM event_store") == len(events) < end
    deadline = time.monotonic() + 240
    while behind(database, end) and time.monotonic() < deadline:
        disturb()
    eventually(lambda: check_caught_up(database, end), 30, "the projections did not reach the end of the store")
    check_read_models(database)


def pause(seconds: float) -> None:
    """Let things go on for a while between two disturbances."""
    time.sleep(seconds)


def test_a_real_log_is_projected_without_losing_or_repeating_an_event(
    own_database: Database, daemon: DaemonProcess
) -> None:
    run_log(own_database, lambda: pause(0.05), UNDISTURBED)
    daemon.send(signal.SIGTERM)
    assert daemon.wait() == 0
    assert not daemon.log_lines("projection.paused")


@pytest.mark.faults
def test_a_real_log_survives_the_daemon_being_killed_at_random_moments(
    own_database: Database, daemon: DaemonProcess
) -> None:
    chance = random.Random(42)  # noqa: S311
    kills = {"supervisor": 0, "worker": 0}

    def kill() -> None:
        pause(chance.uniform(0.3, 2.0))
        if sum(kills.values()) >= MAX_KILLS:
            return
        if chance.random() < 0.5:
            # On a busy machine a daemon that was started just now may have none yet.
            eventually(daemon.worker_pids, 30, "the daemon starts no worker")
            kills["worker"] += 1
            os.kill(chance.choice(daemon.worker_pids()), signal.SIGKILL)
        else:
            kills["supervisor"] += 1
            daemon.kill()
            daemon.start()

    run_log(own_database, kill, DISTURBED)
    assert min(kills.values()) >= 2, kills


@pytest.mark.faults
def test_a_real_log_survives_the_server_being_stopped_immediately_and_restarted(
    own_server: LocalServer, own_database: Database, daemon: DaemonProcess
) -> None:
    chance = random.Random(7)  # noqa: S311
    restarts = 0

    def crash() -> None:
        nonlocal restarts
        pause(chance.uniform(1.0, 4.0))
        if restarts >= MAX_CRASHES:
            return
        restarts += 1
        own_server.restart("immediate")

    # Before that a database that is away ends the daemon, as it should; from then on nothing may.
    eventually(lambda: daemon.log_lines("database.checked"), 60, "the daemon does not start")
    run_log(own_database, crash, DISTURBED)
    assert restarts >= 2
    assert daemon.is_running()
