"""The finish of a rebuild: one transaction in which the live tables become what the replay gave.

In this order, for a live runner has its locks on the tables before it takes its row, the last of each transaction:

1. nobody else writes the live tables from here on (``hold_writers``); readers do not notice;
2. the projection's row is locked: neither its position nor its status changes any more;
3. the replay catches up with that position, in transactions of its own: a few events, since it was at the head;
4. the shapes decide: rows are merged into the live tables, or the tables change places;
5. position, count and dead letters are taken from the space, the space is dropped, the history is written, the status
   is set to running; the status trigger takes the rebuild's row away.

All of it is transactional, so whatever ends this before COMMIT leaves the old state, with the replay's progress kept.

The live position may jump ahead, if the live runner was behind the replay, but never back; except where it lies beyond
the end of the store, as after a restore from a backup: then it belongs to a history that is gone.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal

from psycopg.sql import SQL, Identifier
from psycopg.types.json import Jsonb

from projectiond import sql
from projectiond.builds.build import record_build
from projectiond.errors import ConflictError
from projectiond.plugins.definition import Definition
from projectiond.postgres.database import Connection
from projectiond.rebuild import space as spaces
from projectiond.rebuild import statements
from projectiond.rebuild.merge import merge
from projectiond.rebuild.replay import Replay
from projectiond.rebuild.shape import finish_by
from projectiond.rebuild.space import Space
from projectiond.rebuild.swap import swap
from projectiond.rebuild.tables import TableChange, hold_writers, pair_tables
from projectiond.stream.highwater import read_store_end

# For so long the live projection stands still at most while the replay catches up with it.
CATCH_UP_SECONDS: Final = 1.0

# Of the row: a runner's COMMIT is in the way at most.
LOCK_TIMEOUT: Final = "5s"


@dataclass(frozen=True, slots=True)
class Finished:
    """What a rebuild came to."""

    position: int
    method: Literal["merge", "swap"]
    reason: str
    changes: Sequence[TableChange]

    def told(self) -> str:
        """Say it, as in ``order_summary 3 changed, 1 added, 0 removed of 4,000``."""
        return "; ".join(
            f"{change.table} {change.changed:,} changed, {change.added:,} added, {change.removed:,} removed "
            f"of {change.total:,}"
            for change in self.changes
        )


def finish(db: Connection, definition: Definition, space: Space, replay: Replay) -> Finished | None:
    """Finish a rebuild whose replay is at the head; None when it has to catch up some more first.

    Args:
        db: In autocommit mode, on the base search_path.
        definition: What was replayed.
        space: Where.
        replay: At work there, on sessions of its own.

    Raises:
        ConflictError: The rebuild is paused or called off.
        TablesBusyError: The tables are in use; to be tried again.
        ConfigurationError: The tables are not fit for it; the message says what to do.
    """
    name = {"name": definition.name}
    with db.transaction():
        db.execute(statements.LIFT_TIMEOUTS)
        db.execute(sql.session.SET_LOCK_TIMEOUT, {"timeout": LOCK_TIMEOUT})
        pairs = pair_tables(db, definition.tables, space.schema)
        hold_writers(db, pairs)
        live = _lock(db, space)
        if not _catch_up(db, replay, live):
            return None
        finish = finish_by(pairs)
        changes = merge(db, pairs) if finish.by == "merge" else swap(db, definition.name, pairs)
        position = replay.position
        told = {
            **name,
            "position": position,
            "method": finish.by,
            "tables": Jsonb([asdict(change) for change in changes]),
        }
        db.execute(statements.WRITE_HISTORY, told)
        record_build(db, definition)
        db.execute(statements.DROP_DEAD_LETTERS, name)
        db.execute(SQL(statements.TAKE_DEAD_LETTERS).format(space=Identifier(space.schema)))
        db.execute(SQL(statements.TAKE_CHECKPOINT).format(space=Identifier(space.schema)), name)
        spaces.drop(db, space.schema)
    return Finished(position, finish.by, finish.reason, changes)


def _lock(db: Connection, space: Space) -> int:
    """Hold the projection's row; give the live position."""
    name = {"name": space.projection}
    db.execute(statements.LOCK_STATUS, name)
    row = db.execute(statements.READ_REBUILD, name).fetchone()
    if row is None or row[0] != "rebuilding" or row[3] != space.rebuild_id or row[4]:
        raise ConflictError(f'the rebuild of "{space.projection}" is paused, or is no longer the one in progress')
    return int(row[1])


def _catch_up(db: Connection, replay: Replay, live: int) -> bool:
    if replay.position >= live or live > read_store_end(db):
        return True
    # The live checkpoint was committed, so all up to it is settled.
    return replay.advance(live, seconds=CATCH_UP_SECONDS)
