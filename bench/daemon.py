"""The daemon that is measured: a real ``projectiond run`` with config/production.toml, in processes of its own.

Called by the measurements, each of which names the plugins of ``bench/projections`` that it measures, or has some of
its own.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import psutil
import psycopg

from projectiond import sql

WAIT_SECONDS: Final = 120.0

# Between two looks at a checkpoint.  The mean error of a time is half of it, and the looks cost two per cent of a core.
LOOK_SECONDS: Final = 0.002

_ROOT: Final = Path(__file__).parents[1]
_CONFIGURATION: Final = _ROOT / "config" / "production.toml"
_PROJECTIONS: Final = _ROOT / "bench" / "projections"

_IS_ASLEEP: Final = """
SELECT EXISTS (
    SELECT
    FROM pg_locks AS held
    JOIN pg_stat_activity AS session USING (pid)
    WHERE held.locktype = 'advisory'
        AND held.mode = 'ExclusiveLock'
        AND held.granted
        AND (held.classid::bigint << 32) | held.objid::bigint = %(bell)s
        AND session.datname = current_database()
        AND session.application_name = 'projectiond/watcher'
)
"""

_SET_STATUS: Final = "UPDATE projection_checkpoints SET status = %(status)s WHERE projection_name = ANY(%(names)s)"

_ENROLL: Final = """
INSERT INTO projection_checkpoints (projection_name, status)
SELECT name, %(status)s
FROM unnest(%(names)s::text[]) AS name
"""

# Rows: one (the position of who is farthest behind, why somebody has stopped).
_POSITION: Final = """
SELECT
    min(last_sequence_number),
    max(error_message) FILTER (WHERE status = 'paused')
FROM projection_checkpoints
WHERE projection_name = ANY(%(names)s)
"""


_CHECKPOINTS: Final = """
SELECT projection_name, status, last_sequence_number, error_message
FROM projection_checkpoints
ORDER BY projection_name
"""


class Daemon:
    """A running daemon."""

    def __init__(self, process: subprocess.Popen[bytes], db: psycopg.Connection) -> None:
        self._process = process
        self._db = db

    def set_status(self, status: str, *names: str) -> None:
        """Steer projections."""
        self._db.execute(_SET_STATUS, {"status": status, "names": list(names)})

    def position(self, *names: str) -> int:
        """Give the checkpoint of who is farthest behind.

        Raises:
            RuntimeError: One of them was paused by an error.
        """
        position, error = self._db.execute(_POSITION, {"names": list(names)}).fetchone() or (None, None)
        if position is None or error is not None:
            raise RuntimeError(f"{', '.join(names)} at {position}: {error or 'not known to the daemon'}")
        return int(position)

    def wait_for(self, head: int, *names: str) -> None:
        """Wait until the projections are there."""
        self.wait(lambda: self.position(*names) >= head, f"{', '.join(names)} reached {head}")

    def wait(self, is_so: Callable[[], bool], what: str, look_seconds: float = LOOK_SECONDS) -> None:
        """Wait until it is so, looking again after so many seconds.

        Raises:
            RuntimeError: The daemon has ended, or it took too long.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        while not is_so():
            if self._process.poll() is not None:
                raise RuntimeError(f"the daemon ended with code {self._process.returncode} before {what}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what}: not within {WAIT_SECONDS:g} s; {self._checkpoints()}")
            time.sleep(look_seconds)

    def wait_until_asleep(self) -> None:
        """Wait until it has seen everything, and sleeps on the doorbell."""
        self.wait(self._is_asleep, "the daemon fell asleep")

    def processes(self) -> list[psutil.Process]:
        """Give the supervisor and its workers."""
        supervisor = psutil.Process(self._process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def worker_megabytes(self) -> float:
        """Give the resident memory of the worker process."""
        return float(self.processes()[-1].memory_info().rss) / 1e6

    def cpu_seconds(self) -> float:
        """Give the processor time of all its processes."""
        times = [process.cpu_times() for process in self.processes()]
        return float(sum(time.user + time.system for time in times))

    def _checkpoints(self) -> str:
        rows = self._db.execute(_CHECKPOINTS).fetchall()
        return "; ".join(f"{name} is {status} at {position}: {error}" for name, status, position, error in rows)

    def _is_asleep(self) -> bool:
        row = self._db.execute(_IS_ASLEEP, {"bell": sql.keys.DOORBELL_KEY}).fetchone()
        return row is not None and bool(row[0])


@contextmanager
def running_daemon(
    dsn: str,
    plugins: Sequence[str | Path],
    names: Sequence[str],
    status: str = "running",
    settings: Mapping[str, str] | None = None,
) -> Iterator[Daemon]:
    """Start the daemon, wait until it is asleep, and end it afterwards; its log is shown when it fails.

    Args:
        dsn: Its database.
        plugins: The files with its projections, or their names under ``bench/projections``.
        names: Its projections.
        status: What they begin with.
        settings: What is set beside config/production.toml, by the variable's name.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for plugin in plugins:
            shutil.copy(_PROJECTIONS / plugin, directory)
        db = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        db.execute(_ENROLL, {"names": list(names), "status": status})
        log = stack.enter_context(tempfile.TemporaryFile())
        process = subprocess.Popen(
            [sys.executable, "-m", "projectiond", "run", "--config", str(_CONFIGURATION)],
            env={**_environment(dsn, directory), **(settings or {})},
            stdout=log,
            stderr=log,
        )
        daemon = Daemon(process, db)
        try:
            daemon.wait_until_asleep()
            yield daemon
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace")[-3000:])
            raise
        finally:
            _end(process)


def _environment(dsn: str, projections: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PROJECTIOND_")}
    return {
        **inherited,
        "DATABASE_URL": dsn,
        "PROJECTIOND_HTTP_PORT": "0",
        "PROJECTIOND_PROJECTIONS": str(projections),
        # The plugins import the statements from here.
        "PYTHONPATH": str(_ROOT),
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        # Its workers see the end of their input, and drain by themselves.
        process.kill()
        process.wait()
