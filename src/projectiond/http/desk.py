"""A desk: one thread and one connection, where the dashboard's questions to the database are answered one by one.

Called by the routes, from the event loop.  So however many people look, or press buttons, the database has one more
session, and whoever has waited for PATIENCE_SECONDS is told so.  A thread that hangs with a server is left to hang;
what is asked meanwhile and given up is not done later.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import psycopg

from projectiond.errors import ProjectiondError
from projectiond.failure import describe
from projectiond.http.session import Session, fault_of, unanswered
from projectiond.postgres.database import Connection
from projectiond.settings import Settings

PATIENCE_SECONDS: Final = 4.0

# As many may wait; a person who meets more than these comes back in a moment.
MOST_QUESTIONS: Final = 32

# When nobody has asked for so long, the connection is closed.
IDLE_SECONDS: Final = 60.0

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Question:
    ask: Callable[[Connection], Any]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]
    is_given_up: bool = False


class Desk:
    """Answers questions."""

    def __init__(self, settings: Settings, role: str, *, timeout_seconds: float) -> None:
        """Make one; it connects when it is first asked.

        Args:
            settings: With ``database_url`` set.
            role: Of the session, for whoever looks at pg_stat_activity.
            timeout_seconds: How long a statement may take.
        """
        self._role = role
        self._session = Session(settings, role, timeout_seconds=timeout_seconds)
        self._questions: queue.Queue[_Question | None] = queue.Queue(MOST_QUESTIONS)
        self._thread: threading.Thread | None = None

    async def ask(self, question: Callable[[Connection], T]) -> T:
        """Have a question answered; it may be asked twice, when the connection turns out to be lost.

        Raises:
            DatabaseUnavailableError: It is not answered, or not in time; a change may have been made nevertheless.
        """
        loop = asyncio.get_running_loop()
        asked = _Question(question, loop, loop.create_future())
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._role, daemon=True)
            self._thread.start()
        try:
            self._questions.put_nowait(asked)
            answer: T = await asyncio.wait_for(asked.answer, PATIENCE_SECONDS)
        except queue.Full:
            raise unanswered("too many ask at once") from None
        except TimeoutError:
            raise unanswered(f"it has not within {PATIENCE_SECONDS:g} s") from None
        finally:
            asked.is_given_up = True
        return answer

    def stop(self) -> None:
        """End the thread, unless it hangs."""
        with suppress(queue.Full):
            self._questions.put_nowait(None)

    # --- the thread

    def _run(self) -> None:
        while True:
            try:
                asked = self._questions.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                self._session.close()
                continue
            if asked is None:
                break
            if not asked.is_given_up:
                self._answer(asked)
        self._session.close()

    def _answer(self, asked: _Question) -> None:
        try:
            answer, error = self._session.ask(asked.ask), None
        except ProjectiondError as known:
            answer, error = None, known
        except psycopg.Error as failed:
            answer, error = None, fault_of(failed)
        except Exception as unknown:  # noqa: BLE001 - it is this question's answer, and not the others' end
            answer, error = None, ProjectiondError(f"an error of projectiond itself: {describe(unknown)}")
        # The loop may have been closed with the server.
        with suppress(RuntimeError):
            asked.loop.call_soon_threadsafe(_settle, asked.answer, answer, error)


def _settle(answer: asyncio.Future[Any], value: Any, error: Exception | None) -> None:  # noqa: ANN401 - as above
    if answer.done():
        return
    if error is None:
        answer.set_result(value)
    else:
        answer.set_exception(error)
