"""The scene of a run: server, network, daemons, what projections are told to do wrong, and the story so far.

Made by ``__main__`` and given to each fault, which may do to its parts whatever the world might do to them.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil
import psycopg

from faults import mischief
from faults.pooler import find_pooler
from faults.proxy import Proxy
from faults.server import Disk, DisturbedServer
from tests.support.process import clean_environment

ROOT: Final = Path(__file__).parents[1]
# The plugins import from here, and the daemon is the one of this very tree.
PYTHONPATH: Final = os.pathsep.join((str(ROOT), str(ROOT / "src")))

PLUGINS: Final = Path(__file__).parent / "projections"

DAEMONS: Final = 2
WORKERS: Final = 2
POOL_SIZE: Final = 5

# A handler's time contains its statements', so its limit is the longer one.
STATEMENT_TIMEOUT_SECONDS: Final = 1.0
HANDLER_TIMEOUT_SECONDS: Final = 3.0
DRAIN_SECONDS: Final = 4.0

# With transactions in hand, and a handler that hangs: then its workers are killed.
ENDS_SECONDS: Final = 60.0

AT_WORK: Final = b'"worker.started"'

# At its start a daemon looks at everything, and does not begin without a database or without any projection.
MAY_END_SAYING: Final = ("cannot connect to", "no projection can be run")

# A worker that a fault has killed with the same event in hand again and again is not the handler's fault.
MAX_ATTEMPTS: Final = 6


class Story:
    """What has happened, in order, for who has to find out why."""

    def __init__(self, *, is_told: bool) -> None:
        self._began = time.monotonic()
        self._is_told = is_told
        self.lines: list[str] = []

    def tell(self, text: str) -> None:
        """Go on.  From any thread."""
        line = f"{time.monotonic() - self._began:6.1f} s  {text}"
        self.lines.append(line)
        if self._is_told:
            sys.stderr.write(f"{line}\n")


class Daemon:
    """A ``projectiond run``, with a directory of its own that is its working directory and has its log."""

    def __init__(self, number: int, directory: Path, environment: dict[str, str]) -> None:
        self.number = number
        self.log_file = directory / "daemon.log"
        self._directory = directory
        directory.mkdir()
        self._environment = environment
        self._log_begins = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __str__(self) -> str:
        return f"daemon {self.number}"

    @property
    def pid(self) -> int:
        """The process id of the supervisor."""
        return -1 if self._process is None else self._process.pid

    def start(self, *, directory: Path | None = None) -> None:
        """Start it; the one before has ended."""
        where = directory or self._directory
        with self.log_file.open("ab") as log:
            self._log_begins = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "projectiond", "run"],
                env={**self._environment, "HOME": str(where), "TMPDIR": str(where)},
                cwd=where,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C ends the harness, and that ends the daemons.
                start_new_session=True,
            )

    def is_running(self) -> bool:
        """Say whether the supervisor lives."""
        return self._process is not None and self._process.poll() is None

    def end(self) -> int:
        """Let it drain; give the exit code."""
        return self._send(signal.SIGTERM)

    def kill(self) -> int:
        """End the supervisor at once, and nobody else."""
        return self._send(signal.SIGKILL)

    def is_at_work(self) -> bool:
        """Say whether one of its workers is connected, or was."""
        with self.log_file.open("rb") as log:
            log.seek(self._log_begins)
            return AT_WORK in log.read()

    def last_words(self) -> str:
        """Give the sentence that it has ended with, else the end of its log.

        The workers of a supervisor that was killed before may still write to the same log.
        """
        self.log_file.touch()
        with self.log_file.open("rb") as log:
            log.seek(self._log_begins)
            lines = log.read().decode(errors="replace").splitlines()
        sentences = [line for line in lines if line.startswith("projectiond: ")]
        return next(reversed(sentences or lines), "without a word")[:300]

    def workers(self) -> list[psutil.Process]:
        """Give its workers, and its builder if there is one."""
        try:
            return list(psutil.Process(self.pid).children()) if self.is_running() else []
        except psutil.NoSuchProcess:
            return []

    def _send(self, number: signal.Signals) -> int:
        if self._process is None:
            return 0
        self._process.send_signal(number)
        return self._process.wait(ENDS_SECONDS)


class Scene:
    """Everything that a fault may disturb."""

    def __init__(
        self, seed: int, server: DisturbedServer, server_disk: Disk, daemons_disk: Disk, directory: Path, story: Story
    ) -> None:
        self.server = server
        self.server_disk = server_disk
        self.daemons_disk = daemons_disk
        self.story = story
        self.stopping = threading.Event()
        self.plugins = directory / "plugins"
        shutil.copytree(PLUGINS, self.plugins, ignore=shutil.ignore_patterns("__pycache__"))
        self.mischief_at = directory / "mischief"
        self.mischief_at.mkdir()
        self.proxy = Proxy(server.port)
        self.pooler = find_pooler(server)
        chance = random.Random(f"{seed}/daemons")
        self.daemons = [
            Daemon(
                number,
                daemons_disk.directory / f"daemon-{number}",
                self._environment(chance.choice(("notify", "notify", "poll"))),
            )
            for number in range(1, DAEMONS + 1)
        ]
        # Workers of supervisors that were killed; they have to end by themselves.
        self.orphans: list[psutil.Process] = []
        # Projections whose handlers have done what ends in a pause; their operator resumes them.
        self.may_pause: set[str] = set()
        self.problems: list[str] = []

    def close(self) -> None:
        """End every process that was started, and the network."""
        self.stopping.set()
        for daemon in self.daemons:
            with contextlib.suppress(psutil.NoSuchProcess, subprocess.TimeoutExpired):
                self.orphans += daemon.workers()
                daemon.kill()
        for worker in self.orphans:
            # psutil knows one that has the same number by its start.
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        self.proxy.close()
        if self.pooler is not None:
            self.pooler.stop()

    def tell(self, text: str) -> None:
        """Tell it in the story."""
        self.story.tell(text)

    def sleep(self, seconds: float) -> None:
        """Let things go on for a while."""
        self.stopping.wait(seconds)

    @contextlib.contextmanager
    def session(self, *, user: str = "postgres") -> Iterator[psycopg.Connection]:
        """Give a session of the harness's own."""
        with self.server.connect(user=user, name="fault") as db:
            yield db

    def _environment(self, wakeup: str) -> dict[str, str]:
        return clean_environment(
            database_url=self.server.address(self.proxy.port),
            projections=self.plugins,
            workers=WORKERS,
            pool_size=POOL_SIZE,
            statement_timeout_seconds=STATEMENT_TIMEOUT_SECONDS,
            handler_timeout_seconds=HANDLER_TIMEOUT_SECONDS,
            drain_seconds=DRAIN_SECONDS,
            max_attempts=MAX_ATTEMPTS,
            wakeup=wakeup,
            log_format="json",
        ) | {mischief.VARIABLE: str(self.mischief_at), "PYTHONPATH": PYTHONPATH}

    # --- daemons

    def kill(self, daemon: Daemon) -> None:
        """End a supervisor; its workers have to notice."""
        self.orphans += daemon.workers()
        daemon.kill()

    def restart_ended(self) -> None:
        """Start daemons that have ended by themselves, as systemd does; for most reasons they should not have."""
        for daemon in self.daemons:
            if not daemon.is_running():
                last_words = daemon.last_words()
                self.tell(f"{daemon} had ended, and is started: {last_words}")
                if not any(words in last_words for words in MAY_END_SAYING):
                    self.problems.append(f"{daemon} has ended by itself: {last_words}")
                daemon.start()

    def living_orphans(self) -> list[psutil.Process]:
        """Give the workers of killed supervisors that have not ended yet."""
        self.orphans = [worker for worker in self.orphans if _lives(worker)]
        return self.orphans

    def end_sessions(self, worker: psutil.Process, role: str) -> int:
        """Terminate the sessions that a process has for this purpose; say how many there were."""
        try:
            ports = {connection.laddr.port for connection in worker.net_connections("tcp")}
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return 0
        at_server = self.proxy.ports_at_server(ports)
        with self.session() as db:
            ended = db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = %s AND client_port = ANY(%s)",
                (f"projectiond/{role}", at_server),
            )
            return len(ended.fetchall())


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def describe(process: psutil.Process) -> str:
    """Say what a process is, for the story."""
    try:
        command = process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return f"process {process.pid}"
    is_builder = any("rebuild.process" in part for part in command)
    return f"{'builder' if is_builder else 'worker'} {process.pid}"
