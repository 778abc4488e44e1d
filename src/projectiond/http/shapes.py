"""The shapes of the API's answers: dicts for JSON, every field of which docs/http.md describes."""

from collections.abc import Mapping
from typing import Any

from projectiond.http.crew import Crew, Member
from projectiond.http.metrics import resident_bytes
from projectiond.http.readings import Reading
from projectiond.http.vigil import Fault
from projectiond.operating.overview import as_object
from projectiond.processes.counters import Count, ProjectionNumbers, Wakeup


def projections_shape(crew: Crew, reading: Reading, now: float) -> dict[str, Any]:
    """Give everything."""
    sums, runners = crew.projections(), crew.runners()
    shape = {**_database_shape(reading, now), "head": None, "live_workers": None, "hold": None, "roster": []}
    projections: list[dict[str, Any]] = []
    if reading.overview is not None:
        overview = as_object(reading.overview)
        projections = overview.pop("projections")
        shape |= overview
    for projection in projections:
        projection["here"] = _here(sums, runners, projection["name"])
    return {
        **shape,
        "is_draining": crew.is_draining,
        "workers": [_member_shape(member, now) for member in crew.members],
        "projections": projections,
    }


def projection_shape(crew: Crew, reading: Reading, now: float, name: str) -> dict[str, Any] | None:
    """Give one projection; ``None``: there is none of this name, or it is not known yet."""
    states = [] if reading.overview is None else as_object(reading.overview)["projections"]
    found = next((state for state in states if state["name"] == name), None)
    if found is None:
        return None
    return {**_database_shape(reading, now), **found, "here": _here(crew.projections(), crew.runners(), name)}


def shape_of_fault(fault: Fault) -> dict[str, Any]:
    """Give a fault."""
    return {
        "kind": fault.kind,
        "name": fault.name,
        "worker": fault.worker,
        "reason": fault.reason,
        "seconds": round(fault.seconds, 1),
    }


def _database_shape(reading: Reading, now: float) -> dict[str, Any]:
    age_seconds = reading.age_seconds(now)
    return {
        "database": {
            "is_answering": not reading.error,
            "error": reading.error,
            "age_seconds": None if age_seconds is None else round(age_seconds, 3),
        }
    }


def _here(sums: Mapping[str, ProjectionNumbers], runners: Mapping[str, int], name: str) -> dict[str, Any] | None:
    """Give what this daemon's workers know of a projection; ``None``: they cannot run it."""
    if name not in sums:
        return None
    numbers = sums[name]
    return {
        "worker": runners.get(name),
        "state": numbers.state.name.lower(),
        **{count.name.lower(): numbers.count(count) for count in Count},
    }


def _member_shape(member: Member, now: float) -> dict[str, Any]:
    shape: dict[str, Any] = {
        "number": member.number,
        "pid": member.pid,
        "is_ready": member.is_ready,
        "restarts": member.restarts,
        "last_end": member.last_end,
        "wakeups": {why.name.lower(): member.wakeups(why) for why in Wakeup},
    }
    page = member.page
    if page is None or member.pid is None:
        return shape
    worker = page.worker
    return {
        **shape,
        "heartbeat_age_seconds": round(now - max(page.beaten_at, member.started_at), 3),
        "high_water_mark": None if worker.looked_at is None else worker.mark,
        "held_seconds": None if worker.held_since is None else round(now - worker.held_since, 3),
        "leases": worker.leases,
        "pool": {
            "connections": worker.pool_size,
            "in_use": worker.pool_in_use,
            "requests_waiting": worker.pool_waiting,
        },
        "resident_memory_bytes": resident_bytes(member.pid),
    }
