"""Catching up: projectiond against the loops that teams write, over the same events with the same statements.

Called by ``__main__``.  In each round the next events are appended and all three apply them, in changing order, each
into tables of its own; the ratio of a round compares neighbours.  The daemon is one process over all rounds: paused
while the others run, its time begins when it is set to running and ends when its committed checkpoint is at the
head.  At the end it replays all events at once.  The three read models have to be equal, else the figures are
worth nothing.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from bench import hand_written_loop, orders, psycopg_loop
from bench.context import Context
from bench.daemon import Daemon, running_daemon
from bench.report import Figure, at_least, at_most, median_figure, ratios

DATABASE: Final = "catch_up"
LOOPS: Final = (hand_written_loop.NAME, psycopg_loop.NAME)

_ROOT: Final = Path(__file__).parents[1]


def measure(bench: Context) -> list[Figure]:
    """Measure catch-up and replay, and the worker's memory over both."""
    dsn = bench.server.create_store(DATABASE)
    count = bench.scale.events_per_round
    rates: dict[str, list[float]] = {"projectiond": [], **{name: [] for name in LOOPS}}
    with psycopg.connect(dsn, autocommit=True) as db:
        _prepare_loops(db)
        with running_daemon(dsn, "paused") as daemon:
            began_with = daemon.worker_megabytes()
            runs: dict[str, Callable[[], float]] = {name: partial(run_loop, name, dsn) for name in LOOPS}
            runs["projectiond"] = partial(catch_up, daemon, db)
            for number in range(bench.scale.catch_up_rounds):
                orders.append_orders(db, number * count, count)
                db.execute("VACUUM ANALYZE event_store")
                db.execute("CHECKPOINT")
                for name in _in_turn(list(runs), number):
                    rates[name].append(count / runs[name]())
                    bench.say(f"catch-up, round {number + 1}: {name} {rates[name][-1]:,.0f} events/s")
            megabytes = daemon.worker_megabytes()
            _check(db)
            seconds = replay(daemon, db)
            bench.say(f"replay of all events in {seconds:.1f} s")
            _check(db)
            after_replay = daemon.worker_megabytes()
    events = count * bench.scale.catch_up_rounds
    return [
        *_rate_figures(rates),
        Figure(
            "catch-up", f"replay of all {events:,} events in one go (status rebuilding)", events / seconds, "events/s"
        ),
        Figure("memory", "worker at the start of the catch-up", began_with, "MB"),
        Figure("memory", f"growth over {events:,} events", megabytes - began_with, "MB", at_most(20)),
        Figure("memory", "growth over these and their replay", after_replay - began_with, "MB", at_most(20)),
    ]


def catch_up(daemon: Daemon, db: psycopg.Connection) -> float:
    """Let the paused projection go to the head; give the seconds."""
    head = _head(db)
    began = time.perf_counter()
    daemon.set_status("running")
    daemon.wait(lambda: daemon.position()[0] >= head, f"the checkpoint reached {head}")
    seconds = time.perf_counter() - began
    daemon.set_status("paused")
    daemon.wait_until_asleep()
    return seconds


def replay(daemon: Daemon, db: psycopg.Connection) -> float:
    """Rebuild in place; give the seconds from the order to the head."""
    head = _head(db)
    began = time.perf_counter()
    daemon.set_status("rebuilding")
    daemon.wait(lambda: daemon.position() == (head, "running"), f"the rebuild reached {head}")
    return time.perf_counter() - began


def run_loop(name: str, dsn: str) -> float:
    """Run one of the other loops, in a process and with tables of its own; give its seconds."""
    address = f"{dsn}&options=-csearch_path%3D{name}%2Cpublic"
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{name}", address],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )
    return float(done.stdout)


def _prepare_loops(db: psycopg.Connection) -> None:
    for name in LOOPS:
        schema = sql.Identifier(name)
        db.execute(sql.SQL("CREATE SCHEMA {0}; SET search_path = {0}").format(schema))
        db.execute(orders.READ_MODEL)
        db.execute("RESET search_path")
        db.execute("INSERT INTO projection_checkpoints (projection_name) VALUES (%s)", (name,))


def _in_turn(names: list[str], number: int) -> list[str]:
    shift = number % len(names)
    return names[shift:] + names[:shift]


def _head(db: psycopg.Connection) -> int:
    row = db.execute("SELECT max(sequence_number) FROM event_store").fetchone()
    return int(row[0]) if row else 0


def _check(db: psycopg.Connection) -> None:
    for name in LOOPS:
        differences = orders.count_differences(db, "public", name)
        if differences:
            raise RuntimeError(f"the read models of projectiond and {name} differ in {differences} rows")


def _rate_figures(rates: dict[str, list[float]]) -> list[Figure]:
    figures = [median_figure("catch-up", name, "events/s", samples) for name, samples in rates.items()]
    own = rates["projectiond"]
    over_hand_written = ratios(own, rates[hand_written_loop.NAME])
    over_psycopg = ratios(own, rates[psycopg_loop.NAME])
    return [
        median_figure("catch-up", "projectiond ÷ hand_written_loop", "fold", over_hand_written, at_least(3)),
        median_figure("catch-up", "projectiond ÷ psycopg_loop", "fold", over_psycopg),
        *figures,
    ]
