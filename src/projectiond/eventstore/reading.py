"""The plans that read: one aggregate's events, page by page or all at once, and the whole store up to a proven mark.

Pages are asked for by key (the version, or the sequence number) and not by a cursor of the server: no transaction is
held open between two of them, so a slow consumer keeps neither a connection nor a snapshot.  A page is bounded by its
number of events and by bytes; an event that is too large for any page comes alone.

*One aggregate.*  Versions become visible in their order, since a writer of version 5 has seen version 4.  So nothing
can appear behind the page that was read last.

*The whole store.*  Sequence numbers do not: see ``highwater``, whose decisions are used here for one question.  What is
the largest number that is visible now, and when is everything up to it settled?  Where the numbers after the reader's
position have a gap, the transactions that could still fill it are waited for.  So the stream ends at the mark as of
its start: it has everything that was committed before, in order, and nothing later will ever appear within it.
Virtual transaction ids mean something as long as the server runs, so all this happens on one connection.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID

from psycopg.rows import TupleRow

from projectiond import sql
from projectiond.errors import ConfigurationError, WaitTimeoutError
from projectiond.event import Event
from projectiond.eventstore import statements
from projectiond.eventstore.plan import Pause, Plan, Statement
from projectiond.eventstore.registry import EventRegistry
from projectiond.eventstore.statements import UNBOUNDED
from projectiond.stream.highwater import RUN_LIMIT, HighWaterMark, Holder, Sighting

# What a page's JSON may weigh, and how many bytes of storage of one event are unpacked to find that out.
MOST_BYTES: Final = 8 * 1024 * 1024
MOST_STORED_BYTES: Final = 64 * 1024

# How long a look at the writers is waited between: as short as most transactions, then as long as does not matter.
FIRST_PAUSE_SECONDS: Final = 0.002
LONGEST_PAUSE_SECONDS: Final = 0.1

_DATA: Final = 4

Decode = Callable[[Event[Any]], Event[Any]]


def decoder(registry: EventRegistry | None) -> Decode:
    """Give what makes events typed, or leaves them as they are."""
    return _as_they_are if registry is None else registry.decode


def read_events(aggregate_id: UUID, after_version: int, decode: Decode) -> Plan[list[Event[Any]]]:
    """Read all events of an aggregate after a version, in order."""
    parameters = {"aggregate_id": aggregate_id, "after": after_version}
    rows = yield Statement(statements.READ_EVENTS, parameters, has_json=True)
    return [decode(Event.from_row(row)) for row in rows]


class Pages:
    """Events in order, a page at a time; ``is_done`` once there is no further page."""

    def __init__(self, read: Callable[[int, int, int, int], Statement], position: int, batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        self._read = read
        self._position = position
        self._batch_size = batch_size
        self.is_done = False

    @classmethod
    def of_aggregate(cls, aggregate_id: UUID, after_version: int, batch_size: int) -> "Pages":
        """Read the events of an aggregate after a version."""

        def read(position: int, rows: int, stored: int, most: int) -> Statement:
            parameters = {
                "aggregate_id": aggregate_id,
                "after": position,
                "upto": UNBOUNDED,
                "batch_size": rows,
                "most_stored": stored,
                "most_bytes": most,
            }
            return Statement(statements.READ_PAGE, parameters, has_json=True)

        return cls(read, after_version, batch_size)

    @classmethod
    def of_store(cls, after_sequence: int, upto: int, batch_size: int) -> "Pages":
        """Read all events after a sequence number, up to one that is settled."""

        def read(position: int, rows: int, stored: int, most: int) -> Statement:
            parameters = {
                "after": position,
                "upto": upto,
                "batch_size": rows,
                "most_stored": stored,
                "most_bytes": most,
            }
            return Statement(sql.events.READ_ALL_EVENTS, parameters, has_json=True)

        pages = cls(read, after_sequence, batch_size)
        pages.is_done = upto <= after_sequence
        return pages

    def read(self, by: Callable[[Event[Any]], int]) -> Plan[list[Event[Any]]]:
        """Read the next page; ``by`` gives the key of an event."""
        rows = yield self._read(self._position, self._batch_size, MOST_STORED_BYTES, MOST_BYTES)
        whole: Sequence[TupleRow] = list(itertools.takewhile(lambda row: row[_DATA] is not None, rows))
        if rows and not whole:
            # The first is too large for any page: alone, then.
            whole = yield self._read(self._position, 1, UNBOUNDED, UNBOUNDED)
        events = [Event.from_row(row) for row in whole]
        if events:
            self._position = by(events[-1])
        self.is_done = len(rows) < self._batch_size and len(whole) == len(rows)
        return events


def by_version(event: Event[Any]) -> int:
    """Give the key of an event within its aggregate."""
    return event.version


def by_sequence_number(event: Event[Any]) -> int:
    """Give the key of an event within the store."""
    return event.sequence_number


def settle(after_sequence: int, timeout_seconds: float | None) -> Plan[int]:
    """Give the largest sequence number that is visible now, once everything between is settled.

    Raises:
        WaitTimeoutError: A transaction that could still fill a gap has not ended in time; the message names it.
        ConfigurationError: The server is a standby.
    """
    ((sequence, is_standby),) = yield Statement(statements.NUMBERS_SEQUENCE, {})
    if is_standby:
        # The writers' locks are on the primary: from here nobody knows who may still fill a gap.
        raise ConfigurationError(
            "the server is a standby, where stream_all could miss events", hint="stream from the primary"
        )
    seen = {"settled": after_sequence, "run_limit": RUN_LIMIT, "sequence": sequence}
    ((run_end, largest, last_drawn),) = yield Statement(sql.highwater.SIGHTING, seen)
    # A number beyond the sequence was chosen by hand: those below it are yet to be drawn, so it is not passed.
    upto = largest if last_drawn is None else min(largest, last_drawn)
    mark = HighWaterMark(after_sequence)
    if not mark.see(Sighting(min(run_end, upto), upto)):
        return int(upto)
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    pause = FIRST_PAUSE_SECONDS
    while True:
        # A statement of its own: see highwater.
        lockers = yield Statement(sql.highwater.LOCKERS, {})
        mark.account(frozenset(row[0] for row in lockers))
        if mark.settled >= upto:
            return int(upto)
        if deadline is not None and time.monotonic() > deadline:
            holders = yield Statement(sql.highwater.DESCRIBE_LOCKERS, {"lockers": sorted(mark.blockers)})
            named = ", ".join(str(Holder(*row)) for row in holders) or "a transaction that has just ended"
            raise WaitTimeoutError(
                f"events after {mark.settled} are held back for {timeout_seconds:g} s by {named}",
                hint="end that transaction, or give stream_all a longer timeout_seconds",
            )
        yield Pause(pause)
        pause = min(pause * 2, LONGEST_PAUSE_SECONDS)


def _as_they_are(event: Event[Any]) -> Event[Any]:
    return event
