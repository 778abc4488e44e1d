"""The daemon as a process: `projectiond run` with settings from the environment, its log in a file."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from tests.support.waiting import eventually

# What a process needs to find its interpreter and libraries; nothing that would configure projectiond.
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "SYSTEMROOT", "VIRTUAL_ENV")


def clean_environment(**settings: object) -> dict[str, str]:
    """Return an environment with these settings, as PROJECTIOND_… variables, and no others; without HTTP, unless asked.

    Tests run beside each other, and beside a daemon of the developer's.
    """
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    settings = {"http_port": 0, **settings}
    return inherited | {f"PROJECTIOND_{name.upper()}": str(value) for name, value in settings.items()}


class DaemonProcess:
    """One `projectiond run`, started by a test and ended by it.

    Args:
        dsn: the database.
        projections: the directory of plugins.
        log_file: gets standard output and standard error, appended to.
        settings: further settings by name.
    """

    def __init__(self, dsn: str, projections: Path, log_file: Path, **settings: object) -> None:
        self.log_file = log_file
        self.environment = clean_environment(database_url=dsn, projections=projections, log_format="json", **settings)
        self._process: subprocess.Popen[Any] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()

    @property
    def pid(self) -> int:
        """Process id of the supervisor."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it; the one before must have ended."""
        assert not self.is_running(), "it runs already"
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "projectiond", "run"],
                env=self.environment,
                stdout=log,
                stderr=log,
                cwd=self.log_file.parent,
            )

    def worker_pids(self) -> list[int]:
        """Return the process ids of its workers."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def builder_pids(self) -> list[int]:
        """Return the process ids of those of its workers that are builders."""
        return [pid for pid in self.worker_pids() if b"projectiond.rebuild.process" in _command_of(pid)]

    def kill(self) -> None:
        """End the supervisor with SIGKILL, and wait until its workers have seen that and ended too."""
        workers = self.worker_pids()
        self.send(signal.SIGKILL)
        self.wait()
        eventually(lambda: not any(_is_alive(pid) for pid in workers), 30, "workers outlive their supervisor")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, timeout_seconds: float = 30) -> int:
        """Wait for its end and return the exit code."""
        assert self._process is not None
        return self._process.wait(timeout_seconds)

    def is_running(self) -> bool:
        """Return whether the supervisor lives."""
        return self._process is not None and self._process.poll() is None

    def log_lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return the log's lines so far, or those of one event."""
        lines = [line for line in self.log_file.read_text().splitlines() if line.startswith("{")]
        parsed = [json.loads(line) for line in lines]
        return [line for line in parsed if event is None or line["event"] == event]


def _command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def _is_alive(pid: int) -> bool:
    try:
        # A zombie has ended: it waits for its parent, which is init by now.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
