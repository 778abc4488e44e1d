"""Reading at the head: the few events that have just arrived, for all runners of a worker.

Called by ``highwater``, on the watcher's connection.  What is read is bounded by the server, in events and in bytes:
more at once is a bulk load, which runners read in batches of their own, and a large event would be kept for nothing.

An event that cannot be read must not keep the watcher from telling how far the store is settled.  So such a fault is
only told apart here (``UNREADABLE``); whoever needs that event will see it, and say so.
"""

import itertools
import time
from collections.abc import Sequence
from typing import Final

import psycopg
from psycopg.rows import TupleRow

from projectiond import sql
from projectiond.event import Event
from projectiond.postgres.database import Connection
from projectiond.postgres.direct import Direct
from projectiond.stream.recent import Passage, event_cursor

# What is read at once.
MOST_EVENTS: Final = 64
MOST_BYTES: Final = 256 * 1024

# The server does not unpack what is stored, compressed perhaps, in more bytes.
MOST_STORED_BYTES: Final = 64 * 1024

# A time beyond the year 9999, text in a wrong encoding, a damaged row.
UNREADABLE: Final = (psycopg.DataError, psycopg.InternalError, ValueError)

# Where a row has its JSON: null when it was left out because of its size, which event_data itself never is.
_DATA: Final = 4
_METADATA: Final = 5
_NUMBER: Final = 7


class Head:
    """Reads events on one connection."""

    def __init__(self, db: Connection) -> None:
        self.db = db
        cursor = event_cursor(db)
        self._sighting = Direct(
            cursor,
            "projectiond_sighting",
            sql.events.SIGHTING_AND_EVENTS,
            ("settled", "run_limit", "sequence", "most_events", "most_stored", "most_bytes"),
        )
        self._passage = Direct(
            cursor,
            "projectiond_passage",
            sql.events.READ_ALL_EVENTS,
            ("after", "upto", "batch_size", "most_stored", "most_bytes"),
        )

    def sight(self, settled: int, run_limit: int, sequence: str | None) -> Sequence[TupleRow]:
        """Give the rows of ``sql.events.SIGHTING_AND_EVENTS``."""
        return self._sighting.fetch(
            {
                "settled": settled,
                "run_limit": run_limit,
                "sequence": sequence,
                "most_events": MOST_EVENTS,
                "most_stored": MOST_STORED_BYTES,
                "most_bytes": MOST_BYTES,
            }
        )

    def read(self, after: int, upto: int) -> Passage:
        """Read the events of a range of at most ``MOST_EVENTS`` numbers, which is settled."""
        read_at = time.monotonic()
        rows = self._passage.fetch(
            {
                "after": after,
                "upto": upto,
                "batch_size": MOST_EVENTS,
                "most_stored": MOST_STORED_BYTES,
                "most_bytes": MOST_BYTES,
            }
        )
        return self.make_passage(after, upto, rows, read_at)

    def make_passage(self, after: int, upto: int, rows: Sequence[TupleRow], read_at: float) -> Passage:
        """Make a passage of all rows of its range, in the order of ``Event.from_row``.

        It ends before the first row whose JSON was left out.
        """
        whole = list(itertools.takewhile(lambda row: row[_DATA] is not None, rows))
        if len(whole) < len(rows):
            upto = whole[-1][_NUMBER] if whole else after
        weight = sum(len(row[_DATA]) + len(row[_METADATA] or b"") for row in whole)
        return Passage(after, upto, tuple(map(Event.from_row, whole)), weight, self.db.incarnation, read_at)
