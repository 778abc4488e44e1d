"""The server that is disturbed: small, with few connections, on a disk of its own that can be filled.

Made by ``__main__``.  The daemons reach it over the loopback interface, for a Unix socket has no keepalives and cannot
lose packets; the harness itself uses the socket, which no fault touches.

A disk of its own is a tmpfs, which takes root and the privilege to mount.  Without it the server runs all the same, and
faults that need a full disk are left out.
"""

import errno
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from tests.support.postgres import SCHEMA_FILE, LocalServer
from tests.support.scratch import give_to_server_user

MAX_CONNECTIONS: Final = 60

DISK_MEGABYTES: Final = 600

# Of so small a server.
RECOVERY_SECONDS: Final = 5.0

DAEMON_ROLE: Final = "projectiond"
OTHER_ROLE: Final = "somebody_else"
DATABASE: Final = "shop"

# A later line of the file wins over what LocalServer has written.
_CONFIGURATION: Final = f"""
listen_addresses = '127.0.0.1'
max_connections = {MAX_CONNECTIONS}
superuser_reserved_connections = 12
max_prepared_transactions = 20
deadlock_timeout = 200ms
max_wal_size = 64MB
autovacuum_naptime = 20s
"""

_FILLING_BYTES: Final = (1 << 20, 1 << 12, 1)


class DisturbedServer(LocalServer):
    """A server on a port of the loopback interface, and on a Unix socket."""

    def __init__(self, bin_directory: Path, data_directory: Path) -> None:
        super().__init__(bin_directory, data_directory)
        self.port = _free_port()
        # One fault at a time starts and stops it.
        self.lock = threading.Lock()

    def dsn(self, database: str = "postgres") -> str:
        """Return the URL of a database over the Unix socket, as the superuser."""
        return f"{super().dsn(database)}&port={self.port}"

    def initdb(self) -> None:
        """Make the data directory."""
        super().initdb()
        with (self.data_directory / "postgresql.conf").open("a") as configuration:
            configuration.write(f"{_CONFIGURATION}port = {self.port}\n")

    def make_store(self) -> None:
        """Make the daemons' database and role, with an empty event store."""
        with psycopg.connect(self.dsn(), autocommit=True) as admin:
            admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(DAEMON_ROLE)))
            admin.execute(
                sql.SQL("CREATE ROLE {} IN ROLE pg_monitor").format(sql.Identifier(OTHER_ROLE)),
            )
            admin.execute(
                sql.SQL("GRANT {}, pg_monitor TO {}").format(sql.Identifier(OTHER_ROLE), sql.Identifier(DAEMON_ROLE))
            )
            admin.execute(
                sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), sql.Identifier(DAEMON_ROLE))
            )
        with self.connect() as db:
            db.execute(sql.SQL("GRANT ALL ON SCHEMA public TO {}").format(sql.Identifier(DAEMON_ROLE)))
            db.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(DAEMON_ROLE)))
            db.execute(SCHEMA_FILE.read_bytes())

    def connect(self, *, user: str = "postgres", name: str = "harness") -> psycopg.Connection[TupleRow]:
        """Open a session that no fault of the network touches, in autocommit mode."""
        return psycopg.connect(
            self.dsn(DATABASE), autocommit=True, user=user, application_name=f"faults/{name}", connect_timeout=10
        )

    def address(self, port: int) -> str:
        """Give the daemons' address of the database behind a port of the loopback interface."""
        return f"postgresql://{DAEMON_ROLE}@127.0.0.1:{port}/{DATABASE}"

    def bring_back(self) -> bool:
        """Wait until it accepts connections, which may take its recovery; say whether it had to be started for that.

        Without room for its log, recovery fails.  PostgreSQL 18 then neither ends nor tries again.
        """
        deadline = time.monotonic() + RECOVERY_SECONDS
        while time.monotonic() < deadline and self._process is not None and self._process.poll() is None:
            with suppress(psycopg.OperationalError):
                self.connect().close()
                return False
            time.sleep(0.1)
        self.restart("immediate")
        return True


@contextmanager
def running_server(binaries: Path, directory: Path) -> Iterator[DisturbedServer]:
    """Run a server with its data in a directory, which may be a disk of its own."""
    give_to_server_user(directory)
    server = DisturbedServer(binaries, directory / "d")
    server.initdb()
    with ExitStack() as stack:
        stack.callback(server.stop, "immediate")
        server.start()
        server.make_store()
        yield server


class Disk:
    """A directory, and whether it is a small file system of its own, which can be filled and made read-only."""

    def __init__(self, directory: Path, megabytes: int) -> None:
        self.directory = directory
        directory.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "projectiond-faults", str(directory)]
        self.is_mounted = os.geteuid() == 0 and _succeeds(command)

    def fill(self, name: str = "filler") -> None:
        """Leave no byte free."""
        descriptor = os.open(self.directory / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            for size in _FILLING_BYTES:
                _write_until_full(descriptor, bytes(size))
        finally:
            os.close(descriptor)

    def free(self, name: str = "filler") -> None:
        """Give back what was filled."""
        (self.directory / name).unlink(missing_ok=True)

    def set_read_only(self, *, is_read_only: bool) -> bool:
        """Let nobody write to it, or everybody again; say whether that was possible."""
        option = "remount,ro" if is_read_only else "remount,rw"
        return _succeeds(["mount", "-o", option, str(self.directory)])

    def unmount(self) -> None:
        """Take it away with all that is in it."""
        if self.is_mounted:
            # Lazily: a process that is on its way out may still work in it.
            _succeeds(["umount", "--lazy", str(self.directory)])
            self.is_mounted = False


def _write_until_full(descriptor: int, block: bytes) -> None:
    try:
        while os.write(descriptor, block) == len(block):
            pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def _succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, check=False, capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port
