"""`projectiond plan`: what is to be rebuilt, why, and what it takes; and what check and status say of it."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from projectiond.builds import plan as plans
from projectiond.builds.build import note_rate
from projectiond.cli.application import main
from projectiond.plugins.registry import load_projections
from projectiond.postgres.database import connect
from projectiond.running.preparation import apply_schema, enroll
from projectiond.settings import PREFIX
from tests.support.events import append_many
from tests.support.postgres import Database

pytestmark = pytest.mark.integration

COUNTER = """
from projectiond import Connection, Event, Projection, handles


class {name}(Projection):
    tables = ("{table}",)
    schema = "CREATE TABLE IF NOT EXISTS {table} (n bigint)"

    @handles("{event_type}")
    def note(self, event: Event, db: Connection) -> None:
        db.execute("INSERT INTO {table} VALUES (%s)", (event.sequence_number,))
"""

CHANGED = "Orders.note changed, schema unchanged"

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    directory = tmp_path / "projections"
    directory.mkdir()
    for name in ("Orders", "Payments"):
        text = COUNTER.format(name=name, table=name.lower(), event_type="*" if name == "Orders" else "Paid")
        (directory / f"{name.lower()}.py").write_text(text)
    return directory


@pytest.fixture
def command(
    database: Database,
    plugins: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DATABASE_URL", database.dsn)

    def run(*words: str) -> tuple[int, str, str]:
        code = main(words)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    with connect(database.dsn, role="test", statement_timeout_seconds=30) as db:
        append_many(database.connect(), 30)
        for definition in load_projections([plugins], {}).definitions:
            apply_schema(db, definition)
            enroll(db, definition)
        note_rate(db, "orders", 10)
    return run


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_nothing_is_planned_while_nothing_has_changed(command: Command) -> None:
    assert command("plan", "--exit-code") == (0, "nothing is to be rebuilt: 2 projections looked at\n", "")


def test_a_plan_names_what_has_changed_and_what_a_rebuild_takes(command: Command, plugins: Path) -> None:
    edit(plugins / "orders.py", "event.sequence_number", "-event.sequence_number")
    edit(plugins / "payments.py", "(n bigint)", "(n bigint, cents int)")
    code, out, err = command("plan")
    assert (code, err) == (0, "")
    header, orders, payments, _, verdict = out.splitlines()
    assert header.split("  ")[0] == "PROJECTION"
    assert re.split("  +", orders) == ["orders", "30", "3 s", "0 kB + 0 kB", "merge", CHANGED]
    assert re.split("  +", payments) == ["payments", "0", "unknown", "0 kB + 0 kB", "merge or swap", "schema changed"]
    assert 'run "projectiond rebuild orders payments"' in verdict
    assert command("plan", "--exit-code")[0] == 1
    assert command("plan", "orders")[1].count("payments") == 0


def test_a_plan_for_machines_has_all_of_it(command: Command, plugins: Path) -> None:
    edit(plugins / "orders.py", "event.sequence_number", "-event.sequence_number")
    found = json.loads(command("plan", "--json")[1])
    assert [(one["name"], one["state"], one["built_by"]) for one in found["projections"]] == [
        ("orders", "changed", "enrolled"),
        ("payments", "as built", "enrolled"),
    ]
    assert found["projections"][0]["rebuild"] == {
        "changed": ["Orders.note changed"],
        "is_schema_same": True,
        "events": 30,
        "is_estimate": False,
        "seconds": 3.0,
        "bytes": 0,
        "finish": "merge",
    }


def test_a_large_store_is_estimated(command: Command, plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(plugins / "orders.py", "event.sequence_number", "-event.sequence_number")
    monkeypatch.setattr(plans, "MOST_COUNTED", 10)
    assert "  about " in command("plan")[1]


def test_an_accepted_change_is_none_any_more(command: Command, plugins: Path) -> None:
    edit(plugins / "orders.py", "event.sequence_number", "-event.sequence_number")
    assert command("plan", "--accept")[0] == 1
    assert command("plan", "orders", "--accept") == (0, "accepted the tables of orders as they are\n", "")
    assert command("plan", "orders", "--accept")[1] == "orders is what built its tables already\n"
    assert command("plan", "--exit-code")[0] == 0


def test_what_is_new_or_unknown_is_said(command: Command, plugins: Path, database: Database) -> None:
    database.connect().execute("DELETE FROM projection_builds WHERE projection_name = 'payments'")
    (plugins / "sales.py").write_text(COUNTER.format(name="Sales", table="sales", event_type="Paid"))
    out = command("plan", "--exit-code")[1]
    assert "note: new, and built from the first event when a daemon starts: sales\n" in out
    assert "note: nobody wrote down what built the tables of payments: " in out
    assert command("plan", "order")[2].startswith('projectiond: unknown projection "order"')


def test_check_and_status_say_it_too(command: Command, plugins: Path) -> None:
    edit(plugins / "orders.py", "event.sequence_number", "-event.sequence_number")
    said = f"the tables of orders were built by something else ({CHANGED}); see "
    assert f"note: {said}" in command("check")[1]
    assert said in command("status")[1]
    assert any(said in note for note in json.loads(command("status", "--json")[1])["notes"])
