"""What of projectiond.testing needs no database: comparing rows, finding whose an error is, keeping out of the way."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from psycopg import sql

from projectiond.settings import load_settings
from projectiond.testing.blame import of_author
from projectiond.testing.tables import Row, Snapshot, Table, find_differences
from tests.unit.test_packaging import ROOT, build


def snapshot(*rows: Row, key: Sequence[str] = ("id",)) -> Snapshot:
    return {"t": Table(tuple(key), rows)}


def test_equal_rows_in_another_order_are_no_difference() -> None:
    one, other = {"id": 1, "n": float("nan")}, {"id": 2, "n": 0.5}
    assert not list(find_differences(snapshot(one, other), snapshot(other, one)))


def test_rows_of_one_key_are_compared_column_by_column() -> None:
    before, after = {"id": 1, "n": 2, "label": "a" * 200}, {"id": 1, "n": 3, "label": "b"}
    (line,) = find_differences(snapshot(before), snapshot(after), words=("at first", "now"))
    assert line == f"t: id=1: n at first 2, now 3; label at first '{'a' * 79}…, now 'b'"


def test_rows_that_only_one_reading_has_are_shown_whole() -> None:
    lines = list(find_differences(snapshot({"id": 1, "n": 2}), snapshot({"id": 2, "n": None})))
    assert lines == ["t: only first: id=1, n=2", "t: only then: id=2, n=None"]


def test_without_a_key_equal_rows_are_counted() -> None:
    row = {"n": 1}
    line, other = find_differences(snapshot(row, key=()), snapshot(row, row, row, key=()))
    assert line == other == "t: only then: n=1"


def test_of_many_differences_a_few_are_shown_and_the_others_counted() -> None:
    lines = list(find_differences(snapshot(*({"id": n} for n in range(10))), snapshot()))
    assert len(lines) == 4
    assert lines[-1] == "t: and 7 more rows"


@pytest.mark.parametrize(("ignored", "is_same"), [("n", True), ("t.n", True), ("other.n", False), ("id", False)])
def test_a_column_can_be_ignored_everywhere_or_in_one_table(ignored: str, *, is_same: bool) -> None:
    lines = list(find_differences(snapshot({"id": 1, "n": 2}), snapshot({"id": 1, "n": 3}), (ignored,)))
    assert (not lines) is is_same


def test_a_table_that_only_one_reading_has_is_a_difference() -> None:
    assert list(find_differences({}, snapshot({"id": 1}))) == ["t: only then: id=1"]


def raised_by_author() -> Exception:
    try:
        sql.SQL("{}").format()
    except IndexError as error:
        return error
    raise AssertionError


def test_an_error_that_came_through_the_authors_code_is_the_authors() -> None:
    error = raised_by_author()
    assert of_author(error) is error
    assert error.__traceback__ is not None
    assert Path(error.__traceback__.tb_frame.f_code.co_filename).name == "test_testing.py"
    with pytest.raises(AttributeError) as caught:
        list(find_differences({}, snapshot(None)))  # type: ignore[arg-type]
    error = caught.value
    assert error.__traceback__ is not None
    # As it is where a thread of ours called it.
    assert of_author(error.with_traceback(error.__traceback__.tb_next)) is None
    assert of_author(None) is None


def test_the_daemon_takes_no_notice_of_the_tests_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROJECTIOND_TEST_DATABASE_URL", "postgresql://tester@localhost/postgres")
    assert load_settings(None).database_url is None


def test_an_installed_wheel_brings_the_plugin(tmp_path: Path) -> None:
    with zipfile.ZipFile(build("wheel", ROOT, tmp_path)) as wheel:
        names = wheel.namelist()
        assert "projectiond_pytest.py" in names
        assert "projectiond/cli/templates/test.txt" in names
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "[pytest11]\nprojectiond = projectiond_pytest" in wheel.read(entry_points).decode()
