"""The daemon that is measured: a real ``projectiond run`` with config/production.toml, in processes of its own.

Called by the measurements.  It projects what stands in ``bench/projections``.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil
import psycopg

from projectiond import sql

PROJECTION: Final = "order_totals"
WAIT_SECONDS: Final = 60.0

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

_SET_STATUS: Final = "UPDATE projection_checkpoints SET status = %(status)s WHERE projection_name = %(name)s"


class Daemon:
    """A running daemon."""

    def __init__(self, process: subprocess.Popen[bytes], db: psycopg.Connection) -> None:
        self._process = process
        self._db = db

    def set_status(self, status: str) -> None:
        """Steer the projection."""
        self._db.execute(_SET_STATUS, {"status": status, "name": PROJECTION})

    def position(self) -> tuple[int, str]:
        """Give the checkpoint and its status."""
        row = self._db.execute(
            "SELECT last_sequence_number, status FROM projection_checkpoints WHERE projection_name = %s", (PROJECTION,)
        ).fetchone()
        return (-1, "") if row is None else (int(row[0]), str(row[1]))

    def wait(self, is_so: Callable[[], bool], what: str) -> None:
        """Wait until it is so.

        Raises:
            RuntimeError: The daemon has ended, or it took too long.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        while not is_so():
            if self._process.poll() is not None:
                raise RuntimeError(f"the daemon ended with code {self._process.returncode} before {what}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what}: not within {WAIT_SECONDS:g} s; the checkpoint is {self.position()}")
            time.sleep(0.005)

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

    def _is_asleep(self) -> bool:
        row = self._db.execute(_IS_ASLEEP, {"bell": sql.DOORBELL_KEY}).fetchone()
        return row is not None and bool(row[0])


@contextmanager
def running_daemon(dsn: str, status: str = "running") -> Iterator[Daemon]:
    """Start the daemon, wait until it is asleep, and end it afterwards; its log is shown when it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PROJECTIOND_")}
    environment |= {"DATABASE_URL": dsn, "PROJECTIOND_PROJECTIONS": str(_PROJECTIONS), "PYTHONPATH": str(_ROOT)}
    with psycopg.connect(dsn, autocommit=True) as db, tempfile.TemporaryFile() as log:
        db.execute("INSERT INTO projection_checkpoints (projection_name, status) VALUES (%s, %s)", (PROJECTION, status))
        process = subprocess.Popen(
            [sys.executable, "-m", "projectiond", "run", "--config", str(_CONFIGURATION)],
            env=environment,
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


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        # Its workers see the end of their input, and drain by themselves.
        process.kill()
        process.wait()
