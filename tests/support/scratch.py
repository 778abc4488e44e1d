"""Where the tests' servers keep their files, and the user that they run as.

Called by `tests.support.postgres` and `tests.support.servers`. All servers of a test run live in one scratch directory,
which the run holds locked. A run that was killed leaves its servers behind; the next run finds the directory without
a lock, ends the servers in it and removes it. PostgreSQL refuses to run as root, so root's tests run it as `nobody`.

The directory is in memory where there is room for it: a database of its own for each of thousands of tests is some
300 files made and removed, which costs a file system on a disk up to ten times as much. TMPDIR overrules that.
"""

import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

_PREFIX = "projectiond-tests-"
_MEMORY = Path("/dev/shm")  # noqa: S108 -- the directory that is made there has a name of its own
# Several servers and their write-ahead logs; a container often has 64 MB there.
_ROOM_BYTES = 4 * 1024**3

# Open file descriptors of lock files: closing one would give the lock up.
_held_locks: list[int] = []


@cache
def scratch_directory() -> Path:
    """Return the directory of this test run, locked for as long as this process lives."""
    parent = _parent_directory()
    _remove_abandoned_directories(parent)
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    directory.chmod(0o755)
    _lock_of(directory)
    return directory


def remove_scratch_directory() -> None:
    """Remove what the local servers of this run have left; called once, when the run ends."""
    if scratch_directory.cache_info().currsize:
        shutil.rmtree(scratch_directory(), ignore_errors=True)


def server_user() -> dict[str, Any]:
    """Return the arguments that make `subprocess` run a command as a user that PostgreSQL accepts."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    # The working directory must be one that the user may enter.
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": [], "cwd": "/"}


def give_to_server_user(path: Path) -> None:
    """Make the servers' user the owner of a file or directory."""
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(path, nobody.pw_uid, nobody.pw_gid)


def run_unprivileged(command: list[str]) -> None:
    """Run a command as the servers' user; fail with what it said when it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False, **server_user())
    assert result.returncode == 0, f"{command[0]} failed: {result.stderr or result.stdout}"


def _parent_directory() -> Path:
    if "TMPDIR" not in os.environ and _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ROOM_BYTES:
        return _MEMORY
    return Path(tempfile.gettempdir())


def _remove_abandoned_directories(parent: Path) -> None:
    for directory in parent.glob(f"{_PREFIX}*"):
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


def _lock_of(directory: Path) -> None:
    """Hold the directory's lock until this process ends, however it ends."""
    unlocked = directory / "lock.new"
    descriptor = os.open(unlocked, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    # Under its name only once it is locked: a run that starts at the same time would take it for abandoned.
    unlocked.rename(directory / "lock")
    _held_locks.append(descriptor)
