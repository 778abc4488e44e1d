"""PostgreSQL servers as the tests handle them: one of our own, somebody else's, and a test's database on it.

`tests.support.servers` decides which there are, and `tests/conftest.py` makes them fixtures. A local server has no
network port, only a Unix socket beside its data directory, so test runs never meet.
"""

import contextlib
import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from tests.support.scratch import give_to_server_user, run_unprivileged, server_user
from tests.support.waiting import eventually

SCHEMA_FILE = Path(__file__).parents[2] / "schema.sql"

StopMode = Literal["fast", "immediate"]

_STOP_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}

# No fsync: a test never cuts the machine's power. Commits stay synchronous otherwise, so that the order of
# commits, locks and notifications is the one that users have. The write-ahead log may lie in memory, so it is short.
_CONFIGURATION = """
listen_addresses = ''
port = 5432
fsync = off
synchronous_commit = on
full_page_writes = off
max_prepared_transactions = 50
max_connections = 200
shared_buffers = 32MB
max_wal_size = 256MB
autovacuum_naptime = 10min
timezone = 'UTC'
log_line_prefix = '%m [%p] %a '
"""


class Server(Protocol):
    """A PostgreSQL server that a test may create databases on."""

    def dsn(self, database: str = "postgres") -> str:
        """Return the URL of one of its databases."""


@dataclass(frozen=True)
class ForeignServer:
    """A server that somebody else started: one named by the environment, or a container."""

    url: str

    def dsn(self, database: str = "postgres") -> str:
        """Return the server's URL with the database replaced."""
        head, question_mark, parameters = self.url.partition("?")
        scheme, _, rest = head.partition("://")
        authority = rest.partition("/")[0]
        return f"{scheme}://{authority}/{database}{question_mark}{parameters}"


class LocalServer:
    """One server of our own: a data directory and the process that serves it.

    Args:
        bin_directory: where `initdb` and `postgres` are.
        data_directory: its parent holds the socket and the log too, so its path must be short.
    """

    def __init__(self, bin_directory: Path, data_directory: Path) -> None:
        self.bin_directory = bin_directory
        self.data_directory = data_directory
        self.log_file = data_directory.with_suffix(".log")
        self._socket_directory = data_directory.with_suffix(".s")
        self._process: subprocess.Popen[Any] | None = None

    def __repr__(self) -> str:
        return f"LocalServer({self.data_directory}, pid={self._process.pid if self._process else None})"

    @property
    def pid(self) -> int:
        """Process id of the postmaster. Fails when the server is not running."""
        assert self._process is not None, f"{self!r} is not running"
        return self._process.pid

    def dsn(self, database: str = "postgres") -> str:
        """Return the URL of one of its databases, over the Unix socket."""
        return f"postgresql://postgres@/{quote(database)}?host={quote(str(self._socket_directory), safe='')}"

    def initdb(self) -> None:
        """Make the data directory: superuser postgres, no passwords, UTF-8."""
        options = [
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            "--no-instructions",
        ]
        run_unprivileged([str(self.bin_directory / "initdb"), f"--pgdata={self.data_directory}", *options])
        with (self.data_directory / "postgresql.conf").open("a") as configuration:
            configuration.write(_CONFIGURATION)

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        assert self._process is None, f"{self!r} is running already"
        self._socket_directory.mkdir(exist_ok=True)
        give_to_server_user(self._socket_directory)
        command: list[str | Path] = [self.bin_directory / "postgres", "-D", self.data_directory]
        command += ["-k", self._socket_directory]
        with self.log_file.open("ab") as log:
            # A session of its own: Ctrl-C ends the tests, and they end the server.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **server_user(),
            )
        eventually(self._accepts_connections, 30, f"{self!r} did not start, see {self.log_file}")

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server: `fast` ends its sessions and shuts down cleanly, `immediate` is a crash."""
        if self._process is None:
            return
        self._process.send_signal(_STOP_SIGNALS[mode])
        self._process.wait(timeout=30)
        self._process = None

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop the server and start it again on the same data."""
        self.stop(mode)
        self.start()

    def _accepts_connections(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(
                f"postgres ended with code {self._process.returncode}: {self.log_file.read_text()[-2000:]}"
            )
        try:
            psycopg.connect(self.dsn(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


@dataclass
class Database:
    """One database of a test; the fixture drops it and closes the connections opened through it."""

    server: Server
    name: str
    _connections: list[psycopg.Connection[Any]] = field(default_factory=list, repr=False)

    @property
    def dsn(self) -> str:
        """URL of this database."""
        return self.server.dsn(self.name)

    def connect(self, *, autocommit: bool = True) -> psycopg.Connection[TupleRow]:
        """Open a connection that is closed, at the latest, when the test ends."""
        conn = psycopg.connect(self.dsn, autocommit=autocommit)
        self._connections.append(conn)
        return conn

    def close(self) -> None:
        """Close all connections that `connect` opened."""
        for conn in self._connections:
            conn.close()


_database_numbers = itertools.count(1)


@contextlib.contextmanager
def fresh_database(server: Server, template: str = "template0") -> Iterator[Database]:
    """Make a database from a template that nobody is connected to, and drop it afterwards."""
    # The process id keeps parallel runs apart on a server that they share.
    database = Database(server, f"test_{os.getpid()}_{next(_database_numbers)}")
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
    _administrator(server).execute(create.format(sql.Identifier(database.name), sql.Identifier(template)))
    try:
        yield database
    finally:
        database.close()
        _drop(database)


def close_administrators() -> None:
    """Close the connections that made databases; called once, when the run ends."""
    for conn in _administrators.values():
        conn.close()
    _administrators.clear()


# One for each server: two connections for each of thousands of tests would cost more than what they do.
_administrators: dict[str, psycopg.Connection[TupleRow]] = {}


def _administrator(server: Server) -> psycopg.Connection[TupleRow]:
    dsn = server.dsn()
    if dsn not in _administrators or _administrators[dsn].closed:
        _administrators[dsn] = psycopg.connect(dsn, autocommit=True)
    return _administrators[dsn]


def _drop(database: Database) -> None:
    admin = _administrator(database.server)
    end_sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
    # A session ends a moment after its connection. DROP DATABASE would find it there, and wait for a tenth of a second.
    eventually(lambda: not admin.execute(end_sessions, (database.name,)).fetchall(), 30, f"{database} is in use")
    admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database.name)))
