"""The metrics' names, types, labels and meanings: the whole list.

docs/http.md has the same, and a test holds the two together.  Label values are bounded: names of projections and
numbers of workers, nothing of events.
"""

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: its name as it is exposed, without a histogram's suffixes."""

    name: str
    type: Literal["gauge", "counter", "histogram"]
    labels: tuple[str, ...]
    meaning: str


_OF_PROJECTION: Final = ("projection",)
_OF_WORKER: Final = ("worker",)

FAMILIES: Final = (
    # From the database, for every projection in it.
    Family(
        "projectiond_projection_lag_events",
        "gauge",
        _OF_PROJECTION,
        "sequence numbers between its position and the head, those that were rolled back too",
    ),
    Family(
        "projectiond_projection_lag_seconds",
        "gauge",
        _OF_PROJECTION,
        "age of the oldest event above its position, by created_at; 0 without one, NaN when that says no time",
    ),
    Family("projectiond_projection_checkpoint_position", "gauge", _OF_PROJECTION, "its position"),
    Family("projectiond_projection_status", "gauge", ("projection", "status"), "1 for the status that it has, else 0"),
    Family(
        "projectiond_projection_has_runner", "gauge", _OF_PROJECTION, "whether a worker of any daemon holds its lease"
    ),
    Family("projectiond_projection_dead_letters", "gauge", _OF_PROJECTION, "rows in projection_dead_letters"),
    Family("projectiond_projection_has_error", "gauge", _OF_PROJECTION, "whether its error_message says something"),
    Family(
        "projectiond_projection_rebuild_share",
        "gauge",
        _OF_PROJECTION,
        "how much of the store its rebuild has replayed, from 0 to 1; absent when there is none",
    ),
    Family(
        "projectiond_projection_rebuild_has_error",
        "gauge",
        _OF_PROJECTION,
        "whether something keeps its rebuild from going on; absent when there is none",
    ),
    Family("projectiond_store_head_position", "gauge", (), "the largest visible sequence number"),
    Family("projectiond_store_live_workers", "gauge", (), "workers of all daemons that are connected"),
    Family("projectiond_store_mark_held", "gauge", (), "whether open transactions hold the high-water mark"),
    Family("projectiond_database_up", "gauge", (), "whether the database answered the last reading"),
    Family(
        "projectiond_reading_age_seconds",
        "gauge",
        (),
        "how old what comes from the database is; absent before the first",
    ),
    # Counted by this daemon's workers, since the supervisor's start.
    Family("projectiond_projection_events_applied_total", "counter", _OF_PROJECTION, "events applied and committed"),
    Family("projectiond_projection_batches_total", "counter", _OF_PROJECTION, "batches applied and committed"),
    Family("projectiond_projection_transactions_total", "counter", _OF_PROJECTION, "transactions committed"),
    Family(
        "projectiond_projection_retries_total",
        "counter",
        _OF_PROJECTION,
        "steps that failed and were to be tried again",
    ),
    Family(
        "projectiond_projection_conflicts_total",
        "counter",
        _OF_PROJECTION,
        "steps that found the checkpoint moved by another",
    ),
    Family(
        "projectiond_projection_poison_events_total",
        "counter",
        _OF_PROJECTION,
        "events that failed in their last attempt",
    ),
    Family("projectiond_projection_dead_lettered_total", "counter", _OF_PROJECTION, "events set aside as dead letters"),
    Family(
        "projectiond_projection_runner_starts_total",
        "counter",
        _OF_PROJECTION,
        "how often a worker here began to run it",
    ),
    Family(
        "projectiond_projection_runner_state",
        "gauge",
        ("projection", "state"),
        "1 for what its runner here does: elsewhere (there is none here), working, caught_up, paused, retrying, "
        "waiting_for_database, failing, queued (far behind, waiting for its turn); else 0",
    ),
    Family(
        "projectiond_projection_transaction_duration_seconds",
        "histogram",
        _OF_PROJECTION,
        "from reading its first batch to after COMMIT",
    ),
    Family(
        "projectiond_projection_batch_duration_seconds",
        "histogram",
        _OF_PROJECTION,
        "the handlers' time for one batch; in a pipeline without the server's",
    ),
    Family(
        "projectiond_projection_visible_latency_seconds",
        "histogram",
        _OF_PROJECTION,
        "from when the worker learnt that events are settled to when the read model that shows them was committed",
    ),
    # Of this daemon's processes.
    Family("projectiond_worker_ready", "gauge", _OF_WORKER, "whether it is connected and works"),
    Family(
        "projectiond_worker_restarts_total", "counter", _OF_WORKER, "how often a worker in this place was started again"
    ),
    Family("projectiond_worker_heartbeat_age_seconds", "gauge", _OF_WORKER, "time since its last sign of life"),
    Family(
        "projectiond_worker_high_water_mark",
        "gauge",
        _OF_WORKER,
        "the mark that it has proven; absent while there is none",
    ),
    Family(
        "projectiond_worker_high_water_mark_held_seconds",
        "gauge",
        _OF_WORKER,
        "how long open transactions have held its mark where it is; who they are, /api/v1/projections says",
    ),
    Family(
        "projectiond_worker_wakeups_total",
        "counter",
        ("worker", "cause"),
        "why its watcher woke: bell (an append), poll (the interval was over); and mark: its mark moved",
    ),
    Family("projectiond_worker_leases", "gauge", _OF_WORKER, "projections that it runs"),
    Family(
        "projectiond_worker_pool_connections", "gauge", ("worker", "state"), "connections of its pool: in_use, idle"
    ),
    Family("projectiond_worker_pool_requests_waiting", "gauge", _OF_WORKER, "runners that wait for a connection"),
    Family("projectiond_worker_resident_memory_bytes", "gauge", _OF_WORKER, "its resident memory"),
    Family(
        "projectiond_builder_heartbeat_age_seconds",
        "gauge",
        _OF_PROJECTION,
        "time since the last sign of life of the process that builds it anew; absent when there is none",
    ),
    Family(
        "projectiond_builder_resident_memory_bytes",
        "gauge",
        _OF_PROJECTION,
        "resident memory of the process that builds it anew",
    ),
    Family("projectiond_supervisor_resident_memory_bytes", "gauge", (), "the supervisor's resident memory"),
    Family(
        "projectiond_healthy",
        "gauge",
        (),
        "whether /healthz finds no fault, a database that is away left out of account",
    ),
    Family("projectiond_http_waiters", "gauge", (), "requests that wait for a projection"),
    Family("projectiond_build_info", "gauge", ("version",), "1"),
)
