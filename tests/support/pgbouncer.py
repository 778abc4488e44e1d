"""A real PgBouncer in front of a test's server, where the machine has one.

PROJECTIOND_TEST_PGBOUNCER names the binary, else it is looked for where Debian puts it.  Like the servers it has no
network port, only a Unix socket.  Its pools hold two sessions, so that a few clients are enough to share them.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.support.postgres import Server
from tests.support.scratch import give_to_server_user, scratch_directory, server_user
from tests.support.waiting import eventually

BINARY_VARIABLE = "PROJECTIOND_TEST_PGBOUNCER"

# The first that keeps track of prepared statements; Debian 12 has an older one.
_FIRST_WITH_PREPARED_STATEMENTS = (1, 21)

_CONFIGURATION = """
[databases]
* = {target}
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = {directory}
auth_type = any
admin_users = postgres
pool_mode = {mode}
max_client_conn = 100
{settings}
"""


def find_binary() -> str | None:
    """Return the path of PgBouncer, or None where there is none."""
    return os.environ.get(BINARY_VARIABLE) or shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


needs_pgbouncer = pytest.mark.skipif(
    find_binary() is None, reason=f"there is no pgbouncer: install Debian's package, or set {BINARY_VARIABLE}"
)


@cache
def knows_prepared_statements() -> bool:
    """Say whether this PgBouncer can keep track of prepared statements."""
    said = subprocess.run([str(find_binary()), "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"PgBouncer (\d+)\.(\d+)", said)
    assert version is not None, f"what version is {said!r}?"
    return (int(version[1]), int(version[2])) >= _FIRST_WITH_PREPARED_STATEMENTS


class PgBouncer:
    """One that is running."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def dsn(self, database: str = "postgres") -> str:
        """Return the address of a database of the server behind it."""
        return f"postgresql://postgres@/{quote(database)}?host={quote(str(self._directory), safe='')}&port=6432"


@contextlib.contextmanager
def running_pgbouncer(server: Server, mode: str, **settings: object) -> Iterator[PgBouncer]:
    """Run a PgBouncer with pools of a mode; further settings are as in its file."""
    directory = Path(tempfile.mkdtemp(prefix="b-", dir=scratch_directory()))
    give_to_server_user(directory)
    behind: dict[str, Any] = conninfo_to_dict(server.dsn())
    target = " ".join(f"{key}={behind[key]}" for key in ("host", "port", "user", "password") if behind.get(key))
    file = directory / "pgbouncer.ini"
    lines = "\n".join(f"{key} = {value}" for key, value in {"default_pool_size": 2, **settings}.items())
    file.write_text(_CONFIGURATION.format(target=target, directory=directory, mode=mode, settings=lines))
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([str(find_binary()), str(file)], stdout=log, stderr=log, **server_user())
    bouncer = PgBouncer(directory)

    def answers() -> bool:
        assert process.poll() is None, (directory / "log").read_text()
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(bouncer.dsn("postgres"), connect_timeout=2).close()
            return True
        return False

    try:
        eventually(answers, 10, "PgBouncer did not start")
        yield bouncer
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(directory, ignore_errors=True)
