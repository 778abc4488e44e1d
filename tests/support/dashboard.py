"""The dashboard over a database: the daemon's own HTTP server in the test's process, with a crew of the test's."""

import contextlib
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from projectiond.counters import State
from projectiond.http.crew import Crew, Member
from projectiond.http.server import HttpServer
from projectiond.recorder import Recorder
from projectiond.settings import Settings
from tests.support.http import free_port, page_of
from tests.support.postgres import Database

TOKEN = "a-token-of-32-characters-for-you"

# Markup, a terminal's escapes, marks that turn the direction of text, what ends an event of a stream, a quotation mark.
HOSTILE = "<script>document.title='taken'</script><img src=x onerror=alert(1)>\x1b[31m\u202e\u2066\n\ndata: x\r\"'&amp;"


@dataclass
class Site:
    """What serves, and on what."""

    server: HttpServer
    settings: Settings
    conn: psycopg.Connection[Any]

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.settings.http_port}/"


@contextlib.contextmanager
def serving(database: Database, *names: str, port: int | None = None, **settings: Any) -> Iterator[Site]:  # noqa: ANN401
    """Serve the dashboard of a daemon that can run these projections."""
    made = Settings(
        database_url=SecretStr(database.dsn),
        http_port=port or free_port(),
        **{"http_token": SecretStr(TOKEN), **settings},
    )
    server = HttpServer(made)
    server.show(crew_at_work(*names))
    try:
        yield Site(server, made, database.connect())
    finally:
        server.stop()


def crew_at_work(*names: str, mark: int = 0) -> Crew:
    """Make the crew of one worker that has done its work up to a mark."""

    def work(recorder: Recorder) -> None:
        recorder.worker.note_look(mark, is_held=False, has_moved=False)
        for index, name in enumerate(names):
            recorder.slot(index, name).counters.note_state(State.CAUGHT_UP, mark)

    now = time.monotonic()
    # It never misses a beat, however slow the test is.
    page = replace(page_of(*names, work=work), beaten_at=now + 3600)
    member = Member(1, None, page, now, None)
    return Crew(taken_at=now + 3600, members=(member,))


def add_projection(conn: psycopg.Connection[Any], name: str, position: int = 0, **columns: Any) -> None:  # noqa: ANN401
    """Put a projection's row into the database."""
    row = {"status": "running", "error_message": None, "events_processed": position, **columns}
    conn.execute(
        "INSERT INTO projection_checkpoints"
        " (projection_name, last_sequence_number, last_processed_at, events_processed, status, error_message)"
        " VALUES (%(name)s, %(position)s, now(), %(events_processed)s, %(status)s, %(error_message)s)",
        {"name": name, "position": position, **row},
    )


def add_letter(conn: psycopg.Connection[Any], name: str, number: int, data: object, **columns: Any) -> None:  # noqa: ANN401
    """Put a dead letter into the database."""
    row = {"event_type": "OrderPlaced", "handler": "Orders.placed", "error": "ValueError: no such customer", **columns}
    conn.execute(
        "INSERT INTO projection_dead_letters"
        " (projection_name, sequence_number, event_id, event_type, aggregate_id, event_data, handler, error, attempts)"
        " VALUES (%(name)s, %(number)s, %(id)s, %(event_type)s, %(id)s, %(data)s, %(handler)s, %(error)s, 3)",
        {"name": name, "number": number, "id": uuid.uuid4(), "data": Jsonb(data), **row},
    )
