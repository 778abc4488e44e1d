"""Programs that apply the same events, one after the other, and how long each takes.

Used by the measurements of catching up.  In each round the next events are appended and all runners apply them, in
changing order, so that a ratio is one of neighbours.  The daemon is one process over all rounds: its projections are
paused while others run, and their time begins when the status is set to running and ends when the committed checkpoint
is at the head.  A kind that needs two projections for the read model is given the sum of their times, one after the
other.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, LiteralString, TypeVar

import psycopg
from psycopg import sql

from bench import hand_written_loop, psycopg_loop
from bench.context import Context
from bench.daemon import Daemon
from bench.report import Bound, Figure, median_figure, ratios

HAND_WRITTEN: Final = hand_written_loop.NAME
PSYCOPG: Final = psycopg_loop.NAME

_ROOT: Final = Path(__file__).parents[1]

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Entrant:
    """A kind of projection that takes part."""

    label: str
    prefix: str
    projections: tuple[str, ...]
    bound: Bound | None = None
    """What is expected of its speed, as a multiple of the hand-written loop's."""


@dataclass(slots=True)
class Race:
    """Loops and kinds of projection over the events of one database."""

    bench: Context
    dsn: str
    db: psycopg.Connection
    daemon: Daemon
    domain: str
    entrants: Sequence[Entrant]
    loops: Sequence[str] = (HAND_WRITTEN, PSYCOPG)
    rates: dict[str, list[float]] = field(default_factory=dict)

    def run_round(self, count: int) -> None:
        """Have everybody apply the events, so many, that have just been appended."""
        settle(self.db)
        runs: dict[str, Callable[[], float]] = {
            name: partial(run_loop, name, self.dsn, self.domain) for name in self.loops
        }
        runs |= {entrant.label: partial(self.catch_up, entrant) for entrant in self.entrants}
        number = len(self.rates.get(self.loops[0], ()))
        for name in in_turn(list(runs), number):
            self.rates.setdefault(name, []).append(count / runs[name]())
        fastest = ", ".join(f"{name} {self.rates[name][-1]:,.0f}" for name in runs)
        self.bench.say(f"{self.domain}, round {number + 1}, events/s: {fastest}")

    def catch_up(self, entrant: Entrant) -> float:
        """Let a kind's paused projections go to the head; give the seconds."""
        head = store_head(self.db)
        return sum(self._catch_up(name, head) for name in entrant.projections)

    def start_over(self, entrant: Entrant, tables: Sequence[str]) -> float:
        """Let a kind's paused projections apply everything from the first event on; give the seconds."""
        for table in tables:
            self.db.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier(f"{entrant.prefix}_{table}")))
        self.db.execute(
            "UPDATE projection_checkpoints SET last_sequence_number = 0 WHERE projection_name = ANY(%s)",
            (list(entrant.projections),),
        )
        self.db.execute("CHECKPOINT")
        return self.catch_up(entrant)

    def figures(self, group: str) -> list[Figure]:
        """Sum the rounds up."""
        figures = [median_figure(group, name, "events/s", samples) for name, samples in self.rates.items()]
        bounds = {entrant.label: entrant.bound for entrant in self.entrants}
        for place, reference in enumerate(self.loops):
            for name in (*self.loops[place + 1 :], *bounds):
                folds = ratios(self.rates[name], self.rates[reference])
                bound = bounds.get(name) if reference == HAND_WRITTEN else None
                figures.append(median_figure(group, f"{name} ÷ {reference}", "fold", folds, bound))
        return figures

    def _catch_up(self, name: str, head: int) -> float:
        began = time.perf_counter()
        self.daemon.set_status("running", name)
        self.daemon.wait_for(head, name)
        seconds = time.perf_counter() - began
        self.daemon.set_status("paused", name)
        self.daemon.wait_until_asleep()
        return seconds


def prepare_loops(
    db: psycopg.Connection, read_model: LiteralString, loops: Sequence[str] = (HAND_WRITTEN, PSYCOPG)
) -> None:
    """Give each loop tables and a checkpoint of its own."""
    for name in loops:
        schema = sql.Identifier(name)
        db.execute(sql.SQL("CREATE SCHEMA {0}; SET search_path = {0}").format(schema))
        db.execute(read_model)
        db.execute("RESET search_path")
        db.execute("INSERT INTO projection_checkpoints (projection_name) VALUES (%s)", (name,))


def run_loop(name: str, dsn: str, domain: str) -> float:
    """Run one of the loops, in a process of its own; give its seconds."""
    address = f"{dsn}&options=-csearch_path%3D{name}%2Cpublic"
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{name}", address, domain],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )
    return float(done.stdout)


def settle(db: psycopg.Connection) -> None:
    """Leave nothing of the append to be done while somebody is measured."""
    db.execute("VACUUM ANALYZE event_store")
    db.execute("CHECKPOINT")


def store_head(db: psycopg.Connection) -> int:
    """Give the last event's sequence number."""
    row = db.execute("SELECT coalesce(max(sequence_number), 0) FROM event_store").fetchone()
    return int(row[0]) if row else 0


def in_turn(names: list[Item], number: int) -> list[Item]:
    """Give them in another order each round."""
    shift = number % len(names)
    return names[shift:] + names[:shift]
