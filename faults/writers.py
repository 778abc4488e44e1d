"""The writers: transactions that commit late and out of order, roll back, are prepared, and go on after every fault.

Started by the run.  The store is the only truth about what they have written, so a writer that does not know whether
its COMMIT was done need not find out.  Between rounds they hold still, for a read model can be compared only then.
"""

import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, LiteralString

import psycopg
from psycopg.rows import TupleRow

from faults.pooler import Pooler
from faults.server import DisturbedServer

Connect = Callable[[], psycopg.Connection[TupleRow]]

EVENT_TYPES: Final = ("Opened", "Counted", "Moved", "Closed")

# Writers with a session of their own, beside the one that prepares its transactions; and those through a pooler.
DIRECT: Final = 3
POOLED: Final = 2

# Of each writer; a stream belongs to one of them.
STREAMS: Final = 25

# What a writer may do beside its commit.
ROLLED_BACK: Final = 0.15
HELD_LONG: Final = 0.02

_APPEND: LiteralString = """
INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version)
SELECT %(id)s, 'Counter', %(type)s, jsonb_build_object('amount', %(amount)s::int), coalesce(max(version), 0) + 1
FROM event_store
WHERE aggregate_id = %(id)s
"""

# Nobody else's: a test's, or an application's.
_GID_PREFIX: Final = "faults-"

_PREPARED: LiteralString = """
SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND starts_with(gid, %(prefix)s)
"""


@dataclass(slots=True)
class Tally:
    """What was done."""

    transactions: int = 0
    rollbacks: int = 0
    prepared: int = 0
    failures: int = 0


class Writers:
    """Threads that append for as long as they may."""

    def __init__(self, server: DisturbedServer, pooler: Pooler | None, seed: int) -> None:
        self._server = server
        self.tally = Tally()
        self._may_write = threading.Event()
        self._is_ending = False
        ways: list[tuple[Connect, bool]] = [(self._connect, False)] * DIRECT + [(self._connect, True)]
        if pooler is not None:
            ways += [(pooler.connect, False)] * POOLED
        self._idle = [threading.Event() for _ in ways]
        self._threads = [
            threading.Thread(
                target=self._run,
                args=(number, random.Random(f"{seed}/writer/{number}"), *way),
                name=f"writer {number}",
                daemon=True,
            )
            for number, way in enumerate(ways)
        ]
        for thread in self._threads:
            thread.start()

    def go_on(self) -> None:
        """Let them write."""
        self._may_write.set()

    def hold_still(self, seconds: float) -> None:
        """Let each end what it is about, and then wait; the prepared transactions that are left are ended.

        Raises:
            TimeoutError: One of them did not come to an end.
        """
        self._may_write.clear()
        deadline = time.monotonic() + seconds
        for number, idle in enumerate(self._idle):
            if not idle.wait(max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"writer {number} did not end its transaction within {seconds:g} s")
        self._end_prepared()

    def end(self) -> None:
        """End the threads."""
        self._is_ending = True
        self._may_write.set()
        for thread in self._threads:
            thread.join(15)

    def _end_prepared(self) -> None:
        with self._server.connect(name="writer") as db:
            for (gid,) in db.execute(_PREPARED, {"prefix": _GID_PREFIX}).fetchall():
                _end_prepared(db, gid, is_committed=True)

    # --- a thread

    def _connect(self) -> psycopg.Connection[TupleRow]:
        return self._server.connect(name="writer")

    def _run(self, number: int, chance: random.Random, connect: Connect, is_two_phase: bool) -> None:  # noqa: FBT001
        db: psycopg.Connection[TupleRow] | None = None
        streams = [uuid.UUID(int=chance.getrandbits(128), version=4) for _ in range(STREAMS)]
        while not self._is_ending:
            if not self._may_write.is_set():
                self._idle[number].set()
                self._may_write.wait()
                self._idle[number].clear()
                continue
            try:
                if db is None or db.closed:
                    db = connect()
                if is_two_phase:
                    self._prepare(db, chance)
                else:
                    self._write(db, chance, streams)
            except psycopg.Error:
                self.tally.failures += 1
                if db is not None:
                    db.close()
                db = None
                time.sleep(0.1)
            time.sleep(chance.uniform(0.0, 0.06))
        if db is not None:
            db.close()

    def _write(self, db: psycopg.Connection[TupleRow], chance: random.Random, streams: Sequence[uuid.UUID]) -> None:
        is_kept = chance.random() >= ROLLED_BACK
        db.execute("BEGIN")
        for _ in range(chance.randint(1, 4)):
            _append(db, chance, chance.choice(streams))
            time.sleep(chance.uniform(0.0, 0.03))
        if chance.random() < HELD_LONG:
            time.sleep(chance.uniform(0.3, 1.2))
        db.execute("COMMIT" if is_kept else "ROLLBACK")
        self.tally.transactions += 1
        self.tally.rollbacks += not is_kept

    def _prepare(self, db: psycopg.Connection[TupleRow], chance: random.Random) -> None:
        gid = f"{_GID_PREFIX}{chance.getrandbits(64):016x}"
        # The trigger's NOTIFY cannot be prepared.
        db.execute("SET projectiond.doorbell = off")
        db.execute("BEGIN")
        for _ in range(chance.randint(1, 3)):
            # A stream of its own: until this has ended, its version would keep others waiting.
            _append(db, chance, uuid.UUID(int=chance.getrandbits(128), version=4))
        db.execute(f"PREPARE TRANSACTION '{gid}'".encode())
        self.tally.prepared += 1
        time.sleep(chance.uniform(0.0, 0.4))
        _end_prepared(db, gid, is_committed=chance.random() >= ROLLED_BACK)
        time.sleep(chance.uniform(0.0, 0.2))


def _append(db: psycopg.Connection[TupleRow], chance: random.Random, stream: uuid.UUID) -> None:
    db.execute(_APPEND, {"id": stream, "type": chance.choice(EVENT_TYPES), "amount": chance.randint(1, 100)})


def _end_prepared(db: psycopg.Connection[TupleRow], gid: str, *, is_committed: bool) -> None:
    db.execute(f"{'COMMIT' if is_committed else 'ROLLBACK'} PREPARED '{gid}'".encode())
