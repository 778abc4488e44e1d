"""The supervisor as an operator meets it: signals, dead workers, handlers that hang or end the process."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.events import append
from tests.support.postgres import Database
from tests.support.process import DaemonProcess
from tests.support.queries import Connection, value
from tests.support.waiting import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.any_server, pytest.mark.timeout(120)]

# "quiet" is the neighbour that must go on, whatever happens to "trouble".
PLUGIN = """
import os
import time
from pathlib import Path

from projectiond import Connection, Event, Projection, handles


class Quiet(Projection):
    tables = ("quiet",)
    schema = "CREATE TABLE IF NOT EXISTS quiet (place BIGSERIAL, sequence_number BIGINT NOT NULL)"

    @handles("*")
    def note(self, event: Event, db: Connection) -> None:
        db.execute("INSERT INTO quiet (sequence_number) VALUES (%s)", (event.sequence_number,))


class Trouble(Projection):
    tables = ("trouble",)
    schema = "CREATE TABLE IF NOT EXISTS trouble (place BIGSERIAL, sequence_number BIGINT NOT NULL)"

    @handles("*")
    def note(self, event: Event, db: Connection) -> None:
        db.execute("INSERT INTO trouble (sequence_number) VALUES (%s)", (event.sequence_number,))
        if "seconds" in event.data:
            Path("in-handler").write_text(str(event.sequence_number))
            time.sleep(event.data["seconds"])
        if event.event_type == "Exit":
            os._exit(3)
"""

StartDaemon = Callable[..., DaemonProcess]


@pytest.fixture
def start(database: Database, tmp_path: Path) -> Iterator[StartDaemon]:
    """Start daemons on the test's database; they end with the test."""
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "plugin.py").write_text(PLUGIN)
    started: list[DaemonProcess] = []

    def start_one(**settings: object) -> DaemonProcess:
        log_file = tmp_path / f"daemon-{len(started)}.log"
        daemon = DaemonProcess(database.dsn, plugins, log_file, **settings)
        started.append(daemon)
        daemon.start()
        return daemon

    yield start_one
    for daemon in started:
        if daemon.is_running():
            daemon.kill()


def is_in_handler(daemon: DaemonProcess, sequence_number: int) -> bool:
    """Return whether the slow handler has begun with this event; it says so in a file."""
    told = daemon.log_file.parent / "in-handler"
    return told.exists() and told.read_text() == str(sequence_number)


def applied(conn: Connection, table: str) -> list[int]:
    """Return the sequence numbers in the order of their application; none before the table exists."""
    if value(conn, "SELECT to_regclass(%s)", table) is None:
        return []
    return [row[0] for row in conn.execute(f"SELECT sequence_number FROM {table} ORDER BY place".encode())]


def checkpoint(conn: Connection) -> tuple[Any, ...]:
    """Return position, status and error of "trouble"."""
    query = (
        "SELECT last_sequence_number, status, error_message FROM projection_checkpoints "
        "WHERE projection_name = 'trouble'"
    )
    return conn.execute(query).fetchone() or (None, None, None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_transaction_in_hand_finish_and_exits_0(
    database: Database, start: StartDaemon, number: signal.Signals
) -> None:
    daemon = start()
    conn = database.connect()
    append(conn, "Before")
    eventually(lambda: applied(conn, "trouble") == [1])
    slow = append(conn, "Slow", {"seconds": 1.5})
    eventually(lambda: is_in_handler(daemon, slow))
    daemon.send(number)
    assert daemon.wait() == 0
    assert applied(conn, "trouble") == [1, slow]
    assert checkpoint(conn) == (slow, "running", None)
    assert [line["signal"] for line in daemon.log_lines("daemon.draining")] == [number.name]


def test_a_second_signal_ends_at_once(database: Database, start: StartDaemon) -> None:
    daemon = start(handler_timeout_seconds=600, drain_seconds=600)
    conn = database.connect()
    slow = append(conn, "Slow", {"seconds": 500})
    eventually(lambda: is_in_handler(daemon, slow))
    daemon.send(signal.SIGTERM)
    eventually(lambda: daemon.log_lines("daemon.draining"))
    assert daemon.is_running()
    began = time.monotonic()
    daemon.send(signal.SIGTERM)
    assert daemon.wait() == 1
    assert time.monotonic() - began < 5
    assert applied(conn, "trouble") == []


def test_workers_that_do_not_drain_in_time_are_killed_and_nothing_is_applied_twice(
    database: Database, start: StartDaemon
) -> None:
    daemon = start(handler_timeout_seconds=600, drain_seconds=1)
    conn = database.connect()
    slow = append(conn, "Slow", {"seconds": 4})
    eventually(lambda: is_in_handler(daemon, slow))
    daemon.send(signal.SIGTERM)
    assert daemon.wait() == 1
    assert daemon.log_lines("worker.killed")
    start()
    eventually(lambda: applied(conn, "trouble") == [1], 20)
    assert applied(conn, "quiet") == [1]


def test_a_dead_worker_is_replaced_and_goes_on(database: Database, start: StartDaemon) -> None:
    daemon = start()
    conn = database.connect()
    append(conn, "First")
    eventually(lambda: applied(conn, "trouble") == applied(conn, "quiet") == [1])
    (victim,) = daemon.worker_pids()
    os.kill(victim, signal.SIGKILL)
    append(conn, "Second")
    eventually(lambda: applied(conn, "trouble") == applied(conn, "quiet") == [1, 2], 20)
    assert victim not in daemon.worker_pids()
    (exited,) = daemon.log_lines("worker.exited")
    assert exited["how"] == "signal SIGKILL"


def test_a_handler_that_hangs_is_named_and_paused_while_the_others_go_on(
    database: Database, start: StartDaemon
) -> None:
    start(handler_timeout_seconds=1, max_attempts=2)
    conn = database.connect()
    append(conn, "First")
    append(conn, "Hang", {"seconds": 500})
    append(conn, "Third")
    eventually(lambda: checkpoint(conn)[1] == "paused", 30)
    position, _, error = checkpoint(conn)
    event_id = value(conn, "SELECT event_id FROM event_store WHERE sequence_number = 2")
    assert position == 1
    assert f'event 2 ("Hang", id {event_id})' in error
    assert "had not returned after 1 s" in error
    assert applied(conn, "trouble") == [1]
    append(conn, "Fourth")
    eventually(lambda: applied(conn, "quiet") == [1, 2, 3, 4], 20)


def test_a_worker_whose_handler_hangs_does_not_outlive_its_supervisor(database: Database, start: StartDaemon) -> None:
    daemon = start(drain_seconds=0)
    hanging = append(database.connect(), "Hang", {"seconds": 500})
    eventually(lambda: is_in_handler(daemon, hanging))
    daemon.kill()


def test_a_handler_that_ends_the_process_is_named_and_paused_while_the_others_go_on(
    database: Database, start: StartDaemon
) -> None:
    start(max_attempts=2, workers=2)
    conn = database.connect()
    append(conn, "First")
    append(conn, "Exit")
    append(conn, "Third")
    eventually(lambda: checkpoint(conn)[1] == "paused", 30)
    position, _, error = checkpoint(conn)
    assert position == 1
    assert 'event 2 ("Exit"' in error
    assert "exit code 3" in error
    eventually(lambda: applied(conn, "quiet") == [1, 2, 3], 20)
    assert applied(conn, "trouble") == [1]


def test_a_broken_plugin_file_is_reported_and_leaves_the_others_running(
    database: Database, start: StartDaemon, tmp_path: Path
) -> None:
    (tmp_path / "plugins" / "broken.py").write_text("def oops(:\n")
    daemon = start()
    conn = database.connect()
    append(conn, "First")
    eventually(lambda: applied(conn, "quiet") == [1])
    (rejected,) = daemon.log_lines("plugin.rejected")
    assert rejected["file"].endswith("broken.py")
    assert rejected["line"] == 1


def test_without_any_projection_the_daemon_says_so_and_exits_1(start: StartDaemon, tmp_path: Path) -> None:
    (tmp_path / "plugins" / "plugin.py").write_text("nonsense = 1\n")
    daemon = start()
    assert daemon.wait() == 1
    last = daemon.log_file.read_text().splitlines()[-1]
    assert last.startswith("projectiond: no projection can be run; ")


def test_two_daemons_share_the_work_and_never_apply_an_event_twice(database: Database, start: StartDaemon) -> None:
    first, second = start(workers=2), start()
    conn = database.connect()
    for _ in range(200):
        append(conn, "Counted")
    eventually(lambda: applied(conn, "quiet") == applied(conn, "trouble") == list(range(1, 201)), 30)
    first.kill()
    for _ in range(50):
        append(conn, "Counted")
    eventually(lambda: applied(conn, "quiet") == applied(conn, "trouble") == list(range(1, 251)), 30)
    assert second.is_running()


def test_a_worker_holds_no_more_connections_than_pool_size(database: Database, start: StartDaemon) -> None:
    start(pool_size=4, batch_size=1, checkpoint_every=1)
    conn = database.connect()
    most = 0
    for number in range(1, 101):
        append(conn, "Counted")
        if number % 10 == 0:
            eventually(lambda: len(applied(conn, "quiet")) == value(conn, "SELECT count(*) FROM event_store"))
        count = value(conn, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'projectiond/%%'")
        most = max(most, count)
    assert 3 <= most <= 4


def test_systemd_hears_ready_the_watchdog_and_stopping(database: Database, tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "plugin.py").write_text(PLUGIN)
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(0)

        def hears(word: str) -> bool:
            try:
                while True:
                    heard.append(systemd.recv(4096).decode())
            except BlockingIOError:
                return any(word in line for line in heard)

        with DaemonProcess(database.dsn, plugins, tmp_path / "daemon.log") as daemon:
            daemon.kill()
            daemon.environment |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
            daemon.start()
            eventually(lambda: hears("READY=1"))
            eventually(lambda: hears("STATUS=1 of 1 workers are at work"))
            heard.clear()
            eventually(lambda: hears("WATCHDOG=1"))
            daemon.send(signal.SIGTERM)
            assert daemon.wait() == 0
            assert hears("STOPPING=1")
