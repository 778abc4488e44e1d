"""The high-water mark: up to which sequence number is everything settled?

Settled means: visible to every later statement, or dead for ever.  Numbers are handed out before commit, so a
reader may see 102 while 101 is still in flight, and 101 may also never come (rollback).  A projection that read past
101 would lose it.  The mark H is the answer, and it is proven, never timed:

1. *Sighting* (one statement): the end of the gapless run that begins at H + 1, and the largest visible number U.
   What is in the run is committed, so H moves to its end with no further question.
2. At a gap, the *lockers* (a later, separate statement): the transactions that hold RowExclusiveLock on
   ``event_store``.  An INSERT or COPY takes that lock before it evaluates the column default that draws the number,
   and the lock is released only after the commit has become visible.  So any transaction that can still fill a
   gap below U is among them.
3. *(U, lockers)* is remembered as a window.  Each later look drops the lockers that have gone.  When none is left,
   H = U.  Events up to U are read in a still later statement: what is not there by then never will be.

Why the two statements must be separate: a statement's snapshot is taken at its start, while pg_locks is read as it
runs.  In one statement a writer that commits between the two would be in neither.

Why one transaction keeps one name: a virtual transaction id stays with the transaction when it is prepared
(checked on PostgreSQL 15 and 18), but not over a restart of the server.  So a mark lives no longer than the
connection on which it was proven, and begins anew with each (:meth:`HighWaterMark.reopen`).  After a failover the
new primary may lack the old one's last events and hand out their numbers again: there the old mark proves nothing.
Readers must not use it on a connection to another server either, see ``Watcher.settled``.

Events that are read along.  Where a runner waits at the mark the new events are read in the same round trip, for all
runners (``recent``).  They must be all of their range, though writers go on meanwhile:

* What a run settles is read by the sighting's own statement, hence with its snapshot.  That snapshot has seen an event
  for each number of the run, so it gives an event for each.  Beyond the run's end nothing is taken.
* What a window settles is read as any reader does, in a statement later than the one that found its lockers gone.

Both may end early, before an event that is too large or when there are too many.  Then the passage is shorter, never
with a hole in it.

Several windows may be open, so that a new gap need not wait for the last one's end.  When there are too many the
newest is widened instead, which is still right and only later.

Where H begins: at the mark that this database itself keeps as proven, not at the largest checkpoint, for a
checkpoint may have been set by hand ("start from now") and then proves nothing.  The kept mark may be some seconds
old; that matters only when a transaction holds event_store at the start, and then for those seconds' events alone.

Called by the watcher of each worker, from one thread.
"""

import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from psycopg.rows import TupleRow

from projectiond import sql
from projectiond.postgres.database import Connection, fetch_row
from projectiond.stream.head import MOST_EVENTS, UNREADABLE, Head
from projectiond.stream.recent import Passage, Recent

# How far one look follows a gapless run.  Some 1,000 index entries cost less than the round trip.
RUN_LIMIT: Final = 1000

# More open windows than writers that commit between two looks are of no use.
MAX_WINDOWS: Final = 64

# In a row of a sighting with events: where the event begins, and its sequence number.
_FIRST_OF_EVENT: Final = 3
_NUMBER: Final = 10


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one statement saw above the mark: the gapless run's end, and the largest visible number.

    Both as far as the sequence has drawn: ``stray`` is the largest number when it lies beyond that, written by
    somebody who chose it, else 0.  Numbers below it are yet to be drawn, so the mark must not pass them.
    """

    run_end: int
    largest: int
    stray: int = 0


@dataclass(slots=True)
class Window:
    """Everything up to ``upper`` is settled once none of ``lockers`` is left."""

    upper: int
    lockers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Holder:
    """A transaction that holds the mark; ``None`` where the server does not let us see it."""

    pid: int | None
    application: str | None
    user: str | None
    state: str | None
    open_seconds: float | None
    gid: str | None

    def __str__(self) -> str:
        """Say who it is, as in ``pid 812 (app "import", open 43 s)``."""
        who = f'prepared transaction "{self.gid}"' if self.pid is None else f"pid {self.pid}"
        facts = [
            f'app "{self.application}"' if self.application else "",
            f'user "{self.user}"' if self.user else "",
            self.state or "",
            f"open {self.open_seconds:.0f} s" if self.open_seconds is not None else "",
        ]
        told = ", ".join(fact for fact in facts if fact)
        return f"{who} ({told})" if told else who


class HighWaterMark:
    """The mark of one worker: pure decisions over readings, and :meth:`look` which takes the readings."""

    def __init__(self, settled: int = 0) -> None:
        self.settled = settled
        self._windows: deque[Window] = deque()
        self._largest_seen = settled
        self._sequence: str | None = None
        # A number beyond the sequence, which no mark will reach; 0 when there is none.
        self.stray = 0
        # The newest settled events, as far as they have been read along.
        self.recent = Recent()
        self._head: Head | None = None

    def __repr__(self) -> str:
        return f"<HighWaterMark settled={self.settled} windows={len(self._windows)}>"

    @property
    def is_held(self) -> bool:
        """Whether something visible is not yet settled."""
        return bool(self._windows)

    @property
    def blockers(self) -> frozenset[str]:
        """The virtual transaction ids that the next window still waits for."""
        return self._windows[0].lockers if self._windows else frozenset()

    def reopen(self, db: Connection) -> None:
        """Begin on a new connection, at the mark that the database keeps unless it lies beyond the store's end."""
        self._windows.clear()
        self.recent.clear()
        self._sequence = fetch_row(db, sql.highwater.NUMBERS_SEQUENCE)[0]
        db.execute(sql.highwater.FORGET_PROVEN_MARK, {"end": read_store_end(db)})
        row = db.execute(sql.highwater.READ_PROVEN_MARK).fetchone()
        self.settled = self._largest_seen = row[0] if row else 0

    def look(self, db: Connection, *, is_reading: bool = False) -> bool:
        """Take the readings that are needed now; say whether the mark has moved.

        Args:
            db: The connection that the mark was opened on.
            is_reading: Whether to read the events, too, that get settled.
        """
        before = self.settled
        sighting, passage = self._sight(db, is_reading=is_reading)
        if sighting.largest < before and read_store_end(db) < before:
            # The store was emptied, or replaced, under us: numbers below the mark will be drawn again.
            self.reopen(db)
            sighting, passage = self._sight(db, is_reading=is_reading)
        if passage is not None:
            self.recent.keep(passage)
        if self.see(sighting):
            # A statement of its own: see the module's text.
            self.account(_read_lockers(db))
        if is_reading and self.settled > sighting.run_end:
            self._read_on(db, sighting.run_end if passage is None else passage.upto)
        return self.settled != before

    def _sight(self, db: Connection, *, is_reading: bool) -> tuple[Sighting, Passage | None]:
        if is_reading:
            with suppress(*UNREADABLE):
                return _read_sighting_and_events(self._head_of(db), self.settled, self._sequence)
        return _read_sighting(db, self.settled, self._sequence), None

    def _read_on(self, db: Connection, after: int) -> None:
        """Read what a window has settled."""
        if self.settled - after <= MOST_EVENTS:
            with suppress(*UNREADABLE):
                self.recent.keep(_read_passage(self._head_of(db), after, self.settled))

    def _head_of(self, db: Connection) -> Head:
        if self._head is None or self._head.db is not db:
            self._head = Head(db)
        return self._head

    def see(self, sighting: Sighting) -> bool:
        """Take in a sighting made at the current mark; say whether the lockers must be asked.

        The largest number seen is remembered as a window whose lockers are not known yet.
        """
        self.settled = max(self.settled, sighting.run_end)
        self.stray = sighting.stray
        while self._windows and self._windows[0].upper <= self.settled:
            self._windows.popleft()
        self._largest_seen = sighting.largest
        return bool(self._windows) or sighting.largest > self.settled

    def account(self, lockers: frozenset[str]) -> None:
        """Take in the lockers, read in a statement that began after the last sighting's had ended."""
        for window in self._windows:
            window.lockers &= lockers
        self._open_window(self._largest_seen, lockers)
        while self._windows and not self._windows[0].lockers:
            self.settled = max(self.settled, self._windows.popleft().upper)

    def _open_window(self, upper: int, lockers: frozenset[str]) -> None:
        if upper <= self.settled:
            return
        newest = self._windows[-1] if self._windows else None
        if newest is None or (upper > newest.upper and newest.lockers != lockers and len(self._windows) < MAX_WINDOWS):
            self._windows.append(Window(upper, lockers))
        elif upper > newest.upper:
            # The lockers of now cover every number up to the new upper, so they cover the old window's too.
            newest.upper, newest.lockers = upper, lockers


def _read_sighting(db: Connection, settled: int, sequence: str | None) -> Sighting:
    parameters = {"settled": settled, "run_limit": RUN_LIMIT, "sequence": sequence}
    return _make_sighting(fetch_row(db, sql.highwater.SIGHTING, parameters))


def _read_sighting_and_events(head: Head, settled: int, sequence: str | None) -> tuple[Sighting, Passage]:
    read_at = time.monotonic()
    rows = head.sight(settled, RUN_LIMIT, sequence)
    sighting = _make_sighting(rows[0][:_FIRST_OF_EVENT])
    # Not beyond what the sequence has drawn; and of a run that is too long none was read.
    numbers = [row[_NUMBER] for row in rows if row[_NUMBER] is not None and row[_NUMBER] <= sighting.run_end]
    events = [row[_FIRST_OF_EVENT:] for row in rows[: len(numbers)]]
    return sighting, head.make_passage(settled, numbers[-1] if numbers else settled, events, read_at)


def _read_passage(head: Head, after: int, upto: int) -> Passage:
    return head.read(after, upto)


def _make_sighting(row: TupleRow) -> Sighting:
    run_end, largest, last_drawn = row
    if last_drawn is None or largest <= last_drawn:
        return Sighting(run_end, largest)
    return Sighting(min(run_end, last_drawn), last_drawn, stray=largest)


def _read_lockers(db: Connection) -> frozenset[str]:
    return frozenset(row[0] for row in db.execute(sql.highwater.LOCKERS, prepare=True))


def describe_holders(db: Connection, lockers: frozenset[str]) -> Sequence[Holder]:
    """Say who these transactions are, for the log and the status command; those that have ended are left out."""
    return [Holder(*row) for row in db.execute(sql.highwater.DESCRIBE_LOCKERS, {"lockers": sorted(lockers)})]


def keep_proven_mark(db: Connection, mark: int) -> None:
    """Remember a proven mark over restarts."""
    db.execute(sql.highwater.WRITE_PROVEN_MARK, {"mark": mark})


def read_store_end(db: Connection) -> int:
    """Give the number above which none was ever drawn."""
    return int(fetch_row(db, sql.highwater.STORE_END)[0])
