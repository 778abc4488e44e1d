"""Leases: which worker runs which projection, decided by PostgreSQL.

A lease is a session advisory lock, one for each projection, on a connection that the worker keeps for this alone.
The lock is gone when the session is, so a worker that dies hands over without anybody having to notice: its
machine's death is noticed by the server through the keepalives that ``database`` sets.

Fair shares need no table of heartbeats.  Each worker also holds two locks in shared mode: one that all hold, so that
people can see how many live, and one whose key is made of the names of its projections.  Those who hold that one are
its *peers*: they can run the very same projections.  One look at the locks tells each of them how many leases every
peer holds, and from that all reckon the same shares (:func:`fair_share`): equal ones, and what cannot be divided stays
with those who hold most already.  A worker takes free leases up to its share, and gives back what is above it, the
newest first.  Nothing moves while the shares are right, and no more than has to when they are not.  Daemons with other
projections, or with an older deployment's, do not count: they could not take what this one left for them.

Whoever registers, leaves or gives a lease back says so on a channel that the watchers listen to.  The others then look
at once, and not at their next tick; that one is for those who died, and where there is no LISTEN.

Leases make double work rare; they do not make it impossible (a worker that was suspended does not know that its
session has ended).  The compare-and-set of ``checkpoint`` makes it harmless.

Called by the worker's main thread only.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from projectiond import sql
from projectiond.database import Connection, fetch_row


def lease_key(projection: str) -> int:
    """Give the advisory lock's key for a projection."""
    return _hashed(f"projectiond/lease/{projection}")


def peers_key(projections: Iterable[str]) -> int:
    """Give the key of the lock that all workers with these projections share."""
    return _hashed("\n".join(["projectiond/peers", *sorted(projections)]))


def fair_share(worker: int, held: Mapping[int, int], count: int) -> int:
    """Give the number of leases that a worker may hold.

    Args:
        worker: Which of them.
        held: How many leases each live worker holds now.
        count: How many leases there are.

    Returns:
        All workers' shares add up to ``count`` and differ by one at most.  The larger ones go to those who hold most,
        so that the fewest leases move.
    """
    whole, rest = divmod(count, len(held))
    # Whoever holds more than any share does not come before one that has given back already: it would have to again.
    by_holdings = sorted(held, key=lambda peer: (-min(held[peer], whole + 1), peer))
    return whole + (by_holdings.index(worker) < rest)


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


class Leases:
    """The leases that one worker holds on one connection.

    Every method raises ``psycopg.OperationalError`` when the connection, and with it every lease, is gone.
    """

    def __init__(self, db: Connection, projections: Collection[str]) -> None:
        """Register as a worker that can run these projections."""
        self._db = db
        self._keys = {lease_key(projection) for projection in projections}
        self._peers_key = peers_key(projections)
        self._held: set[str] = set()
        # Asked, for what the driver knows as this number may be a pooler's.
        (self._session,) = fetch_row(db, sql.session.SESSION)
        # All live workers' sessions at the last survey, and whether any had gone since the one before.
        self._workers: frozenset[int] = frozenset()
        self.has_lost_worker = False
        # The keys that somebody held at the last survey; only the others are worth a try.
        self._taken: frozenset[int] = frozenset()
        for key in (sql.keys.WORKERS_KEY, self._peers_key):
            db.execute(sql.leases.REGISTER_WORKER, {"key": key})
        self.announce()

    def __repr__(self) -> str:
        return f"<Leases held={sorted(self._held)}>"

    @property
    def held(self) -> Collection[str]:
        """The projections that this worker runs."""
        return frozenset(self._held)

    def share(self) -> int:
        """Survey all leases; give the number of them that this worker may hold."""
        locks = self._db.execute(sql.leases.READ_LEASES).fetchall()
        peers = {pid for key, is_exclusive, pid in locks if key == self._peers_key and not is_exclusive}
        workers = frozenset(pid for key, is_exclusive, pid in locks if key == sql.keys.WORKERS_KEY and not is_exclusive)
        self.has_lost_worker, self._workers = not self._workers <= workers, workers
        leased = [(key, pid) for key, is_exclusive, pid in locks if is_exclusive and key in self._keys]
        self._taken = frozenset(key for key, _ in leased)
        holdings = Counter(pid for _, pid in leased)
        return fair_share(self._session, {peer: holdings[peer] for peer in {*peers, self._session}}, len(self._keys))

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
            if key not in self._taken and fetch_row(self._db, sql.leases.TRY_LEASE, {"key": key})[0]:
                self._held.add(projection)
                taken.append(projection)
        return taken

    def release(self, projection: str) -> None:
        """Give one back; its runner must have stopped."""
        self._held.discard(projection)
        fetch_row(self._db, sql.leases.RELEASE_LEASE, {"key": lease_key(projection)})

    def announce(self) -> None:
        """Tell the other workers that the leases are worth a look."""
        self._db.execute(sql.leases.ANNOUNCE_LEASES, {"channel": sql.keys.LEASES_CHANNEL})

    def retire(self) -> None:
        """Count as a worker no longer, so that the others may take what this one is about to give back."""
        for key in (sql.keys.WORKERS_KEY, self._peers_key):
            fetch_row(self._db, sql.leases.DEREGISTER_WORKER, {"key": key})
