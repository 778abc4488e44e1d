"""The stream: the dashboard's picture, live, by server-sent events.

One source for all viewers: while somebody looks it makes a board of each shared reading, about once a second, and
writes down once what is new in it.  Each viewer is sent the whole picture first (``picture``), then what has changed
(``change``).  Who is slow misses some and is sent the whole again, so nothing piles up.  A stream ends by itself
(``over``) before a connection's deadline, and the page opens the next one.

The whole protocol, in JSON: ``picture`` has ``server``, ``store``, ``roster``, ``projections``, ``lags`` (by name, the
oldest first); ``change`` has ``store``, ``changed`` (whole entries), ``gone`` (names), ``roster`` when it is another,
and after a sample ``lags`` (the last lag by name, without those that are 0).
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from projectiond import __version__
from projectiond.http.board import Board, make_board
from projectiond.http.crew import Crew
from projectiond.http.headers import Json
from projectiond.http.health import Health
from projectiond.http.history import SAMPLE_SECONDS, SAMPLES, History
from projectiond.http.readings import Readings

MOST_VIEWERS: Final = 32
TICK_SECONDS: Final = 1.0

MEDIA_TYPE: Final = "text/event-stream"

# Below a connection's deadline.
STREAM_SECONDS: Final = 60.0

# While the loop has not made a picture for so long, viewers are told nothing, and their pages say so.
PATIENCE_SECONDS: Final = 10.0


class Stream:
    """The one source; made for each event loop."""

    def __init__(
        self, crew: Callable[[], Crew], health: Health, readings: Readings, history: History, *, is_steerable: bool
    ) -> None:
        self._crew = crew
        self._health = health
        self._readings = readings
        self._history = history
        self._server = {
            "version": __version__,
            "is_steerable": is_steerable,
            "sample_seconds": SAMPLE_SECONDS,
            "samples": SAMPLES,
        }
        self._viewers = 0
        self._ticking: asyncio.Task[None] | None = None
        self._ticked = asyncio.Condition()
        self._tick = 0
        self._board: Board | None = None
        self._samples = 0
        self._picture = b""
        self._change = b""

    async def open(self, request: Request) -> Response:
        """Answer with a stream."""
        if self._viewers >= MOST_VIEWERS:
            error = f"{MOST_VIEWERS} people look already, which is as many as may"
            return Json({"error": error, "hint": "close other pages, or ask for /api/v1/projections"}, 503)
        if request.method == "HEAD":
            return Response(media_type=MEDIA_TYPE)
        # Not told to a proxy, which would buffer it.
        headers = {"X-Accel-Buffering": "no"}
        # Counted from here on, and not from its first message: many may come at once.
        self._viewers += 1
        return _View(self._messages(), self._leave, media_type=MEDIA_TYPE, headers=headers)

    def _leave(self) -> None:
        self._viewers -= 1

    async def _messages(self) -> AsyncIterator[bytes]:
        if self._ticking is None or self._ticking.done():
            self._ticking = asyncio.create_task(self._run())
        seen, deadline = 0, time.monotonic() + STREAM_SECONDS
        while time.monotonic() < deadline and await self._await_tick(seen):
            message = self._change if seen and self._tick == seen + 1 else self._whole()
            seen = self._tick
            yield message
        yield _message("over", {})

    async def _await_tick(self, seen: int) -> bool:
        async with self._ticked:
            with suppress(TimeoutError):
                await asyncio.wait_for(
                    self._ticked.wait_for(lambda: self._tick > seen and self._board is not None), PATIENCE_SECONDS
                )
        return self._tick > seen

    # --- the source

    async def _run(self) -> None:
        while self._viewers:
            reading = await self._readings.get(is_live=True)
            now = time.monotonic()
            self._history.note_errors(reading)
            board = make_board(self._crew(), reading, self._history, self._health.verdict.faults, now)
            self._change = self._changed(self._board, board)
            self._board, self._picture = board, b""
            async with self._ticked:
                self._tick += 1
                self._ticked.notify_all()
            # In step with the readings: by a beat of its own it would show one that others had made a moment before
            # something was done, and the next a whole beat later.
            await asyncio.sleep(min(self._readings.fresh_seconds() or TICK_SECONDS, TICK_SECONDS))
        # Whoever comes next is not to be shown what was.
        self._board = None

    def _changed(self, before: Board | None, after: Board) -> bytes:
        known = {} if before is None else before.projections
        change: dict[str, Any] = {
            "store": after.store,
            "changed": [entry for name, entry in after.projections.items() if known.get(name) != entry],
            "gone": [name for name in known if name not in after.projections],
        }
        if before is None or before.roster != after.roster:
            change["roster"] = after.roster
        if self._samples != self._history.samples:
            # More than one may have been taken since, by a loop that was late: a line that is a sample short.
            self._samples = self._history.samples
            change["lags"] = {name: lag for name, lag in self._history.latest().items() if lag != 0}
        return _message("change", change)

    def _whole(self) -> bytes:
        if not self._picture and self._board is not None:
            shape = {
                "server": self._server,
                "store": self._board.store,
                "roster": self._board.roster,
                "projections": list(self._board.projections.values()),
                "lags": self._history.lags(),
            }
            self._picture = _message("picture", shape)
        return self._picture


class _View(StreamingResponse):
    """A stream that tells when it is over, however it ends."""

    def __init__(
        self, messages: AsyncIterator[bytes], leave: Callable[[], None], *, media_type: str, headers: Mapping[str, str]
    ) -> None:
        super().__init__(messages, media_type=media_type, headers=headers)
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()


def _message(event: str, shape: dict[str, Any]) -> bytes:
    # ASCII, on one line: nothing in it can end the message, or be taken for another.
    text = json.dumps(shape, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return f"event: {event}\ndata: {text}\n\n".encode()
