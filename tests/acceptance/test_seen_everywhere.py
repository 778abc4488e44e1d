"""What is done on the page, in the terminal or in SQL is seen in the other two, and over the API."""

import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.command import Command, enter
from tests.support.events import append
from tests.support.http import free_port
from tests.support.postgres import Database
from tests.support.process import DaemonProcess
from tests.support.queries import value
from tests.support.waiting import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.any_server, pytest.mark.timeout(90)]

NAME = "gated"
TOKEN = "a-token-of-32-characters-for-you"

# Whoever holds the lock keeps its rebuild from ending.
GATE = 4711
PLUGIN = f"""
from projectiond import Connection, Event, Projection, handles


class Gated(Projection):
    tables = ("gated",)
    schema = "CREATE TABLE IF NOT EXISTS gated (sequence_number BIGINT NOT NULL)"

    @handles("Placed")
    def note(self, event: Event, db: Connection) -> None:
        db.execute("SELECT pg_advisory_xact_lock_shared({GATE})")
        db.execute("INSERT INTO gated (sequence_number) VALUES (%s)", (event.sequence_number,))
"""

# As an operator says it, and the status that comes of it.
ACTIONS = {"pause": "paused", "resume": "running", "rebuild": "rebuilding"}


@dataclass
class Page:
    """What the dashboard's page hears and does: it follows the stream, and posts with its token from its own origin."""

    port: int
    statuses: dict[str, str] = field(default_factory=dict)

    def follow(self) -> None:
        """Read one stream to its end, which is also the daemon's."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/dashboard/stream", timeout=60) as stream:
            for line in stream:
                if line.startswith(b"data: "):
                    message = json.loads(line[6:])
                    for entry in [*message.get("projections", ()), *message.get("changed", ())]:
                        self.statuses[entry["name"]] = entry["status"]

    def act(self, action: str) -> None:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/dashboard/projections/{NAME}/{action}",
            method="POST",
            data=b"{}",
            headers={
                "Authorization": f"Bearer {TOKEN}",
                "Content-Type": "application/json",
                "Origin": f"http://127.0.0.1:{self.port}",
                "Sec-Fetch-Site": "same-origin",
            },
        )
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 -- our own
            assert answer.status == 200

    def api(self) -> str | None:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/projections", timeout=20) as answer:
            return status_in(json.load(answer))


def status_in(shape: dict[str, list[dict[str, str]]]) -> str | None:
    return next((state["status"] for state in shape["projections"] if state["name"] == NAME), None)


@pytest.fixture
def page(database: Database, tmp_path: Path) -> Iterator[Page]:
    plugins = tmp_path / "projections"
    plugins.mkdir()
    (plugins / "gated.py").write_text(PLUGIN)
    page = Page(free_port())
    settings = {"http_port": page.port, "http_token": TOKEN}
    with DaemonProcess(database.dsn, plugins, tmp_path / "daemon.log", **settings):
        yield page


def test_pause_resume_and_rebuild_are_seen_wherever_they_were_not_done(
    page: Page, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    enter(tmp_path, database.dsn, monkeypatch)
    terminal, conn, gate = Command(capsys), database.connect(), database.connect()
    set_status = "UPDATE projection_checkpoints SET status = %s WHERE projection_name = %s"
    append(conn, "Placed")
    eventually(lambda: value(conn, "SELECT bool_and(last_sequence_number > 0) FROM projection_checkpoints"), 30)
    gate.execute("SELECT pg_advisory_lock(%s)", (GATE,))
    listener = threading.Thread(target=_until_it_ends, args=(page.follow,), daemon=True)
    listener.start()
    ways: dict[str, Callable[[str], object]] = {
        "page": page.act,
        "terminal": lambda action: terminal(action, NAME),
        "SQL": lambda action: conn.execute(set_status, (ACTIONS[action], NAME)),
    }
    views: dict[str, Callable[[], object]] = {
        "page": lambda: page.statuses.get(NAME),
        "API": page.api,
        "SQL": lambda: value(conn, "SELECT status FROM projection_checkpoints"),
        "terminal": lambda: status_in(Command(capsys, "status").as_object()),
    }
    for way, act in ways.items():
        for action, status in ACTIONS.items():
            act(action)
            for view, look in views.items():
                eventually(
                    lambda look=look, status=status: look() == status,  # type: ignore[misc]
                    10,
                    f"{action}, done by {way}, is not seen by {view}",
                )
        ways["SQL"]("resume")
    gate.close()


def _until_it_ends(follow: Callable[[], None]) -> None:
    try:
        follow()
    except OSError:
        # The daemon was killed at the end of the test.
        return
