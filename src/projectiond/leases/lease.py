"""Leases: which worker runs which projection, decided by PostgreSQL.

A lease is a session advisory lock, one for each projection, on a connection that the worker keeps for this alone.
The lock is gone when the session is, so a worker that dies hands over without anybody having to notice: its
machine's death is noticed by the server through the keepalives that ``database`` sets.

Fair shares need no table of heartbeats.  Each worker also holds locks in shared mode: one that all hold, so that
people can see how many live, and one whose key is made of the names of its projections.  Those who hold that one are
its *peers*: they can run the very same projections.  Whoever has been there for ESTABLISHED_SECONDS holds a third,
which says so.  One look at the locks tells each of them how many leases every peer holds, and from that all reckon the
same shares (``fair_share``).  A worker takes free leases up to its share, and gives back what is above it, the newest
first.  Nothing moves while the shares are right, and no more than has to when they are not.  Daemons with other
projections, or with an older deployment's, do not count: they could not take what this one left for them.

Whoever registers, is established, leaves or gives a lease back says so on a channel that the watchers listen to.  The
others then look at once, and not at their next tick; that one is for those who died, and where there is no LISTEN.

Leases make double work rare; they do not make it impossible (a worker that was suspended does not know that its
session has ended).  The compare-and-set of ``checkpoint`` makes it harmless.

Called by the worker's main thread only.
"""

import hashlib
import math
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from projectiond import sql
from projectiond.errors import ConfigurationError
from projectiond.leases.fair_share import Shares, shares
from projectiond.postgres.database import Connection, fetch_row

# A worker that has lived so long has come to stay: the others give leases back for it.  Shorter than what a person
# would call a wait, longer than one lives that dies of its start.
ESTABLISHED_SECONDS: Final = 2.0


def lease_key(projection: str) -> int:
    """Give the advisory lock's key for a projection."""
    return _hashed(f"projectiond/lease/{projection}")


def peers_key(projections: Iterable[str], what: str = "peers") -> int:
    """Give the key of the lock that all workers with these projections share, or all of them that are established."""
    return _hashed("\n".join([f"projectiond/{what}", *sorted(projections)]))


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
        self._established_key = peers_key(projections, "established")
        self._established_at = time.monotonic() + ESTABLISHED_SECONDS
        self._held: set[str] = set()
        # Whether nobody waits for this worker to be established.
        self._is_alone = True
        # Who had the doorbell armed at the last survey: the session's process.
        self.bell_holder: int | None = None
        # The keys that somebody held at the last survey; only the others are worth a try.
        self._taken: frozenset[int] = frozenset()
        db.execute(sql.leases.CONFIGURE_LEASES)
        for key in (sql.keys.WORKERS_KEY, self._peers_key):
            db.execute(sql.leases.REGISTER_WORKER, {"key": key})
        self.announce()

    def __repr__(self) -> str:
        return f"<Leases held={sorted(self._held)}>"

    @property
    def held(self) -> Collection[str]:
        """The projections that this worker runs."""
        return frozenset(self._held)

    @property
    def established_in_seconds(self) -> float:
        """How long until the next survey is due, so that others hear that this worker is established."""
        return math.inf if self._is_alone else max(0.0, self._established_at - time.monotonic())

    def survey(self) -> Shares:
        """Look at all leases; give the numbers of them that this worker may hold.

        Raises:
            ConfigurationError: What this worker has locked is another session's.
        """
        locks = self._db.execute(sql.leases.READ_LEASES).fetchall()
        exclusive = [(key, pid) for key, is_exclusive, pid, _ in locks if is_exclusive]
        self.bell_holder = next((pid for key, pid in exclusive if key == sql.keys.DOORBELL_KEY), None)
        leased = [(key, pid) for key, pid in exclusive if key in self._keys]
        self._taken = frozenset(key for key, _ in leased)
        holdings = Counter(pid for _, pid in leased)
        sharers = {(key, pid) for key, is_exclusive, pid, _ in locks if not is_exclusive}
        peers = {pid for key, pid in sharers if key == self._peers_key}
        # Asked each time, for what the driver knows as this number may be a pooler's.
        session = next((own for *_, own in locks), 0)
        if session not in peers:
            raise ConfigurationError(
                "the locks that this worker took in its session are not there: a pooler hands sessions on from one "
                "transaction to the next",
                hint="point database_url at the server itself, or at a pool in session mode",
            )
        established = {pid for key, pid in sharers if key == self._established_key}
        self._is_alone = len(peers) == 1
        if time.monotonic() >= self._established_at:
            self._establish()
        return shares(session, {peer: holdings[peer] for peer in peers}, established, len(self._keys))

    def _establish(self) -> None:
        self._db.execute(sql.leases.REGISTER_WORKER, {"key": self._established_key})
        self._established_at = math.inf
        if not self._is_alone:
            self.announce()

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
