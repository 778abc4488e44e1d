"""`projectiond dead-letters …` and `projectiond events`: hostile data, what they change, how they end."""

import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from projectiond.cli.application import main
from projectiond.settings import PREFIX
from tests.support.events import append
from tests.support.postgres import Database
from tests.support.queries import value
from tests.support.waiting import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.integration, pytest.mark.any_server]

PLUGIN = """
from projectiond import Connection, Event, Projection, handles


class Orders(Projection):
    @handles("Placed", "Paid")
    def note(self, event: Event, db: Connection) -> None:
        pass
"""

HOSTILE = "\x1b[31m\u202e</script>\u2066"


@dataclass(frozen=True)
class Shown:
    code: int
    out: str
    err: str


class Commands:
    def __init__(self, database: Database, capsys: pytest.CaptureFixture[str]) -> None:
        self.conn = database.connect()
        self._capsys = capsys

    def __call__(self, *words: str) -> Shown:
        code = main(words)
        shown = self._capsys.readouterr()
        return Shown(code, shown.out, shown.err)

    def letter(self, data: object = None, **values: Any) -> int:  # noqa: ANN401 -- columns
        number = append(self.conn, "Placed", {"text": "x"})
        columns = {"handler": "Orders.note", "error": "ValueError: no", **values}
        self.conn.execute(
            "INSERT INTO projection_dead_letters (projection_name, sequence_number, event_id, event_type, aggregate_id,"
            " event_data, handler, error, attempts)"
            " SELECT 'orders', sequence_number, event_id, event_type, aggregate_id, %(data)s, %(handler)s, %(error)s, 3"
            " FROM event_store WHERE sequence_number = %(number)s",
            {"number": number, "data": Jsonb(data or {"n": 1}), **columns},
        )
        return number


@pytest.fixture
def run(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Commands:
    for name in os.environ:
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DATABASE_URL", database.dsn)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "projections").mkdir()
    (tmp_path / "projections" / "orders.py").write_text(PLUGIN)
    return Commands(database, capsys)


def test_letters_are_listed_and_shown_without_harm_to_the_terminal(run: Commands) -> None:
    assert run("dead-letters", "list", "orders").out == "orders has no dead letters\n"
    number = run.letter({"text": HOSTILE, "long": "x" * 50_000}, error=f"ValueError: {HOSTILE}")
    listed = run("dead-letters", "list", "orders")
    assert listed.code == 0
    assert f"{number}" in listed.out
    shown = run("dead-letters", "show", "orders", str(number))
    assert "the first 20,000 of 50,0" in shown.out
    for text in (listed.out, shown.out):
        assert not set(text) & set("\x1b\u202e\u2066")
    found = json.loads(run("dead-letters", "show", "orders", str(number), "--json").out)
    assert found["event_data"] == {"text": HOSTILE, "long": "x" * 50_000}
    (listed_letter,) = json.loads(run("dead-letters", "list", "orders", "--json").out)["letters"]
    assert (listed_letter["sequence_number"], listed_letter["state"]) == (number, "kept")


def test_letters_are_discarded_by_number_or_all(run: Commands) -> None:
    numbers = [run.letter() for _ in range(3)]
    assert run("dead-letters", "discard", "orders").code == 2
    some = run("dead-letters", "discard", "orders", str(numbers[0]), "999")
    assert (some.code, some.out) == (0, f"discarded the letter of event {numbers[0]} of orders\n")
    assert "no dead letter of event 999" in some.err
    assert run("dead-letters", "discard", "orders", "--all").out == "discarded 2 letters of orders\n"
    none = run("dead-letters", "discard", "orders", "--all")
    assert (none.code, none.err.count("orders has no dead letters")) == (1, 1)
    assert "unknown projection" in run("dead-letters", "discard", "order", "--all").err
    number = run.letter()
    asked = run("dead-letters", "retry", "orders", str(number), "--timeout", "0", "--json")
    assert json.loads(asked.out) == {"projection": "orders", "asked": [number], "applied": [], "failed": []}
    gone = run("dead-letters", "discard", "orders", "--all", "--json")
    assert json.loads(gone.out) == {"projection": "orders", "discarded": [number]}


def test_steering_is_told_to_machines_too(run: Commands) -> None:
    def steered(*words: str) -> dict[str, Any]:
        shown = run(*words, "orders", "--json")
        assert shown.code == 0
        (found,) = json.loads(shown.out)["projections"]
        assert (found.pop("name"), found.pop("position")) == ("orders", 0)
        return dict(found)

    assert steered("pause") == {"is_changed": True, "status_before": None}
    assert steered("pause") == {"is_changed": False, "status_before": "paused"}
    assert steered("resume") == {"is_changed": True, "status_before": "paused"}
    assert steered("rebuild", "--cancel") == {"is_changed": False, "status_before": "running"}
    assert run("rebuild", "orders", "--json", "--wait").code == 2


def test_a_retry_waits_for_the_daemons_answer(run: Commands, database: Database) -> None:
    first, second = run.letter(), run.letter()
    alone = run("dead-letters", "retry", "orders", str(first))
    assert (alone.code, "no daemon is running" in alone.err) == (0, True)
    # A worker, as far as the command can see.
    run.conn.execute("SELECT pg_advisory_lock_shared(%s)", (int.from_bytes(b"projwork", "big"),))
    late = run("dead-letters", "retry", "orders", str(first), "--timeout", "0.2")
    assert late.code == 3

    def answer() -> None:
        conn = database.connect()
        asked = "SELECT count(*) FROM projection_dead_letters WHERE retry_requested_at IS NOT NULL"
        eventually(lambda: value(conn, asked) == 2, 10, "nobody asked")
        conn.execute(
            "UPDATE projection_dead_letters SET retry_requested_at = NULL, error = 'KeyError: n'"
            " WHERE sequence_number = %s",
            (second,),
        )
        conn.execute("DELETE FROM projection_dead_letters WHERE sequence_number = %s", (first,))

    daemon = threading.Thread(target=answer)
    daemon.start()
    began = time.monotonic()
    answered = run("dead-letters", "retry", "orders", "--all", "--json")
    daemon.join()
    assert time.monotonic() - began < 20
    assert answered.code == 1
    outcome = json.loads(answered.out)
    assert (outcome["applied"], outcome["failed"]) == ([first], [{"sequence_number": second, "error": "KeyError: n"}])
    assert f"event {second} failed again: KeyError: n" in answered.err


def test_the_newest_events_that_a_projection_handles(run: Commands) -> None:
    assert run("events", "orders").out == "the store holds no event that orders handles\n"
    numbers = [append(run.conn, kind, {"text": HOSTILE}) for kind in ("Placed", "Sent", "Paid", "Placed")]
    append(run.conn, "Paid", {"text": "x" * 30_000})
    shown = run("events", "orders", "--last", "3")
    lines = shown.out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        [str(numbers[2]), "Paid"],
        [str(numbers[3]), "Placed"],
        [str(numbers[3] + 1), "Paid"],
    ]
    assert "(30,012 characters)" in lines[-1]
    assert "\x1b" not in shown.out
    found = json.loads(run("events", "orders", "--json").out)["events"]
    assert [event["sequence_number"] for event in found] == [numbers[0], numbers[2], numbers[3], numbers[3] + 1]
    assert found[0]["event_data"] == {"text": HOSTILE}
    assert (len(found[3]["event_data_begins"]), found[3]["event_data_length"]) == (20_000, 30_012)
