"""From an append's commit to its visibility in the read model, when idle and beside eight writers.

Called by ``__main__``.  One event at a time, at random intervals: the clock starts when the appending connection has
its commit confirmed, and stops when a second connection, which asks for the row in a tight loop, sees it.  So what is
measured includes the asker's own round trip, its share of the processor, and the durable commit of the read model;
the append's own commit, shown beside it, is before the clock starts.
"""

import random
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, LiteralString

import psycopg

from bench import pgbench
from bench.context import Context
from bench.daemon import WAIT_SECONDS, running_daemon
from bench.report import Bound, Figure, at_most, median_figure, percentile_figures, ratios

DATABASE: Final = "latency"
WRITERS: Final = 8

# In all; two cores that are also the daemon's and the server's do about ten thousand, and then nothing is idle.
LOADS: Final = (400, 1000)

_APPEND: LiteralString = """
INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version)
VALUES (%s, 'order', 'OrderPlaced', '{"customer_id": "c-1", "currency": "EUR"}', 1)
"""

_SEE: LiteralString = "SELECT 1 FROM order_totals WHERE order_id = %s"


def measure(bench: Context) -> list[Figure]:
    """Measure latency when idle, then under load."""
    dsn = bench.server.create_store(DATABASE)
    with running_daemon(dsn), psycopg.connect(dsn, autocommit=True) as writer:
        sample(dsn, writer, 10, 0.05)
        figures = _figures("idle", *sample(dsn, writer, bench.scale.appends_when_idle, 0.3))
        bench.say(f"latency when idle: {figures[0].value:.2f} ms")
        for rate in LOADS:
            with _writers(bench, dsn, rate):
                waits = sample(dsn, writer, bench.scale.appends_under_load, 0.1)
            figures += _figures(f"{WRITERS} writers, {rate} appends/s", *waits)
            bench.say(f"latency beside {rate} appends/s: {figures[-5].value:.2f} ms")
    return figures


def sample(dsn: str, writer: psycopg.Connection, count: int, longest_pause: float) -> tuple[list[float], list[float]]:
    """Append and wait; give the milliseconds of the appends, and those from commit to visibility."""
    appends, waits = [], []
    with psycopg.connect(dsn, autocommit=True) as reader:
        for _ in range(count):
            time.sleep(random.uniform(longest_pause / 3, longest_pause))
            order = uuid.uuid4()
            began = time.perf_counter()
            writer.execute(_APPEND, (order,))
            committed = time.perf_counter()
            while reader.execute(_SEE, (order,)).fetchone() is None:
                if time.perf_counter() - committed > WAIT_SECONDS:
                    raise RuntimeError(f"order {order} did not become visible within {WAIT_SECONDS:g} s")
            waits.append((time.perf_counter() - committed) * 1000)
            appends.append((committed - began) * 1000)
    return appends, waits


def _figures(name: str, appends: list[float], waits: list[float]) -> list[Figure]:
    group = f"latency, {name}"
    bounds: dict[int, Bound] = {50: at_most(2), 99: at_most(20)} if name == "idle" else {}
    return [
        *percentile_figures(group, "commit to visible", "ms", waits, bounds),
        median_figure(group, "the append itself", "ms", appends),
        median_figure(group, "commit to visible ÷ the append itself", "fold", ratios(waits, appends)),
    ]


@contextmanager
def _writers(bench: Context, dsn: str, rate: int) -> Iterator[None]:
    command = pgbench.Command(dsn, connections=WRITERS, rate=rate, seconds=3600)
    process = subprocess.Popen(
        command.arguments(bench.server.binaries),
        env=command.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(0.5)
        if process.poll() is not None:
            raise RuntimeError(f"pgbench ended with code {process.returncode}")
        yield
    finally:
        process.terminate()
        process.wait()
