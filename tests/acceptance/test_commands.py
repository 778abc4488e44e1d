"""The commands as an operator runs them: processes with a clean environment, their output, their exit codes."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from projectiond.cli import scaffold
from tests.support.events import append, append_many
from tests.support.postgres import Database
from tests.support.process import DaemonProcess, clean_environment
from tests.support.queries import value
from tests.support.waiting import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.integration]

# Fails on the number that its environment names, so that a test can mend it.
PLUGIN = """
from pathlib import Path

from projectiond import Connection, Event, Projection, handles


class Counter(Projection):
    tables = ("counter",)
    schema = "CREATE TABLE IF NOT EXISTS counter (n INT NOT NULL);"

    @handles("Counted")
    def counted(self, event: Event, db: Connection) -> None:
        if event.data["n"] == 7 and (Path(__file__).parent / "broken.txt").exists():
            raise ValueError("seven is broken")
        db.execute("INSERT INTO counter (n) VALUES (%s)", (event.data["n"],))


class Tableless(Projection):
    @handles("Counted")
    def counted(self, event: Event, db: Connection) -> None:
        pass
"""


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Site:
    """A directory with plugins, and a database."""

    directory: Path
    database: Database

    @property
    def plugins(self) -> Path:
        return self.directory / "projections"

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "projectiond", *words]

    def run(self, *words: str, dsn: str | None = None, **settings: object) -> Result:
        done = subprocess.run(
            self.command(*words),
            cwd=self.directory,
            env=clean_environment(database_url=dsn or self.database.dsn, **settings),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return Result(done.returncode, done.stdout, done.stderr)

    @contextlib.contextmanager
    def started(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """Run a command that is still to see something happen."""
        process = subprocess.Popen(
            self.command(*words),
            cwd=self.directory,
            env=clean_environment(database_url=self.database.dsn),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def daemon(self) -> DaemonProcess:
        return DaemonProcess(self.database.dsn, self.plugins, self.directory / "daemon.log")


def site_of(directory: Path, database: Database) -> Site:
    (directory / "projections").mkdir()
    (directory / "projections" / "counter.py").write_text(PLUGIN)
    return Site(directory, database)


@pytest.fixture
def site(tmp_path: Path, database: Database) -> Site:
    return site_of(tmp_path, database)


@pytest.fixture
def bare_site(tmp_path: Path, empty_database: Database) -> Site:
    return site_of(tmp_path, empty_database)


@pytest.fixture
def db(site: Site) -> psycopg.Connection[tuple[object, ...]]:
    return site.database.connect()


def status_of(site: Site, name: str) -> dict[str, object]:
    shown = json.loads(site.run("status", "--json").out)
    found: dict[str, object] = next(state for state in shown["projections"] if state["name"] == name)
    return found


def has_begun(site: Site) -> bool:
    with site.database.connect() as conn:
        return bool(value(conn, "SELECT count(*) = 2 FROM projection_checkpoints"))


# --- init and check


def test_init_says_what_it_made_and_a_second_run_has_nothing_to_do(bare_site: Site) -> None:
    first = bare_site.run("init")
    assert first.code == 0
    assert "created table public.event_store" in first.out
    second = bare_site.run("init")
    assert second.code == 0
    assert "there was nothing to do" in second.out
    assert "created" not in second.out


@pytest.mark.any_server
@pytest.mark.parametrize("command", [["run"], ["status"], ["check"], ["pause", "counter"], ["catchup"]], ids=str)
def test_a_database_that_was_never_prepared_is_one_sentence_that_names_init(
    bare_site: Site, command: list[str]
) -> None:
    result = bare_site.run(*command)
    assert result.code == 1
    (line,) = result.err.splitlines()
    assert line.startswith("projectiond: ")
    assert 'run "projectiond init"' in line


def test_init_without_the_right_to_create_names_the_grant(
    bare_site: Site,
) -> None:
    role = f"owner_{uuid.uuid4().hex[:12]}"
    with bare_site.database.connect() as db:
        db.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'lowly'".encode())
        try:
            db.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
            dsn = psycopg.conninfo.make_conninfo(bare_site.database.dsn, user=role, password="lowly")
            result = bare_site.run("init", dsn=dsn)
            assert result.code == 1
            assert result.err == (
                f"projectiond: permission denied for schema public; run GRANT CREATE ON SCHEMA public TO {role}\n"
            )
        finally:
            db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_check_is_content_and_changes_nothing(site: Site, db: psycopg.Connection[tuple[object, ...]]) -> None:
    result = site.run("check")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[-1] == "all is well"
    assert value(db, "SELECT to_regclass('counter') IS NULL")
    assert value(db, "SELECT count(*) FROM projection_checkpoints") == 0


def test_check_names_every_fault_at_once(site: Site, db: psycopg.Connection[tuple[object, ...]]) -> None:
    (site.plugins / "broken.py").write_text("def x(:\n")
    (site.plugins / "lost.py").write_text(
        "from projectiond import Connection, Event, Projection, handles\n\n\n"
        'class Lost(Projection):\n    tables = ("nowhere",)\n\n'
        '    @handles("A")\n    def a(self, event: Event, db: Connection) -> None: ...\n'
    )
    db.execute("INSERT INTO projection_checkpoints (projection_name, last_sequence_number) VALUES ('counter', 99)")
    db.execute("INSERT INTO projection_checkpoints (projection_name) VALUES ('older'), ('old_one')")
    result = site.run("check")
    assert result.code == 1
    faults = result.err.splitlines()
    assert len(faults) == 3
    assert "projections/broken.py:1: syntax error" in faults[0]
    assert '"lost" declares tables that do not exist: nowhere' in faults[1]
    assert 'checkpoint of "counter" is 99, beyond the end of the event store at 0' in faults[2]
    (note,) = [line for line in result.out.splitlines() if line.startswith("note: ")]
    assert "deployed here has the checkpoints old_one (running at 0), older (running at 0); delete a row" in note
    assert "all is well" not in result.out
    shown = site.run("check", "--json")
    found = json.loads(shown.out)
    assert (shown.code, shown.err, len(found["faults"]), len(found["notes"])) == (1, "", 3, 1)
    assert found["ok"][0] == "settings"


@pytest.mark.any_server
def test_check_notes_event_types_that_the_store_does_not_hold(
    site: Site, db: psycopg.Connection[tuple[object, ...]]
) -> None:
    assert "note: " not in site.run("check").out  # an empty store says nothing of types
    append(db, "Counting", {"n": 1})
    result = site.run("check")
    assert result.code == 0
    assert 'note: counter handles "Counted", of which the store holds no event yet; is it spelt so?' in result.out
    append(db, "Counted", {"n": 1})
    assert "note: " not in site.run("check").out


@pytest.mark.any_server
def test_check_notes_projections_that_have_to_wait_for_connections(site: Site) -> None:
    for number in range(2):
        assert site.run("new", f"further_{number}").code == 0
    result = site.run("check", pool_size=5)
    assert result.code == 0
    assert "note: 4 projections share 3 connections of a worker (pool_size 5, less 2)" in result.out
    assert "note: " not in site.run("check", pool_size=6).out
    assert "note: " not in site.run("check", pool_size=5, workers=2).out


@pytest.fixture
def lowly(db: psycopg.Connection[tuple[object, ...]]) -> Iterator[str]:
    """A role that may do all that check names, and yet create nothing."""
    role = f"daemon_{uuid.uuid4().hex[:12]}"
    db.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'lowly'".encode())
    db.execute(f"REVOKE CREATE ON SCHEMA public FROM PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};"
               f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}".encode())  # fmt: skip
    yield role
    db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_the_right_to_create_tables_is_named_where_it_is_needed(
    site: Site, db: psycopg.Connection[tuple[object, ...]], lowly: str
) -> None:
    dsn = psycopg.conninfo.make_conninfo(site.database.dsn, user=lowly, password="lowly")
    grant = f"run GRANT CREATE ON SCHEMA public TO {lowly}"
    result = site.run("check", dsn=dsn)
    assert result.code == 1
    (line,) = result.err.splitlines()
    assert line.startswith('projectiond: the schema of "counter" (')
    assert line.endswith(f"is refused: permission denied for schema public; {grant}")
    db.execute(f"GRANT CREATE ON SCHEMA public TO {lowly}".encode())
    assert site.run("check", dsn=dsn).code == 0


@pytest.mark.any_server
def test_no_database_is_one_sentence_without_the_password(site: Site) -> None:
    for command in (["run"], ["check"], ["status"]):
        result = site.run(*command, dsn="postgresql://app:s3cret@127.0.0.1:1/shop")
        assert result.code == 1
        (line,) = result.err.splitlines()
        assert 'cannot connect to database "shop" at 127.0.0.1:1' in line
        assert "s3cret" not in result.out + result.err


@pytest.mark.any_server
def test_an_unknown_setting_names_the_nearest(site: Site) -> None:
    result = site.run("run", poolsize=5)
    assert result.code == 1
    assert 'unknown environment variable "PROJECTIOND_POOLSIZE": the nearest known one' in result.err


# --- usage


@pytest.mark.any_server
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["paus"], "no such command 'paus'"),
        (["pause"], "missing argument 'NAME'"),
        (["wait", "counter", "--sequence", "many"], "invalid value for '--sequence'"),
        (["run", "--bogus"], "no such option: --bogus"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_wrong_usage_is_code_2_and_one_sentence(site: Site, words: list[str], sentence: str) -> None:
    result = site.run(*words)
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert line.startswith(f"projectiond: {sentence}")
    assert "--help" in line


@pytest.mark.any_server
@pytest.mark.parametrize(
    "command",
    ["run", "init", "check", "status", "pause", "resume", "rebuild", "wait", "catchup", "demo", "new"],
)
def test_the_help_of_each_command_has_an_example_and_its_exit_codes(site: Site, command: str) -> None:
    result = site.run(command, "--help")
    assert result.code == 0
    assert "Example: " in result.out
    assert "Exit codes: " in result.out


@pytest.mark.any_server
def test_global_options_may_stand_behind_the_command(site: Site) -> None:
    result = site.run("status", "--config", "nowhere.toml")
    assert result.code == 1
    assert "there is no settings file nowhere.toml" in result.err


@pytest.mark.any_server
def test_version_is_shown(site: Site) -> None:
    assert site.run("--version").out.startswith("projectiond 0.")


# --- status


def test_status_shows_projections_with_and_without_row_and_a_row_without_projection(
    site: Site, db: psycopg.Connection[tuple[object, ...]]
) -> None:
    append_many(db, 5)
    db.execute("INSERT INTO projection_checkpoints (projection_name, last_sequence_number) VALUES ('gone', 2)")
    result = site.run("status")
    assert result.code == 0
    lines = [line.split() for line in result.out.splitlines()]
    assert lines[0][:4] == ["PROJECTION", "STATUS", "POSITION", "LAG"]
    assert lines[1][:5] == ["counter", "not", "begun", "-", "5"]
    assert lines[2][:4] == ["gone", "running", "2", "3"]
    assert "no daemon is running" in result.out
    assert "no plugin here defines gone" in result.out
    assert "\x1b" not in result.out


@pytest.mark.any_server
def test_status_names_a_projection_that_nobody_runs(site: Site) -> None:
    with site.daemon() as daemon:
        eventually(lambda: has_begun(site), 30)
        assert "nobody runs" not in site.run("status").out
        (site.plugins / "late.py").write_text(PLUGIN.replace("Counter", "Latecomer").replace("Tableless", "Another"))
        out = site.run("status").out
        assert "nobody runs another, latecomer: no daemon at work has the plugin" in out
        assert daemon.is_running()


@pytest.mark.any_server
def test_status_works_while_the_plugins_are_broken(site: Site, db: psycopg.Connection[tuple[object, ...]]) -> None:
    db.execute("INSERT INTO projection_checkpoints (projection_name) VALUES ('counter')")
    (site.plugins / "counter.py").write_text("raise RuntimeError('no')\n")
    result = site.run("status")
    assert result.code == 0
    assert "counter" in result.out
    assert '1 fault in the plugins here; see "projectiond check"' in result.out


@pytest.mark.any_server
def test_what_a_plugin_prints_does_not_spoil_the_json(site: Site) -> None:
    (site.plugins / "counter.py").write_text(f'print("hello")\n{PLUGIN}')
    result = site.run("status", "--json")
    assert [state["name"] for state in json.loads(result.out)["projections"]] == ["counter", "tableless"]


def test_status_names_the_transaction_that_holds_the_mark(
    site: Site, db: psycopg.Connection[tuple[object, ...]]
) -> None:
    append(db, "Counted", {"n": 1})
    slow = site.database.connect(autocommit=False)
    slow.execute("SET application_name = 'import'")
    append(slow, "Counted", {"n": 2})
    append(db, "Counted", {"n": 3})
    held = json.loads(site.run("status", "--json").out)["hold"]
    assert held["position"] == 1
    (holder,) = held["holders"]
    assert f"pid {slow.info.backend_pid}" in holder
    assert 'app "import"' in holder
    assert held["remedies"] == [f"SELECT pg_terminate_backend({slow.info.backend_pid})"]
    shown = site.run("status").out
    assert "the high-water mark is held at 1 by pid" in shown
    assert held["remedies"][0] in shown
    slow.commit()
    assert json.loads(site.run("status", "--json").out)["hold"] is None


@pytest.mark.parametrize(
    ("words", "picture"), [(["--json"], '"head": 0'), ([], "the store's head is 0")], ids=["json", "plain"]
)
def test_watching_the_status_outlives_an_outage(
    site: Site, db: psycopg.Connection[tuple[object, ...]], words: list[str], picture: str
) -> None:
    with site.started("status", "--watch", *words) as watching:
        lines = watching.stdout
        assert lines is not None
        eventually(lambda: picture in lines.readline(), 30, "nothing was shown")
        db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'projectiond/status%%' AND datname = current_database()"
        )
        eventually(lambda: "the database does not answer since" in lines.readline(), 30, "the outage is not shown")
        eventually(lambda: picture in lines.readline(), 30, "it did not go on")
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 0


# --- pause, resume, rebuild


@pytest.mark.any_server
def test_an_unknown_name_changes_nothing_and_names_the_nearest(
    site: Site, db: psycopg.Connection[tuple[object, ...]]
) -> None:
    db.execute("INSERT INTO projection_checkpoints (projection_name) VALUES ('counter')")
    for command in ("pause", "resume", "rebuild"):
        result = site.run(command, "counter", "conter")
        assert result.code == 1
        assert result.err.splitlines() == [
            'projectiond: unknown projection "conter": the nearest known one is "counter"'
        ]
    assert value(db, "SELECT status FROM projection_checkpoints") == "running"


@pytest.mark.any_server
def test_pausing_resuming_and_rebuilding_say_what_they_did(
    site: Site, db: psycopg.Connection[tuple[object, ...]]
) -> None:
    append_many(db, 20)
    with site.daemon():
        assert site.run("wait", "counter", "--timeout", "30").code == 0
        assert site.run("pause", "counter").out == ('paused counter at 20; go on with "projectiond resume counter"\n')
        assert "was paused already" in site.run("pause", "counter").out
        assert status_of(site, "counter")["status"] == "paused"
        resumed = site.run("resume", "counter")
        assert resumed == Result(0, "resumed counter at 20\n", "")
        assert "is not paused: it is running at 20" in site.run("resume", "counter").out
        db.execute("INSERT INTO counter (n) VALUES (1000)")
        rebuilt = site.run("rebuild", "counter", "--wait")
        assert rebuilt.code == 0
        assert "rebuilt counter; it is running at 20" in rebuilt.out
        assert value(db, "SELECT sum(n) FROM counter") == 210


@pytest.mark.any_server
def test_pausing_a_rebuild_says_what_becomes_of_it(site: Site, db: psycopg.Connection[tuple[object, ...]]) -> None:
    append_many(db, 5)
    assert site.run("rebuild", "counter").code == 0
    dropped = site.run("pause", "counter").out
    assert 'its rebuild had not begun and is dropped: ask for it again with "projectiond rebuild counter"' in dropped
    db.execute("UPDATE projection_checkpoints SET status = 'rebuilding', last_sequence_number = 3")
    db.execute("INSERT INTO projection_rebuilds (projection_name, mode, is_begun) VALUES ('counter', 'in place', true)")
    stopped = site.run("pause", "counter").out
    assert stopped.startswith("paused counter at 3, in the middle of its rebuild; ")
    assert '"projectiond rebuild counter" begins afresh' in stopped


@pytest.mark.any_server
def test_a_rebuild_is_called_off_unless_it_is_in_place(site: Site, db: psycopg.Connection[tuple[object, ...]]) -> None:
    append_many(db, 5)
    assert "counter is not being rebuilt" in site.run("rebuild", "counter", "--cancel").out
    assert site.run("rebuild", "counter").code == 0
    off = site.run("rebuild", "counter", "--cancel").out
    assert off == "called off the rebuild of counter; it runs on its live tables, at 0\n"
    assert status_of(site, "counter")["status"] == "running"
    assert site.run("rebuild", "counter", "--in-place").code == 0
    assert "nothing is left to go back to" in site.run("rebuild", "counter", "--cancel").out
    assert status_of(site, "counter")["status"] == "rebuilding"
    assert site.run("rebuild", "counter", "--cancel", "--wait").code == 2


@pytest.mark.any_server
def test_a_projection_without_tables_is_not_rebuilt(site: Site, db: psycopg.Connection[tuple[object, ...]]) -> None:
    result = site.run("rebuild", "counter", "tableless")
    assert result.code == 1
    assert '"tableless" cannot be rebuilt: it declares no tables' in result.err
    assert value(db, "SELECT count(*) FROM projection_checkpoints") == 0


@pytest.mark.any_server
def test_steering_without_a_daemon_says_that_it_takes_effect_later(site: Site) -> None:
    result = site.run("rebuild", "counter")
    assert result.code == 0
    assert "no daemon is running on this database" in result.err
    assert status_of(site, "counter")["status"] == "rebuilding"


@pytest.mark.any_server
def test_a_rebuild_that_fails_ends_with_the_error(site: Site, db: psycopg.Connection[tuple[object, ...]]) -> None:
    append_many(db, 20)
    with site.daemon():
        assert site.run("wait", "counter", "--timeout", "30").code == 0
        (site.plugins / "broken.txt").touch()
        result = site.run("rebuild", "counter", "--wait")
        assert result.code == 1
        assert 'the rebuild of "counter" has stopped at 6: event 7 ("Counted"' in result.err
        assert "ValueError: seven is broken" in result.err
        assert value(db, "SELECT sum(n) FROM counter") == 210
        result = site.run("rebuild", "counter", "--in-place", "--wait")
        assert result.code == 1
        assert '"counter" is paused at 6: event 7 ("Counted"' in result.err
        (site.plugins / "broken.txt").unlink()
        resumed = site.run("resume", "counter")
        assert "its error was: event 7" in resumed.out
        assert "restart it after a change" in resumed.err
        assert site.run("wait", "counter", "--timeout", "30").code == 0
        assert status_of(site, "counter")["error_message"] is None
    assert value(db, "SELECT sum(n) FROM counter") == 210


def test_a_rebuild_asked_for_twice_begins_afresh_and_catchup_takes_it_to_its_end(
    site: Site, db: psycopg.Connection[tuple[object, ...]]
) -> None:
    append_many(db, 5)
    db.execute("CREATE TABLE counter (n INT NOT NULL)")
    db.execute("INSERT INTO counter (n) VALUES (1000)")
    db.execute("INSERT INTO projection_checkpoints (projection_name, status) VALUES ('counter', 'rebuilding')")
    db.execute("INSERT INTO projection_rebuilds (projection_name, target_sequence_number) VALUES ('counter', 5)")
    assert "rebuilding counter again beside its live tables" in site.run("rebuild", "counter").out
    assert value(db, "SELECT count(*) FROM projection_rebuilds") == 0
    assert site.run("catchup").code == 0
    assert value(db, "SELECT sum(n) FROM counter") == 15


# --- wait


@pytest.mark.any_server
def test_wait_times_out_with_code_3_and_the_lag(site: Site, db: psycopg.Connection[tuple[object, ...]]) -> None:
    append_many(db, 5)
    result = site.run("wait", "counter", "--timeout", "0.2")
    assert result.code == 3
    assert 'after 0.2 s "counter" is at 0, 5 events behind 5; no daemon is running' in result.err


@pytest.mark.any_server
def test_wait_beyond_the_end_says_where_the_store_ends(site: Site, db: psycopg.Connection[tuple[object, ...]]) -> None:
    append_many(db, 5)
    result = site.run("wait", "counter", "--sequence", "99", "--timeout", "0.2")
    assert result.code == 3
    assert "and the store ends at 5: no event up to 99 has been appended yet" in result.err


def test_a_piped_wait_says_how_far_it_is_and_who_holds_the_mark(
    site: Site, db: psycopg.Connection[tuple[object, ...]]
) -> None:
    slow = site.database.connect(autocommit=False)
    append(slow, "Counted", {"n": 1})
    append(db, "Counted", {"n": 2})
    with site.started("wait", "counter") as waiting:
        out, err = waiting.stdout, waiting.stderr
        assert out is not None
        assert err is not None
        assert "no daemon is running" in err.readline()
        assert out.readline().startswith("counter: 0 of 2 (0 %)")
        assert f"the high-water mark is held at 0 by pid {slow.info.backend_pid}" in err.readline()
    result = site.run("wait", "counter", "--timeout", "0.2")
    assert "1 event behind 2; no daemon is running" in result.err
    assert f"the high-water mark is held at 0 by pid {slow.info.backend_pid}" in result.err


@pytest.mark.any_server
def test_wait_says_at_once_that_the_projection_is_paused(
    site: Site, db: psycopg.Connection[tuple[object, ...]]
) -> None:
    append_many(db, 5)
    assert site.run("pause", "counter").code == 0
    result = site.run("wait", "counter")
    assert result.code == 1
    assert '"counter" is paused at 0' in result.err
    assert site.run("wait", "counter", "--sequence", "0").code == 0


def test_wait_counts_a_number_that_was_rolled_back_as_reached(
    site: Site, db: psycopg.Connection[tuple[object, ...]]
) -> None:
    append_many(db, 5)
    unlucky = site.database.connect(autocommit=False)
    number = append(unlucky, "Counted", {"n": 6})
    assert number == 6
    with site.daemon():
        assert json.loads(site.run("wait", "counter", "--timeout", "30", "--json").out) == {
            "projection": "counter",
            "position": 5,
            "upto": 5,
        }
        assert site.run("wait", "counter", "--sequence", "6", "--timeout", "0.5").code == 3
        with site.started("wait", "counter", "--sequence", "6", "--timeout", "30") as waiting:
            unlucky.rollback()
            out, _ = waiting.communicate(timeout=30)
            assert waiting.returncode == 0
            assert "counter is at 5: it has everything up to 6" in out
        assert site.run("wait", "counter", "--sequence", "7", "--timeout", "0.5").code == 3


# --- catchup


def test_catchup_applies_everything_and_leaves_out_what_an_operator_paused(
    site: Site, db: psycopg.Connection[tuple[object, ...]]
) -> None:
    append_many(db, 200)
    assert site.run("pause", "tableless").code == 0
    # Beside a daemon it must not want the daemon's port.
    with socket.create_server(("127.0.0.1", 0)) as daemons_port:
        result = site.run("catchup", http_port=daemons_port.getsockname()[1])
    assert result.code == 0
    assert "counter is at 200: it has everything up to 200" in result.out
    assert "left out tableless: an operator has paused it at 0" in result.out
    again = json.loads(site.run("catchup", "--json").out)
    assert (again["upto"], again["is_over"]) == (200, True)
    assert [(row["name"], row["position"], row["status"]) for row in again["projections"]] == [
        ("counter", 200, "running"),
        ("tableless", 0, "paused"),
    ]
    assert value(db, "SELECT count(*) FROM counter") == 200
    assert value(db, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'projectiond/%%'") == 0


@pytest.mark.any_server
def test_catchup_fails_with_the_error_of_a_projection_that_stops(
    site: Site, db: psycopg.Connection[tuple[object, ...]]
) -> None:
    append_many(db, 20)
    (site.plugins / "broken.txt").touch()
    for _ in range(2):  # while it runs, and at the start
        result = site.run("catchup", max_attempts=1)
        assert result.code == 1
        assert '"counter" is paused at 6: event 7' in result.err
        assert "tableless is at 20" in result.out


def test_catchup_waits_for_a_daemon_that_does_the_work(site: Site, db: psycopg.Connection[tuple[object, ...]]) -> None:
    with site.daemon():
        eventually(lambda: has_begun(site), 30, "the daemon did not begin")
        append_many(db, 50)
        assert site.run("catchup").code == 0
    assert value(db, "SELECT count(*) FROM counter") == 50


# --- new


@pytest.mark.any_server
def test_what_new_says_to_append_fills_a_row(site: Site, db: psycopg.Connection[tuple[object, ...]]) -> None:
    said = site.run("new", "invoice_totals").out
    db.execute(said[said.index("INSERT INTO") :].encode())
    assert site.run("catchup").code == 0
    assert value(db, "SELECT label FROM invoice_totals") == "the first"


@pytest.mark.any_server
def test_a_new_projection_loads_and_is_not_overwritten(site: Site) -> None:
    written = site.run("new", "invoice_totals")
    assert written.code == 0
    text = (site.plugins / "invoice_totals.py").read_text()
    assert "class InvoiceTotals(Projection)" in text
    assert "{{" not in text
    checked = site.run("check")
    assert (checked.code, checked.err) == (0, "")
    assert "ok: schema of invoice_totals" in checked.out
    again = site.run("new", "invoice_totals")
    assert again.code == 1
    assert "projections/invoice_totals.py is there already" in again.err


@pytest.mark.any_server
@pytest.mark.parametrize("name", ["Bad", "1st", "a-b", "../x", "a b", "x" * 64, "order", "class"])
def test_a_bad_name_for_a_new_projection_is_refused(site: Site, name: str) -> None:
    before = sorted(site.directory.rglob("*"))
    result = site.run("new", name)
    assert result.code == 1
    assert len(result.err.splitlines()) == 1
    assert sorted(site.directory.rglob("*")) == before


def test_every_word_that_the_server_reserves_is_known(db: psycopg.Connection[tuple[object, ...]]) -> None:
    reserved = {word for (word,) in db.execute("SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'T')")}
    assert reserved <= scaffold._SQL_WORDS


# --- the edges


@pytest.mark.any_server
def test_output_that_nobody_reads_any_more_is_no_traceback(site: Site) -> None:
    command = f"{sys.executable} -m projectiond status --watch --json | head -n 1"
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=site.directory,
        env=clean_environment(database_url=site.database.dsn),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert json.loads(done.stdout)["head"] == 0
    assert done.stderr == ""


@pytest.mark.any_server
def test_run_says_which_database_it_uses_without_the_password(site: Site) -> None:
    with site.daemon() as daemon:
        eventually(lambda: has_begun(site), 30, "the daemon did not begin")
        (line,) = daemon.log_lines("database.checked")
        assert line["database"].startswith(f'database "{site.database.name}"')


@pytest.mark.any_server
def test_a_name_that_no_shell_would_like_is_shown_harmless(
    site: Site, db: psycopg.Connection[tuple[object, ...]]
) -> None:
    db.execute("INSERT INTO projection_checkpoints (projection_name) VALUES (%s)", (f"evil\x1b[2J{uuid.uuid4().hex}",))
    result = site.run("status")
    assert "\x1b" not in result.out
    assert "evil\\x1b[2J" in result.out
