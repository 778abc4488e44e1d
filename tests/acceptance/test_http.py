"""HTTP of a real daemon: one process, asked in every way while workers die and writers write."""

import json
import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.events import append
from tests.support.http import free_port
from tests.support.postgres import Database
from tests.support.process import DaemonProcess
from tests.support.waiting import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.any_server, pytest.mark.timeout(90)]

PLUGIN = """
from projectiond import Connection, Event, Projection, handles


class Quiet(Projection):
    tables = ("quiet",)
    schema = "CREATE TABLE IF NOT EXISTS quiet (sequence_number BIGINT NOT NULL)"

    @handles("Placed")
    def note(self, event: Event, db: Connection) -> None:
        db.execute("INSERT INTO quiet (sequence_number) VALUES (%s)", (event.sequence_number,))

    @handles("Bad")
    def fail(self, event: Event, db: Connection) -> None:
        raise ValueError(event.data["text"])
"""

# The server of the tests asks for no password, so any will do.
PASSWORD = "hunter2 <\"\\%&@:/{}'ä"


@dataclass
class Http:
    """The daemon's HTTP; keeps everything that it ever answered."""

    port: int
    answers: list[str]

    def ask(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
                status, text = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        self.answers.append(text)
        return status, text

    def json(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ask(path)[1])
        return found

    def is_ready(self) -> bool:
        try:
            return self.ask("/readyz")[0] == 200
        except OSError:
            return False

    def metric(self, name: str) -> float:
        text = self.ask("/metrics")[1]
        found = re.search(rf"^projectiond_{re.escape(name)} (\S+)$", text, re.MULTILINE)
        assert found, name
        return float(found[1])


def with_password(dsn: str) -> str:
    """Put the password into the test server's URL."""
    head, at, tail = dsn.partition("@")
    return f"{head}:{quote(PASSWORD, safe='')}{at}{tail}"


@pytest.fixture
def daemon(database: Database, tmp_path: Path) -> Iterator[DaemonProcess]:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "plugin.py").write_text(PLUGIN)
    settings = {"http_port": free_port(), "workers": 1, "max_attempts": 1}
    with DaemonProcess(with_password(database.dsn), plugins, tmp_path / "daemon.log", **settings) as daemon:
        yield daemon


def test_a_daemon_tells_of_itself(daemon: DaemonProcess, database: Database, tmp_path: Path) -> None:
    http = Http(int(daemon.environment["PROJECTIOND_HTTP_PORT"]), [])
    eventually(http.is_ready, 30, "the daemon did not become ready")
    assert http.ask("/healthz")[0] == 200

    # Read your writes.
    conn = database.connect()
    number = append(conn, "Placed")
    status, text = http.ask(f"/api/v1/projections/quiet/wait?sequence={number}")
    assert (status, json.loads(text)["position"]) == (200, number)
    assert conn.execute("SELECT sequence_number FROM quiet").fetchall() == [(number,)]

    # What workers counted outlives them.
    applied = 'projection_events_applied_total{projection="quiet"}'
    eventually(lambda: http.metric(applied) == 1, 10, "the event was not counted")
    assert http.metric('projection_visible_latency_seconds_count{projection="quiet"}') == 1
    assert http.metric('worker_leases{worker="1"}') == 1
    (worker,) = daemon.worker_pids()
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: http.metric('worker_restarts_total{worker="1"}') == 1, 20, "no worker was started again")
    assert http.ask("/healthz")[0] == 200
    number = append(conn, "Placed")
    assert http.ask(f"/api/v1/projections/quiet/wait?sequence={number}&timeout=30")[0] == 200
    eventually(lambda: http.metric(applied) == 2, 10, "what the first worker counted is lost")

    # A poison event of hostile text pauses the projection, and is told.
    number = append(conn, "Bad", {"text": 'a\x1b[31m\r\n"</script>'})
    status, text = http.ask(f"/api/v1/projections/quiet/wait?sequence={number}")
    assert status == 409
    assert "\x1b" not in text
    eventually(lambda: http.json("/api/v1/projections/quiet")["status"] == "paused", 10, "it is not seen paused")
    assert "Bad" in http.json("/api/v1/projections/quiet")["error_message"]
    eventually(lambda: http.metric('projection_poison_events_total{projection="quiet"}') == 1, 10, "it is not counted")
    assert http.ask("/healthz")[0] == 200

    # A second daemon cannot have the same port, and says which setting it is.
    second = DaemonProcess(database.dsn, tmp_path / "plugins", tmp_path / "second.log", http_port=http.port)
    second.start()
    assert second.wait() == 1
    assert "set http_port (PROJECTIOND_HTTP_PORT) to a free port" in (tmp_path / "second.log").read_text()

    daemon.send(signal.SIGTERM)
    assert daemon.wait() == 0
    secrets = ("hunter2", quote(PASSWORD, safe=""), json.dumps(PASSWORD)[1:-1])
    assert not [answer for answer in http.answers for secret in secrets if secret in answer]
    assert not [secret for secret in secrets if secret in daemon.log_file.read_text()]
