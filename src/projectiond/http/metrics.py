"""The metrics: what is exposed of the crew, of the reading, and of this process.

``families`` lists them.  Those that come from the database are of all projections in it, whoever runs them; what is
counted is of this daemon's workers.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

from projectiond import __version__
from projectiond.checkpoint import Status
from projectiond.http.crew import Builder, Crew, Member
from projectiond.http.exposition import Exposition
from projectiond.http.readings import Reading
from projectiond.processes.counters import Count, ProjectionNumbers, State, Timing, Wakeup

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")

_COUNTS: Final[Mapping[Count, str]] = {
    Count.EVENTS: "projection_events_applied_total",
    Count.BATCHES: "projection_batches_total",
    Count.TRANSACTIONS: "projection_transactions_total",
    Count.RETRIES: "projection_retries_total",
    Count.CONFLICTS: "projection_conflicts_total",
    Count.POISON_EVENTS: "projection_poison_events_total",
    Count.DEAD_LETTERS: "projection_dead_lettered_total",
    Count.RUNNER_STARTS: "projection_runner_starts_total",
}
_TIMINGS: Final[Mapping[Timing, str]] = {
    Timing.TRANSACTION: "projection_transaction_duration_seconds",
    Timing.BATCH: "projection_batch_duration_seconds",
    Timing.LATENCY: "projection_visible_latency_seconds",
}


@dataclass(frozen=True, slots=True)
class Sources:
    """What the metrics are made of."""

    crew: Crew
    reading: Reading
    is_healthy: bool
    waiters: int


def expose(sources: Sources) -> bytes:
    """Write the metrics."""
    found = _Metrics()
    found.take_reading(sources.reading)
    for name, numbers in sorted(sources.crew.projections().items()):
        found.take_projection(label_of(name), numbers)
    for member in sources.crew.members:
        found.take_member(member)
    found.take_builder(sources.crew.builder)
    found.add("supervisor_resident_memory_bytes", resident_bytes(os.getpid()))
    found.add("healthy", sources.is_healthy)
    found.add("http_waiters", sources.waiters)
    found.add("build_info", 1, __version__)
    return found.text()


class _Metrics(Exposition):
    """The metrics of one moment, as they are filled in."""

    def take_reading(self, reading: Reading) -> None:
        """Take what comes from the database."""
        self.add("database_up", not reading.error)
        self.add("reading_age_seconds", reading.age_seconds(time.monotonic()))
        if reading.overview is None:
            return
        for state in reading.overview.projections:
            name = label_of(state.name)
            self.add("projection_lag_events", state.lag, name)
            self.add("projection_lag_seconds", float("nan") if state.lag_seconds is None else state.lag_seconds, name)
            self.add("projection_checkpoint_position", state.position or 0, name)
            for status in get_args(Status):
                self.add("projection_status", state.status == status, name, status)
            self.add("projection_has_runner", state.has_runner, name)
            self.add("projection_dead_letters", state.dead_letters, name)
            self.add("projection_has_error", bool(state.error_message), name)
            if state.rebuild is not None:
                self.add("projection_rebuild_share", state.rebuild.share, name)
                self.add("projection_rebuild_has_error", bool(state.rebuild.error_message), name)
        self.add("store_head_position", reading.overview.head)
        self.add("store_live_workers", reading.overview.live_workers)
        self.add("store_mark_held", reading.overview.hold is not None)

    def take_projection(self, name: str, numbers: ProjectionNumbers) -> None:
        """Take what was counted for a projection."""
        for count, metric_name in _COUNTS.items():
            self.add(metric_name, numbers.count(count), name)
        for state in State:
            self.add("projection_runner_state", numbers.state is state, name, state.name.lower())
        for timing, metric_name in _TIMINGS.items():
            self.add_histogram(metric_name, timing.bounds, numbers.buckets(timing), numbers.sum_seconds(timing), name)

    def take_member(self, member: Member) -> None:
        """Take what is known of a worker."""
        number = str(member.number)
        self.add("worker_ready", member.is_ready, number)
        self.add("worker_restarts_total", member.restarts, number)
        for why in Wakeup:
            self.add("worker_wakeups_total", member.wakeups(why), number, why.name.lower())
        if member.page is None or member.pid is None:
            return
        now, worker = time.monotonic(), member.page.worker
        self.add("worker_heartbeat_age_seconds", now - max(member.page.beaten_at, member.started_at), number)
        self.add("worker_high_water_mark", None if worker.looked_at is None else worker.mark, number)
        held_seconds = 0.0 if worker.held_since is None else now - worker.held_since
        self.add("worker_high_water_mark_held_seconds", held_seconds, number)
        self.add("worker_leases", worker.leases, number)
        self.add("worker_pool_connections", worker.pool_in_use, number, "in_use")
        self.add("worker_pool_connections", worker.pool_size - worker.pool_in_use, number, "idle")
        self.add("worker_pool_requests_waiting", worker.pool_waiting, number)
        self.add("worker_resident_memory_bytes", resident_bytes(member.pid), number)

    def take_builder(self, builder: Builder | None) -> None:
        """Take what is known of the process that builds a projection anew."""
        name, pid = ("", None) if builder is None else (label_of(builder.projection), builder.pid)
        age = None if builder is None else time.monotonic() - builder.beaten_at
        self.add("builder_heartbeat_age_seconds", age, name)
        self.add("builder_resident_memory_bytes", None if pid is None else resident_bytes(pid), name)


def label_of(name: str) -> str:
    """Escape what is not printable.  No two names become one, for that would make Prometheus refuse the scrape."""
    return "".join(c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in name)


def resident_bytes(pid: int) -> int | None:
    """Give the resident memory of a process of ours; ``None`` where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return None
