"""What `projectiond new` writes: a plugin of each kind that loads without a fault, and how it refuses."""

import os
from pathlib import Path

import pytest

from projectiond.cli import application as cli
from projectiond.cli.scaffold import Kind
from projectiond.plugins.registry import load_projections
from projectiond.projection import BaseProjection, BatchProjection, Projection, RowProjection, SqlProjection
from projectiond.settings import load_settings

CLASSES: dict[Kind, type[BaseProjection]] = {
    Kind.EVENT: Projection,
    Kind.BATCH: BatchProjection,
    Kind.ROW: RowProjection,
    Kind.SQL: SqlProjection,
}


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands of a test work, without settings of anybody else's."""
    monkeypatch.chdir(tmp_path)
    for variable in [name for name in os.environ if name.startswith("PROJECTIOND_") or name == "DATABASE_URL"]:
        monkeypatch.delenv(variable)
    return tmp_path


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("name", ["invoice_totals", "projection", "event", "row", "something_happened"])
def test_the_template_of_each_kind_loads_without_a_fault(directory: Path, kind: Kind, name: str) -> None:
    assert cli.main(["new", name, "--kind", kind]) == 0
    text = (directory / "projections" / f"{name}.py").read_text()
    assert "{{" not in text
    registry = load_projections(load_settings(None).projections, {})
    assert registry.faults == ()
    (definition,) = registry.definitions
    assert isinstance(definition.projection, CLASSES[kind])
    assert definition.name == name
    assert definition.tables == (name,)
    assert f"CREATE TABLE IF NOT EXISTS {name}" in definition.schema
    assert definition.event_types == ("SomethingHappened",)


def test_a_projection_handles_event_by_event_unless_a_kind_is_asked_for(directory: Path) -> None:
    assert cli.main(["new", "invoice_totals"]) == 0
    assert "class InvoiceTotals(Projection):" in (directory / "projections" / "invoice_totals.py").read_text()


@pytest.mark.parametrize("kind", Kind)
def test_what_is_to_be_done_next_is_said_for_each_kind(kind: Kind, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["new", "invoice_totals", "--kind", kind]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        "wrote projections/invoice_totals.py and tests/test_invoice_totals.py\nnext: change its event"
    )
    assert "\n  pytest tests/test_invoice_totals.py\n" in said
    assert said.count("\n") == 8


@pytest.mark.parametrize("there", ["projections/invoice_totals.py", "tests/test_invoice_totals.py"])
def test_nothing_is_overwritten_and_nothing_else_is_written(
    directory: Path, capsys: pytest.CaptureFixture[str], there: str
) -> None:
    (directory / there).parent.mkdir()
    (directory / there).write_text("mine")
    assert cli.main(["new", "invoice_totals"]) == 1
    assert capsys.readouterr().err == (
        f"projectiond: {there} is there already; choose another name, or change that file\n"
    )
    assert [file.relative_to(directory).as_posix() for file in directory.rglob("*.py")] == [there]
    assert (directory / there).read_text() == "mine"


def test_when_the_test_cannot_be_written_the_projection_is_not_either(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "tests").touch()
    assert cli.main(["new", "invoice_totals"]) == 1
    assert "tests/test_invoice_totals.py cannot be written: File exists (tests)" in capsys.readouterr().err
    assert not list(directory.rglob("*.py"))


def test_a_kind_that_there_is_not_is_refused_with_the_list(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["new", "invoice_totals", "--kind", "table"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    for kind in Kind:
        assert f"'{kind}'" in said
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize(("name", "kind"), [("event_store", Kind.EVENT), ("snapshots", Kind.ROW), ("events", Kind.SQL)])
def test_a_name_that_something_of_the_daemons_has_is_refused(
    directory: Path, capsys: pytest.CaptureFixture[str], name: str, kind: Kind
) -> None:
    assert cli.main(["new", name, "--kind", kind]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert f'"{name}"' in said
    assert f"{name}_summary" in said
    assert list(directory.iterdir()) == []
