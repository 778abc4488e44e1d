"""The metrics, in Prometheus' text format.

``families`` lists them.  Those that come from the database are of all projections in it, whoever runs them; what is
counted is of this daemon's workers.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from projectiond import __version__
from projectiond.checkpoint import Status
from projectiond.counters import Count, ProjectionNumbers, State, Timing, Wakeup
from projectiond.http.crew import Builder, Crew, Member
from projectiond.http.families import FAMILIES, Family
from projectiond.http.readings import Reading

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_INFINITE: Final = "+Inf"


_BY_NAME: Final[Mapping[str, Family]] = {family.name: family for family in FAMILIES}

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
    return generate_latest(_Once(sources))


class _Once(Collector):
    """The metrics of one moment, as the library wants them."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterable[Metric]:
        """Give them."""
        values = _Values()
        values.take_reading(self._sources.reading)
        for name, numbers in sorted(self._sources.crew.projections().items()):
            values.take_projection(label_of(name), numbers)
        for member in self._sources.crew.members:
            values.take_member(member)
        values.take_builder(self._sources.crew.builder)
        values.set("supervisor_resident_memory_bytes", resident_bytes(os.getpid()))
        values.set("healthy", self._sources.is_healthy)
        values.set("http_waiters", self._sources.waiters)
        values.set("build_info", 1, __version__)
        return values


class _Values:
    """Metrics as they are filled in."""

    def __init__(self) -> None:
        self._metrics: dict[str, GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily] = {}

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._metrics.values())

    def set(self, name: str, number: float | None, *labels: str) -> None:
        """Set a gauge or a counter; ``None``: it is not known, and left out."""
        metric = self._metric(name)
        if number is not None and not isinstance(metric, HistogramMetricFamily):
            metric.add_metric(labels, float(number))

    def take_reading(self, reading: Reading) -> None:
        """Take what comes from the database."""
        self.set("database_up", not reading.error)
        self.set("reading_age_seconds", reading.age_seconds(time.monotonic()))
        if reading.overview is None:
            return
        for state in reading.overview.projections:
            name = label_of(state.name)
            self.set("projection_lag_events", state.lag, name)
            self.set("projection_lag_seconds", float("nan") if state.lag_seconds is None else state.lag_seconds, name)
            self.set("projection_checkpoint_position", state.position or 0, name)
            for status in get_args(Status):
                self.set("projection_status", state.status == status, name, status)
            self.set("projection_has_runner", state.has_runner, name)
            self.set("projection_dead_letters", state.dead_letters, name)
            self.set("projection_has_error", bool(state.error_message), name)
            if state.rebuild is not None:
                self.set("projection_rebuild_share", state.rebuild.share, name)
                self.set("projection_rebuild_has_error", bool(state.rebuild.error_message), name)
        self.set("store_head_position", reading.overview.head)
        self.set("store_live_workers", reading.overview.live_workers)
        self.set("store_mark_held", reading.overview.hold is not None)

    def take_projection(self, name: str, numbers: ProjectionNumbers) -> None:
        """Take what was counted for a projection."""
        for count, metric_name in _COUNTS.items():
            self.set(metric_name, numbers.count(count), name)
        for state in State:
            self.set("projection_runner_state", numbers.state is state, name, state.name.lower())
        for timing, metric_name in _TIMINGS.items():
            metric = self._metric(metric_name)
            if isinstance(metric, HistogramMetricFamily):
                metric.add_metric([name], _cumulated(numbers, timing), numbers.sum_seconds(timing))

    def take_member(self, member: Member) -> None:
        """Take what is known of a worker."""
        number = str(member.number)
        self.set("worker_ready", member.is_ready, number)
        self.set("worker_restarts_total", member.restarts, number)
        for why in Wakeup:
            self.set("worker_wakeups_total", member.wakeups(why), number, why.name.lower())
        if member.page is None or member.pid is None:
            return
        now, worker = time.monotonic(), member.page.worker
        self.set("worker_heartbeat_age_seconds", now - max(member.page.beaten_at, member.started_at), number)
        self.set("worker_high_water_mark", None if worker.looked_at is None else worker.mark, number)
        held_seconds = 0.0 if worker.held_since is None else now - worker.held_since
        self.set("worker_high_water_mark_held_seconds", held_seconds, number)
        self.set("worker_leases", worker.leases, number)
        self.set("worker_pool_connections", worker.pool_in_use, number, "in_use")
        self.set("worker_pool_connections", worker.pool_size - worker.pool_in_use, number, "idle")
        self.set("worker_pool_requests_waiting", worker.pool_waiting, number)
        self.set("worker_resident_memory_bytes", resident_bytes(member.pid), number)

    def take_builder(self, builder: Builder | None) -> None:
        """Take what is known of the process that builds a projection anew."""
        name, pid = ("", None) if builder is None else (label_of(builder.projection), builder.pid)
        age = None if builder is None else time.monotonic() - builder.beaten_at
        self.set("builder_heartbeat_age_seconds", age, name)
        self.set("builder_resident_memory_bytes", None if pid is None else resident_bytes(pid), name)

    def _metric(self, name: str) -> GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily:
        if name not in self._metrics:
            family = _BY_NAME[f"projectiond_{name}"]
            make = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily, "histogram": HistogramMetricFamily}
            self._metrics[name] = make[family.type](family.name, family.meaning, labels=family.labels)
        return self._metrics[name]


def _cumulated(numbers: ProjectionNumbers, timing: Timing) -> list[tuple[str, float]]:
    bounds = [*(str(bound) for bound in timing.bounds), _INFINITE]
    total = 0
    cumulated = []
    for bound, count in zip(bounds, numbers.buckets(timing), strict=True):
        total += count
        cumulated.append((bound, float(total)))
    return cumulated


def label_of(name: str) -> str:
    """Escape what is not printable.  No two names become one, for that would make Prometheus refuse the scrape."""
    return "".join(c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in name)


def resident_bytes(pid: int) -> int | None:
    """Give the resident memory of a process of ours; ``None`` where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return None
