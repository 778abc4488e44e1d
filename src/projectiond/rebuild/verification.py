"""Verification: is the live read model what the history gives?

A replay builds it anew in a space of its own, then both are compared as they were at one moment:

1. the replay follows the live checkpoint until it is near;
2. the projection's row is locked, so that the checkpoint stands still, and the replay catches up with it to the number;
3. a second session takes its snapshot: live tables and built ones, both at this position.  The row is let go, and the
   live projection goes on while the comparison takes as long as it takes.

Nothing of the live projection is changed.  With ``is_fixing`` the rows that differ are merged into the live tables, as
at the finish of a rebuild, in one transaction that holds the row; the dead letters become the replay's, too.

What it finds: rows that somebody edited by hand, events that were lost or erased, and handlers that depend on more than
their events (the clock, random(), another projection's tables): for these, two replays differ as well.

Called by the command ``verify``.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from psycopg import errors
from psycopg.sql import SQL, Identifier

from projectiond import checkpoint as checkpoints
from projectiond import sql
from projectiond.checkpoint import Checkpoint
from projectiond.errors import ConfigurationError, ConflictError
from projectiond.postgres.database import Connection
from projectiond.rebuild import space as spaces
from projectiond.rebuild import statements
from projectiond.rebuild.aside import Aside
from projectiond.rebuild.compare import TableDifference, compare
from projectiond.rebuild.merge import merge
from projectiond.rebuild.replay import Replay
from projectiond.rebuild.shape import finish_by
from projectiond.rebuild.tables import Pair, TablesBusyError, hold_writers, pair_tables
from projectiond.stream.highwater import read_store_end

PREFIX: Final = "projectiond_verify_"

# A replay that needed no longer for what the live projection had applied when it began is near it.
NEAR_SECONDS: Final = 1.0

# For so long the live projection may be held while the replay catches up with it to the number.
CATCH_UP_SECONDS: Final = 1.0

LOCK_TIMEOUT: Final = "5s"

# So often, and for so long, it is tried again while somebody has locks on the row or the tables.
BUSY_SECONDS: Final = 5.0
PATIENCE_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Verified:
    """What a verification came to."""

    position: int
    """Both were compared as of this sequence number."""
    tables: Sequence[TableDifference]
    is_fixed: bool = False

    @property
    def is_equal(self) -> bool:
        """Whether the live read model is what the history gives."""
        return not any(t.change.changed or t.change.added or t.change.removed for t in self.tables)


class Verification(Aside):
    """Verifies one projection."""

    def run(self, *, most_samples: int = 5, is_fixing: bool = False) -> Verified:
        """Replay and compare.

        Raises:
            ConfigurationError: It cannot be verified; the message says why.
            ReplayStoppedError: The replay cannot get past an event.
        """
        with self._connect("verify") as db, self._space(db) as space, self._new_replay(space) as replay:
            self._approach(db, replay)
            pairs = self._pair(db, space)
            verified = self._compare(db, replay, pairs, most_samples)
            if not is_fixing or verified.is_equal:
                return verified
            self._fix(db, replay, pairs, space)
            return Verified(replay.position, verified.tables, is_fixed=True)

    # --- the replay

    @contextmanager
    def _space(self, db: Connection) -> Iterator[str]:
        """Make a space for the time; what a verification that was killed has left is dropped first."""
        schema = spaces.space_name(self._definition.name, PREFIX)
        name = self._definition.name
        busy = ConfigurationError(f'"{name}" is being verified by another session', hint="wait until it is done")
        with self._alone_in(db, schema, busy):
            spaces.make(db, self._definition, schema)
            try:
                yield schema
            finally:
                # The connection may be what failed; the next verification clears up then.
                if not db.closed:
                    spaces.drop(db, schema)

    def _approach(self, db: Connection, replay: Replay) -> None:
        """Replay until what the live projection is ahead is done in a moment."""
        began = 0.0
        while time.monotonic() - began > NEAR_SECONDS:
            began = time.monotonic()
            self._advance(replay, self._live(db).position)
        self._tell(replay.position, replay.position)

    def _live(self, db: Connection) -> Checkpoint:
        name = self._definition.name
        live = checkpoints.find(db, name)
        if live is None:
            raise ConfigurationError(
                f'"{name}" has no checkpoint: it has never run, so there is nothing to verify',
                hint='"projectiond run" begins it',
            )
        if live.status == "rebuilding":
            raise ConfigurationError(
                f'"{name}" is being rebuilt', hint="verify it when the rebuild is done, or has been called off"
            )
        end = read_store_end(db)
        if live.position > end:
            raise ConfigurationError(
                f'the checkpoint of "{name}" is {live.position}, beyond the end of the event store at {end}: the store '
                "was restored from a backup or truncated",
                hint=f'run "projectiond rebuild {name}"',
            )
        return live

    # --- the comparison

    def _pair(self, db: Connection, space: str) -> Sequence[Pair]:
        pairs = pair_tables(db, self._definition.tables, space)
        finish = finish_by(pairs)
        if finish.by != "merge":
            raise ConfigurationError(
                f'the tables of "{self._definition.name}" are not as its `schema` makes them: {finish.reason}',
                hint=f'run "projectiond rebuild {self._definition.name}", which gives them that shape',
            )
        return pairs

    def _compare(self, db: Connection, replay: Replay, pairs: Sequence[Pair], most_samples: int) -> Verified:
        with self._connect("verify") as reader:
            reader.execute(statements.BEGIN_SNAPSHOT)
            try:
                self._hold(db, replay, lambda: reader.execute(statements.TAKE_SNAPSHOT))
                reader.execute(statements.LIFT_TIMEOUTS)
                return Verified(replay.position, compare(reader, pairs, samples=most_samples))
            finally:
                reader.rollback()

    def _fix(self, db: Connection, replay: Replay, pairs: Sequence[Pair], space: str) -> None:
        def fix() -> None:
            db.execute(statements.LIFT_TIMEOUTS)
            merge(db, pairs)
            # What the replay could apply is in the rows now: a letter that is tried again would apply it twice.
            db.execute(statements.DROP_DEAD_LETTERS, {"name": self._definition.name})
            db.execute(SQL(statements.TAKE_DEAD_LETTERS).format(space=Identifier(space)))

        self._hold(db, replay, fix, before=lambda: hold_writers(db, pairs))

    def _hold(
        self, db: Connection, replay: Replay, action: Callable[[], object], before: Callable[[], None] = lambda: None
    ) -> None:
        """Do something while live tables and built ones are at the same position, in a transaction on ``db``."""
        name = {"name": self._definition.name}
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                with db.transaction():
                    db.execute(sql.session.SET_LOCK_TIMEOUT, {"timeout": LOCK_TIMEOUT})
                    before()
                    db.execute(sql.steering.LOCK_CHECKPOINT, name)
                    live = self._live(db).position
                    if live < replay.position:
                        raise ConflictError(f'the checkpoint of "{self._definition.name}" has gone back meanwhile')
                    if replay.advance(live, seconds=CATCH_UP_SECONDS):
                        action()
                        return
            except (TablesBusyError, errors.LockNotAvailable):
                # The replay may have taken hours.
                if time.monotonic() > deadline:
                    raise
                time.sleep(BUSY_SECONDS)
            self._approach(db, replay)
