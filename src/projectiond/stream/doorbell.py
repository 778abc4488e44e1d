"""The doorbell: writers notify only while somebody sleeps.

A transaction that notifies is serialised at commit with every other that does, so a trigger that always notifies
costs a busy store most of its throughput.  Here it asks first, with an advisory lock, the *bell*::

    writer (trigger)                              worker (watcher)
    ────────────────                              ────────────────
    try the bell, shared, for the transaction     looks, looks … and finds nothing for a while
      got it:  nobody sleeps, say nothing         LISTEN (since long before)
      failed:  pg_notify                          arm: try the bell, exclusive, without waiting
                                                  got it: look once more, then sleep
                                                  woken: disarm and ring, look again

Why no wake-up is lost.  Holding the bell exclusively proves that no transaction is in flight whose trigger got the
shared lock: such a one ended before, and locks are released only after the commit has become visible, so the look
*after* arming sees its events.  Every trigger that runs from then on fails to get the bell and notifies.  Hence the
second look after arming; without it an event that committed between the last look and the arming would wait.

Several workers.  One holds the bell; the others find it *armed elsewhere* and rely on it: the notification of a
writer reaches every listener.  When the holder disarms, for whatever reason, writers fall silent again, and a worker
that relied on it may not have looked since.  So disarming always rings: the notification wakes whoever slept, and
the worker's own is recognised by its backend's pid.  A holder that crashes cannot ring.  So whoever relies on one
remembers which (:attr:`Doorbell.relied_on`), and looks again when the locks show another holder, or none: the worker
asks that each second, the poll is the backstop.

The other way to miss a writer is to be refused the bell because one is in flight (*busy*): then nobody sleeps, the
watcher goes on looking.

Not to be done: waiting for the exclusive lock.  A waiting exclusive request makes the writers' try fail, so it would
arm at once behind long writers, but as a query that hangs in every monitoring view.

Called by the watcher of each worker, from one thread, on a connection of its own in autocommit mode.
"""

import enum
import os
import select
from collections import deque
from collections.abc import Iterator

from psycopg import Notify

from projectiond import sql
from projectiond.postgres.database import Connection, fetch_row


class Arming(enum.Enum):
    """What came of trying to arm the bell."""

    ARMED = "armed"
    ELSEWHERE = "armed elsewhere"
    BUSY = "a writer is in flight"


class Doorbell:
    """One worker's side of the bell."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        self.is_armed = False
        # Who has it armed instead: the process of that session.
        self.relied_on: int | None = None
        # What psycopg came across while it waited for the answers to other queries.
        self._notes: deque[Notify] = deque()
        db.add_notify_handler(self._notes.append)

    def __repr__(self) -> str:
        return f"<Doorbell {'armed' if self.is_armed else 'disarmed'}>"

    def listen(self) -> None:
        """Begin to hear notifications: new events, changes of a projection's status, and workers that come and go."""
        self._db.execute(sql.doorbell.LISTEN_DOORBELL)
        self._db.execute(sql.doorbell.LISTEN_STATUS)
        self._db.execute(sql.doorbell.LISTEN_LEASES)

    def arm(self) -> Arming:
        """Try to arm.  After ``ARMED`` or ``ELSEWHERE`` the caller looks once more and may then sleep."""
        (self.is_armed,) = fetch_row(self._db, sql.doorbell.ARM_DOORBELL, {"key": sql.keys.DOORBELL_KEY})
        if self.is_armed:
            self.relied_on = None
            return Arming.ARMED
        holder = self._db.execute(sql.doorbell.DOORBELL_HOLDER, {"key": sql.keys.DOORBELL_KEY}).fetchone()
        self.relied_on = None if holder is None else holder[0]
        return Arming.BUSY if holder is None else Arming.ELSEWHERE

    def disarm(self) -> None:
        """Give the bell back, and ring for those who relied on it."""
        if self.is_armed:
            self.is_armed = False
            self._db.execute(
                sql.doorbell.DISARM_DOORBELL, {"key": sql.keys.DOORBELL_KEY, "channel": sql.keys.DOORBELL_CHANNEL}
            )

    def sleep(self, timeout_seconds: float, wake_fd: int) -> None:
        """Wait until something arrives on the connection, ``wake_fd`` is readable, or the time is over.

        What ``wake_fd`` holds is read away.
        """
        # poll(), for select() fails once a process has more than a thousand descriptors open.
        waiting = select.poll()
        waiting.register(self._db.fileno(), select.POLLIN)
        waiting.register(wake_fd, select.POLLIN)
        ready = waiting.poll(max(1, round(timeout_seconds * 1000)))
        if any(descriptor == wake_fd for descriptor, _ in ready):
            os.read(wake_fd, select.PIPE_BUF)

    def heard(self) -> Iterator[Notify]:
        """Give the notifications that have arrived, without waiting; the worker's own are left out.

        Raises:
            psycopg.OperationalError: The connection is gone.
        """
        # libpq itself: Connection.notifies() takes a tenth of a millisecond on a cold processor, before each look.
        link = self._db.pgconn
        link.consume_input()
        while (arrived := link.notifies()) is not None:
            channel, payload = arrived.relname.decode(errors="replace"), arrived.extra.decode(errors="replace")
            self._notes.append(Notify(channel, payload, arrived.be_pid))
        while self._notes:
            note = self._notes.popleft()
            if note.pid != link.backend_pid:
                yield note
