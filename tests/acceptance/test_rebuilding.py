"""Rebuilds beside the live tables by the real daemon, whose builders die."""

import os
import signal
from pathlib import Path

import pytest

from tests.support.daemon import Reporter
from tests.support.events import append, append_many
from tests.support.postgres import Database
from tests.support.process import DaemonProcess
from tests.support.waiting import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.faults, pytest.mark.any_server]

PLUGIN = """
import os
import time
from pathlib import Path

from projectiond import Connection, Event, Projection, handles

HERE = Path(__file__).parent


class Journal(Projection):
    tables = ("journal",)
    schema = "CREATE TABLE IF NOT EXISTS journal (place serial, sequence_number bigint)"

    @handles("*")
    def note(self, event: Event, db: Connection) -> None:
        if self.is_rebuilding and event.sequence_number == 7 and (HERE / "exit.txt").exists():
            os._exit(9)
        while event.is_replay and event.sequence_number == 15 and (HERE / "hold.txt").exists():
            time.sleep(0.01)
        db.execute("INSERT INTO journal (sequence_number) VALUES (%s)", (event.sequence_number,))
"""

ERROR = b"SELECT error_message FROM projection_rebuilds WHERE error_message IS NOT NULL"


def test_a_builder_that_dies_over_an_event_or_is_killed_is_followed_by_another_that_goes_on(
    database: Database, tmp_path: Path
) -> None:
    plugins = tmp_path / "projections"
    plugins.mkdir()
    (plugins / "journal.py").write_text(PLUGIN)
    (plugins / "exit.txt").touch()
    (plugins / "hold.txt").touch()
    conn, reporter = database.connect(), Reporter(database)
    numbers = append_many(conn, 20)
    settings = {"checkpoint_every": 4, "batch_size": 4, "rebuild_niceness": 0}
    with DaemonProcess(database.dsn, plugins, tmp_path / "log", **settings) as daemon:
        reporter.wait_until_at("journal", numbers[-1], 30)
        reporter.set_status("journal", "rebuilding")
        ((error,),) = eventually(lambda: reporter.ask(ERROR), 30)
        assert error.startswith('retrying: its builder ended with exit code 9, at event 7 ("Counted", id ')
        numbers.append(append(conn, "OrderPlaced"))
        reporter.wait_until_at("journal", numbers[-1])
        (plugins / "exit.txt").unlink()
        at_the_gate = b"SELECT 1 FROM projection_rebuilds WHERE position_sequence_number >= 12"
        eventually(lambda: reporter.ask(at_the_gate), 30)
        (builder,) = eventually(daemon.builder_pids)
        os.kill(builder, signal.SIGKILL)
        (plugins / "hold.txt").unlink()
        row = reporter.wait_for_status("journal", "running", 30)
        assert (row["position"], row["error"]) == (numbers[-1], None)
        assert reporter.applied() == numbers
        assert reporter.ask(b"SELECT 1 FROM pg_namespace WHERE nspname LIKE 'projectiond%'") == []
    assert b"worker.exited" not in (tmp_path / "log").read_bytes()
