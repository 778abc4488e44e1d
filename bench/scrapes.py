"""What being monitored costs: fifty projections, with and without a hundred scrapes a second.

Called by ``__main__``, only when asked for.  Three variants take turns: nobody scrapes; ``scraper`` scrapes a stand-in,
which answers the same bytes from another process; ``scraper`` scrapes the daemon.  A scraper lives on another machine
as a rule, and here it takes its share of the same cores: the stand-in tells what that is.  So daemon ÷ stand-in is what
the daemon's answering costs, and daemon ÷ nobody is all of it.

Measured are catching up; the time from the commit of an event on an idle store until all fifty have applied it; and,
with nothing appended, what scraping costs the supervisor and the database.
"""

import json
import random
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final

import psutil
import psycopg

from bench import idle, orders
from bench.context import Context
from bench.daemon import Daemon, running_daemon
from bench.race import in_turn, settle, store_head
from bench.report import Bound, Figure, at_least, at_most, median_figure, percentile, ratios
from bench.scraper import HOST, PATHS, RATE, Client, Scraped

DATABASE: Final = "scrapes"
PROJECTIONS: Final = 50

NOBODY: Final = "nobody scrapes"
STAND_IN: Final = "a stand-in is scraped"
DAEMON: Final = "the daemon is scraped"
VARIANTS: Final = (NOBODY, STAND_IN, DAEMON)

# Until all clients have scraped, and what the variant before has left is done.
_STARTING_SECONDS: Final = 0.3

# Of catching up, for each variant of a round.
_WINDOW_SECONDS: Final = 1.5

# Between two looks after one append.
_LOOK_SECONDS: Final = 0.001
_LONGEST_PAUSE: Final = 0.15

# As long as a reading is kept, and as the server's statistics of a session that is at work are late.
_SETTLING_SECONDS: Final = 3.0

_CATCH_UP: Final = f"{PROJECTIONS} projections catch up, {RATE:g} scrapes/s"
_LATENCY: Final = f"visible in all of {PROJECTIONS}, idle store, {RATE:g} scrapes/s"
_COSTS: Final = f"nothing appended, {RATE:g} scrapes/s"

_ROOT: Final = Path(__file__).parents[1]

_PLUGIN: Final = """from projectiond import Connection, Event, Projection, handles


class Counted{number}(Projection):
    tables = ("counted_{number}",)
    schema = "CREATE TABLE IF NOT EXISTS counted_{number} (customer_id TEXT PRIMARY KEY, orders BIGINT NOT NULL)"

    @handles("OrderPlaced")
    def placed(self, event: Event, db: Connection) -> None:
        db.execute(
            "INSERT INTO counted_{number} AS kept VALUES (%s, 1)"
            " ON CONFLICT (customer_id) DO UPDATE SET orders = kept.orders + 1",
            (event.data["customer_id"],),
        )
"""

_APPEND: Final = """
INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version)
VALUES (%s, 'order', 'OrderPlaced', '{"customer_id": "c-1", "currency": "EUR"}', 1)
RETURNING sequence_number
"""

# Rows: one (how far all projections are, added up; how far the last one is).
_PROGRESS: Final = "SELECT sum(last_sequence_number)::bigint, min(last_sequence_number) FROM projection_checkpoints"


class Variants:
    """Who is scraped, by variant."""

    def __init__(self, scraper: subprocess.Popen[str], ports: Mapping[str, int]) -> None:
        self._scraper = scraper
        self._ports = ports
        self._scraped: list[Scraped] = []

    @contextmanager
    def scraping(self, variant: str) -> Iterator[None]:
        """Have it scraped meanwhile.

        Raises:
            RuntimeError: Some scrapes were refused, or the scraper has ended.
        """
        if variant == NOBODY:
            time.sleep(_STARTING_SECONDS)
            yield
            return
        self._tell(str(self._ports[variant]))
        time.sleep(_STARTING_SECONDS)
        yield
        self._tell("")
        scraped = Scraped(**json.loads(_line_of(self._scraper)))
        if scraped.refused:
            raise RuntimeError(f"{scraped.refused} of {scraped.count} scrapes were refused")
        if variant == DAEMON:
            self._scraped.append(scraped)

    def figures(self, group: str) -> list[Figure]:
        """Sum up how scraping the daemon went since the last time."""
        scraped, self._scraped = self._scraped, []
        rates = [one.count / one.seconds for one in scraped]
        figures = [median_figure(group, "scrapes", "per second", rates, at_least(0.95 * RATE))]
        for path in PATHS:
            times = [milliseconds for one in scraped for milliseconds in one.milliseconds[path]]
            figures.append(median_figure(group, f"{path}, p50", "ms", times))
            figures.append(Figure(group, f"{path}, p99", percentile(times, 0.99), "ms"))
        return figures

    def _tell(self, line: str) -> None:
        if self._scraper.stdin is not None:
            self._scraper.stdin.write(f"{line}\n")
            self._scraper.stdin.flush()


def measure(bench: Context) -> list[Figure]:
    """Measure all three."""
    dsn = bench.server.create_store(DATABASE)
    port = _free_port()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plugins = [_write_plugin(directory, number) for number in range(1, PROJECTIONS + 1)]
        names = [f"counted{number}" for number in range(1, PROJECTIONS + 1)]
        settings = {"PROJECTIOND_HTTP_HOST": HOST, "PROJECTIOND_HTTP_PORT": str(port)}
        daemon = stack.enter_context(running_daemon(dsn, plugins, names, settings=settings))
        db = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        stand_in = stack.enter_context(_running("bench.stand_in", *_answers(directory, port)))
        scraper = stack.enter_context(_running("bench.scraper"))
        variants = Variants(scraper, {STAND_IN: int(_line_of(stand_in)), DAEMON: port})
        servers = {NOBODY: daemon.processes()[0], STAND_IN: psutil.Process(stand_in.pid), DAEMON: daemon.processes()[0]}
        figures = _catch_up(bench, variants, daemon, db, names)
        figures += _latency(bench, variants, db)
        # Last, for the server's statistics of what was before come late.
        return figures + _costs(bench, variants, servers)


# --- catching up


def _catch_up(
    bench: Context, variants: Variants, daemon: Daemon, db: psycopg.Connection, names: Sequence[str]
) -> list[Figure]:
    """Compare windows of one way from the first event on, on which nothing changes but who is scraped."""
    rates: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    shares: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    supervisor = daemon.processes()[0]
    orders.append_orders(db, 0, bench.scale.scraped_events)
    settle(db)
    # The first round warms up.
    for number in range(-1, bench.scale.scrape_rounds):
        _move(daemon, db, names, 0)
        for variant in in_turn(list(VARIANTS), number):
            with variants.scraping(variant):
                done, computed, began = _progress(db)[0], _processor_seconds(supervisor), time.perf_counter()
                time.sleep(_WINDOW_SECONDS)
                now_done, seconds = _progress(db)[0], time.perf_counter() - began
                share = 100 * (_processor_seconds(supervisor) - computed) / seconds
            if number >= 0:
                rates[variant].append((now_done - done) / seconds)
                shares[variant].append(share)
        if _progress(db)[1] >= bench.scale.scraped_events:
            raise RuntimeError("they have caught up before the round was over: it takes more than scraped_events")
        told = ", ".join(f"{variant} {rate[-1]:,.0f}" for variant, rate in rates.items() if rate)
        bench.say(f"scrapes, round {number + 1}, events/s: {told or 'warming up'}")
    _move(daemon, db, names, store_head(db))
    daemon.wait_until_asleep()
    return [
        *(median_figure(_CATCH_UP, variant, "events/s", samples) for variant, samples in rates.items()),
        *_compared(_CATCH_UP, rates, {(DAEMON, STAND_IN): at_least(0.97)}),
        median_figure(_CATCH_UP, f"supervisor, {NOBODY}", "% of a core", shares[NOBODY]),
        median_figure(_CATCH_UP, f"supervisor, {DAEMON}", "% of a core", shares[DAEMON]),
        *variants.figures(_CATCH_UP),
    ]


def _move(daemon: Daemon, db: psycopg.Connection, names: Sequence[str], position: int) -> None:
    """Let all projections go on from there; what their tables hold is nobody's concern here."""
    daemon.set_status("paused", *names)
    # Until the last transaction that was under way has ended.
    time.sleep(_STARTING_SECONDS)
    db.execute("UPDATE projection_checkpoints SET last_sequence_number = %s", (position,))
    daemon.set_status("running", *names)
    time.sleep(_STARTING_SECONDS)


def _progress(db: psycopg.Connection) -> tuple[int, int]:
    row = db.execute(_PROGRESS).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


# --- from commit to visible


def _latency(bench: Context, variants: Variants, db: psycopg.Connection) -> list[Figure]:
    waits: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    medians: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for number in range(bench.scale.scraped_latency_rounds):
        for variant in in_turn(list(VARIANTS), number):
            with variants.scraping(variant):
                samples = [_wait_for_all(db) for _ in range(bench.scale.scraped_appends)]
            waits[variant] += samples
            medians[variant].append(percentile(samples, 0.5))
    figures = []
    for variant, samples in waits.items():
        figures.append(median_figure(_LATENCY, f"{variant}, p50", "ms", samples))
        figures.append(Figure(_LATENCY, f"{variant}, p99", percentile(samples, 0.99), "ms"))
        bench.say(f"scrapes, visible in all: {variant}: {figures[-2].value:.1f} ms, p99 {figures[-1].value:.1f} ms")
    return [*figures, *_compared(_LATENCY, medians, {}), *variants.figures(_LATENCY)]


def _wait_for_all(db: psycopg.Connection) -> float:
    """Append an event after a pause; give the milliseconds from its commit until all have applied it."""
    time.sleep(random.uniform(_LONGEST_PAUSE / 2, _LONGEST_PAUSE))
    row = db.execute(_APPEND, (uuid.uuid4(),)).fetchone()
    committed = time.perf_counter()
    while row is not None and _progress(db)[1] < int(row[0]):
        time.sleep(_LOOK_SECONDS)
    return (time.perf_counter() - committed) * 1000


# --- what it costs when nothing happens


def _costs(bench: Context, variants: Variants, servers: Mapping[str, psutil.Process]) -> list[Figure]:
    """Count what the database is asked, and what who answers computes."""
    queries: dict[str, float] = {}
    processor: dict[str, float] = {}
    with psycopg.connect(bench.server.dsn(), autocommit=True) as other, idle.without_autovacuum(other):
        time.sleep(idle.SETTLING_SECONDS)
        for variant in VARIANTS:
            with variants.scraping(variant):
                # What was asked before, and is told late, is not of this variant.
                time.sleep(_SETTLING_SECONDS)
                counted, computed = idle.count_transactions(other, DATABASE), _processor_seconds(servers[variant])
                began = time.perf_counter()
                time.sleep(bench.scale.scraped_idle_seconds)
                seconds = time.perf_counter() - began
                queries[variant] = (idle.count_transactions(other, DATABASE) - counted) / seconds
                processor[variant] = (_processor_seconds(servers[variant]) - computed) / seconds
    more = processor[DAEMON] - processor[NOBODY]
    return [
        Figure(_COSTS, f"queries, {NOBODY}", queries[NOBODY], "per second"),
        Figure(_COSTS, "queries, more for scrapes", queries[DAEMON] - queries[NOBODY], "per second", at_most(5)),
        Figure(_COSTS, f"supervisor, {NOBODY}", 100 * processor[NOBODY], "% of a core"),
        Figure(_COSTS, "supervisor, more for scrapes", 100 * more, "% of a core"),
        Figure(_COSTS, "supervisor, for each scrape", 1000 * more / RATE, "ms"),
        Figure(_COSTS, "the stand-in, for each scrape", 1000 * processor[STAND_IN] / RATE, "ms"),
        *variants.figures(_COSTS),
    ]


def _processor_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


# --- figures


def _compared(
    group: str, samples: Mapping[str, Sequence[float]], bounds: Mapping[tuple[str, str], Bound]
) -> list[Figure]:
    return [
        median_figure(
            group,
            f"{one} ÷ {other}",
            "fold",
            ratios(samples[one], samples[other]),
            bounds.get((one, other)),
        )
        for one, other in ((DAEMON, NOBODY), (STAND_IN, NOBODY), (DAEMON, STAND_IN))
    ]


# --- processes


def _write_plugin(directory: Path, number: int) -> Path:
    path = directory / f"counted_{number}.py"
    path.write_text(_PLUGIN.format(number=number))
    return path


def _answers(directory: Path, port: int) -> list[str]:
    """Write down what the daemon answers now; give the files."""
    files = []
    for number, path in enumerate(PATHS):
        status, answer = Client(port, path, keeps_connection=True).fetch()
        if status != HTTPStatus.OK:
            raise RuntimeError(f"{path} answers {status}")
        file = directory / f"answer_{number}"
        file.write_bytes(answer)
        files.append(str(file))
    return files


@contextmanager
def _running(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a module of ours; the end of its input, at the end of the block, ends it."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT, text=True) as process:
        yield process


def _line_of(process: subprocess.Popen[str]) -> str:
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        raise RuntimeError(f"{process.args!r} has ended with code {process.wait()}")
    return line


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])
