"""Leases: which worker runs which projection, decided by PostgreSQL.

A lease is a session advisory lock, one for each projection, on a connection that the worker keeps for this alone.
The lock is gone when the session is, so a worker that dies hands over without anybody having to notice: its
machine's death is noticed by the server through the keepalives that ``database`` sets.

Fair shares need no table of heartbeats.  Each worker also holds one lock in shared mode; how many hold it is how
many live.  A worker may hold at most ``ceil(projections / workers)`` leases; it takes free ones up to that, and gives
back what is above it.  Nothing moves while the shares are right.

Leases make double work rare; they do not make it impossible (a worker that was suspended does not know that its
session has ended).  The compare-and-set of ``checkpoint`` makes it harmless.

Called by the worker's main thread only.
"""

import hashlib
import math
from collections.abc import Collection, Sequence

from projectiond import sql
from projectiond.database import Connection, fetch_row


def lease_key(projection: str) -> int:
    """Give the advisory lock's key for a projection: 64 bits of a hash of its name."""
    digest = hashlib.blake2b(f"projectiond/lease/{projection}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


class Leases:
    """The leases that one worker holds on one connection.

    Every method raises ``psycopg.OperationalError`` when the connection, and with it every lease, is gone.
    """

    def __init__(self, db: Connection) -> None:
        self._db = db
        self._held: set[str] = set()
        # The keys that somebody held at the last survey; only the others are worth a try.
        self._taken: frozenset[int] = frozenset()
        db.execute(sql.REGISTER_WORKER, {"key": sql.WORKERS_KEY})

    def __repr__(self) -> str:
        return f"<Leases held={sorted(self._held)}>"

    @property
    def held(self) -> Collection[str]:
        """The projections that this worker runs."""
        return frozenset(self._held)

    def share(self, projections: int) -> int:
        """Survey all leases; give the number of them that this worker may hold."""
        locks = self._db.execute(sql.READ_LEASES).fetchall()
        workers = sum(key == sql.WORKERS_KEY for key, is_exclusive in locks if not is_exclusive)
        self._taken = frozenset(key for key, is_exclusive in locks if is_exclusive)
        return math.ceil(projections / max(1, int(workers)))

    def acquire(self, projections: Sequence[str], share: int) -> Sequence[str]:
        """Take leases that were free at the last survey, in the order given, until the share is reached.

        Returns:
            Those that were taken.
        """
        taken = []
        for projection in projections:
            if len(self._held) >= share:
                break
            key = lease_key(projection)
            if key not in self._taken and fetch_row(self._db, sql.TRY_LEASE, {"key": key})[0]:
                self._held.add(projection)
                taken.append(projection)
        return taken

    def release(self, projection: str) -> None:
        """Give one back; its runner must have stopped."""
        self._held.discard(projection)
        fetch_row(self._db, sql.RELEASE_LEASE, {"key": lease_key(projection)})
