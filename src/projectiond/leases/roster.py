"""The roster: who the live workers are and what each runs since when, for people.

A worker writes its row when it has registered, and notes in it what it begins and ends to run.  Nothing is decided by
the rows: who is alive and who holds what is in the locks (``lease``).  A row counts only while its session holds the
workers' lock; that of a worker which has died stays behind, until the next worker registers.

Called by the worker's main thread, and by the overview, which may read it with a role that may not: then it knows
how many there are, and no more.
"""

import os
import socket
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import psycopg

from projectiond import sql
from projectiond.postgres.database import Connection


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """One worker that is connected, of whatever daemon."""

    session_pid: int
    """Of the server's process that holds its leases."""
    host: str
    process_id: int
    number: int
    """Which of its daemon's workers it is."""
    version: str
    """Of projectiond."""
    projections: Sequence[str]
    """What it could run."""
    started_at: datetime
    held_since: Mapping[str, datetime]

    def __str__(self) -> str:
        """Say which it is, as in ``worker 2 of web-1, pid 812``."""
        return f"worker {self.number} of {self.host}, pid {self.process_id}"


def enter_worker(db: Connection, number: int, version: str, projections: Collection[str]) -> None:
    """Write this worker's row, once it holds the workers' lock, and remove those of workers that are gone."""
    db.execute(sql.leases.FORGET_WORKERS, {"key": sql.keys.WORKERS_KEY})
    parameters = {
        "host": socket.gethostname(),
        "process_id": os.getpid(),
        "number": number,
        "version": version,
        "projections": sorted(projections),
    }
    db.execute(sql.leases.ENTER_WORKER, parameters)


def note_held(db: Connection, projections: Collection[str]) -> None:
    """Note what this worker runs now, since when it has begun with each."""
    db.execute(sql.leases.NOTE_HELD, {"projections": sorted(projections)})


def read_roster(db: Connection) -> Sequence[LiveWorker]:
    """Give the live workers, as far as they are known; none where the role may not read them."""
    with suppress(psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
        return [
            LiveWorker(*[*row, {name: datetime.fromisoformat(since) for name, since in held.items()}])
            for *row, held in db.execute(sql.leases.READ_ROSTER, {"key": sql.keys.WORKERS_KEY})
        ]
    return ()


def differences(workers: Sequence[LiveWorker]) -> Sequence[str]:
    """Say in what live workers differ that should be the same, a sentence for each."""
    told = []
    versions = {worker.version: worker for worker in workers}
    if len(versions) > 1:
        named = ", ".join(f"{version} ({worker})" for version, worker in sorted(versions.items()))
        told.append(f"workers of several versions of projectiond are connected: {named}; let one deployment end")
    sets = {frozenset(worker.projections): worker for worker in workers}
    if len(sets) > 1:
        common = frozenset.intersection(*sets)
        named = "; ".join(
            f"{worker} has {_shortened(sorted(names - common)) or 'no more than the others'}"
            for names, worker in sorted(sets.items(), key=lambda item: (item[1].host, item[1].process_id))
        )
        told.append(
            f"the live workers have different projections, so that they are shared out apart: {named}; deploy the same "
            "projections everywhere, or name other ones in each deployment"
        )
    return told


def _shortened(names: Sequence[str], most: int = 5) -> str:
    told = ", ".join(names[:most])
    return f"{told} and {len(names) - most} more" if len(names) > most else told
