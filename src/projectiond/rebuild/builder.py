"""The builder: takes one rebuild from where it is to its end.

Run by a process of its own (``process``), or in a test.  One pass::

    somebody else builds it ──▶ BUSY
    not asked for (any more) ──▶ NOTHING           (what is left of an old one is dropped)
    paused ──▶ NOTHING                             (its space is kept)
    no space, or made of something else ──▶ make it, with the rebuild's row
        ▼
    look how far the store is settled ──▶ replay up to there ──▶ near the head? ──▶ finish ──▶ FINISHED

The proof that somebody wants it is part of every transaction: of the replay's by the trigger on its checkpoint, of the
finish by the lock on the projection's row.  What is read here in between only decides what to do next.

A fault (an event that fails, a privilege that is missing) is written into the rebuild's row and ends the pass: FAILED,
with all progress kept.  Whoever runs this tries again after a while.
"""

import enum
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import psycopg

from projectiond import logs
from projectiond.errors import ConfigurationError, ConflictError, DatabaseUnavailableError, ReplayStoppedError
from projectiond.failure import describe, is_transient, printable
from projectiond.plugins.definition import Definition
from projectiond.plugins.limits import resolve_limits
from projectiond.postgres.database import Connection, connect, fetch_row
from projectiond.processes.recorder import Slot
from projectiond.rebuild import space as spaces
from projectiond.rebuild import statements
from projectiond.rebuild.dependents import refuse_unfinishable
from projectiond.rebuild.finish import Finished, finish
from projectiond.rebuild.marker import RETRYING, note_failure
from projectiond.rebuild.replay import Replay
from projectiond.rebuild.space import Space
from projectiond.rebuild.tables import pair_tables
from projectiond.settings import Settings
from projectiond.stream.highwater import HighWaterMark, read_store_end

# How often the row is read while events are replayed.
LOOK_SECONDS: Final = 0.2

# A replay that needed no longer for what was settled at its begin is near enough to the head to finish.
NEAR_SECONDS: Final = 1.0

# Between two tries of the finish at least, and while the mark is held.
PAUSE_SECONDS: Final = 0.1

# After a try that failed the live projection is left alone for so many times as long as that took.
SHARE_OF_LIVE: Final = 4
LONGEST_PAUSE_SECONDS: Final = 30.0

log = logs.get_logger()


class Result(enum.Enum):
    """What a pass came to."""

    FINISHED = "finished"
    NOTHING = "nothing"
    """There is nothing to build (any more), or it is paused."""
    BUSY = "busy"
    FAILED = "failed"
    """The rebuild's row says why."""
    INTERRUPTED = "interrupted"
    """Told to stop, or the database went away."""


@dataclass(frozen=True, slots=True)
class _Request:
    """What the projection's row and its rebuild's row say."""

    is_wanted: bool
    is_paused: bool
    rebuild_id: uuid.UUID | None
    live: int


class Builder:
    """Builds one projection anew."""

    def __init__(self, settings: Settings, definition: Definition, slot: Slot, *, careful_upto: int = 0) -> None:
        """Make a builder.

        Args:
            settings: With ``database_url`` set.
            definition: With an instance of the class that nothing else runs.
            slot: Where to note the event in hand.
            careful_upto: Apply event by event up to this sequence number, because a builder died over it.
        """
        dsn = settings.database_dsn()
        if dsn is None:
            raise ConfigurationError("a builder was started without database_url")
        self._dsn = dsn
        self._settings = settings
        self._definition = definition
        # A rebuild that was begun with another one begins afresh.
        self._fingerprint = definition.fingerprint.digest
        self._slot = slot
        self._careful_upto = careful_upto
        self._name = {"name": definition.name}
        self._log = log.bind(projection=definition.name)
        self._repeats = logs.RateLimited(self._log)
        self._is_stopping = False
        self._next_try_at = 0.0
        self._replay: Replay | None = None

    def __repr__(self) -> str:
        return f"<Builder of {self._definition.name} {self._replay!r}>"

    def stop(self) -> None:
        """Ask for the end: the transaction in hand is finished.  From any thread."""
        self._is_stopping = True
        replay = self._replay
        if replay is not None:
            replay.stop()

    def run(self) -> Result:
        """Take the rebuild as far as it goes."""
        try:
            with connect(
                self._dsn, role="builder", statement_timeout_seconds=self._settings.statement_timeout_seconds
            ) as db:
                return self._run_over(db)
        except (DatabaseUnavailableError, psycopg.OperationalError) as error:
            self._log.warning(logs.DATABASE_UNAVAILABLE, error=describe(error))
            return Result.INTERRUPTED

    def _run_over(self, db: Connection) -> Result:
        spaces.drop_orphans(db)
        if not fetch_row(db, statements.TRY_BUILDER, self._name)[0]:
            return Result.BUSY
        try:
            return self._build(db)
        except ConflictError:
            return self._call_off(db)
        except Exception as error:
            if isinstance(error, psycopg.OperationalError | DatabaseUnavailableError) and is_transient(error):
                raise
            is_told = isinstance(error, ConfigurationError | ReplayStoppedError)
            note_failure(db, self._definition.name, printable(str(error)) if is_told else describe(error))
            return Result.FAILED

    def _build(self, db: Connection) -> Result:
        request = self._read(db)
        if not request.is_wanted or request.is_paused:
            return self._call_off(db)
        space = self._enter_space(db, request)
        self._refuse_unfinishable(db, space)
        mark = HighWaterMark()
        mark.reopen(db)
        with self._new_replay(space) as replay:
            self._replay = replay
            while not self._is_stopping:
                upto = self._find_mark(db, mark)
                began = time.monotonic()
                is_there = replay.advance(upto, until=self._asker(db, space))
                if not self._is_of(self._read(db), space):
                    return self._call_off(db)
                if is_there and time.monotonic() - began < NEAR_SECONDS and self._finish_in_time(db, space, replay):
                    return Result.FINISHED
                time.sleep(0 if not is_there else PAUSE_SECONDS)
        return Result.INTERRUPTED

    def _new_replay(self, space: Space) -> Replay:
        return Replay(
            self._dsn,
            space.schema,
            self._definition,
            resolve_limits(self._definition, self._settings),
            self._slot,
            statement_timeout_seconds=self._settings.statement_timeout_seconds,
            rebuild_id=space.rebuild_id,
            careful_upto=self._careful_upto,
            share=self._settings.rebuild_max_share,
        )

    # --- the steps

    def _enter_space(self, db: Connection, request: _Request) -> Space:
        """Go on in the space that there is, or make one."""
        space = spaces.find(db, spaces.space_name(self._definition.name))
        reason = ""
        if space is not None and space.rebuild_id == request.rebuild_id:
            if space.fingerprint != self._fingerprint:
                reason = "the projection is not the one that it was begun with"
            elif not spaces.is_current(db, space):
                reason = "the daemon's tables have got columns since it was begun"
            else:
                self._log.info(logs.REBUILD_CONTINUED, space=space.schema)
                return space
        space = spaces.make_for_rebuild(db, self._definition, self._fingerprint)
        because = {"reason": reason} if reason else {}
        self._log.info(logs.REBUILD_STARTED, space=space.schema, tables=self._definition.tables, **because)
        return space

    def _refuse_unfinishable(self, db: Connection, space: Space) -> None:
        """See now, and not after hours of replaying, that the live tables can become what it gives."""
        with db.transaction():
            refuse_unfinishable(db, self._definition.name, pair_tables(db, self._definition.tables, space.schema))

    def _find_mark(self, db: Connection, mark: HighWaterMark) -> int:
        """Say up to where everything is settled: so is what the live checkpoint stands for, if the store has it."""
        mark.look(db)
        live = self._read(db).live
        return live if mark.settled < live <= read_store_end(db) else mark.settled

    def _asker(self, db: Connection, space: Space) -> "_Asker":
        return _Asker(lambda: self._is_stopping or not self._is_of(self._read(db), space))

    def _finish_in_time(self, db: Connection, space: Space, replay: Replay) -> bool:
        """Finish, unless the last try was a moment ago: each holds the live projection back for as long as it takes."""
        began = time.monotonic()
        if began < self._next_try_at:
            return False
        is_finished = self._finish(db, space, replay)
        now = time.monotonic()
        self._next_try_at = now + min((now - began) * SHARE_OF_LIVE, LONGEST_PAUSE_SECONDS)
        return is_finished

    def _finish(self, db: Connection, space: Space, replay: Replay) -> bool:
        try:
            finished = finish(db, self._definition, space, replay)
        except (psycopg.Error, DatabaseUnavailableError) as error:
            if not is_transient(error) or db.closed:
                raise
            text = f"{RETRYING}{describe(error)}"
            db.execute(statements.NOTE_FAILURE, {**self._name, "error": text})
            self._repeats.log("warning", logs.REBUILD_RETRYING, key=type(error).__name__, error=text)
            return False
        if finished is not None:
            self._tell(finished)
        return finished is not None

    def _tell(self, finished: Finished) -> None:
        self._log.info(
            logs.REBUILD_FINISHED,
            position=finished.position,
            method=finished.method,
            reason=finished.reason,
            tables=finished.told(),
        )

    # --- the ends

    def _call_off(self, db: Connection) -> Result:
        """The rebuild is paused, called off, or another one: only what nobody wants any more is dropped."""
        space = spaces.find(db, spaces.space_name(self._definition.name))
        if space is not None and space.rebuild_id is not None:
            request = self._read(db)
            if request.rebuild_id != space.rebuild_id:
                spaces.drop(db, space.schema)
                self._log.info(logs.REBUILD_CANCELLED, space=space.schema)
        return Result.NOTHING

    # --- readings

    def _read(self, db: Connection) -> _Request:
        row = db.execute(statements.READ_REBUILD, self._name).fetchone()
        if row is None:
            return _Request(is_wanted=False, is_paused=False, rebuild_id=None, live=0)
        status, live, mode, rebuild_id, is_paused = row
        is_wanted = status == "rebuilding" and mode != "in place"
        return _Request(is_wanted=is_wanted, is_paused=bool(is_paused), rebuild_id=rebuild_id, live=live)

    @staticmethod
    def _is_of(request: _Request, space: Space) -> bool:
        return request.is_wanted and not request.is_paused and request.rebuild_id == space.rebuild_id


class _Asker:
    """Asks at most every LOOK_SECONDS."""

    def __init__(self, ask: Callable[[], bool]) -> None:
        self._ask = ask
        self._asked_at = 0.0

    def __call__(self) -> bool:
        """Say whether it is over."""
        now = time.monotonic()
        if now - self._asked_at < LOOK_SECONDS:
            return False
        self._asked_at = now
        return self._ask()
