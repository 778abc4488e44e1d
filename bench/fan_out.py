"""From an append's commit on an idle store until many projections of one worker have applied it.

Called by ``__main__``.  The plugins are written for the purpose, one projection a file, each with a table of its own.
That a projection has applied the event is read off its checkpoint, which is committed with the table's row.  The asker
sleeps between its looks, and leaves the processors to the worker meanwhile.
"""

import random
import tempfile
import time
import uuid
from pathlib import Path
from typing import Final

import psycopg

from bench.context import Context
from bench.daemon import WAIT_SECONDS, running_daemon
from bench.report import Figure, at_most, percentile_figures

# Projections, and the milliseconds between two looks: a fortieth of what is expected, or less.
PROJECTIONS: Final = {1: 0.25, 10: 0.5, 50: 1.0}

_EXPECTED: Final = {50: {99: at_most(50)}}

_LONGEST_PAUSE: Final = 0.15

_PLUGIN: Final = """from projectiond import Connection, Event, Projection, handles


class Seen{number}(Projection):
    tables = ("seen_{number}",)
    schema = "CREATE TABLE IF NOT EXISTS seen_{number} (order_id UUID PRIMARY KEY, customer_id TEXT NOT NULL)"

    @handles("OrderPlaced")
    def placed(self, event: Event, db: Connection) -> None:
        db.execute("INSERT INTO seen_{number} VALUES (%s, %s)", (event.aggregate_id, event.data["customer_id"]))
"""

_APPEND: Final = """
INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version)
VALUES (%s, 'order', 'OrderPlaced', '{"customer_id": "c-1", "currency": "EUR"}', 1)
RETURNING sequence_number
"""

_BEHIND: Final = "SELECT count(*) FROM projection_checkpoints WHERE last_sequence_number < %s"


def measure(bench: Context) -> list[Figure]:
    """Measure with one, some and many projections."""
    figures = []
    for count, pause in PROJECTIONS.items():
        dsn = bench.server.create_store(f"fan_out_{count}")
        with tempfile.TemporaryDirectory() as directory:
            plugins = [_write_plugin(Path(directory), number) for number in range(1, count + 1)]
            names = [f"seen{number}" for number in range(1, count + 1)]
            with running_daemon(dsn, plugins, names), psycopg.connect(dsn, autocommit=True) as db:
                _sample(db, 5, pause)
                waits = _sample(db, bench.scale.fan_out_appends, pause)
        name = f"visible in {'all of ' if count > 1 else ''}{count}"
        figures += percentile_figures("fan-out, idle store", name, "ms", waits, _EXPECTED.get(count, {}))
        bench.say(f"fan-out to {count} projections: {figures[-3].value:.2f} ms, p99 {figures[-1].value:.2f} ms")
    return figures


def _write_plugin(directory: Path, number: int) -> Path:
    path = directory / f"seen_{number}.py"
    path.write_text(_PLUGIN.format(number=number))
    return path


def _sample(db: psycopg.Connection, count: int, pause: float) -> list[float]:
    waits = []
    for _ in range(count):
        time.sleep(random.uniform(_LONGEST_PAUSE / 2, _LONGEST_PAUSE))
        row = db.execute(_APPEND, (uuid.uuid4(),)).fetchone()
        committed = time.perf_counter()
        while _behind(db, int(row[0]) if row else 0):
            if time.perf_counter() - committed > WAIT_SECONDS:
                raise RuntimeError(f"not all projections had the event within {WAIT_SECONDS:g} s")
            time.sleep(pause / 1000)
        waits.append((time.perf_counter() - committed) * 1000)
    return waits


def _behind(db: psycopg.Connection, sequence_number: int) -> int:
    row = db.execute(_BEHIND, (sequence_number,)).fetchone()
    return int(row[0]) if row else 0
