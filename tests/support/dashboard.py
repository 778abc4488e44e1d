"""The dashboard over a database: the daemon's own HTTP server in the test's process, with a crew of the test's."""

import contextlib
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from projectiond import sql
from projectiond.http.crew import Crew, Member
from projectiond.http.server import HttpServer
from projectiond.leases.lease import lease_key
from projectiond.processes.counters import State
from projectiond.processes.recorder import Recorder
from projectiond.settings import Settings
from tests.support.http import free_port, page_of
from tests.support.postgres import Database

TOKEN = "a-token-of-32-characters-for-you"

# What is not to be seen, or changes how the text around it is read: direction marks, an end of line, a tag, a filler.
UNSEEN = "\u202e\u2066\u2028\U000e0041\u3164"
# Markup, a terminal's escapes, what ends an event of a stream, quotation marks.
HOSTILE = f"<script>document.title='taken'</script><img src=x onerror=alert(1)>\x1b[31m{UNSEEN}\n\ndata: x\r\"'&amp;"


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


def add_worker(conn: psycopg.Connection[Any], host: str, *runs: str, can_run: Sequence[str] = ()) -> None:
    """Have this session stand for a worker that is connected and runs these."""
    conn.execute(sql.leases.REGISTER_WORKER, {"key": sql.keys.WORKERS_KEY})
    names = {"projections": [*runs, *can_run]}
    worker = {"host": host, "process_id": 4711, "number": 1, "version": "1.2.3"}
    conn.execute(sql.leases.ENTER_WORKER, {**worker, **names})
    for name in runs:
        conn.execute(sql.leases.TRY_LEASE, {"key": lease_key(name)})
    conn.execute(
        "UPDATE projection_workers SET held_since = %s WHERE session_pid = pg_backend_pid()",
        (Jsonb({name: datetime.now(UTC).isoformat() for name in runs}),),
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
