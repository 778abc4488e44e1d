"""The overview: how every projection stands, and what holds the store's mark back.

Called by the status command; made of plain values, so that a page or an endpoint can show the same readings.  It
reads and changes nothing, needs no plugin, and asks a handful of small queries however large the store is.

The readings are made one after the other, not in one snapshot: an event that is appended between them makes a lag
one too large, for a moment.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg.sql

from projectiond import sql
from projectiond.database import Connection, fetch_row
from projectiond.highwater import HighWaterMark, Holder, describe_holders
from projectiond.lease import lease_key, read_leased_keys

# A writer in the middle of its append holds the mark for a moment; only who is there at the second look is named.
SECOND_LOOK_SECONDS: Final = 0.05

# A mark far behind the store's end follows a run of numbers in steps; this many are enough to get to the gap.
MOST_LOOKS: Final = 20


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


def read_overview(db: Connection, deployed: Collection[str] | None) -> Overview:
    """Read it.

    Args:
        db: In autocommit mode.
        deployed: The names of the projections that plugins define; None when they could not be loaded.

    Returns:
        The projections sorted by name: those with a row, and those that are deployed and have none yet.
    """
    dead_letters = {str(name): int(count) for name, count in db.execute(sql.COUNT_DEAD_LETTERS)}
    rows = {str(row[0]): row[1:] for row in db.execute(sql.OVERVIEW)}
    head = read_head(db)
    leased = read_leased_keys(db)
    names = sorted({*rows, *(deployed or ())})
    projections = [
        _state(
            name,
            rows.get(name),
            head=head,
            dead_letters=dead_letters.get(name, 0),
            has_runner=lease_key(name) in leased,
            is_deployed=None if deployed is None else name in deployed,
        )
        for name in names
    ]
    positions = [state.position for state in projections if state.position is not None and state.position <= head]
    hold = read_hold(db, after=max(positions, default=0))
    return Overview(head=head, live_workers=count_live_workers(db), hold=hold, projections=projections)


def read_head(db: Connection) -> int:
    """Give the largest visible sequence number, 0 in an empty store."""
    return int(fetch_row(db, sql.STORE_HEAD)[0])


def count_live_workers(db: Connection) -> int:
    """Say how many worker processes are connected, of all daemons of this database."""
    return int(fetch_row(db, sql.LIVE_WORKERS, {"key": sql.WORKERS_KEY})[0])


def read_hold(db: Connection, *, after: int) -> Hold | None:
    """Say who keeps the mark from going on behind ``after``; None when nobody does."""
    mark = HighWaterMark(after)
    for _ in range(MOST_LOOKS):
        if not mark.look(db):
            break
    time.sleep(SECOND_LOOK_SECONDS if mark.is_held else 0)
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
    dead_letters: int,
    has_runner: bool,
    is_deployed: bool | None,
) -> ProjectionState:
    position, status, processed, processed_at, age, error, target = row or (None,) * 7
    return ProjectionState(
        name=name,
        status=status,
        position=position,
        lag=max(0, head - (position or 0)),
        events_processed=processed,
        last_processed_at=processed_at,
        seconds_since_processed=age,
        error_message=error,
        rebuild_target=target,
        dead_letters=dead_letters,
        has_runner=has_runner,
        is_deployed=is_deployed,
    )
