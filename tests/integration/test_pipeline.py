"""The pipeline and its cursors: whose a result is, when a known statement is forgotten, when the server is told."""

import select
import threading
import weakref
from collections.abc import Iterator
from typing import Final, LiteralString

import psycopg
import pytest
from psycopg.adapt import Dumper
from psycopg.rows import dict_row

from projectiond import pipeline as pipelines
from projectiond.connection import Connection
from projectiond.cursor import Cursor, PendingCursor
from projectiond.database import connect
from tests.support.postgres import Database
from tests.support.queries import value
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

LOCK: LiteralString = "SELECT pg_advisory_xact_lock(%s)"
MEASURE: LiteralString = "SELECT length(%s::text)"
ONE: LiteralString = "SELECT %s::int AS one"

# psycopg prepares a statement when it comes for the sixth time.
OFTEN: Final = 6


@pytest.fixture
def db(database: Database) -> Iterator[Connection]:
    with connect(database.dsn, role="runner", statement_timeout_seconds=30) as db:
        yield db


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("is_looked_at", [False, True])
@pytest.mark.parametrize("again", ["execute", "executemany"])
def test_a_cursor_that_is_used_again_does_not_get_the_rows_of_before(
    db: Connection, monkeypatch: pytest.MonkeyPatch, again: str, *, is_known: bool, is_looked_at: bool
) -> None:
    """They have come when it is executed again, and nobody has taken them: psycopg takes them for the new ones."""
    talk_after(monkeypatch, statements=1)
    with db.pipelined(), db.transaction():
        if is_known:
            make_known(db)
        cursor = db.execute(ONE, (1,))
        if is_looked_at:
            assert cursor.arraysize == 1
        db.execute("SELECT repeat('x', 100000)")
        assert select.select([db], [], [], 30)[0]
        if again == "execute":
            cursor.execute("SELECT 2")
        else:
            cursor.executemany("SELECT %s::int", [(2,), (3,)], returning=True)
        assert cursor.fetchall() == [(2,)]


def test_a_statement_that_cannot_be_sent_leaves_no_rows_of_the_one_before(db: Connection) -> None:
    with db.pipelined(), db.transaction():
        make_known(db)
        cursor = db.execute(ONE, (1,))
        with pytest.raises(psycopg.ProgrammingError, match="placeholders"):
            cursor.execute(ONE, (1, 2))
        with pytest.raises(psycopg.ProgrammingError, match="no result"):
            cursor.fetchone()


def test_texts_are_encoded_as_the_session_has_it(db: Connection) -> None:
    with db.pipelined(), db.transaction(), db.guarded():
        for _ in range(OFTEN + 1):
            assert db.execute("SELECT %s::text", ("é",)).fetchone() == ("é",)
        assert db.execute("SET LOCAL client_encoding TO LATIN1").statusmessage == "SET"
        assert db.execute("SELECT %s::text", ("é",)).fetchone() == ("é",)


def test_parameters_are_not_kept(db: Connection) -> None:
    class Value(bytearray):
        """Can be watched, unlike bytes."""

    class ValueDumper(Dumper):
        def dump(self, obj: Name) -> Value:
            value = Value(obj.encode())
            dumped.append(weakref.ref(value))
            return value

    dumped: list[weakref.ref[Value]] = []
    db.adapters.register_dumper(Name, ValueDumper)
    with db.pipelined(), db.transaction():
        for _ in range(OFTEN + 2):
            db.execute("SELECT %s::text", (Name("name"),))
    assert [value() for value in dumped] == [None] * len(dumped)


def test_a_dumper_that_is_registered_is_used_at_once(db: Connection) -> None:
    class Shouting(Dumper):
        def dump(self, obj: str) -> bytes:
            return obj.upper().encode()

    with db.pipelined(), db.transaction():
        for _ in range(2 * OFTEN):
            assert db.execute("SELECT %s::text", (Name("name"),)).fetchone() == ("name",)
        db.adapters.register_dumper(Name, Shouting)
        assert db.execute("SELECT %s::text", (Name("name"),)).fetchone() == ("NAME",)


class Name(str):
    """A text of the author's own type."""

    __slots__ = ()


def test_rows_are_as_the_row_factory_was_when_the_statement_was_executed(db: Connection) -> None:
    with db.pipelined(), db.transaction(), db.guarded():
        make_known(db)
        before = db.execute(ONE, (1,))
        setattr(db, "row_factory", dict_row)  # noqa: B010 - its type forbids it
        after = db.execute(ONE, (1,))
        rows: list[object] = [before.fetchone(), after.fetchone()]
        assert rows == [(1,), {"one": 1}]


def test_a_cursor_is_made_when_somebody_looks(db: Connection) -> None:
    with db.pipelined(), db.transaction():
        make_known(db)
        cursor = db.execute(ONE, (1,))
        assert type(cursor) is PendingCursor
        assert cursor.fetchall() == [(1,)]
        assert type(cursor) is Cursor


def test_a_cursor_stays_closed(db: Connection) -> None:
    with db.pipelined(), db.transaction():
        for _ in range(2 * OFTEN):
            with db.cursor() as cursor:
                cursor.execute(ONE, (1,))
        assert type(cursor) is PendingCursor
        assert cursor.closed
        with pytest.raises(psycopg.InterfaceError, match="closed"):
            cursor.execute(ONE, (1,))


def test_a_statement_that_changes_the_session_is_noted_however_often_it_comes(db: Connection) -> None:
    with db.pipelined(), db.transaction():
        for _ in range(2 * OFTEN):
            db.execute("SELECT set_config('a.b', %s, false)", ("c",))
        with db.guarded():
            db.execute("SELECT set_config('a.b', %s, false)", ("c",))
    assert db.is_altered


def test_statements_of_several_threads_get_their_own_results(db: Connection) -> None:
    wrong: list[object] = []

    def ask(number: int) -> None:
        for _ in range(300):
            row = db.execute(ONE, (number,)).fetchone()
            if row != (number,):
                wrong.append((number, row))

    with db.pipelined(), db.transaction():
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_another_psycopg_has_its_own_pipeline(db: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines, "IS_USED", False)
    with db.pipelined(), db.transaction():
        for _ in range(2 * OFTEN):
            assert db.execute(ONE, (1,)).rowcount == 1
        assert type(db.active_pipeline) is psycopg.Pipeline


def test_this_psycopg_is_known() -> None:
    """Else read what the docstrings of pipeline and cursor say against its sources, and add it to the versions."""
    assert pipelines.IS_USED


def make_known(db: Connection) -> None:
    for _ in range(OFTEN):
        db.execute(ONE, (1,))


# --- in time


def talk_after(
    monkeypatch: pytest.MonkeyPatch, *, statements: int = 10**9, size: int = 10**9, seconds: float = 10**9
) -> None:
    monkeypatch.setattr(pipelines, "STATEMENTS_AHEAD", statements)
    monkeypatch.setattr(pipelines, "BYTES_AHEAD", size)
    monkeypatch.setattr(pipelines, "SECONDS_AHEAD", seconds)


@pytest.mark.parametrize("is_prepared", [False, True])
@pytest.mark.parametrize(("rule", "most"), [("statements", 16), ("size", 1000), ("seconds", 0)])
def test_the_server_has_statements_before_the_handler_is_done(
    db: Connection, database: Database, monkeypatch: pytest.MonkeyPatch, rule: str, most: int, *, is_prepared: bool
) -> None:
    conn = database.connect()
    if is_prepared:
        with db.pipelined():
            for _ in range(OFTEN):
                db.execute(LOCK, (1,))
    talk_after(monkeypatch, **{rule: most})
    with db.pipelined(), db.transaction():
        for _ in range(100):
            db.execute(LOCK, (2**40,))
        assert eventually(lambda: value(conn, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")) == 1


@pytest.mark.parametrize("times", [1, OFTEN + 1])
def test_large_parameters_do_not_pile_up_in_memory(db: Connection, times: int) -> None:
    with db.pipelined(), db.transaction():
        for _ in range(times):
            db.execute(MEASURE, ("x" * 4_000_000,))
            assert db.pgconn.flush() == 0


@pytest.mark.timeout(60)
@pytest.mark.parametrize("ask", ["rowcount", "savepoint"])
def test_a_large_parameter_is_sent_before_its_result_is_waited_for(
    db: Connection, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    """The pipeline of psycopg waits for ever."""
    talk_after(monkeypatch)
    with db.pipelined(), db.transaction():
        cursor = db.execute(MEASURE, ("x" * 20_000_000,))
        if ask == "rowcount":
            assert cursor.rowcount == 1
        else:
            with db.transaction():
                pass
        assert cursor.fetchone() == (20_000_000,)


@pytest.mark.timeout(60)
def test_large_results_that_nobody_reads_do_not_stop_the_server(db: Connection) -> None:
    with db.pipelined(), db.transaction():
        for _ in range(40):
            db.execute("SELECT repeat('x', %s)", (1_000_000,))
        assert db.execute("SELECT 1").fetchone() == (1,)
