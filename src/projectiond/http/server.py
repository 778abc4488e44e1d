"""The server: one thread of the supervisor with an event loop, its socket, and what the routes need.

The supervisor opens it before it starts its first worker, so that a port that is taken is an error at once: a daemon
whose probes ask nobody, or another daemon, would be worse than none.  From then on it shows the crew to it in each turn
of its loop, which also starts the thread again should it have ended.  Nothing of this waits.

Signals stay the supervisor's: uvicorn takes them in a main thread only, and the thread inherits their mask.
"""

import asyncio
import errno
import socket
import threading
import time
from contextlib import suppress
from typing import Final

import uvicorn

from projectiond import logs
from projectiond.errors import ConfigurationError
from projectiond.failure import describe
from projectiond.http.connections import KEEP_ALIVE_SECONDS, MOST_HEAD_BYTES, BoundedProtocol
from projectiond.http.crew import Crew
from projectiond.http.dashboard import Dashboard
from projectiond.http.health import Health
from projectiond.http.hosts import KnownHosts
from projectiond.http.readings import Readings
from projectiond.http.routes import Routes
from projectiond.http.vigil import Vigil
from projectiond.http.waiters import Waiters
from projectiond.settings import Settings

BACKLOG: Final = 128

JUDGE_SECONDS: Final = 1.0

# A thread that has ended through a fault of its own is started again after so long.
RESTART_SECONDS: Final = 5.0

STOP_SECONDS: Final = 2.0

# How often uvicorn renews the Date header, which is all that there is to do while nobody asks.
TICK_SECONDS: Final = 1.0

log = logs.get_logger()


class _Server(uvicorn.Server):
    """uvicorn's server, but told when to end; by itself it looks ten times a second, on an idle machine for nothing."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = asyncio.Event()

    async def main_loop(self) -> None:
        """Wait for the end."""
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), TICK_SECONDS)

    def end(self) -> None:
        """End it, without waiting for its clients.  From any thread."""
        self.should_exit = self.force_exit = True
        if self._loop is not None:
            # It may have been closed already.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._ending.set)


class HttpServer:
    """Serves what ``http`` has to say."""

    def __init__(self, settings: Settings, listener: socket.socket | None = None) -> None:
        """Open the socket.

        Args:
            settings: What it serves, and where.
            listener: A socket that listens already, in place of one at the address of the settings.

        Raises:
            ConfigurationError: The address cannot be listened on.
        """
        self._settings = settings
        self._socket = listener or _listen(settings.http_host, settings.http_port)
        self._socket.setblocking(False)  # noqa: FBT003 - the standard library's own signature
        self._crew = Crew(taken_at=time.monotonic())
        vigil = Vigil(
            # Before that a handler that takes its time is in the right.
            stall_seconds=max(settings.stall_seconds, settings.handler_timeout_seconds),
            poll_interval_seconds=settings.poll_interval_seconds,
        )
        self._readings = Readings(settings, lambda: self._crew)
        self._health = Health(lambda: self._crew, vigil, self._readings)
        self._waiters = Waiters(settings)
        self._dashboard = Dashboard(settings, lambda: self._crew, self._health, self._readings)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._start_at = 0.0

    def __repr__(self) -> str:
        return f"<HttpServer {self.address}>"

    @property
    def address(self) -> str:
        """Host and port, as in a URL."""
        host, port = self._socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def show(self, crew: Crew) -> None:
        """Take the crew as it is now; begin to serve, or begin again."""
        self._crew = crew
        if self._thread is None and time.monotonic() >= self._start_at:
            log.info(logs.HTTP_STARTED, address=self.address)
        elif self._thread is None or self._thread.is_alive() or time.monotonic() < self._start_at:
            return
        self._start_at = time.monotonic() + RESTART_SECONDS
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            # Out of threads or memory for now; the workers go on.
            self._thread = None
            log.error(logs.HTTP_FAILED, error=describe(error))  # noqa: TRY400 - a traceback says no more

    def stop(self) -> None:
        """End it, without waiting for what hangs."""
        self._readings.stop()
        self._waiters.stop()
        self._dashboard.stop()
        if self._server is not None:
            self._server.end()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)
        self._socket.close()

    # --- the thread

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:  # noqa: BLE001 - it must not bring down the supervisor, who starts it again
            log.error(logs.HTTP_FAILED, error=describe(error))  # noqa: TRY400 - as above

    async def _serve(self) -> None:
        routes = Routes(lambda: self._crew, self._health, self._readings, self._waiters, self._dashboard.routes())
        config = uvicorn.Config(
            KnownHosts(routes.application(), self._settings),
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            # Our log tells what matters of it; what clients send amiss does not.
            log_config=None,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=MOST_HEAD_BYTES,
        )
        self._server = _Server(config)
        server = self._server
        watching = asyncio.gather(self._judge(), self._dashboard.keep_history())
        # Without its judge it would tell the last verdict for ever.
        watching.add_done_callback(lambda _: server.end())
        try:
            # A copy, for uvicorn closes what it is given.
            await server.serve([self._socket.dup()])
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    async def _judge(self) -> None:
        while True:
            await self._health.judge()
            await asyncio.sleep(JUDGE_SECONDS)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            # Not the port of a daemon that runs, but that of one which has just ended.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        is_taken = error.errno == errno.EADDRINUSE
        hint = (
            "set http_port (PROJECTIOND_HTTP_PORT) to a free port, or to 0 to serve no HTTP"
            if is_taken
            else "set http_host and http_port to an address of this machine, or http_port to 0 to serve no HTTP"
        )
        why = "another process, perhaps another daemon, listens there" if is_taken else error.strerror or str(error)
        raise ConfigurationError(f"cannot serve HTTP on {host} port {port}: {why}", hint=hint) from error
    return listener
