"""The newest events of the store, read once by the watcher for all runners of its worker.

When an event arrives, every projection that waits at the head wants the same row in the same millisecond.  The watcher
has to ask the server anyway how far the store is settled.  So it reads the new events along with that, and a runner
that finds them here needs no query of its own.  What is not here it reads itself.

Passing them on takes no lock.  All that is kept is one immutable value, which the watcher's thread alone replaces, by
one assignment; a runner that has fetched it goes on with it whatever happens meanwhile.

Sharing the events themselves is safe as well.  They cannot be assigned to, and their JSON stays bytes: what a handler
gets is a copy of its own (``Event.pristine``, ``Event.typed``), and it is the copy that decodes.  So no thread sees
what another has decoded, or has done to it.

Why a range that is given is what the runner's own query would have found:

* *Complete.*  Each passage holds all events of its range, see ``highwater``; passages follow upon each other without a
  hole; and a range is given as a whole or not at all.
* *Of this server.*  Each passage knows the server process that it was read from, and when.  A connection takes only
  what was read from its own server after it had been opened: a crash between the two would have ended the connection,
  and then nothing commits.  To ask for the mark first (``Watcher.settled``) is needed, but not enough: between the two
  the watcher may reconnect, and to another server, one that took over while the old one still serves this connection.
* *Of this history.*  A store that is emptied draws its numbers anew.  The mark then begins anew, and all this with it.
* *Not outdated.*  Events do not change, except by a person who mends one that poisons a projection, or erases one.  So
  a runner names the time at which it last read its row (``since``): whoever resumes a projection after mending an event
  makes it read its row again, and what was read before that is not used.  Nothing is used at all that is older than
  ``KEPT_SECONDS``, however slow a handler is.

Memory is bounded by the number of events and by their bytes; ``head`` bounds what is read at once.
"""

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg.pq import Format
from psycopg.rows import TupleRow

from projectiond.database import Connection
from projectiond.event import Event

# What is kept: enough for a worker's many runners to get through one after the other.
KEPT_EVENTS: Final = 512
KEPT_BYTES: Final = 4 * 1024 * 1024
KEPT_SECONDS: Final = 1.0

# psycopg's loader of binary data, for text: in the binary format text is its bytes as they are.
_AS_BYTES: Final = psycopg.adapters.get_loader(psycopg.adapters.types["bytea"].oid, Format.BINARY)


@dataclass(frozen=True, slots=True)
class Passage:
    """All events with ``after`` < sequence number <= ``upto``, in order."""

    after: int
    upto: int
    events: Sequence[Event[Any]]
    weight: int
    """Bytes of JSON."""

    server: datetime | None
    """When the server process was started that it was read from."""

    read_at: float
    """By the monotonic clock, before it was read."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What runners see: passages of one server that follow upon each other, the oldest first, and what is in them."""

    passages: Sequence[Passage]
    events: Sequence[Event[Any]]
    numbers: Sequence[int]


class Recent:
    """The newest events of one worker: written by its watcher's thread, read by its runners'."""

    def __init__(self) -> None:
        self._passages: deque[Passage] = deque()
        self._kept: _Kept | None = None

    def __repr__(self) -> str:
        kept = self._kept
        return f"<Recent {kept.passages[0].after}..{kept.passages[-1].upto}>" if kept else "<Recent empty>"

    def read(self, db: Connection, after: int, upto: int, since: float = 0.0) -> Sequence[Event[Any]] | None:
        """Give every event above ``after`` up to ``upto``, in order; from any thread.

        Args:
            db: The connection on which the events will be applied, and for which ``upto`` is settled.
            after: A sequence number.
            upto: A sequence number that is not below ``after``.
            since: A time by the monotonic clock; what was read before is not used.

        Returns:
            The events, or ``None`` when not all of the range is here: then it is to be read from the store.
        """
        kept = self._kept
        if kept is None or not after <= upto <= kept.passages[-1].upto:
            return None
        too_old = max(since, db.opened_at, time.monotonic() - KEPT_SECONDS)
        first = bisect_right(kept.passages, too_old, key=lambda passage: passage.read_at)
        usable = kept.passages[first:]
        if not usable or after < usable[0].after or usable[0].server != db.incarnation:
            return None
        return kept.events[bisect_right(kept.numbers, after) : bisect_right(kept.numbers, upto)]

    # --- what the watcher's thread calls

    def keep(self, passage: Passage) -> None:
        """Add the passage that has just been read, and let go what has become too much or too old."""
        if passage.upto == passage.after:
            return
        kept = self._passages
        if kept and (kept[-1].upto != passage.after or kept[-1].server != passage.server):
            kept.clear()
        kept.append(passage)
        oldest = passage.read_at - KEPT_SECONDS
        while len(kept) > 1 and (kept[0].read_at < oldest or _count(kept) > KEPT_EVENTS or _weigh(kept) > KEPT_BYTES):
            kept.popleft()
        events = tuple(event for each in kept for event in each.events)
        self._kept = _Kept(tuple(kept), events, tuple(event.sequence_number for event in events))

    def clear(self) -> None:
        """Forget everything: another connection, or another history."""
        self._passages.clear()
        self._kept = None


def _count(passages: Iterable[Passage]) -> int:
    return sum(len(passage.events) for passage in passages)


def _weigh(passages: Iterable[Passage]) -> int:
    return sum(passage.weight for passage in passages)


def event_cursor(db: Connection) -> psycopg.Cursor[TupleRow]:
    """Give a cursor that hands JSON over as the bytes that the server sent."""
    cursor = db.cursor(binary=True)
    if _AS_BYTES is not None:
        cursor.adapters.register_loader("text", _AS_BYTES)
    return cursor
