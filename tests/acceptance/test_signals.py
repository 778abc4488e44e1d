"""A signal that comes before there is a handler for it, as the first process of a container has it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import clean_environment

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize(("command", "exit_code"), [("run", 0), ("status", 1)])
def test_what_comes_while_python_starts_is_kept_until_it_is_handled(
    tmp_path: Path, command: str, exit_code: int
) -> None:
    # No server is there: whoever misses the signal says so.
    daemon = subprocess.Popen(
        [sys.executable, "-m", "projectiond", command],
        env=clean_environment(database_url=f"postgresql://nobody@/nothing?host={tmp_path}", projections=tmp_path),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}),  # noqa: PLW1509 - as env does
    )
    daemon.send_signal(signal.SIGTERM)
    _, said = daemon.communicate(timeout=30)
    assert (daemon.returncode, said) == (exit_code, "projectiond: interrupted\n")
