"""From an append's commit to its visibility in the read model, when idle and beside eight writers.

Called by ``__main__``.  A Projection is measured in both, the other kinds when idle.  One event at a time, at random
intervals: the clock starts when the appending connection has its commit confirmed, and stops when a second connection,
which asks for the row in a tight loop, sees it.  So what is measured includes the asker's own round trip, its share of
the processor, and the durable commit of the read model; the append's own commit, shown beside it, is before the clock
starts.

When idle three take turns, append by append, each in a database of its own: the daemon, the daemon with
``synchronous_commit = "off"``, and ``bare_listener``, which does as little as can be done.
"""

import random
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from bench import pgbench
from bench.context import Context
from bench.daemon import WAIT_SECONDS, Daemon, running_daemon
from bench.report import Bound, Figure, at_most, median_figure, percentile_figures, ratios

DATABASE: Final = "latency"
WRITERS: Final = 8
WARMING_TURNS: Final = 5

ROOT: Final = Path(__file__).parents[1]

# In all; two cores that are also the daemon's and the server's do about ten thousand, and then nothing is idle.
LOADS: Final = (400, 1000)

_APPEND: LiteralString = """
INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version)
VALUES (%s, 'order', 'OrderPlaced', '{"customer_id": "c-1", "currency": "EUR"}', 1)
"""

_SEE: LiteralString = "SELECT 1 FROM {} WHERE order_id = %s"

_KINDS: Final = {"event": "Projection", "batch": "BatchProjection", "row": "RowProjection", "sql": "SqlProjection"}

_WHEN_IDLE: Final = {50: at_most(1.5), 99: at_most(10)}
_UNDER_LOAD: Final = {99: at_most(50)}


def measure(bench: Context) -> list[Figure]:
    """Measure latency when idle, under load, and when idle for the other kinds."""
    dsn = bench.server.create_store(DATABASE)
    figures: list[Figure] = []
    with _projecting(dsn, "event"), psycopg.connect(dsn, autocommit=True) as writer:
        _sample(dsn, writer, "event", 10, 0.05)
        figures += _in_turns(bench, dsn)
        for rate in LOADS:
            with _writers(bench, dsn, rate):
                waits = _sample(dsn, writer, "event", bench.scale.appends_under_load, 0.1)
            figures += _figures(bench, f"latency, {WRITERS} writers, {rate} appends/s", *waits, _UNDER_LOAD)
    for way in list(_KINDS)[1:]:
        dsn = bench.server.create_store(f"{DATABASE}_{way}")
        with _projecting(dsn, way), psycopg.connect(dsn, autocommit=True) as writer:
            _sample(dsn, writer, way, 10, 0.05)
            waits = _sample(dsn, writer, way, bench.scale.appends_of_other_kinds, 0.3)
        figures += _figures(bench, f"latency, idle, {_KINDS[way]}", *waits, {})
    return figures


def _in_turns(bench: Context, dsn: str) -> list[Figure]:
    """Compare the daemon that runs, one that does not wait for the disk, and the barest listener."""
    dsn_off, dsn_bare = (bench.server.create_store(f"{DATABASE}_{name}") for name in ("off", "bare"))
    stores = {"": (dsn, "event"), ", synchronous_commit off": (dsn_off, "event"), ", bare listener": (dsn_bare, "bare")}
    appends: dict[str, list[float]] = {name: [] for name in stores}
    waits: dict[str, list[float]] = {name: [] for name in stores}
    with ExitStack() as stack:
        stack.enter_context(_projecting(dsn_off, "event", {"PROJECTIOND_SYNCHRONOUS_COMMIT": "off"}))
        stack.enter_context(_listening(dsn_bare))
        writers = {
            name: stack.enter_context(psycopg.connect(dsn, autocommit=True)) for name, (dsn, _) in stores.items()
        }
        for turn in range(-WARMING_TURNS, bench.scale.appends_when_idle):
            for name in random.sample(sorted(stores), len(stores)):
                append, wait = _sample(stores[name][0], writers[name], stores[name][1], 1, 0.2)
                if turn >= 0:
                    appends[name] += append
                    waits[name] += wait
    figures = [
        figure
        for name in stores
        for figure in _figures(bench, f"latency, idle{name}", appends[name], waits[name], {} if name else _WHEN_IDLE)
    ]
    daemon, *others = stores
    group = "latency, idle, compared"
    return [
        *figures,
        *(
            median_figure(group, f"daemon{one} ÷ bare listener", "fold", ratios(waits[one], waits[others[-1]]))
            for one in (daemon, others[0])
        ),
    ]


def _projecting(dsn: str, way: str, settings: Mapping[str, str] | None = None) -> AbstractContextManager[Daemon]:
    return running_daemon(dsn, [f"orders_by_{way}.py"], [f"orders_by_{way}"], settings=settings)


@contextmanager
def _listening(dsn: str) -> Iterator[None]:
    command = [sys.executable, "-m", "bench.bare_listener", dsn]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        if process.stdout is None or not process.stdout.readline():
            raise RuntimeError("the bare listener does not start")
        # The end of its input, at the end of the block, ends it.
        yield


def _sample(
    dsn: str, writer: psycopg.Connection, way: str, count: int, longest_pause: float
) -> tuple[list[float], list[float]]:
    """Append and wait; give the milliseconds of the appends, and those from commit to visibility."""
    appends, waits = [], []
    see = sql.SQL(_SEE).format(sql.Identifier(f"by_{way}_order_totals"))
    with psycopg.connect(dsn, autocommit=True) as reader:
        for _ in range(count):
            time.sleep(random.uniform(longest_pause / 3, longest_pause))
            order = uuid.uuid4()
            began = time.perf_counter()
            writer.execute(_APPEND, (order,))
            committed = time.perf_counter()
            while reader.execute(see, (order,)).fetchone() is None:
                if time.perf_counter() - committed > WAIT_SECONDS:
                    raise RuntimeError(f"order {order} did not become visible within {WAIT_SECONDS:g} s")
            waits.append((time.perf_counter() - committed) * 1000)
            appends.append((committed - began) * 1000)
    return appends, waits


def _figures(
    bench: Context, group: str, appends: list[float], waits: list[float], bounds: dict[int, Bound]
) -> list[Figure]:
    figures = percentile_figures(group, "commit to visible", "ms", waits, bounds)
    bench.say(f"{group}: {figures[0].value:.2f} ms, p99 {figures[-1].value:.2f} ms")
    return [
        *figures,
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
