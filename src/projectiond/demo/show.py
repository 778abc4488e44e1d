"""The demo, all of it: a server, a daemon, a shop, and a view of what comes of it.

Leaves nothing running, whichever way it ends: by --seconds, by Ctrl-C, or killed (see ``daemon``).  What it has
written stays, and the next run goes on with it.
"""

import secrets
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import SecretStr
from rich.console import Console
from rich.live import Live

from projectiond.demo.daemon import DaemonProcess
from projectiond.demo.stream import OrderStream
from projectiond.demo.view import Picture, describe_latency, draw, line, take_picture
from projectiond.errors import ProjectiondError
from projectiond.postgres.database import Connection, connect
from projectiond.postgres.embedded import DIRECTORY, require_package, start_embedded
from projectiond.postgres.schema import apply_schema
from projectiond.settings import Settings

PROJECTIONS: Final = Path(__file__).parent / "projections"
LOG_FILE: Final = DIRECTORY / "demo.log"

# An order has about three steps.
STEPS_PER_ORDER: Final = 3

# As long as a token has to be; it is typed in by hand.
TOKEN_BYTES: Final = 8

# A picture is a dozen small queries; four a second look alive.
FRAME_SECONDS: Final = 0.25
LINE_SECONDS: Final = 1.0

# A worker is at work within a second; a machine that is busy may take its time.
START_SECONDS: Final = 30.0

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the demo is shown."""

    tell: Tell
    """Prints a line."""
    is_terminal: bool
    """Whether it can be drawn on; else a line is told every second."""
    command: str
    """How projectiond is called here, for those who want to try it."""


def run_demo(stage: Stage, *, seconds: float | None, orders_per_second: float) -> None:
    """Show the demo.

    Args:
        stage: Where.
        seconds: How long; None until Ctrl-C.
        orders_per_second: How many orders are placed.

    Raises:
        ProjectiondError: The server or the daemon does not start, or ends by itself.
    """
    require_package()
    stage.tell(
        f"starting PostgreSQL in {DIRECTORY}/, the daemon (its log: {LOG_FILE}), and a shop that takes orders ..."
    )
    dsn = start_embedded()
    with connect(dsn, role="demo", statement_timeout_seconds=10) as db, ExitStack() as running:
        apply_schema(db)
        listener = running.enter_context(listen())
        page = Page(listener.getsockname()[1], secrets.token_hex(TOKEN_BYTES))
        settings = Settings(
            database_url=SecretStr(dsn),
            projections=(PROJECTIONS,),
            log_format="json",
            http_port=page.port,
            http_token=SecretStr(page.token),
        )
        daemon = DaemonProcess(settings, listener, LOG_FILE)
        running.callback(daemon.stop)
        stream = OrderStream(dsn, orders_per_second * STEPS_PER_ORDER)
        running.callback(stream.stop)
        show = _Show(db, daemon, stream, seconds, page)
        with suppress(KeyboardInterrupt):
            show.await_daemon()
            stream.start()
            stage.tell(str(page))
            show.run(stage)
        # The impatient press Ctrl-C again; the end is under way, and what is to be stopped has to be.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stream.stop()
        show.look_once_more()
        _conclude(show, stream, stage)
        stage.tell("stopping the daemon, and PostgreSQL unless others use it ...")


class _Show:
    """Takes a picture again and again, and shows it."""

    def __init__(
        self, db: Connection, daemon: DaemonProcess, stream: OrderStream, seconds: float | None, page: "Page"
    ) -> None:
        self._db = db
        self._daemon = daemon
        self._stream = stream
        self._began = time.monotonic()
        self._seconds = seconds
        self._page = page
        self._names = sorted(path.stem for path in PROJECTIONS.glob("*.py"))
        self.picture: Picture | None = None

    @property
    def elapsed_seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self._began

    def await_daemon(self) -> None:
        """Wait until the daemon has begun, so that the first order is no special case; then the time counts."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self._look()
            if self.picture is not None and self.picture.has_begun:
                break
            time.sleep(FRAME_SECONDS)
        self._began = time.monotonic()

    def run(self, stage: Stage) -> None:
        """Show it until the time is over."""
        if not stage.is_terminal:
            while self._look():
                if self.picture is not None:
                    stage.tell(line(self.picture, self.elapsed_seconds))
                time.sleep(LINE_SECONDS)
            return
        with Live(console=Console(), screen=True, auto_refresh=False) as live:
            while self._look():
                if self.picture is not None:
                    drawn = draw(self.picture, self._heading(), self._footing(stage.command), live.console.width)
                    live.update(drawn, refresh=True)
                time.sleep(FRAME_SECONDS)

    def look_once_more(self) -> None:
        """Take the last picture, once the projections have what was written last (if they do not take too long)."""
        deadline = time.monotonic() + LINE_SECONDS
        self._look()
        while time.monotonic() < deadline and self.picture is not None and self.picture.is_behind:
            time.sleep(FRAME_SECONDS / 10)
            self._look()

    def _look(self) -> bool:
        """Take the next picture; say whether to go on."""
        code = self._daemon.exit_code()
        if code is not None:
            raise ProjectiondError(f"the demo's daemon ended with exit code {code}", hint=f"see {LOG_FILE}")
        if self._stream.error is not None:
            raise ProjectiondError(f"the demo's shop cannot write: {self._stream.error}", hint=f"see {LOG_FILE}")
        self.picture = take_picture(self._db, self._names, self._stream)
        return self._seconds is None or self.elapsed_seconds < self._seconds

    def _heading(self) -> str:
        head = self.picture.overview.head if self.picture else 0
        return (
            f"projectiond demo, {self.elapsed_seconds:.0f} s: {head:,} events in the store, "
            f"{self._stream.events:,} of them from this run"
        )

    def _footing(self, command: str) -> str:
        return f"{self._page}\n{footing(command)}"


@dataclass(frozen=True, slots=True)
class Page:
    """Where the daemon serves its dashboard, and what lets people pause and rebuild there."""

    port: int
    token: str

    def __str__(self) -> str:
        return f"the dashboard: http://127.0.0.1:{self.port}/ (to pause or rebuild there, the token is {self.token})"


def listen() -> socket.socket:
    """Listen on the usual port, or on another one when somebody has it."""
    usual = int(Settings.model_fields["http_port"].default)
    try:
        return socket.create_server(("127.0.0.1", usual))
    except OSError:
        return socket.create_server(("127.0.0.1", 0))


def footing(command: str) -> str:
    """Say what to try, in words that can be copied."""
    return (
        f'In another terminal, in this directory: "{command} status", "{command} pause order_summary", '
        f'"{command} resume order_summary", "{command} rebuild daily_sales". Ctrl-C ends the demo.'
    )


def _conclude(show: _Show, stream: OrderStream, stage: Stage) -> None:
    tell = stage.tell
    tell(f"the demo ran for {show.elapsed_seconds:.0f} s and wrote {stream.events} events")
    if show.picture is not None:
        for state in show.picture.overview.projections:
            tell(f"  {state.name}: {state.status or 'not begun'} at {state.position or 0}, lag {state.lag}")
        tell(f"  {describe_latency(show.picture)}")
    tell(
        f"the data stays in {DIRECTORY}/, the next demo goes on with it; where to look next: the projections in "
        f"{PROJECTIONS}, the daemon's log in {LOG_FILE}, and your own: {stage.command} new NAME"
    )
