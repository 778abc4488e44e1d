"""The board: everything that the dashboard shows at one moment, as plain values for JSON.

Entries of projections and of workers hold no ages, but times, so that they stay the same while nothing happens: only
what has changed is sent.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from projectiond.failure import printable
from projectiond.http.crew import Crew
from projectiond.http.history import History
from projectiond.http.readings import Reading
from projectiond.http.shapes import shape_of_fault
from projectiond.http.vigil import Fault
from projectiond.leases.roster import LiveWorker, differences
from projectiond.operating.overview import Overview, ProjectionState, RebuildState, RunnerState

# More holders of the mark than these are a number.
MOST_HOLDERS: Final = 5

# The same of the projections that a worker runs; each of them says itself who runs it.
MOST_NAMES: Final = 20


@dataclass(frozen=True, slots=True)
class Board:
    """The picture."""

    store: Mapping[str, Any]
    """What is of the whole, its ages included."""
    projections: Mapping[str, Mapping[str, Any]]
    """By name."""
    roster: Mapping[str, Any]
    """The live workers of all daemons."""


def make_board(crew: Crew, reading: Reading, history: History, faults: Sequence[Fault], now: float) -> Board:
    """Make it."""
    states = () if reading.overview is None else reading.overview.projections
    projections = {
        state.name: {
            **_state_shape(state),
            "rate": _rounded(history.course(state.name).rate),
        }
        for state in states
    }
    return Board(_store_shape(crew, reading, faults, now), projections, _roster_shape(reading.overview))


def _store_shape(crew: Crew, reading: Reading, faults: Sequence[Fault], now: float) -> dict[str, Any]:
    overview, age_seconds = reading.overview, reading.age_seconds(now)
    return {
        "is_answering": not reading.error,
        "error": printable(reading.error),
        "age_seconds": None if age_seconds is None else round(age_seconds, 1),
        "head": None if overview is None else overview.head,
        "live_workers": None if overview is None else overview.live_workers,
        "hold": _hold_shape(crew, reading, now),
        "now": round(time.time(), 2),
        "is_draining": crew.is_draining,
        "faults": [shape_of_fault(fault) for fault in faults],
        "workers": [
            {
                "number": member.number,
                "is_ready": member.is_ready,
                "restarts": member.restarts,
                "last_end": member.last_end,
            }
            for member in crew.members
        ],
    }


def _hold_shape(crew: Crew, reading: Reading, now: float) -> dict[str, Any] | None:
    hold = None if reading.overview is None else reading.overview.hold
    if hold is None:
        return None
    since = [
        member.page.worker.held_since
        for member in crew.members
        if member.page is not None and member.page.worker.held_since is not None
    ]
    return {
        "position": hold.position,
        "holders": [printable(holder) for holder in hold.holders[:MOST_HOLDERS]],
        "more": max(0, len(hold.holders) - MOST_HOLDERS),
        "remedies": list(hold.remedies[:MOST_HOLDERS]),
        "seconds": round(now - min(since)) if since else None,
    }


def _roster_shape(overview: Overview | None) -> dict[str, Any]:
    workers = () if overview is None else overview.roster
    return {
        "workers": [_worker_shape(worker) for worker in workers],
        "differences": [printable(difference) for difference in differences(workers)],
    }


def _worker_shape(worker: LiveWorker) -> dict[str, Any]:
    runs = sorted(worker.held_since)
    return {
        "worker": worker.number,
        "host": worker.host,
        "process_id": worker.process_id,
        "version": worker.version,
        "since": _second(worker.started_at),
        "runs": runs[:MOST_NAMES],
        "runs_more": max(0, len(runs) - MOST_NAMES),
        "can_run": len(worker.projections),
    }


def _state_shape(state: ProjectionState) -> dict[str, Any]:
    return {
        "name": state.name,
        "status": state.status,
        "position": state.position,
        "lag": state.lag,
        "lag_seconds": _rounded(state.lag_seconds),
        "processed": state.events_processed,
        "processed_at": _second(state.last_processed_at),
        "error": None if state.error_message is None else printable(state.error_message),
        "letters": state.dead_letters,
        "has_runner": state.has_runner,
        "runner": None if state.runner is None else _runner_shape(state.runner),
        "is_deployed": state.is_deployed,
        "rebuild": None if state.rebuild is None else _rebuild_shape(state.rebuild, state.rebuild_target),
    }


def _runner_shape(runner: RunnerState) -> dict[str, Any]:
    return {
        "worker": runner.worker,
        "host": runner.host,
        "process_id": runner.process_id,
        "version": runner.version,
        "since": _second(runner.since),
    }


def _rebuild_shape(rebuild: RebuildState, target: int | None) -> dict[str, Any]:
    return {
        "mode": rebuild.mode,
        "position": rebuild.position,
        "target": target,
        "share": round(rebuild.share, 3),
        "seconds_left": None if rebuild.seconds_left is None else round(rebuild.seconds_left),
        "is_paused": rebuild.is_paused,
        "error": None if rebuild.error_message is None else printable(rebuild.error_message),
    }


def _second(moment: datetime | None) -> float | None:
    return None if moment is None else round(moment.timestamp(), 1)


def _rounded(number: float | None) -> float | None:
    """Give as much of it as people read, so that it does not change all the time."""
    if number is None:
        return None
    return round(number, 1) if number < 10 else float(round(number))  # noqa: PLR2004 - two digits
