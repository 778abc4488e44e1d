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
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg.pq import Format
from psycopg.rows import TupleRow

from projectiond.event import Event
from projectiond.postgres.database import Connection

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


class Recent:
    """The newest events of one worker: written by its watcher's thread, read by its runners'."""

    def __init__(self) -> None:
        self._passages: deque[Passage] = deque()
        self._count = 0
        self._weight = 0
        # What runners see: passages of one server that follow upon each other, the oldest first.
        self._kept: Sequence[Passage] = ()

    def __repr__(self) -> str:
        kept = self._kept
        return f"<Recent {kept[0].after}..{kept[-1].upto}>" if kept else "<Recent empty>"

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
        if not kept or not kept[0].after <= after <= upto <= kept[-1].upto or kept[0].server != db.incarnation:
            return None
        # The passage that goes beyond `after`, and those that follow it.
        first = min(bisect_right(kept, after, key=lambda passage: passage.upto), len(kept) - 1)
        if kept[first].read_at <= max(since, db.opened_at, time.monotonic() - KEPT_SECONDS):
            return None
        return [event for passage in kept[first:] for event in passage.events if after < event.sequence_number <= upto]

    # --- what the watcher's thread calls

    def keep(self, passage: Passage) -> None:
        """Add the passage that has just been read, and let go what has become too much or too old."""
        if passage.upto == passage.after:
            return
        kept = self._passages
        if kept and (kept[-1].upto != passage.after or kept[-1].server != passage.server):
            self.clear()
        kept.append(passage)
        self._count += len(passage.events)
        self._weight += passage.weight
        oldest = passage.read_at - KEPT_SECONDS
        while len(kept) > 1 and (kept[0].read_at < oldest or self._count > KEPT_EVENTS or self._weight > KEPT_BYTES):
            gone = kept.popleft()
            self._count -= len(gone.events)
            self._weight -= gone.weight
        self._kept = tuple(kept)

    def clear(self) -> None:
        """Forget everything: another connection, or another history."""
        self._passages.clear()
        self._count = self._weight = 0
        self._kept = ()


def event_cursor(db: Connection) -> psycopg.Cursor[TupleRow]:
    """Give a cursor that hands JSON over as the bytes that the server sent."""
    cursor = db.cursor(binary=True)
    if _AS_BYTES is not None:
        cursor.adapters.register_loader("text", _AS_BYTES)
    return cursor
