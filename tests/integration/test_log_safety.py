"""What hostile events put into the log neither steers a terminal nor forges a line, in both of its forms."""

import json
from typing import Literal

import pytest

from projectiond import Connection, Event, Projection, handles, logs
from tests.support.daemon import Daemon, Log, captured_log
from tests.support.events import append
from tests.support.postgres import Database

pytestmark = [pytest.mark.integration, pytest.mark.any_server]

# Colours and a title for the terminal, its answerback, a line of our own making, right to left, an invisible space, C1.
HOSTILE = (
    '\x1b[31m\x1b]0;owned\x07\x1b[c\r\n{"event": "daemon.stopped"}\n2026 [info] daemon.stopped'
    "\u202e\u2066\u200b\x9b2J\x7f"
)


class Gullible(Projection):
    """Passes on whatever an event says."""

    tables = ("gullible",)
    schema = "CREATE TABLE IF NOT EXISTS gullible (n int)"

    @handles("*")
    def fail(self, event: Event, db: Connection) -> None:
        print(event.event_type, event.data["text"])  # noqa: T201 -- plugins do
        db.execute("SELECT 1")
        raise ValueError(event.data["text"])


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize("on_error", ["pause", "skip"])
def test_hostile_events_neither_steer_a_terminal_nor_forge_a_line(
    form: Literal["console", "json"], on_error: str, database: Database
) -> None:
    log = Log()
    with captured_log():
        logs.configure_logging(form, "debug", stream=log.stream)
        with Daemon(database, Gullible, log=log, max_attempts=1, on_error=on_error) as daemon:
            append(database.connect(), HOSTILE[:100], {"text": HOSTILE})
            if on_error == "pause":
                error = daemon.wait_for_status("gullible", "paused")["error"]
            else:
                daemon.wait_until_at("gullible", 1)
                ((error,),) = daemon.ask(b"SELECT error FROM projection_dead_letters")
    text = log.stream.getvalue()
    assert "owned" in text
    assert "owned" in error
    assert error.isprintable()
    assert [char for char in text if not char.isprintable() and char != "\n"] == []
    if form == "json":
        assert {json.loads(line)["event"] for line in text.splitlines()} <= set(logs.EVENTS)
    else:
        assert all(line[:4].isdigit() and "T" in line[:11] for line in text.splitlines())
