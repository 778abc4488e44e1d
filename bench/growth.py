"""A long catch-up: does the last part go as fast as the first, and does the worker stay as small as it was?

Called by ``__main__``.  Two million events are made by the server, and applied by one kind of projection that is fast
enough for it; the first part of them also by the slowest kind.  Meanwhile the checkpoint is read, and the worker's
resident memory.
"""

import time
from dataclasses import dataclass, field
from typing import Final

import psycopg

from bench import orders
from bench.context import Context
from bench.daemon import Daemon, running_daemon
from bench.race import settle, store_head
from bench.report import Figure, at_least, at_most

DATABASE: Final = "growth"
APPEND_AT_ONCE: Final = 200_000

# Seldom enough not to be felt, and often enough for a tenth of the shortest run.
LOOK_SECONDS: Final = 0.02

SHARE: Final = 0.1
"""The first and the last tenth are compared."""


@dataclass(slots=True)
class Progress:
    """How far a projection was, and when."""

    moments: list[tuple[float, int]] = field(default_factory=list)
    """Seconds since the start, and the checkpoint, each time that it had moved."""

    def note(self, seconds: float, position: int) -> None:
        """Take a reading; only those that are new are kept."""
        if not self.moments or position > self.moments[-1][1]:
            self.moments.append((seconds, position))

    def seconds_at(self, position: float) -> float:
        """Give the time at which the checkpoint came by here, on a straight line between two readings.

        Raises:
            ValueError: It has not come so far.
        """
        (then, behind), *later = self.moments
        for now, ahead in later:
            if ahead >= position:
                return then + (now - then) * (position - behind) / (ahead - behind)
            then, behind = now, ahead
        raise ValueError(f"{position} was not reached: {behind}")

    def evenness(self) -> float:
        """Divide the speed over the last tenth of the way by that over the first."""
        first, last = self.moments[0][1], self.moments[-1][1]
        tenth = SHARE * (last - first)
        beginning = self.seconds_at(first + tenth) - self.seconds_at(first)
        end = self.seconds_at(last) - self.seconds_at(last - tenth)
        return beginning / end


def measure(bench: Context) -> list[Figure]:
    """Measure both kinds."""
    dsn = bench.server.create_store(DATABASE)
    with psycopg.connect(dsn, autocommit=True) as db:
        began = time.monotonic()
        for first in range(0, bench.scale.growth_events, APPEND_AT_ONCE):
            orders.append_orders(db, first, min(APPEND_AT_ONCE, bench.scale.growth_events - first))
        settle(db)
        bench.say(f"growth: {bench.scale.growth_events:,} events made in {time.monotonic() - began:.0f} s")
        head = store_head(db)
        part = bench.scale.growth_events_by_event
        return [
            *_measure_one(bench, dsn, "RowProjection", "orders_by_row.py", "orders_by_row", head),
            *_measure_one(bench, dsn, "Projection", "orders_by_event.py", "orders_by_event", min(part, head)),
        ]


def _measure_one(bench: Context, dsn: str, label: str, plugin: str, name: str, head: int) -> list[Figure]:
    names = [name, *(["customers_by_row"] if name == "orders_by_row" else [])]
    with running_daemon(dsn, [plugin], names, "paused") as daemon:
        progress, megabytes = _watch(daemon, name, head)
    seconds, reached = progress.moments[-1]
    group = f"{label} over {head:,} events"
    bench.say(f"growth: {label} went {reached / seconds:,.0f} events/s")
    return [
        Figure(group, "speed", reached / seconds, "events/s"),
        Figure(group, "speed of the last tenth ÷ of the first", progress.evenness(), "fold", at_least(0.9)),
        Figure(group, "memory of the worker before", megabytes[0], "MB"),
        Figure(group, "… and its growth at the highest", max(megabytes) - megabytes[0], "MB", at_most(30)),
    ]


def _watch(daemon: Daemon, name: str, head: int) -> tuple[Progress, list[float]]:
    """Let the projection go, until it has come so far; give its progress, and readings of the worker's memory."""
    progress, megabytes = Progress(), [daemon.worker_megabytes()]
    began = time.perf_counter()
    daemon.set_status("running", name)

    def has_arrived() -> bool:
        position = daemon.position(name)
        progress.note(time.perf_counter() - began, position)
        megabytes.append(daemon.worker_megabytes())
        return position >= head

    daemon.wait(has_arrived, f"{name} reached {head}", LOOK_SECONDS)
    daemon.set_status("paused", name)
    return progress, megabytes
