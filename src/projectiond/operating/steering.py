"""Steering: pause, resume and rebuild, by the status column that any SQL client may set as well.

Called by the commands of these names.  Each is one short transaction; the status trigger tells the daemon.  What
is committed here holds from then on: after a pause no further batch of the projection commits, nor of its rebuild (see
``checkpoint``).
"""

from dataclasses import dataclass

from projectiond import checkpoint as checkpoints
from projectiond import sql
from projectiond.checkpoint import Checkpoint, Status
from projectiond.postgres.database import Connection


@dataclass(frozen=True, slots=True)
class Steered:
    """What came of it: the row before (``None``: there was none), and whether anything was changed."""

    before: Checkpoint | None
    is_changed: bool
    position: int
    """Where the projection stood when the change was made."""


def pause(db: Connection, name: str) -> Steered:
    """Pause a projection; one that has no row yet gets one, so that it does not begin."""
    with db.transaction():
        # Whether a rebuild had begun is told to people; the daemon may begin it at this very moment.
        db.execute(sql.steering.LOCK_CHECKPOINT, {"name": name})
        before = checkpoints.find(db, name)
        if before is None:
            is_made = db.execute(sql.steering.INSERT_STATUS, {"name": name, "status": "paused"}).rowcount == 1
            if is_made:
                return Steered(None, is_changed=True, position=0)
        return _set_status(db, name, before, "paused")


def resume(db: Connection, name: str) -> Steered:
    """Let a paused projection go on, which clears its error too; leave any other as it is.

    So does a rebuild beside the live tables that was paused with it.  In place the tables go on from where they are.
    """
    with db.transaction():
        before = checkpoints.find(db, name)
        if before is None or before.status != "paused":
            return Steered(before, is_changed=False, position=0 if before is None else before.position)
        return _set_status(db, name, before, "rebuilding" if before.rebuild_mode == "beside" else "running")


def rebuild(db: Connection, name: str, *, is_in_place: bool = False) -> Steered:
    """Ask for a rebuild from the first event; one that is in progress begins anew."""
    with db.transaction():
        before = checkpoints.find(db, name)
        db.execute(sql.steering.INSERT_STATUS, {"name": name, "status": "rebuilding"})
        # By way of running: that makes the trigger forget a rebuild that had begun.
        db.execute(sql.steering.SET_STATUS, {"name": name, "status": "running"})
        steered = _set_status(db, name, before, "rebuilding")
        if is_in_place:
            db.execute(sql.steering.ASK_IN_PLACE, {"name": name})
    return steered


def call_off(db: Connection, name: str) -> Steered:
    """Call off a rebuild beside the live tables, also one that is paused; in place there is nothing to go back to."""
    with db.transaction():
        db.execute(sql.steering.LOCK_CHECKPOINT, {"name": name})
        before = checkpoints.find(db, name)
        is_asked = before is not None and (before.status == "rebuilding" or before.rebuild_mode is not None)
        if before is None or not is_asked or before.rebuild_mode == "in place":
            return Steered(before, is_changed=False, position=0 if before is None else before.position)
        return _set_status(db, name, before, "running")


def _set_status(db: Connection, name: str, before: Checkpoint | None, status: Status) -> Steered:
    row = db.execute(sql.steering.SET_STATUS, {"name": name, "status": status}).fetchone()
    if row is None:
        return Steered(before, is_changed=False, position=0 if before is None else before.position)
    return Steered(before, is_changed=True, position=int(row[0]))
