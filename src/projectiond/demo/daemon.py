"""The demo's daemon: ``projectiond run`` as a process that ends with the demo, however the demo ends.

Started by ``show`` with the settings, the dashboard's token and the number of the socket that listens for it on
standard input, a line each, which stays open: its end means that the demo is gone.  It counts as a user of the
embedded server, so it is the one that stops it when the demo was killed.
"""

import os
import select
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from pydantic import SecretStr

from projectiond import logs
from projectiond.postgres.embedded import start_embedded
from projectiond.settings import Settings
from projectiond.supervisor import Supervisor


class DaemonProcess:
    """The process, as the demo sees it."""

    def __init__(self, settings: Settings, listener: socket.socket, log_file: Path) -> None:
        """Start it; it serves HTTP on the listener, and what it logs goes to the file."""
        with log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "projectiond.demo.daemon"],
                pass_fds=[listener.fileno()],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the demo, which then ends this process in order.
                start_new_session=True,
            )
        token = settings.http_token
        # What is written for workers has no token.
        self._tell(f"{settings.to_wire()}\n{token.get_secret_value() if token else ''}\n{listener.fileno()}\n")

    def exit_code(self) -> int | None:
        """Give its exit code; None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """End it in order."""
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.wait()

    def _tell(self, lines: str) -> None:
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.write(lines.encode())
                self._process.stdin.flush()


def main() -> int:
    """Run until the demo ends."""
    settings = Settings.from_wire(sys.stdin.readline())
    token = sys.stdin.readline().strip()
    descriptor = int(sys.stdin.readline())
    settings = settings.model_copy(update={"http_token": SecretStr(token) if token else None})
    start_embedded()
    logs.configure_logging(settings.log_format, settings.log_level)
    with socket.socket(fileno=descriptor) as listener:
        return Supervisor(settings, until=_has_ended, listener=listener).run()


def _has_ended() -> bool:
    # Not read through sys.stdin: nothing more is ever written, so whatever makes it readable is its end.
    return bool(select.select([0], [], [], 0)[0]) and not os.read(0, 1)


if __name__ == "__main__":
    sys.exit(main())
