"""A short run of the harness of faults: kinds that no other test has, and the comparison after each of them."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import clean_environment
from tests.support.servers import local_kinds

ROOT = Path(__file__).parents[2]

# Of those that are over within seconds.
KINDS = (
    "worker-stopped",
    "supervisor-stopped",
    "handler-raises",
    "statements-cancelled",
    "deadlocks",
    "operator-rebuilds",
    "operator-rebuilds-in-place",
    "backend-killed",
    "handler-changes-session",
)


@pytest.mark.acceptance
@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.skipif("embedded" not in local_kinds(), reason="the embedded PostgreSQL is not installed")
def test_nothing_is_lost_or_repeated_whatever_is_done_to_processes_server_and_handlers() -> None:
    arguments = ["25", "--seed", "5", "--patience", "6", *(part for kind in KINDS for part in ("--only", kind))]
    result = subprocess.run(
        [sys.executable, "-m", "faults", *arguments],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=230,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert ", 0 lost, 0 repeated" in result.stdout
