"""The watcher: one thread of a worker that knows how far the store is settled, and sleeps when nothing happens.

It owns the worker's doorbell and high-water mark, on one connection of its own.  Started by the worker, which hands
it three callbacks: the mark has moved, the status of a projection has changed, and workers have come, gone or given a
lease back (all only set events, they never block).  Runners call :meth:`Watcher.settled` and read
:attr:`Watcher.recent`; nothing else crosses threads.

What it does, as states::

    looking ──quiet for LINGER──▶ arm ──got it──▶ look once more ──▶ asleep (LISTEN) ──lone ring, or the poll──┐
       ▲                           │ a writer is in flight   ▲          │ second ring within LINGER: disarm      │
       └───────────────────────────┴─────────────────────────│──────────┘                                        │
                                                             └───────────────────────────────────────────────────┘

Looking costs a query or two each time, and writers the locks that these take.  So the pause between looks grows with
the time that nothing has moved: a millisecond at first, a twentieth of the waiting time later.  After an append that
is at most five per cent on top of whatever was waited for; behind a transaction that stays open for minutes it is some
20 small queries a second.  And while no runner waits at the mark (they are paused, or still below it) the pause is
the longest one, until the first that arrives nudges the watcher.

From an append to the read model it is a chain of few links: the ring, one query here, a thread that wakes, and that
thread's transaction.  So the query brings the new events along while a runner waits for them (``recent``), it is
planned once for all, and whatever else there is to do, like giving the bell back, comes after the runners were woken.

The poll is the backstop for everything that can silence the bell: a trigger disabled for a bulk load, a connection
pooler, a crash of whoever armed it; that one the worker notices sooner, by the locks (:meth:`Watcher.note_bell`).
With ``wakeup = "poll"`` there is nothing else.

When the connection breaks, the mark is unknown until the watcher has reconnected and looked: the server may have
been replaced by another that knows less.  The watcher says so, and runners wait.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Final, Literal

import psycopg
from tenacity import RetryCallState, Retrying, retry_if_exception_type, sleep_using_event, stop_when_event_set
from tenacity.wait import wait_exponential, wait_random

from projectiond import logs, sql
from projectiond.errors import DatabaseUnavailableError, ProjectiondError
from projectiond.failure import describe
from projectiond.postgres.database import LONGEST_RECONNECT_SECONDS, Connection, check_server, connect
from projectiond.processes.counters import WORKER_BYTES, Wakeup, WorkerCounters
from projectiond.stream.doorbell import Arming, Doorbell
from projectiond.stream.highwater import HighWaterMark
from projectiond.stream.keeper import Keeper
from projectiond.stream.recent import Recent

# How long it must have been quiet before the bell is armed, and how close two rings must be to disarm it.  Above
# some 50 appends a second none is notified at all; below that the cost of a notification does not matter.
LINGER_SECONDS: Final = 0.02

# The pause between looks: this share of the time that nothing has moved, within these bounds.
PAUSE_SHARE: Final = 0.05
SHORTEST_PAUSE_SECONDS: Final = 0.001
LONGEST_PAUSE_SECONDS: Final = 0.05

# A runner that waited a moment ago is at work on what it was woken for, and soon back: events are read along for it.
BACK_SECONDS: Final = 0.1

log = logs.get_logger()


class Watcher:
    """Keeps the high-water mark, and wakes whoever waits for it."""

    def __init__(  # noqa: PLR0913 - what a watcher tells, and whom, put together in one place: the worker
        self,
        dsn: str,
        *,
        wakeup: Literal["notify", "poll"],
        poll_interval_seconds: float,
        on_mark: Callable[[], None],
        on_status: Callable[[str], None],
        is_awaited: Callable[[], bool],
        on_leases: Callable[[], None] = lambda: None,
        counters: WorkerCounters | None = None,
    ) -> None:
        self._dsn = dsn
        self._is_listening = wakeup == "notify"
        self._poll_interval_seconds = poll_interval_seconds
        self._on_mark = on_mark
        self._on_status = on_status
        self._on_leases = on_leases
        self._is_awaited = is_awaited
        self._counters = counters or WorkerCounters(bytearray(WORKER_BYTES), 0)
        self._is_dozing = False
        self._mark = HighWaterMark()
        self._keeper = Keeper()
        self._is_lost = False
        # The server on which the mark was proven; None while there is no mark.
        self._proven_on: datetime | None = None
        # When the last look began, and whether somebody waits for one whatever it finds.
        self._looked_at = 0.0
        self._is_asked = False
        # While it sleeps: who holds the bell in its stead.
        self._relied_on: int | None = None
        # When a runner was last seen to wait at the mark.
        self._awaited_at = 0.0
        self._repeats = logs.RateLimited(log)
        self._stopping = threading.Event()
        # A pipe, because a thread that sleeps in select() on a socket can only be woken through another one.
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def __repr__(self) -> str:
        return f"<Watcher {self._mark!r}>"

    @property
    def recent(self) -> Recent:
        """The newest settled events, for runners that have arrived at the head."""
        return self._mark.recent

    @property
    def is_ready(self) -> bool:
        """Whether the mark is known."""
        return self._proven_on is not None

    def settled(self, db: Connection) -> int:
        """Give the mark for this connection: everything up to it can be read there and will not change.

        Only a look that was made while this connection was open already counts for it.  A crash of the server ends
        all connections, and may take back commits that were seen but not flushed (``synchronous_commit = off``): the
        mark of before it proves nothing after it.  A failover is another server altogether.

        Returns:
            The mark, or -1 while there is none for this connection; a look is on its way then.

        Raises:
            DatabaseUnavailableError: The connection leads to another server than the watcher's; it is to be replaced.
        """
        # In this order: the mark is set before the server and the time that it was proven on.
        proven_on, looked_at = self._proven_on, self._looked_at
        if proven_on is not None and proven_on != db.incarnation:
            db.is_altered = True
            raise DatabaseUnavailableError(
                "this connection leads to another server than the watcher's, or to one that was restarted",
                hint="it is opened anew; name one primary in database_url, or use target_session_attrs=read-write",
            )
        if proven_on is not None and db.opened_at < looked_at:
            return self._mark.settled
        self._is_asked = True
        self._wake()
        return -1

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs; it ends by itself only through a fault of its own."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def nudge(self) -> None:
        """Say that somebody waits for the mark from now on; after that :attr:`is_awaited` must hold."""
        if self._is_dozing:
            self._wake()

    def note_bell(self, holder: int | None) -> None:
        """Hear who holds the bell now; look before the poll is due if it is not who is relied on, for that one is gone.

        Whoever disarms rings, so only a crash comes to light here, or a ring that is on its way.
        """
        if self._relied_on not in {None, holder}:
            self._wake()

    def stop(self) -> None:
        """End the thread, disarming on the way out."""
        self._stopping.set()
        self._wake()
        self._thread.join()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _wake(self) -> None:
        # While the watcher reconnects nobody reads the pipe; when it is full, enough has been said.
        with suppress(BlockingIOError):
            os.write(self._wake_write, b".")

    def _run(self) -> None:
        retrying = Retrying(
            retry=retry_if_exception_type((psycopg.Error, ProjectiondError)),
            wait=wait_exponential(multiplier=0.05, max=LONGEST_RECONNECT_SECONDS) + wait_random(0, 0.05),
            sleep=sleep_using_event(self._stopping),
            stop=stop_when_event_set(self._stopping),
            before_sleep=self._say_lost,
            retry_error_callback=lambda _: None,
        )
        while not self._stopping.is_set():
            # Each call counts its failures anew; it returns when a session that had lasted has ended.
            retrying(self._session)

    def _session(self) -> None:
        with self._open() as db:
            began = time.monotonic()
            if self._is_lost:
                log.info(logs.DOORBELL_RESTORED)
                self._is_lost = False
            try:
                self._watch(db)
            except psycopg.OperationalError as error:
                if time.monotonic() - began < LONGEST_RECONNECT_SECONDS:
                    raise
                self._is_lost = True
                log.warning(logs.DOORBELL_LOST, error=describe(error))
            finally:
                self._proven_on = None
                self._counters.note_lost()

    def _say_lost(self, state: RetryCallState) -> None:
        self._is_lost = True
        error = state.outcome.exception() if state.outcome else None
        text = describe(error) if error else ""
        self._repeats.log("warning", logs.DOORBELL_LOST, key="doorbell", error=text)

    def _open(self) -> Connection:
        db = connect(self._dsn, role="watcher", statement_timeout_seconds=60)
        try:
            check_server(db)
            db.execute(sql.highwater.CONFIGURE_WATCHER)
            self._mark.reopen(db)
        except BaseException:
            db.close()
            raise
        return db

    def _watch(self, db: Connection) -> None:
        bell = Doorbell(db)
        if self._is_listening:
            bell.listen()
        # Whatever was announced before we listened.
        self._on_status("")
        moved_at = time.monotonic()
        while not self._stopping.is_set():
            if self._look(db):
                moved_at = time.monotonic()
            self._hear(bell)
            quiet_seconds = time.monotonic() - moved_at
            if self._mark.is_held or (self._is_listening and quiet_seconds < LINGER_SECONDS):
                self._pause(bell, quiet_seconds)
            elif not self._is_listening:
                bell.sleep(self._poll_interval_seconds, self._wake_read)
                self._counters.note_wakeup(Wakeup.POLL)
            elif self._fall_asleep(db, bell):
                moved_at = time.monotonic()
            else:
                self._pause(bell, quiet_seconds)
        bell.disarm()

    def _fall_asleep(self, db: Connection, bell: Doorbell) -> bool:
        """Arm and sleep, look at each ring; say whether it came to that (else a writer is in flight).

        A lone ring leaves the bell armed: each append is announced, and costs one look.  At the second ring within
        LINGER_SECONDS the bell is given back, so that writers fall silent while there is much to do.
        """
        has_slept = False
        rung_at = 0.0
        # Each time round while another worker has it armed: it may have crashed, and could not ring then.
        while bell.is_armed or bell.arm() is not Arming.BUSY:
            # The look after arming: an event may have become visible between the last look and the arming.
            self._look(db)
            if self._mark.is_held or self._stopping.is_set():
                break
            # What has been heard meanwhile may sit in a buffer, where sleep() would not see it.
            if not self._hear(bell):
                self._relied_on = bell.relied_on
                bell.sleep(self._poll_interval_seconds, self._wake_read)
                self._relied_on = None
                has_slept = True
                if not self._hear(bell):
                    self._counters.note_wakeup(Wakeup.POLL)
                    continue
            self._counters.note_wakeup(Wakeup.BELL)
            before, rung_at = rung_at, time.monotonic()
            is_second = rung_at - before < LINGER_SECONDS
            if is_second or not bell.is_armed:
                # Before disarming, or trying to arm: somebody waits for what was announced.
                self._look(db)
            if is_second:
                break
        bell.disarm()
        return has_slept

    def _look(self, db: Connection) -> bool:
        is_asked, self._is_asked = self._is_asked, False
        began = time.monotonic()
        if self._is_awaited():
            self._awaited_at = began
        has_moved = self._mark.look(db, is_reading=began - self._awaited_at < BACK_SECONDS) or not self.is_ready
        self._looked_at, self._proven_on = began, db.incarnation
        if has_moved or is_asked:
            self._on_mark()
        self._counters.note_look(self._mark.settled, is_held=self._mark.is_held, has_moved=has_moved)
        self._keeper.note(db, self._mark)
        return has_moved

    def _hear(self, bell: Doorbell) -> bool:
        """Take in what has been announced; say whether new events were."""
        has_rung = False
        for note in bell.heard():
            if note.channel == sql.keys.STATUS_CHANNEL:
                self._on_status(note.payload)
            elif note.channel == sql.keys.LEASES_CHANNEL:
                self._on_leases()
            else:
                has_rung = True
        return has_rung

    def _pause(self, bell: Doorbell, quiet_seconds: float) -> None:
        pause = min(max(quiet_seconds * PAUSE_SHARE, SHORTEST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        # First the flag, then the question: who begins to wait in between sees the flag, and nudges.
        self._is_dozing = True
        bell.sleep(pause if self._is_awaited() else LONGEST_PAUSE_SECONDS, self._wake_read)
        self._is_dozing = False
