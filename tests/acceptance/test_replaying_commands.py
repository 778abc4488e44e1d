"""``verify``, ``materialize`` and ``try`` on the command line: what they print, and how they end."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from projectiond import logs
from tests.support.command import Command, Shown, enter
from tests.support.events import append, append_many
from tests.support.postgres import Database

pytestmark = [pytest.mark.acceptance, pytest.mark.integration, pytest.mark.any_server]

PLUGIN = """
from projectiond import Connection, Event, Projection, handles


class Tally(Projection):
    tables = ("tally",)
    schema = "CREATE TABLE IF NOT EXISTS tally (event_type text PRIMARY KEY, total int NOT NULL)"

    @handles("*")
    def count(self, event: Event, db: Connection) -> None:
        if event.event_type == "Bad":
            raise ValueError("no use for it")
        db.execute(
            "INSERT INTO tally VALUES (%s, 1) ON CONFLICT (event_type) DO UPDATE SET total = tally.total + 1",
            (event.event_type,),
        )
"""


@pytest.fixture
def projectiond(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    enter(tmp_path, database.dsn, monkeypatch)
    monkeypatch.setenv("PROJECTIOND_HTTP_PORT", "0")
    (tmp_path / "projections").mkdir()
    (tmp_path / "projections" / "tally.py").write_text(PLUGIN)
    yield Command(capsys)
    logs.configure_logging()


def test_verify_says_what_differs_and_mends_it(projectiond: Command, database: Database) -> None:
    append_many(database.connect(), 40, "Opened")
    subprocess.run([sys.executable, "-m", "projectiond", "catchup"], check=True, capture_output=True, timeout=60)
    assert projectiond("verify", "tally") == Shown(
        0, "tally is what its history gives at sequence number 40 (rows: tally 1)\n", ""
    )
    database.connect().execute("UPDATE tally SET total = 39")
    shown = projectiond("verify", "tally")
    assert shown.code == 1
    assert shown.out == dedent("""\
        tally is not what its history gives at sequence number 40
          tally: 1 of 1 rows differ, 0 are missing, 0 are too many
            event_type Opened: total is 39, should be 40
        """)
    assert '"projectiond verify tally --fix" makes it so' in shown.err
    found = json.loads(projectiond("verify", "tally", "--json", "--samples", "0").out)
    assert (found["is_equal"], found["tables"][0]["change"]["changed"], found["tables"][0]["samples"]) == (False, 1, [])
    fixed = projectiond("verify", "tally", "--fix")
    assert fixed.code == 0
    assert fixed.out.endswith("now it is\n")
    assert projectiond("verify", "tally").code == 0


def test_materialize_makes_the_tables_as_they_were(projectiond: Command, database: Database) -> None:
    append_many(database.connect(), 40, "Opened")
    shown = projectiond("materialize", "tally", "--schema", "then", "--upto", "25")
    assert shown == Shown(0, 'tally as of sequence number 25: in the schema "then"\n  then.tally\n', "")
    assert database.connect().execute('SELECT total FROM "then".tally').fetchall() == [(25,)]
    before = projectiond("materialize", "tally", "--schema", "before", "--at", "2001-01-01")
    assert before.code == 0
    assert "as of sequence number 0, the last event up to 2001-01-01T00:00:00+00:00" in before.out
    told = projectiond("materialize", "tally", "--schema", "again", "--upto", "30", "--json")
    assert json.loads(told.out) == {
        "projection": "tally",
        "schema": "again",
        "upto": 30,
        "at": None,
        "tables": ["tally"],
    }
    again = projectiond("materialize", "tally", "--schema", "then", "--upto", "30")
    assert again.code == 1
    assert 'the schema "then" is in use' in again.err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--schema", "s"], "give one of --upto and --at"),
        (["--schema", "s", "--upto", "1", "--at", "2026-01-01"], "give one of --upto and --at"),
        (["--schema", "s", "--at", "yesterday"], '"yesterday" is no time'),
        (["--upto", "1"], "--schema"),
    ],
)
def test_materialize_says_what_it_needs(projectiond: Command, words: list[str], complaint: str) -> None:
    shown = projectiond("materialize", "tally", *words)
    assert shown.code == 2
    assert complaint in shown.err


def test_try_shows_rows_and_costs_and_keeps_nothing(projectiond: Command, database: Database) -> None:
    append_many(database.connect(), 1500, "Opened")
    shown = projectiond("try", "tally")
    assert (shown.code, shown.err) == (0, "")
    assert "tally over sequence numbers 501 to 1,500, on empty tables: 1,000 events in " in shown.out
    assert "Tally.count" in shown.out
    assert "tally: 1 row\nevent_type  total\nOpened      1000\n\nnothing was kept\n" in shown.out
    assert json.loads(projectiond("try", "tally", "--from", "1", "--json").out)["tables"][0]["samples"] == [
        ["Opened", 1500]
    ]
    assert database.connect().execute(
        "SELECT to_regclass('tally'), count(*) FROM projection_checkpoints"
    ).fetchall() == [(None, 0)]


def test_try_names_the_first_event_that_fails(projectiond: Command, database: Database) -> None:
    conn = database.connect()
    append_many(conn, 20, "Opened")
    bad = append(conn, "Bad")
    shown = projectiond("try", "tally")
    assert shown.code == 1
    assert f'event {bad} ("Bad", id ' in shown.err
    assert "fails in Tally.count: ValueError: no use for it" in shown.err
    assert "Opened      20" in shown.out


@pytest.mark.parametrize("command", [["verify"], ["materialize", "--schema", "s", "--upto", "1"], ["try"]])
def test_an_unknown_name_is_answered_with_the_nearest(projectiond: Command, command: list[str]) -> None:
    shown = projectiond(command[0], "taly", *command[1:])
    assert shown.code == 1
    assert 'the nearest known one is "tally"' in shown.err
