"""The network between the daemons and the server: a TCP proxy that can cut the line and slow it down.

A proxy that only stops forwarding is no cut: its own kernel goes on answering keepalives and acknowledging what is
sent, so neither end would ever notice.  Here a filter is attached to the proxy's sockets (SO_ATTACH_FILTER, one
instruction that keeps nothing), so packets vanish before TCP has seen them: no acknowledgement, no reset, no answer to
a keepalive or to a connection's first packet.  Both ends then meet what a pulled cable is, and it takes no privilege.

Source: Linux, socket(7), "SO_ATTACH_FILTER", and Documentation/networking/filter.rst.

One thread moves all bytes.  The faults call :meth:`Proxy.cut`, :meth:`Proxy.mend` and :meth:`Proxy.slow_down`.
"""

import contextlib
import ctypes
import selectors
import socket
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final

CHUNK: Final = 65_536

# What ``database`` sets on the daemons' side and on the server's.
GIVEN_UP_MILLISECONDS: Final = 10_000

# What is under way in one direction at most; more is left in the sender's socket.
UNDER_WAY: Final = 1 << 20

# From Linux's asm-generic/socket.h; the module socket does not name them.
_SO_ATTACH_FILTER: Final = 26
_SO_DETACH_FILTER: Final = 27
# BPF_RET | BPF_K with 0: of each packet keep nothing.
_KEEP_NOTHING: Final = struct.pack("HBBI", 0x06, 0, 0, 0)


@dataclass(slots=True, eq=False)
class _End:
    """One socket of a pair, and what is under way to it."""

    socket: socket.socket
    is_daemons: bool
    other: "_End | None" = None
    under_way: deque[tuple[float, bytes]] = field(default_factory=deque)
    size: int = 0
    has_finished: bool = False


class Proxy:
    """Forwards connections to a port of the loopback interface."""

    def __init__(self, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listener.settimeout(0)
        self.port: int = self._listener.getsockname()[1]
        self._ends: set[_End] = set()
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._is_open = True
        self._drops_of_daemons = False
        self._drops_of_server = False
        self._delay_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Proxy {self.port} of {len(self._ends) // 2} connections>"

    def close(self) -> None:
        """End all connections."""
        self._is_open = False
        self._thread.join(10)
        for end in list(self._ends):
            end.socket.close()
        self._listener.close()
        self._selector.close()

    def cut(self, *, of_daemons: bool = True, of_server: bool = True) -> None:
        """Lose every packet that the daemons send, that the server sends, or both."""
        with self._lock:
            self._drops_of_daemons, self._drops_of_server = of_daemons, of_server
            if of_daemons:
                _lose(self._listener)
            for end in self._ends:
                if of_daemons if end.is_daemons else of_server:
                    _lose(end.socket)

    def mend(self) -> None:
        """Lose nothing any more."""
        with self._lock:
            self._drops_of_daemons = self._drops_of_server = False
            _keep(self._listener)
            for end in self._ends:
                _keep(end.socket)
                # Whose other end has given up meanwhile: only a question gets the reset that was lost.
                with contextlib.suppress(OSError):
                    end.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
                    end.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
                    end.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def slow_down(self, seconds: float) -> None:
        """Deliver everything so much later; 0: at once."""
        self._delay_seconds = seconds

    def ports_at_server(self, ports: set[int]) -> list[int]:
        """Give the ports by which the server knows the connections that come from these ports."""
        with self._lock:
            pairs = [(end.socket, end.other.socket) for end in self._ends if end.is_daemons and end.other]
        found = []
        for of_daemon, of_server in pairs:
            with contextlib.suppress(OSError):
                if of_daemon.getpeername()[1] in ports:
                    found.append(of_server.getsockname()[1])
        return found

    # --- the thread

    def _run(self) -> None:
        while self._is_open:
            ready = self._selector.select(self._patience())
            if self._drops_of_daemons and self._drops_of_server:
                # What has arrived already stays where it is, too.
                time.sleep(0.02)
                continue
            for key, _ in ready:
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._take(key.data)
            self._deliver()

    def _patience(self) -> float:
        due = [end.under_way[0][0] for end in self._ends if end.under_way]
        return min(0.05, max(0.0005, min(due) - time.monotonic())) if due else 0.05

    def _accept(self) -> None:
        try:
            of_daemon, _ = self._listener.accept()
        except OSError:
            return
        try:
            of_server = socket.create_connection(self._target, timeout=1)
        except OSError:
            # As the server itself would refuse it.
            of_daemon.close()
            return
        pair = _End(of_daemon, is_daemons=True), _End(of_server, is_daemons=False)
        pair[0].other, pair[1].other = pair[1], pair[0]
        with self._lock:
            for end in pair:
                end.socket.settimeout(0)
                end.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # As both ends have it: a connection through here is to be given up as one without a proxy would be.
                end.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GIVEN_UP_MILLISECONDS)
                if self._drops_of_daemons if end.is_daemons else self._drops_of_server:
                    _lose(end.socket)
                self._selector.register(end.socket, selectors.EVENT_READ, end)
                self._ends.add(end)

    def _take(self, end: _End) -> None:
        other = end.other
        if end not in self._ends or other is None or other.size > UNDER_WAY:
            return
        try:
            data = end.socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self._end_pair(end)
            return
        other.under_way.append((time.monotonic() + self._delay_seconds, data))
        other.size += len(data)
        if not data:
            end.has_finished = True
            self._selector.unregister(end.socket)

    def _deliver(self) -> None:
        now = time.monotonic()
        for end in list(self._ends):
            while end.under_way and end.under_way[0][0] <= now and end in self._ends:
                due, data = end.under_way.popleft()
                if not data:
                    self._end_pair(end)
                    break
                try:
                    sent = end.socket.send(data)
                except BlockingIOError:
                    sent = 0
                except OSError:
                    self._end_pair(end)
                    break
                end.size -= sent
                if sent < len(data):
                    end.under_way.appendleft((due, data[sent:]))
                    break

    def _end_pair(self, end: _End) -> None:
        with self._lock:
            for one in (end, end.other):
                if one is not None and one in self._ends:
                    self._ends.remove(one)
                    if not one.has_finished:
                        self._selector.unregister(one.socket)
                    one.socket.close()


def _lose(of: socket.socket) -> None:
    program = ctypes.create_string_buffer(_KEEP_NOTHING, len(_KEEP_NOTHING))
    with contextlib.suppress(OSError):
        of.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))


def _keep(of: socket.socket) -> None:
    with contextlib.suppress(OSError):
        of.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
