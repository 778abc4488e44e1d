"""The password stays where it is: in no message, traceback, log line, metric, answer, argument or environment.

It is full of characters that mean something to URLs, connection strings, shells, SQL, JSON and terminals, on a server
that asks for it.  What must not appear is any part of it that would be known again, in any of its spellings.
"""

import contextlib
import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from projectiond.cli.application import app, main
from tests.support.daemon import Reporter
from tests.support.events import append
from tests.support.http import free_port
from tests.support.postgres import Database, LocalServer
from tests.support.process import DaemonProcess
from tests.support.waiting import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.faults, pytest.mark.any_server]

PASSWORD = "p@ss:w/o%rd#?&'\"\\ ü"
TOKEN = "nobody-may-see-this-token"
PARTS = (
    TOKEN,
    "p@ss",
    "p%40ss",
    ":w/o",
    "w%2Fo",
    "o%rd",
    "o%25rd",
    "rd#?",
    "rd%23",
    "?&'",
    "%3F%26",
    "ü",
    "%C3%BC",
    "\\u00fc",
)

# What a command has to be called with.
ARGUMENTS = {
    "run": [],
    "init": [],
    "check": [],
    "grants": ["somebody"],
    "status": [],
    "stats": [],
    "plan": [],
    "pause": ["noisy"],
    "resume": ["noisy"],
    "rebuild": ["noisy"],
    "verify": ["noisy"],
    "materialize": ["noisy", "--schema", "copy", "--upto", "1"],
    "try": ["noisy"],
    "wait": ["noisy", "--timeout", "1"],
    "catchup": [],
    "health": [],
}
WITHOUT_DATABASE_URL = {"new", "demo"}

PLUGIN = """
from projectiond import Connection, Event, Projection, handles


class Noisy(Projection):
    tables = ("noisy",)
    schema = "CREATE TABLE IF NOT EXISTS noisy (sequence_number BIGINT NOT NULL)"

    @handles("Placed")
    def note(self, event: Event, db: Connection) -> None:
        print(db, db.info, repr(self))
        db.execute("INSERT INTO noisy (sequence_number) VALUES (%s)", (event.sequence_number,))

    @handles("Bad")
    def fail(self, event: Event, db: Connection) -> None:
        raise ValueError(f"bad {db} {db.info.get_parameters()}")
"""


@pytest.fixture
def guarded(own_database: Database, own_server: LocalServer) -> Database:
    """The role "app" owns everything, and is asked for its password."""
    owner = own_database.connect()
    owner.execute(sql.SQL("CREATE ROLE app LOGIN SUPERUSER PASSWORD {}").format(sql.Literal(PASSWORD)))
    access = own_server.data_directory / "pg_hba.conf"
    access.write_text(f"local all app scram-sha-256\n{access.read_text()}")
    owner.execute("SELECT pg_reload_conf()")

    def is_asked() -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(own_database.dsn, user="app").close()
            return False
        return True

    eventually(is_asked, 10, "the server asks for no password")
    return own_database


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    directory = tmp_path / "plugins"
    directory.mkdir()
    (directory / "plugin.py").write_text(PLUGIN)
    return directory


def as_url(dsn: str, password: str = PASSWORD) -> str:
    return dsn.replace("postgres@", f"app:{quote(password, safe='')}@")


def as_pairs(dsn: str, password: str = PASSWORD) -> str:
    return make_conninfo(dsn, user="app", password=password)


def commands() -> list[str]:
    """Return the names of all commands that look at the address, those that are yet to be written too."""
    named = {str(command.name or getattr(command.callback, "__name__", "")) for command in app.registered_commands}
    return sorted((named | {str(group.name) for group in app.registered_groups}) - WITHOUT_DATABASE_URL)


def leaks(text: str) -> list[str]:
    return [part for part in PARTS if part in text]


def test_no_command_shows_it_whatever_fails(
    guarded: Database, plugins: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROJECTIOND_PROJECTIONS", str(plugins))
    monkeypatch.setenv("PROJECTIOND_HTTP_PORT", str(free_port()))
    nowhere = "postgresql://postgres@127.0.0.1:1/shop"
    wrong = "postgresql://app:" + PASSWORD + "@h/shop"
    cases = {
        "a host that is not there, URL": as_url(nowhere),
        "a host that is not there, pairs": as_pairs(nowhere),
        "not the password, URL": as_url(guarded.dsn, PASSWORD + "!"),
        "not the password, pairs": as_pairs(guarded.dsn, PASSWORD + "!"),
        "not encoded": wrong,
        "pairs that do not end": as_pairs(nowhere) + " password='" + PASSWORD,
    }
    for case, dsn in cases.items():
        monkeypatch.setenv("PROJECTIOND_DATABASE_URL", dsn)
        for command in commands():
            code = main([command, *ARGUMENTS.get(command, []), "--debug"])
            told = "".join(capsys.readouterr())
            assert code == 1 or command not in ARGUMENTS, (case, command)
            assert not leaks(told), (case, command, told)


def test_no_command_shows_it_when_all_is_well(
    guarded: Database, plugins: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROJECTIOND_PROJECTIONS", str(plugins))
    for dsn in (as_url(guarded.dsn), as_pairs(guarded.dsn)):
        monkeypatch.setenv("PROJECTIOND_DATABASE_URL", dsn)
        for command in ("init", "check", "status", "stats", "plan", "grants"):
            assert main([command, *ARGUMENTS[command], "--debug"]) == 0, command
            assert not leaks("".join(capsys.readouterr())), command


def test_a_daemon_that_works_fails_and_is_locked_out_keeps_it_to_itself(
    guarded: Database, plugins: Path, tmp_path: Path
) -> None:
    secret, port = tmp_path / "database_url", free_port()
    secret.write_text(as_url(guarded.dsn) + "\n")
    settings = {"http_port": port, "max_attempts": 1, "log_level": "debug", "poll_interval_seconds": 0.1}
    report, told = Reporter(guarded), []
    daemon = DaemonProcess("", plugins, tmp_path / "daemon.log", **settings)
    token = tmp_path / "http_token"
    token.write_text(TOKEN)
    daemon.environment |= {"PROJECTIOND_DATABASE_URL_FILE": str(secret), "PROJECTIOND_HTTP_TOKEN_FILE": str(token)}
    with daemon:
        conn = guarded.connect()
        report.wait_until_at("noisy", append(conn, "Placed"))
        append(conn, "Bad")
        assert "bad" in str(report.wait_for_status("noisy", "paused")["error"])
        processes = {daemon.pid, *daemon.worker_pids()}
        told += [text for pid in processes for text in _told_of_process(pid)]
        told += _answers(port)
        # The password is no longer the right one, for those who are connected and for those who come.
        conn.execute("ALTER ROLE app PASSWORD 'another'")
        conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
        eventually(lambda: daemon.log_lines("doorbell.lost"), 20, "nobody noticed")
        os.kill(daemon.worker_pids()[0], signal.SIGKILL)
        refused = "password authentication failed"
        eventually(lambda: refused in daemon.log_file.read_text(), 20, "nobody was refused")
        told += _answers(port)
        daemon.send(signal.SIGTERM)
        assert daemon.wait() == 0
        told.append(daemon.log_file.read_text())
        told.append(repr(report.ask(b"SELECT * FROM projection_checkpoints")))
    assert not {part for text in told for part in leaks(text)}


def _told_of_process(pid: int) -> Iterator[str]:
    for name in ("cmdline", "environ", "comm"):
        yield Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")


def _answers(port: int) -> list[str]:
    found = []
    for path in ("/healthz", "/readyz", "/metrics", "/api/v1/projections", "/api/v1/projections/noisy", "/"):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
                found.append(answer.read().decode())
        except urllib.error.HTTPError as error:
            found.append(error.read().decode())
    assert all(found)
    assert re.search(r"^projectiond_database_up [01]", found[2], re.MULTILINE)
    return found
