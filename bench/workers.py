"""More workers: how much faster eight projections that compute catch up, and what two hundred projections hold.

Called by ``__main__``, only when asked for.  Each handler computes for a tenth of a millisecond, in Python, so one
worker's threads take turns at one processor.  Daemons of one, two and four workers, each with a store of its own, catch
up in turns; the two that are not at work sleep.  With two processors, which PostgreSQL uses as well, two workers can be
no more than twice as fast as one, and four no faster than two.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg

from bench import orders
from bench.context import Context
from bench.daemon import Daemon, running_daemon
from bench.race import in_turn, settle, store_head
from bench.report import Figure, at_least, at_most, median_figure, ratios

WORKERS: Final = (1, 2, 4)
COMPUTING: Final = 8

MANY: Final = 200
MANY_WORKERS: Final = 4
MANY_EVENTS: Final = 2_000
POOL_SIZE: Final = 20

_COMPUTING: Final = """from projectiond import Connection, Event, Projection, handles


class Computed{number}(Projection):
    tables = ("computed_{number}",)
    schema = "CREATE TABLE IF NOT EXISTS computed_{number} (number BIGINT PRIMARY KEY, result BIGINT NOT NULL)"

    @handles("*")
    def compute(self, event: Event, db: Connection) -> None:
        result = sum(number * number % 7 for number in range(1_500))
        db.execute("INSERT INTO computed_{number} VALUES (%s, %s)", (event.sequence_number, result))
"""

_COUNTING: Final = """from projectiond import Connection, Event, Projection, handles


class Counted{number}(Projection):
    tables = ("counted_{number}",)
    schema = "CREATE TABLE IF NOT EXISTS counted_{number} (number BIGINT PRIMARY KEY)"

    @handles("*")
    def count(self, event: Event, db: Connection) -> None:
        db.execute("INSERT INTO counted_{number} VALUES (%s)", (event.sequence_number,))
"""

_CONNECTIONS: Final = """
SELECT count(*)
FROM pg_stat_activity
WHERE datname = current_database()
    AND application_name LIKE 'projectiond/%'
"""


@dataclass(frozen=True, slots=True)
class Crew:
    """A daemon, its store and its projections."""

    daemon: Daemon
    db: psycopg.Connection
    names: Sequence[str]

    def append(self, first: int, count: int) -> int:
        """Append events while all projections are paused; give the head of the store."""
        self.daemon.set_status("paused", *self.names)
        orders.append_orders(self.db, first, count)
        settle(self.db)
        return store_head(self.db)

    def catch_up(self, head: int) -> float:
        """Let all projections go until they are there; give the seconds."""
        began = time.perf_counter()
        self.daemon.set_status("running", *self.names)
        self.daemon.wait_for(head, *self.names)
        return time.perf_counter() - began


def measure(bench: Context) -> list[Figure]:
    """Measure both."""
    return [*_growth(bench), *_many(bench)]


def _growth(bench: Context) -> list[Figure]:
    rates: dict[int, list[float]] = {workers: [] for workers in WORKERS}
    count = bench.scale.computed_events
    with ExitStack() as stack:
        crews = {workers: stack.enter_context(_crew(bench, workers, _COMPUTING, COMPUTING)) for workers in WORKERS}
        # The first round warms up.
        for number in range(-1, bench.scale.worker_rounds):
            for workers in in_turn(list(crews), number):
                crew = crews[workers]
                seconds = crew.catch_up(crew.append((number + 1) * count, count))
                if number >= 0:
                    rates[workers].append(count * COMPUTING / seconds)
            told = ", ".join(f"{workers} {rate[-1]:,.0f}" for workers, rate in rates.items() if rate)
            bench.say(f"workers, round {number + 1}, events/s: {told or 'warming up'}")
    group = f"{COMPUTING} projections that compute"
    return [
        *(median_figure(group, f"{_named(workers)}", "events/s", rate) for workers, rate in rates.items()),
        median_figure(group, "2 workers ÷ 1", "fold", ratios(rates[2], rates[1]), at_least(1.2)),
        median_figure(group, "4 workers ÷ 1", "fold", ratios(rates[4], rates[1]), at_least(1.2)),
    ]


def _many(bench: Context) -> list[Figure]:
    with _crew(bench, MANY_WORKERS, _COUNTING, MANY) as crew:
        idle = _megabytes(crew.daemon)
        crew.catch_up(crew.append(0, MANY_EVENTS))
        row = crew.db.execute(_CONNECTIONS).fetchone()
        group = f"{MANY} projections on {MANY_WORKERS} workers"
        return [
            Figure(group, "resident, nothing applied yet", idle, "MB", at_most(400)),
            Figure(group, f"resident, {MANY_EVENTS:,} events applied", _megabytes(crew.daemon), "MB", at_most(400)),
            Figure(group, "connections", row[0] if row else 0, "", at_most(MANY_WORKERS * POOL_SIZE)),
        ]


@contextmanager
def _crew(bench: Context, workers: int, plugin: str, projections: int) -> Iterator[Crew]:
    dsn = bench.server.create_store(f"workers_{workers}_{projections}")
    numbers = range(1, projections + 1)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plugins = [directory / f"plugin_{number}.py" for number in numbers]
        for number, path in zip(numbers, plugins, strict=True):
            path.write_text(plugin.format(number=number))
        kind = "computed" if plugin is _COMPUTING else "counted"
        names = [f"{kind}{number}" for number in numbers]
        settings = {"PROJECTIOND_WORKERS": str(workers), "PROJECTIOND_POOL_SIZE": str(POOL_SIZE)}
        daemon = stack.enter_context(running_daemon(dsn, plugins, names, settings=settings))
        db = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        yield Crew(daemon, db, names)


def _named(workers: int) -> str:
    return f"{workers} worker" if workers == 1 else f"{workers} workers"


def _megabytes(daemon: Daemon) -> float:
    """Give the resident memory of the supervisor and its workers."""
    return sum(float(process.memory_info().rss) for process in daemon.processes()) / 1e6
