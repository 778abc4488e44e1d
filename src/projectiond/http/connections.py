"""Connections: bounded in number and in time, so that no client can use up the supervisor's descriptors or memory.

uvicorn's own limits leave two holes: a connection that never sends a whole request is kept for ever, and so is one that
does not read its answer.  Here each connection has a deadline in either state, after which it is cut off.

When there are as many as may be, the one that has been idle for longest makes room: whoever opens many and
says nothing cannot keep a probe out.  All others are being answered, and a new one is refused.
"""

import asyncio
from http import HTTPStatus
from typing import Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from projectiond.http.headers import SECURITY_HEADERS

# Half of the 1,024 descriptors that a process gets by default: room for all who may wait or look, and as many others.
MOST_CONNECTIONS: Final = 512

# From the connection, or the answer before, to the end of the request's head.
REQUEST_SECONDS: Final = 10.0

# From there to the end of the answer; above what a waiter may wait.
ANSWER_SECONDS: Final = 75.0

# Of request line and headers.
MOST_HEAD_BYTES: Final = 16_384

KEEP_ALIVE_SECONDS: Final = 5


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol with a deadline, and with room for a new one when there are too many."""

    _deadline: asyncio.TimerHandle | None = None
    since = 0.0
    """When the state that it is in began, by the loop's clock."""
    _is_answering = False
    _is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or refuse it."""
        if len(self.connections) >= MOST_CONNECTIONS and not self._make_room():
            self._is_refused = True
            self.transport = transport
            self._end(503, b"too many connections")
            return
        super().connection_made(transport)
        self._arm(REQUEST_SECONDS)

    def data_received(self, data: bytes) -> None:
        """Take what the client sends."""
        if self._is_refused:
            return
        super().data_received(data)
        if not self._is_answering and self.conn.their_state is not h11.IDLE:
            self._is_answering = True
            self._arm(ANSWER_SECONDS)

    def on_response_complete(self) -> None:
        """Go on to the next request."""
        super().on_response_complete()
        # The next may have been sent together with this one.
        self._is_answering = self.conn.their_state is not h11.IDLE
        self._arm(ANSWER_SECONDS if self._is_answering else REQUEST_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of it."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    @property
    def is_idle(self) -> bool:
        """Whether it is the client's turn: to ask, or to read."""
        cycle = getattr(self, "cycle", None)
        return cycle is None or cycle.response_complete or self.flow.write_paused

    def _make_room(self) -> bool:
        """Cut off the connection that has been idle for longest; False when none is."""
        idle = [other for other in self.connections if isinstance(other, BoundedProtocol) and other.is_idle]
        if not idle:
            return False
        oldest = min(idle, key=lambda other: other.since)
        # It hears of its end only later, and is not to be counted until then.
        self.connections.discard(oldest)
        oldest.transport.abort()
        return True

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, or too large."""
        self._end(400, msg.lower().encode())

    def _arm(self, seconds: float) -> None:
        """Set the deadline of the state that begins; whatever comes in the middle of one does not move it."""
        if self._deadline is not None:
            self._deadline.cancel()
        self.since = self.loop.time()
        self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _end(self, status: int, text: bytes) -> None:
        head = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        head += [f"{name}: {value}" for name, value in SECURITY_HEADERS.items()]
        head += ["Content-Type: text/plain; charset=utf-8", f"Content-Length: {len(text)}", "Connection: close", "", ""]
        self.transport.write("\r\n".join(head).encode() + text)
        self.transport.close()
