"""Bad input of every kind: one clear sentence on stderr, exit code 1, nothing lost.  And strange input that is fine."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from tests.support.events import append
from tests.support.postgres import Database, LocalServer
from tests.support.process import clean_environment
from tests.support.queries import value

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(120)]

HEADER = """
from pydantic import BaseModel

from projectiond import Connection, Event, Projection, handles

"""

KEEPER = (
    HEADER
    + """
class Keeper(Projection):
    tables = ("kept",)
    schema = "CREATE TABLE IF NOT EXISTS kept (sequence_number BIGINT PRIMARY KEY, type TEXT, text TEXT)"

    @handles("*")
    def keep(self, event: Event, db: Connection) -> None:
        text = event.data.get("text", "")
        db.execute("INSERT INTO kept VALUES (%s, %s, %s)", (event.sequence_number, event.event_type, text[:50]))
"""
)

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    directory = tmp_path / "projections"
    directory.mkdir()
    return directory


@pytest.fixture
def run(tmp_path: Path, plugins: Path) -> Run:
    """Run a command in a directory with these plugins."""

    def run_command(dsn: str, *words: str, **settings: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "projectiond", *words],
            cwd=tmp_path,
            env=clean_environment(database_url=dsn, projections=plugins, **settings),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    return run_command


def complaint(done: "subprocess.CompletedProcess[str]") -> str:
    """Return what a failed command said: something, and no traceback; its exit code is 1."""
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
    return " ".join(done.stderr.split())


# --- the database


@pytest.mark.parametrize("command", ["run", "check", "init", "status", "catchup", "pause"])
def test_no_database_is_one_sentence(run: Run, plugins: Path, tmp_path: Path, command: str) -> None:
    (plugins / "keeper.py").write_text(KEEPER)
    words = (command, "keeper") if command == "pause" else (command,)
    said = complaint(run(f"postgresql://u:sesame@/app?host={tmp_path}", *words))
    assert said.count("projectiond: ") == 1
    assert 'cannot connect to database "app"' in said
    assert "sesame" not in said


@pytest.mark.any_server
@pytest.mark.parametrize("command", ["run", "check", "status"])
def test_a_wrong_password_is_one_sentence_without_it(
    own_server: LocalServer, own_database: Database, run: Run, plugins: Path, command: str
) -> None:
    (plugins / "keeper.py").write_text(KEEPER)
    own_database.connect().execute("CREATE ROLE guarded LOGIN PASSWORD 'right'")
    hba = own_server.data_directory / "pg_hba.conf"
    hba.write_text("local all guarded scram-sha-256\n" + hba.read_text())
    own_database.connect().execute("SELECT pg_reload_conf()")
    dsn = own_database.dsn.replace("postgres@", "guarded:wr0ng@")
    said = complaint(run(dsn, command))
    assert 'password authentication failed for user "guarded"' in said
    assert "wr0ng" not in said


@pytest.mark.any_server
@pytest.mark.parametrize("command", ["run", "check", "status", "catchup"])
def test_a_database_without_schema_names_init(empty_database: Database, run: Run, plugins: Path, command: str) -> None:
    (plugins / "keeper.py").write_text(KEEPER)
    assert "projectiond init" in complaint(run(empty_database.dsn, command))


# --- settings


@pytest.mark.any_server
def test_an_unknown_setting_names_the_nearest(database: Database, run: Run) -> None:
    said = complaint(run(database.dsn, "run", batchsize=5))
    assert "PROJECTIOND_BATCHSIZE" in said
    assert "PROJECTIOND_BATCH_SIZE" in said


@pytest.mark.any_server
def test_a_setting_out_of_range_says_the_range(database: Database, run: Run) -> None:
    said = complaint(run(database.dsn, "run", batch_size=0, pool_size=3))
    assert "at least 1" in said
    assert "at least 4" in said


# --- plugins

ROWS = """
from dataclasses import dataclass
from uuid import UUID
from projectiond import Event, RowProjection, handles

@dataclass
class Total:
    order_id: UUID
    cents: str = ""
    note: str = ""

class Totals(RowProjection):
    tables = ("totals",)
    schema = "CREATE TABLE IF NOT EXISTS totals (order_id UUID PRIMARY KEY, cents BIGINT NOT NULL)"
    row = Total

    @handles("Paid")
    def paid(self, row: Total, event: Event) -> None: ...
"""

SQL = """
from projectiond import SqlProjection

class Counts(SqlProjection):
    tables = ("counts",)
    schema = "CREATE TABLE IF NOT EXISTS counts (type TEXT PRIMARY KEY, n BIGINT NOT NULL)"
    sql = (
        "INSERT INTO counts SELECT event_type, 1 FROM events ON CONFLICT DO NOTHING",
        "UPDATE counts SET n = n + amuont FROM events WHERE event_type = type",
        "DELETE FROM counts WHERE type IN (SELECT event_type FROM nowhere, events)",
    )
"""

BROKEN_PLUGINS = {
    "a syntax error": ("def oops(:\n", ["broken.py:1", "invalid syntax"]),
    "a wrong signature": (
        HEADER
        + """
class Wrong(Projection):
    @handles("A")
    def handle(self, event: Event) -> None: ...
""",
        ["broken.py:", "(self, event, db)"],
    ),
    "a table that nobody creates": (
        HEADER
        + """
class Homeless(Projection):
    tables = ("nowhere",)

    @handles("A")
    def handle(self, event: Event, db: Connection) -> None: ...
""",
        ["homeless", "nowhere", "do not exist"],
    ),
    "a row that does not fit its column": (
        ROWS,
        [
            "broken.py:12",
            'field "cents" is str, but column totals.cents is bigint: write "int"',
            'field "note" has no column in totals',
        ],
    ),
    "SQL that cannot be planned": (
        SQL,
        ["broken.py:4", 'column "amuont" does not exist', 'relation "nowhere" does not exist', "statement 2 of 3"],
    ),
    "SQL that reads no events": (
        SQL.replace("event_type FROM nowhere, events", "type FROM counts"),
        ["broken.py:4", "does not read the relation events"],
    ),
    "an option of another kind": (
        SQL.replace("sql = (", "row = int; sql = ("),
        ["broken.py:4", "row means nothing in a SqlProjection; subclass RowProjection instead"],
    ),
    "a table that is the store's": (
        ROWS.replace('("totals",)', '("event_store",)'),
        ["broken.py:12", "a rebuild would empty it"],
    ),
    "a name that is taken": (
        KEEPER.replace("class Keeper", "class Other").replace("tables =", 'name = "keeper"\n    tables ='),
        ["broken.py:", "keeper.py:", '"keeper"'],
    ),
}


# What is found without asking the server.
FOUND_IN_PYTHON = {
    "a syntax error",
    "a wrong signature",
    "an option of another kind",
    "a table that is the store's",
    "a name that is taken",
}


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.any_server if kind in FOUND_IN_PYTHON else (), id=kind)
        for kind in BROKEN_PLUGINS
    ],
)
def test_check_says_where_a_plugin_is_broken(database: Database, run: Run, plugins: Path, kind: str) -> None:
    text, words = BROKEN_PLUGINS[kind]
    (plugins / "keeper.py").write_text(KEEPER)
    (plugins / "broken.py").write_text(text)
    done = run(database.dsn, "check")
    said = complaint(done) + done.stdout
    for word in words:
        assert word in said


@pytest.mark.any_server
def test_check_names_the_faults_of_all_plugins_at_once(database: Database, run: Run, plugins: Path) -> None:
    (plugins / "keeper.py").write_text(KEEPER)
    (plugins / "rows.py").write_text(ROWS)
    (plugins / "counts.py").write_text(SQL)
    (plugins / "broken.py").write_text("def oops(:\n")
    done = run(database.dsn, "check")
    said = complaint(done)
    for word in ("broken.py:1", "rows.py:12", "counts.py:4"):
        assert word in said
    assert len(done.stderr.splitlines()) == 3
    assert "status" not in said  # nothing has stopped that would have to go on
    assert "ok: schema of keeper" in done.stdout
    assert value(database.connect(), "SELECT to_regclass('totals')") is None


def test_a_handler_for_a_table_that_does_not_exist_pauses_at_once_and_is_named(
    database: Database, run: Run, plugins: Path
) -> None:
    (plugins / "keeper.py").write_text(
        KEEPER.replace('    schema = "CREATE', '    schema = "" # CREATE').replace('("kept",)', "()")
    )
    append(database.connect(), "Started")
    said = complaint(run(database.dsn, "catchup", on_error="skip"))
    assert 'relation "kept" does not exist' in said
    assert "Keeper.keep" in said
    assert value(database.connect(), "SELECT count(*) FROM projection_dead_letters") == 0


@pytest.mark.any_server
def test_an_unknown_projection_names_the_nearest(database: Database, run: Run, plugins: Path) -> None:
    (plugins / "keeper.py").write_text(KEEPER)
    for command in ("pause", "resume", "rebuild", "wait"):
        said = complaint(run(database.dsn, command, "keepr"))
        assert '"keepr"' in said or "'keepr'" in said or "keepr" in said
        assert "keeper" in said


# --- the store and its events


def test_a_checkpoint_beyond_the_end_of_the_store_stops_that_projection(
    database: Database, run: Run, plugins: Path
) -> None:
    (plugins / "keeper.py").write_text(KEEPER)
    conn = database.connect()
    append(conn, "Started")
    conn.execute("INSERT INTO projection_checkpoints (projection_name, last_sequence_number) VALUES ('keeper', 999)")
    said = complaint(run(database.dsn, "catchup"))
    assert "999" in said
    assert "beyond the end of the event store at 1" in said
    assert "999" in complaint(run(database.dsn, "check"))
    assert value(conn, "SELECT status FROM projection_checkpoints") == "paused"


@pytest.mark.any_server
def test_data_that_does_not_fit_its_model_names_event_model_and_field(
    database: Database, run: Run, plugins: Path
) -> None:
    (plugins / "typed.py").write_text(
        HEADER
        + """
class Amount(BaseModel):
    cents: int


class Typed(Projection):
    @handles("Paid")
    def paid(self, event: Event[Amount], db: Connection) -> None: ...
"""
    )
    conn = database.connect()
    append(conn, "Paid", {"cents": 5})
    append(conn, "Paid", {"cents": "a lot"})
    said = complaint(run(database.dsn, "catchup"))
    for word in ('event 2 ("Paid"', "Typed.paid", "Amount", "cents"):
        assert word in said
    assert value(conn, "SELECT last_sequence_number FROM projection_checkpoints") == 1


@pytest.mark.any_server
def test_an_event_of_50_megabytes_is_applied(database: Database, run: Run, plugins: Path) -> None:
    (plugins / "keeper.py").write_text(KEEPER)
    conn = database.connect()
    append(conn, "Small", {"text": "before"})
    append(conn, "Large", {"text": "x" * 50_000_000})
    append(conn, "Small", {"text": "after"})
    done = run(database.dsn, "catchup")
    assert done.returncode == 0, done.stderr
    assert [row[0] for row in conn.execute("SELECT text FROM kept ORDER BY 1")] == ["after", "before", "x" * 50]


@pytest.mark.any_server
def test_event_types_with_spaces_and_letters_of_any_script_are_applied(
    database: Database, run: Run, plugins: Path
) -> None:
    types = ["Order placed", "Bestellung geändert", "注文 完了", "a'; DROP TABLE kept; --", "%s {0} \\ %"]
    wanted = KEEPER.replace('@handles("*")', f"@handles({', '.join(map(repr, types))})")
    (plugins / "keeper.py").write_text(wanted)
    conn = database.connect()
    for event_type in [*types, "Not wanted"]:
        append(conn, event_type, {"text": event_type})
    done = run(database.dsn, "catchup")
    assert done.returncode == 0, done.stderr
    assert [row[0] for row in conn.execute("SELECT type FROM kept ORDER BY sequence_number")] == types


# JSONB refuses these two when they are appended; a store whose event_data is JSON has them.
STRANGE_TEXTS = {"a null byte": r'{"text": "a\u0000b"}', "a lone surrogate": r'{"text": "a\ud800b"}'}


@pytest.mark.parametrize("kind", STRANGE_TEXTS)
def test_text_that_postgresql_cannot_store_pauses_with_a_message_that_can_be_read(
    database: Database, run: Run, plugins: Path, kind: str
) -> None:
    (plugins / "keeper.py").write_text(KEEPER)
    conn = database.connect()
    conn.execute("ALTER TABLE event_store ALTER COLUMN event_data TYPE JSON")
    append(conn, "Fine", {"text": "before"})
    conn.execute(
        "INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version) "
        "VALUES (%s, 'Order', 'Strange', %s, 1)",
        (uuid4(), STRANGE_TEXTS[kind]),
    )
    append(conn, "Fine", {"text": "after"})
    said = complaint(run(database.dsn, "catchup"))
    assert 'event 2 ("Strange"' in said
    assert "Keeper.keep" in said
    error = value(conn, "SELECT error_message FROM projection_checkpoints")
    assert "\x00" not in error
    assert 'event 2 ("Strange"' in error
    assert [row[0] for row in conn.execute("SELECT text FROM kept")] == ["before"]


@pytest.mark.parametrize("kind", STRANGE_TEXTS)
def test_text_that_postgresql_cannot_store_is_skipped_into_the_dead_letters(
    database: Database, run: Run, plugins: Path, kind: str
) -> None:
    (plugins / "keeper.py").write_text(KEEPER)
    conn = database.connect()
    conn.execute("ALTER TABLE event_store ALTER COLUMN event_data TYPE JSON")
    conn.execute(
        "INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version) "
        "VALUES (%s, 'Order', 'Strange', %s, 1)",
        (uuid4(), STRANGE_TEXTS[kind]),
    )
    append(conn, "Fine", {"text": "after"})
    done = run(database.dsn, "catchup", on_error="skip")
    assert done.returncode == 0, done.stderr
    assert value(conn, "SELECT sequence_number FROM projection_dead_letters") == 1
    assert [row[0] for row in conn.execute("SELECT text FROM kept")] == ["after"]


@pytest.mark.parametrize("kind", STRANGE_TEXTS)
def test_jsonb_refuses_such_text_already_when_it_is_appended(database: Database, kind: str) -> None:
    conn = database.connect()
    with pytest.raises(psycopg.DataError):
        conn.execute("SELECT %s::jsonb", (STRANGE_TEXTS[kind],))
