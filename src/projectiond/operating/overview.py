"""The overview: how every projection stands, and what holds the store's mark back.

Called by the status command and by the supervisor's HTTP; made of plain values.  It reads and changes nothing, needs no
plugin, and asks four small queries however large the store is, some more while the mark is held.

The readings are made one after the other, not in one snapshot: an event that is appended between them makes a lag
one too large, for a moment.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

import psycopg.sql

from projectiond import sql
from projectiond.leases.lease import lease_key
from projectiond.leases.roster import LiveWorker, read_roster
from projectiond.postgres.database import Connection, fetch_row
from projectiond.stream.highwater import HighWaterMark, Holder, describe_holders

# A writer in the middle of its append holds the mark for a moment; only who is there at the second look is named.
SECOND_LOOK_SECONDS: Final = 0.05

# A mark far behind the store's end follows a run of numbers in steps; this many are enough to get to the gap.
MOST_LOOKS: Final = 20


@dataclass(frozen=True, slots=True)
class RebuildState:
    """A rebuild that is in progress, or paused."""

    mode: str
    """Beside the live tables, or in place."""
    position: int
    share: float
    """Of the store that it has replayed: 0 to 1."""
    seconds_left: float | None
    """At the pace that it has had since its begin; None while that says nothing."""
    is_paused: bool
    error_message: str | None
    """What keeps it from going on; the live projection does meanwhile."""


@dataclass(frozen=True, slots=True)
class RunnerState:
    """The worker that runs a projection."""

    host: str
    process_id: int
    worker: int
    """Which of its daemon's workers it is."""
    version: str
    """Of projectiond."""
    since: datetime | None


@dataclass(frozen=True, slots=True)
class ProjectionState:
    """One projection; without a row in projection_checkpoints all but name and lag is empty."""

    name: str
    status: str | None
    position: int | None
    lag: int
    """Sequence numbers between the position and the store's head."""
    events_processed: int | None
    last_processed_at: datetime | None
    seconds_since_processed: float | None
    error_message: str | None
    rebuild_target: int | None
    """Where a rebuild that is in progress will end; None when there is none."""
    dead_letters: int
    has_runner: bool
    """Whether a worker holds its lease, that is, runs it or obeys its pause."""
    is_deployed: bool | None
    """Whether a plugin defines it; None when that is not known."""
    lag_seconds: float | None = 0.0
    """Age of the oldest event above the position, by its created_at; 0 without one, None when that says no time."""
    rebuild: RebuildState | None = None
    """The rebuild that is in progress, if there is one."""
    runner: RunnerState | None = None
    """Who runs it; None when nobody does, and when that is not known."""


@dataclass(frozen=True, slots=True)
class Hold:
    """The mark waits at this number for these transactions."""

    position: int
    holders: Sequence[str]
    remedies: Sequence[str] = ()
    """The statements that would end them, should nobody else."""


@dataclass(frozen=True, slots=True)
class Overview:
    """The whole picture at one moment."""

    head: int
    """The largest visible sequence number; 0 in an empty store."""
    live_workers: int
    hold: Hold | None
    projections: Sequence[ProjectionState]
    roster: Sequence[LiveWorker] = ()
    """Those of them that are known."""


def read_overview(db: Connection, deployed: Collection[str] | None, *, settled: int = 0) -> Overview:
    """Read it.

    Args:
        db: In autocommit mode.
        deployed: The names of the projections that plugins define; None when they could not be loaded.
        settled: A proven mark, if the caller knows one: who holds it is then found in fewer looks.

    Returns:
        The projections sorted by name: those with a row, and those that are deployed and have none yet.
    """
    rows = {str(row[0]): row[1:] for row in db.execute(sql.overview.OVERVIEW)}
    head, live_workers, leased, holders = fetch_row(
        db, sql.overview.OVERVIEW_OF_STORE, {"workers": sql.keys.WORKERS_KEY}
    )
    holder_of = dict(zip(leased or (), holders or (), strict=True))
    workers = read_roster(db)
    worker_of = {worker.session_pid: worker for worker in workers}
    names = sorted({*rows, *(deployed or ())})
    projections = [
        _state(
            name,
            rows.get(name),
            head=head,
            has_runner=lease_key(name) in holder_of,
            worker=worker_of.get(holder_of.get(lease_key(name), 0)),
            is_deployed=None if deployed is None else name in deployed,
        )
        for name in names
    ]
    # Not beyond the head: a checkpoint may be of a store that is gone.
    positions = [
        position for position in (settled, *(state.position or 0 for state in projections)) if position <= head
    ]
    hold = read_hold(db, after=max(positions, default=0))
    return Overview(head=head, live_workers=live_workers, hold=hold, projections=projections, roster=workers)


def as_object(overview: Overview) -> dict[str, Any]:
    """Give it for JSON."""
    shape = asdict(overview)
    return dict(_with_times_as_text(shape))


def _with_times_as_text(value: Any) -> Any:  # noqa: ANN401 - whatever a shape is made of
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return {name: _with_times_as_text(part) for name, part in value.items()}
    return [_with_times_as_text(part) for part in value] if isinstance(value, list | tuple) else value


def read_head(db: Connection) -> int:
    """Give the largest visible sequence number, 0 in an empty store."""
    return int(fetch_row(db, sql.highwater.STORE_HEAD)[0])


def count_live_workers(db: Connection) -> int:
    """Say how many worker processes are connected, of all daemons of this database."""
    return int(fetch_row(db, sql.leases.LIVE_WORKERS, {"key": sql.keys.WORKERS_KEY})[0])


def read_hold(db: Connection, *, after: int) -> Hold | None:
    """Say who keeps the mark from going on behind ``after``; None when nobody does."""
    mark = HighWaterMark(after)
    for _ in range(MOST_LOOKS):
        if not mark.look(db):
            break
    if not mark.is_held:
        return None
    time.sleep(SECOND_LOOK_SECONDS)
    mark.look(db)
    holders = describe_holders(db, mark.blockers)
    if not holders:
        return None
    remedies = [remedy for holder in holders if (remedy := _remedy(db, holder))]
    return Hold(mark.settled, [str(holder) for holder in holders], remedies)


def _remedy(db: Connection, holder: Holder) -> str:
    if holder.pid is not None:
        return f"SELECT pg_terminate_backend({holder.pid})"
    if holder.gid is not None:
        return f"ROLLBACK PREPARED {psycopg.sql.Literal(holder.gid).as_string(db)}"
    return ""


def _state(
    name: str,
    row: tuple[Any, ...] | None,
    *,
    head: int,
    has_runner: bool,
    worker: LiveWorker | None,
    is_deployed: bool | None,
) -> ProjectionState:
    position, status, processed, processed_at, age, error, target, dead_letters, lag_seconds, *rebuild = (
        row or (None,) * 14
    )
    lag = max(0, head - (position or 0))
    return ProjectionState(
        name=name,
        status=status,
        position=position,
        lag=lag,
        events_processed=processed,
        last_processed_at=processed_at,
        seconds_since_processed=age,
        error_message=error,
        rebuild_target=target,
        dead_letters=dead_letters or 0,
        has_runner=has_runner,
        is_deployed=is_deployed,
        lag_seconds=None if lag and lag_seconds is None else max(0.0, lag_seconds or 0.0),
        rebuild=_rebuild_state(head, rebuild),
        runner=None if worker is None else _runner_state(worker, name),
    )


def _runner_state(worker: LiveWorker, name: str) -> RunnerState:
    return RunnerState(worker.host, worker.process_id, worker.number, worker.version, worker.held_since.get(name))


def _rebuild_state(head: int, row: Sequence[Any]) -> RebuildState | None:
    mode, position, seconds, is_paused, error = row
    if mode is None:
        return None
    left = seconds * (head - position) / position if position else None
    return RebuildState(
        mode=mode,
        position=position,
        share=min(position / head, 1.0) if head else 1.0,
        seconds_left=None if is_paused or left is None else max(left, 0.0),
        is_paused=is_paused,
        error_message=error,
    )
