"""Waiters: all who wait over HTTP until a projection has applied their writes, served by one thread.

Called by the route ``wait``, from the event loop; one that waits is an entry in a list.  The steps of each wait are
those of :func:`projectiond.waiting.wait.watch`, so it means what ``wait_for`` does: rebuilds, pauses, numbers that were
rolled back.  The thread takes these steps for all whose pause is over, in rounds, over one connection.  What almost
every step asks for first, the projection's row, is asked once a round for all who wait for the same projection; every
other question is asked for each alone, since its order among the others is what proves an arrival (``arrival``).

So hundreds who wait for a few projections cost what one of them would, and some two statements more each.  A round is
followed by a pause of twice the time that it has computed, so this thread takes a third of the supervisor's at most,
and a server that is far away is no reason to look more seldom.  One that does not answer is asked once a round, not
once for each who waits.
"""

import asyncio
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import psycopg

from projectiond import sql
from projectiond.errors import DatabaseUnavailableError, ProjectiondError
from projectiond.failure import describe
from projectiond.http.session import Session, fault_of, unanswered
from projectiond.settings import Settings
from projectiond.waiting.arrival import Arrival, Pause, Question, Rows
from projectiond.waiting.wait import Step, watch

MOST_WAITERS: Final = 200
MOST_SECONDS: Final = 60.0

TIMEOUT_SECONDS: Final = 2

# What the thread gets beyond the waiter's own time to say why it is late, or that the database does not answer.
GRACE_SECONDS: Final = 2.5

SHORTEST_PAUSE_SECONDS: Final = 0.002
PAUSE_PER_ROUND: Final = 2.0

# When nobody has waited for so long, the connection is closed.
IDLE_SECONDS: Final = 60.0


class TooManyWaitersError(ProjectiondError):
    """As many wait already as may: come back in a moment."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a wait came to."""

    position: int | None
    """Of the projection at the last look; ``None``: it has no row, or was not looked at."""
    error: ProjectiondError | None
    """Why it has not arrived; ``None`` when it has."""


@dataclass(slots=True, eq=False)
class Waiter:
    """One who waits."""

    steps: Generator[Step, Rows, None]
    loop: asyncio.AbstractEventLoop
    arrived: asyncio.Future[ProjectiondError | None]
    due_at: float = 0.0
    position: int | None = None


class Waiters:
    """All who wait in this process."""

    def __init__(self, settings: Settings) -> None:
        self._session = Session(settings, "http-wait", timeout_seconds=TIMEOUT_SECONDS)
        self._waiting: list[Waiter] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_stopping = False

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, projection: str, sequence_number: int, timeout_seconds: float) -> Outcome:
        """Wait as ``wait_for`` does, with the same errors; and DatabaseUnavailableError when it does not answer.

        Raises:
            TooManyWaitersError: No more may wait.
        """
        loop = asyncio.get_running_loop()
        steps = watch(projection, Arrival(sequence_number), timeout_seconds)
        waiter = Waiter(steps, loop, loop.create_future())
        self._admit(waiter)
        try:
            error = await asyncio.wait_for(waiter.arrived, timeout_seconds + GRACE_SECONDS)
        except TimeoutError:
            error = unanswered("it has not answered in time")
        finally:
            self._dismiss(waiter)
        return Outcome(waiter.position, error)

    def stop(self) -> None:
        """End the thread, unless it hangs."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()

    def _admit(self, waiter: Waiter) -> None:
        with self._changed:
            if len(self._waiting) >= MOST_WAITERS:
                raise TooManyWaitersError(
                    f"{MOST_WAITERS} requests wait already, which is as many as may", hint="try again in a moment"
                )
            self._waiting.append(waiter)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="waiters", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _dismiss(self, waiter: Waiter) -> None:
        with self._changed, suppress(ValueError):
            self._waiting.remove(waiter)

    # --- the thread

    def _run(self) -> None:
        while (due := self._await_due()) is not None:
            began = time.thread_time()
            self._go_round(due)
            time.sleep(max(SHORTEST_PAUSE_SECONDS, PAUSE_PER_ROUND * (time.thread_time() - began)))
        self._session.close()

    def _await_due(self) -> Sequence[Waiter] | None:
        """Sleep until some are due; ``None``: it is over."""
        with self._changed:
            while not self._is_stopping:
                now = time.monotonic()
                if due := [waiter for waiter in self._waiting if waiter.due_at <= now]:
                    return due
                if self._waiting:
                    self._changed.wait(min(waiter.due_at for waiter in self._waiting) - now)
                elif not self._changed.wait(IDLE_SECONDS):
                    self._session.close()
            return None

    def _go_round(self, due: Sequence[Waiter]) -> None:
        rows_by_name: dict[str, Rows] = {}
        absence: DatabaseUnavailableError | None = None
        for waiter in due:
            if absence is not None:
                self._tell(waiter, absence)
                continue
            try:
                self._advance(waiter, rows_by_name)
            except (DatabaseUnavailableError, psycopg.OperationalError) as error:
                absence = fault_of(error) if isinstance(error, psycopg.Error) else error
                self._tell(waiter, absence)
            except psycopg.Error as error:
                self._tell(waiter, fault_of(error))
            except ProjectiondError as error:
                self._tell(waiter, error)
            except Exception as error:  # noqa: BLE001 - it is this waiter's answer, and not the others' end
                self._tell(waiter, ProjectiondError(f"an error of projectiond itself: {describe(error)}"))

    def _advance(self, waiter: Waiter, rows_by_name: dict[str, Rows]) -> None:
        """Take a waiter's steps up to its next pause."""
        step = next(waiter.steps)
        while isinstance(step, Question):
            if step.statement == sql.checkpoint.READ_CHECKPOINT:
                rows = self._read_row(step, rows_by_name)
                waiter.position = int(rows[0][0]) if rows else None
            else:
                rows = self._ask(step)
            step = waiter.steps.send(rows)
        if isinstance(step, Pause):
            waiter.due_at = time.monotonic() + step.seconds
        else:
            waiter.position = step.position
            self._tell(waiter, None)

    def _read_row(self, question: Question, rows_by_name: dict[str, Rows]) -> Rows:
        # It begins each waiter's turn, so none of them has asked anything yet that this row should be later than.
        name = str(question.parameters["name"])
        if name not in rows_by_name:
            rows_by_name[name] = self._ask(question)
        return rows_by_name[name]

    def _ask(self, question: Question) -> Rows:
        return self._session.ask(lambda db: db.execute(question.statement, question.parameters).fetchall())

    def _tell(self, waiter: Waiter, error: ProjectiondError | None) -> None:
        self._dismiss(waiter)
        # The loop may have been closed with the server.
        with suppress(RuntimeError):
            waiter.loop.call_soon_threadsafe(_settle, waiter.arrived, error)


def _settle(arrived: asyncio.Future[ProjectiondError | None], error: ProjectiondError | None) -> None:
    if not arrived.done():
        arrived.set_result(error)
