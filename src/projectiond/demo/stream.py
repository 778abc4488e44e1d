"""The stream of orders: writes what happens in the shop into event_store, as an application would.

A thread of its own, on a connection of its own.  Plain INSERTs: it knows the table and nothing of projectiond.  After
each commit it asks until the order's events are to be read in the read model, and keeps how long that took.
"""

import threading
import time
from collections import deque
from typing import Final, LiteralString

import psycopg
from psycopg.types.json import Jsonb

from projectiond.demo.shop import Shop

APPEND: LiteralString = """
INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version)
VALUES (%s, 'order', %s, %s, %s)
RETURNING sequence_number
"""

# The checkpoint is committed together with the rows, so it says when they can be read.
IS_VISIBLE: LiteralString = """
SELECT last_sequence_number >= %s
FROM projection_checkpoints
WHERE projection_name = 'order_summary'
"""

# The latencies of the last steps; enough for a percentile, few enough to follow what is going on.
KEPT_LATENCIES: Final = 200

# A projection that is paused shows nothing; the stream goes on without it.
GIVE_UP_SECONDS: Final = 0.5
ASK_AGAIN_SECONDS: Final = 0.0005


class OrderStream:
    """Appends until it is stopped."""

    def __init__(self, dsn: str, steps_per_second: float) -> None:
        self._dsn = dsn
        self._pause_seconds = 1 / steps_per_second
        self._stopping = threading.Event()
        self._latencies: deque[float] = deque(maxlen=KEPT_LATENCIES)
        self._thread = threading.Thread(target=self._run, name="orders", daemon=True)
        self.events = 0
        self.error: str | None = None

    def start(self) -> None:
        """Let the first order come."""
        self._thread.start()

    def stop(self) -> None:
        """Close the shop."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def latency_milliseconds(self, percent: int) -> float | None:
        """Give a percentile of the time from commit to visible; None before the first."""
        latencies = sorted(self._latencies.copy())
        if not latencies:
            return None
        return 1000 * latencies[min(len(latencies) - 1, len(latencies) * percent // 100)]

    def _run(self) -> None:
        shop = Shop()
        try:
            with psycopg.connect(self._dsn, autocommit=True, application_name="projectiond demo: shop") as db:
                due_at = time.monotonic()
                while not self._stopping.wait(max(0, due_at - time.monotonic())):
                    due_at = max(due_at + self._pause_seconds, time.monotonic() - 1)
                    self._time(db, self._append(db, shop))
        except psycopg.Error as error:
            self.error = str(error).splitlines()[0]

    def _append(self, db: psycopg.Connection, shop: Shop) -> int:
        order, facts = shop.next_step()
        number = 0
        with db.transaction():
            for fact in facts:
                order.version += 1
                row = (order.order_id, fact.event_type, Jsonb(fact.data), order.version)
                ((number,),) = db.execute(APPEND, row)
        self.events += len(facts)
        return int(number)

    def _time(self, db: psycopg.Connection, number: int) -> None:
        committed_at = time.monotonic()
        while (seconds := time.monotonic() - committed_at) < GIVE_UP_SECONDS and not self._stopping.is_set():
            row = db.execute(IS_VISIBLE, (number,)).fetchone()
            if row is not None and row[0]:
                self._latencies.append(seconds)
                return
            time.sleep(ASK_AGAIN_SECONDS)
