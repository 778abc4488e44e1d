"""The daemon as a role that has what `projectiond grants` prints, and nothing else: all kinds, and all that it does."""

import signal
from pathlib import Path

import pytest

from projectiond.cli.application import main
from tests.support.daemon import Reporter
from tests.support.events import append_many
from tests.support.postgres import Database
from tests.support.process import DaemonProcess
from tests.support.roles import granted_role
from tests.support.waiting import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.any_server]

PLUGIN = """
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from projectiond import (
    BatchProjection, Connection, Event, Projection, RowProjection, SqlProjection, handles,
)

TABLE = "CREATE TABLE IF NOT EXISTS {} (sequence_number BIGINT PRIMARY KEY)"


class ByEvent(Projection):
    tables = ("by_event",)
    schema = TABLE.format("by_event")
    on_error = "skip"

    @handles("Counted")
    def note(self, event: Event, db: Connection) -> None:
        if event.sequence_number == 5:
            raise ValueError("five is bad")
        db.execute("INSERT INTO by_event VALUES (%s)", (event.sequence_number,))


class ByBatch(BatchProjection):
    event_types = ("Counted",)
    tables = ("by_batch",)
    schema = TABLE.format("by_batch")

    def apply(self, events: Sequence[Event], db: Connection) -> None:
        with db.cursor() as cursor:
            cursor.executemany("INSERT INTO by_batch VALUES (%s)", [(event.sequence_number,) for event in events])


@dataclass
class Row:
    id: UUID
    n: int = 0


class ByRow(RowProjection):
    tables = ("by_row",)
    row = Row
    schema = "CREATE TABLE IF NOT EXISTS by_row (id UUID PRIMARY KEY, n BIGINT NOT NULL)"

    @handles("Counted")
    def note(self, row: Row, event: Event) -> None:
        row.n += 1


class BySql(SqlProjection):
    event_types = ("Counted",)
    tables = ("by_sql",)
    schema = TABLE.format("by_sql")
    sql = "INSERT INTO by_sql SELECT sequence_number FROM events"
"""

NAMES = ("by_event", "by_batch", "by_row", "by_sql")
REBUILT = ("by_event", "by_row")


COMMANDS = (
    "check",
    "status",
    "stats",
    "plan",
    "dead-letters list by_event",
    "verify by_row",
    "try by_sql",
    "materialize by_row --schema as_it_was --upto 7",
    "pause by_sql",
    "resume by_sql",
)


def test_the_daemon_does_all_its_work_as_a_role_that_can_do_nothing_else(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    plugins = tmp_path / "projections"
    plugins.mkdir()
    (plugins / "plugin.py").write_text(PLUGIN)
    owner = database.connect()
    append_many(owner, 10, "Counted")
    with (
        granted_role(database) as as_role,
        DaemonProcess(as_role.dsn, plugins, tmp_path / "daemon.log", max_attempts=1) as daemon,
    ):
        report = Reporter(as_role)
        for name in NAMES:
            report.wait_until_at(name, 10)
        assert report.ask(b"SELECT sequence_number FROM projection_dead_letters") == [(5,)]
        assert report.ask(b"SELECT n FROM by_row") == [(10,)]

        report.set_status("by_batch", "paused")
        for name in REBUILT:
            report.set_status(name, "rebuilding")
        append_many(owner, 5, "Counted")
        rebuilt = b"SELECT DISTINCT projection_name FROM projection_rebuild_history ORDER BY 1"
        eventually(lambda: report.ask(rebuilt) == [(name,) for name in REBUILT], 40, "not all were rebuilt")
        for name in REBUILT:
            report.wait_until_at(name, 15)
            report.wait_for_status(name, "running")
        assert report.checkpoint("by_batch") == {"position": 10, "status": "paused", "error": None, "processed": 10}
        report.set_status("by_batch", "running")
        report.wait_until_at("by_batch", 15)

        daemon.send(signal.SIGTERM)
        assert daemon.wait() == 0
        homes = b"SELECT DISTINCT schemaname FROM pg_tables WHERE tablename = ANY (%s)"
        assert report.ask(homes, list(NAMES)) == report.ask(b"SELECT current_user::text")
        assert not [line for line in daemon.log_lines() if "permission denied" in str(line)]

        monkeypatch.setenv("PROJECTIOND_DATABASE_URL", as_role.dsn)
        monkeypatch.setenv("PROJECTIOND_PROJECTIONS", str(plugins))
        for command in COMMANDS:
            assert main(command.split()) == 0, (command, capfd.readouterr())
