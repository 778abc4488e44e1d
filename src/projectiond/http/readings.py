"""Readings: what only the database knows, read once for all who ask.

Called by the routes, from the event loop.  The reading is that of ``projectiond status`` (``overview``).  It is made by
a thread of its own over one connection, only when somebody asks, and not again within CACHE_SECONDS; a reading that was
costly is kept longer.  So a hundred scrapes a second ask the database for five small queries a second.  Who looks at
the dashboard gets one a little sooner, to see within a second what was done elsewhere.

Nobody waits longer than PATIENCE_SECONDS.  When the database is away, or hangs, the last reading is given with the
reason and its age.  A thread that hangs with a server is left to hang; the operating system ends the connection when
the server is gone for good.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from projectiond.errors import ProjectiondError
from projectiond.failure import describe, printable
from projectiond.http.crew import Crew
from projectiond.http.session import Session
from projectiond.operating.overview import Overview, read_overview
from projectiond.postgres.database import Connection
from projectiond.postgres.inspection import inspect_schema
from projectiond.settings import Settings

CACHE_SECONDS: Final = 1.0

# While the mark is held, a reading takes twice as many queries.
HELD_CACHE_SECONDS: Final = 2.0

# For whoever looks: what has been done elsewhere, by a command or in SQL, is to be seen within a second.
LIVE_SECONDS: Final = 0.8

# A reading may take this share of the time, as where a million dead letters are to be counted, up to so long a pause.
COST_SHARE: Final = 0.1
LONGEST_CACHE_SECONDS: Final = 10.0

PATIENCE_SECONDS: Final = 2.0
TIMEOUT_SECONDS: Final = 2

# How long the schema is taken to be what it was.
SCHEMA_SECONDS: Final = 60.0
FAULTY_SCHEMA_SECONDS: Final = 5.0

# When nobody has asked for so long, the connection is closed.
IDLE_SECONDS: Final = 60.0

# After it was away, so long everybody is given to get going again.
RECOVERY_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Reading:
    """The last reading that succeeded, and whether the database answers.  Times are CLOCK_MONOTONIC."""

    overview: Overview | None = None
    read_at: float | None = None
    error: str = "it has not been read yet"
    """Why it does not answer; empty when it does."""
    failed_at: float | None = None
    schema_faults: Sequence[str] | None = None
    """``None`` while the schema has not been looked at."""

    def age_seconds(self, now: float) -> float | None:
        """Say how old the overview is."""
        return None if self.read_at is None else now - self.read_at

    def version(self) -> tuple[float | None, str]:
        """Give what is another one for another overview, and when the database answers no more, or again."""
        return self.read_at, self.error

    def was_away(self, now: float) -> bool:
        """Whether the database is away, or was a moment ago."""
        return bool(self.error) or (self.failed_at is not None and now - self.failed_at < RECOVERY_SECONDS)


class Readings:
    """The one reader of a supervisor."""

    def __init__(self, settings: Settings, crew: Callable[[], Crew]) -> None:
        self._settings = settings
        self._crew = crew
        self._session = Session(settings, "http", timeout_seconds=TIMEOUT_SECONDS)
        self._last = Reading()
        self._began_at: float | None = None
        self._next_at = 0.0
        self._next_live_at = 0.0
        self._inspected_at: float | None = None
        self._is_schema_wanted = False
        self._asked = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        # What those who ask wait for, and the loop that it belongs to.
        self._next: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None
        self._lock = threading.Lock()

    async def get(self, *, with_schema: bool = False, is_live: bool = False) -> Reading:
        """Give a reading of about now, or the last one when the database does not answer in time.

        Args:
            with_schema: Look at the schema too.
            is_live: Somebody looks on, and one of a second ago will not do.
        """
        self._is_schema_wanted = self._is_schema_wanted or with_schema
        began_at = self._began_at
        is_pending = with_schema and self._last.schema_faults is None and not self._last.error
        next_at = self._next_live_at if is_live else self._next_at
        if began_at is None and time.monotonic() < next_at and not is_pending:
            return self._last
        left = PATIENCE_SECONDS - (0.0 if began_at is None else time.monotonic() - began_at)
        if left > 0:
            await asyncio.wait({self._ask()}, timeout=left)
        return self.current()

    def fresh_seconds(self) -> float:
        """Say for how long nobody gets a newer reading than the last; 0 when one is due."""
        return max(0.0, self._next_live_at - time.monotonic())

    def current(self) -> Reading:
        """Give the last reading; with an error when the next one has been on its way for too long."""
        last, began_at, now = self._last, self._began_at, time.monotonic()
        if began_at is None or now - began_at < PATIENCE_SECONDS:
            return last
        return replace(last, error=f"the database has not answered for {now - began_at:.0f} s", failed_at=now)

    def stop(self) -> None:
        """End the thread, unless it hangs."""
        self._stopping.set()
        self._asked.set()

    def _ask(self) -> asyncio.Future[None]:
        with self._lock:
            if self._next is None:
                loop = asyncio.get_running_loop()
                self._next = loop, loop.create_future()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="readings", daemon=True)
                self._thread.start()
            self._asked.set()
            return self._next[1]

    # --- the thread

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self._asked.wait(IDLE_SECONDS):
                self._session.close()
                continue
            self._asked.clear()
            self._stopping.wait(self.fresh_seconds())
            if not self._stopping.is_set():
                self._read()
        self._session.close()

    def _read(self) -> None:
        self._began_at = began_at = time.monotonic()
        try:
            last = self._take()
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait are told
            self._session.close()
            text = printable(str(error)) if isinstance(error, ProjectiondError) else describe(error)
            last = replace(self._last, error=text, failed_at=time.monotonic())
        now = time.monotonic()
        least_seconds, cost_seconds = CACHE_SECONDS, 0.0
        if now - began_at > PATIENCE_SECONDS:
            last = replace(last, failed_at=now)
        elif not last.error and last.overview is not None:
            least_seconds = HELD_CACHE_SECONDS if last.overview.hold is not None else CACHE_SECONDS
            cost_seconds = min((now - began_at) / COST_SHARE, LONGEST_CACHE_SECONDS)
        self._next_at = now + max(least_seconds, cost_seconds)
        self._next_live_at = now + max(LIVE_SECONDS, cost_seconds)
        with self._lock:
            self._last, self._began_at = last, None
            waiting, self._next = self._next, None
        if waiting is not None:
            loop, future = waiting
            # The loop may have been closed with the server.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_resolve, future)

    def _take(self) -> Reading:
        return self._session.ask(self._take_once)

    def _take_once(self, db: Connection) -> Reading:
        crew = self._crew()
        overview = read_overview(db, crew.names() or None, settled=crew.settled())
        faults = self._inspect(db)
        return replace(self._last, overview=overview, read_at=time.monotonic(), error="", schema_faults=faults)

    def _inspect(self, db: Connection) -> Sequence[str] | None:
        known, now = self._last.schema_faults, time.monotonic()
        kept_seconds = FAULTY_SCHEMA_SECONDS if known else SCHEMA_SECONDS
        is_old = known is None or self._inspected_at is None or now - self._inspected_at > kept_seconds
        if not (self._is_schema_wanted and is_old):
            return known
        self._is_schema_wanted = False
        self._inspected_at = now
        return inspect_schema(db, needs_doorbell=self._settings.wakeup == "notify")


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
