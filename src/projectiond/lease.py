"""Leases: which worker runs which projection, decided by PostgreSQL.

A lease is a session advisory lock, one for each projection, on a connection that the worker keeps for this alone.
The lock is gone when the session is, so a worker that dies hands over without anybody having to notice: its
machine's death is noticed by the server through the keepalives that ``database`` sets.

Fair shares need no table of heartbeats.  Each worker also holds two locks in shared mode: one that all hold, so that
people can see how many live, and one whose key is made of the names of its projections.  How many hold that one is how
many workers can run the very same projections.  A worker may hold at most ``ceil(projections / workers)`` leases,
counted among those; it takes free ones up to that, and gives back what is above it.  Nothing moves while the shares are
right.  Daemons with other projections, or with an older deployment's, do not count: they could not take what this one
left for them.

Leases make double work rare; they do not make it impossible (a worker that was suspended does not know that its
session has ended).  The compare-and-set of ``checkpoint`` makes it harmless.

Called by the worker's main thread only.
"""

import hashlib
import math
from collections.abc import Collection, Iterable, Sequence

from projectiond import sql
from projectiond.database import Connection, fetch_row


def lease_key(projection: str) -> int:
    """Give the advisory lock's key for a projection."""
    return _hashed(f"projectiond/lease/{projection}")


def peers_key(projections: Iterable[str]) -> int:
    """Give the key of the lock that all workers with these projections share."""
    return _hashed("\n".join(["projectiond/peers", *sorted(projections)]))


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


class Leases:
    """The leases that one worker holds on one connection.

    Every method raises ``psycopg.OperationalError`` when the connection, and with it every lease, is gone.
    """

    def __init__(self, db: Connection, projections: Collection[str]) -> None:
        """Register as a worker that can run these projections."""
        self._db = db
        self._count = len(projections)
        self._peers_key = peers_key(projections)
        self._held: set[str] = set()
        # The keys that somebody held at the last survey; only the others are worth a try.
        self._taken: frozenset[int] = frozenset()
        for key in (sql.WORKERS_KEY, self._peers_key):
            db.execute(sql.REGISTER_WORKER, {"key": key})

    def __repr__(self) -> str:
        return f"<Leases held={sorted(self._held)}>"

    @property
    def held(self) -> Collection[str]:
        """The projections that this worker runs."""
        return frozenset(self._held)

    def share(self) -> int:
        """Survey all leases; give the number of them that this worker may hold."""
        locks = self._db.execute(sql.READ_LEASES).fetchall()
        workers = sum(key == self._peers_key for key, is_exclusive in locks if not is_exclusive)
        self._taken = frozenset(key for key, is_exclusive in locks if is_exclusive)
        return math.ceil(self._count / max(1, int(workers)))

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
