"""Statements that are sent our own way: what they give is right, nothing is lost, and psycopg's way is never far."""

import datetime as dt
import enum
import gc
import select
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, LiteralString
from uuid import UUID

import psycopg
import pytest
from psycopg import errors
from psycopg.adapt import Dumper
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row, namedtuple_row
from psycopg.sql import SQL, Identifier
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.json import Json, Jsonb

from projectiond.errors import PoisonError, TransactionControlError
from projectiond.postgres import express
from projectiond.postgres.connection import Connection
from projectiond.postgres.cursor import IS_LAZY, Cursor
from projectiond.postgres.database import connect
from projectiond.postgres.statements import MOST_PLANS
from tests.support.postgres import Database, Server, fresh_database
from tests.support.queries import value
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

ONE: LiteralString = "SELECT %s::int AS one"
LOCK: LiteralString = "SELECT pg_advisory_xact_lock(%s)"
PLANS: LiteralString = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'projectiond%'"

# A statement is prepared when it comes for the sixth time.
OFTEN: Final = 7


@pytest.fixture(scope="module")
def database(server: Server) -> Iterator[Database]:
    """Make one for all tests here."""
    with fresh_database(server) as fresh:
        yield fresh


@pytest.fixture
def db(database: Database) -> Iterator[Connection]:
    with connect(database.dsn, role="runner", statement_timeout_seconds=30) as db:
        db.execute("DROP TABLE IF EXISTS thing; CREATE TABLE thing (id int PRIMARY KEY, n numeric, label text)")
        yield db


@pytest.fixture
def ordinary(database: Database) -> Iterator[Connection]:
    with connect(database.dsn, role="runner", statement_timeout_seconds=30) as db:
        db.is_express = False
        yield db


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Texts of what is sent our own way."""
    texts: list[bytes] = []
    send = express.Express.send

    def noting(self: express.Express, text: bytes, *arguments: Any) -> None:  # noqa: ANN401 - passed through
        texts.append(text)
        send(self, text, *arguments)

    monkeypatch.setattr(express.Express, "send", noting)
    return texts


def talk_after(
    monkeypatch: pytest.MonkeyPatch, *, statements: int = 10**9, size: int = 10**9, seconds: float = 10**9
) -> None:
    monkeypatch.setattr(express, "STATEMENTS_AHEAD", statements)
    monkeypatch.setattr(express, "BYTES_AHEAD", size)
    monkeypatch.setattr(express, "SECONDS_AHEAD", seconds)


def test_this_psycopg_is_known() -> None:
    """Else read what express says against its sources, and add it to the versions."""
    assert express.IS_KNOWN
    assert IS_LAZY


# --- values


class Mood(enum.Enum):
    GOOD = "good"


class Name(str):
    """A text of the author's own type."""

    __slots__ = ()


VALUES: dict[str, list[object]] = {
    "none first": [None, 1, None, "text"],
    "sizes of numbers": [1, 40_000, 2**40, 2**70, -1, True, 1.5, Decimal("1.50")],
    "texts": ["", "é", "a'b\\%", Name("name"), b"\x00\xff", bytearray(b"x"), memoryview(b"y")],
    "json": [Jsonb({"a": [1]}), Json(None), Jsonb("é")],
    "times": [dt.datetime(2024, 1, 1, tzinfo=dt.UTC), dt.datetime(2024, 1, 1), dt.date(2024, 1, 1), dt.timedelta(1)],  # noqa: DTZ001
    "lists": [[1, 2], [40_000, None], ["a"], [], [[1], [2]], [UUID(int=1)], [Decimal(1)]],
    "others": [UUID(int=2), Mood.GOOD],
}


@pytest.mark.parametrize("kind", list(VALUES))
def test_values_arrive_as_psycopg_would_send_them(
    db: Connection, ordinary: Connection, kind: str, sent: list[bytes]
) -> None:
    def ask(connection: Connection) -> list[object]:
        rows: list[object] = []
        for _ in range(OFTEN):
            for each in VALUES[kind]:
                with connection.pipelined():
                    cursor = connection.execute("SELECT %(v)s", {"v": each})
                    types = [column.type_code for column in cursor.description or ()]
                    rows.append((types, cursor.fetchall()))
        return rows

    expected = ask(ordinary)
    assert not sent
    assert ask(db) == expected
    assert len(sent) == len(expected)


def test_types_of_the_authors_own_are_sent_as_registered_from_then_on(db: Connection) -> None:
    class Shouting(Dumper):
        def dump(self, obj: str) -> bytes:
            return obj.upper().encode()

    class Quiet(Dumper):
        def dump(self, obj: str) -> bytes:
            return obj[:1].encode()

    db.execute("DROP TYPE IF EXISTS mood; CREATE TYPE mood AS ENUM ('good')")
    with db.pipelined(), db.transaction():
        for _ in range(OFTEN):
            assert db.execute("SELECT %s::text", (Name("name"),)).fetchone() == ("name",)
        db.adapters.register_dumper(Name, Shouting)
        assert db.execute("SELECT %s::text", (Name("name"),)).fetchone() == ("NAME",)
        info = EnumInfo.fetch(db, "mood")
        assert info is not None
        register_enum(info, db, Mood, mapping={Mood.GOOD: "good"})
        assert db.execute("SELECT pg_typeof(%s)::text", (Mood.GOOD,)).fetchone() == ("mood",)
        with db.cursor() as cursor:
            cursor.adapters.register_dumper(Name, Quiet)
            assert cursor.execute("SELECT %s::text", (Name("name"),)).fetchone() == ("n",)
        assert db.execute("SELECT %s::text", (Name("name"),)).fetchone() == ("NAME",)


@pytest.mark.parametrize(
    ("query", "params"),
    [
        ("SELECT '%'", None),
        ("SELECT '%%', %s::int", (1,)),
        ("SELECT '100%%'", ()),
        ("SELECT '100%%'", {}),
        ("SELECT '100%%', %(a)s::int, %(b)s::int, %(a)s::int", {"a": 1, "b": 2, "c": 3}),
        ("SELECT %(a)s::int", MappingProxyType({"a": 1})),
        ("SELECT %s::int, %s::text", [1, "x"]),
        ("SELECT %b::int, %t::int", (1, 2)),
        ("SELECT %(é)s::int", {"é": 1}),
        (b"SELECT %s::int", (1,)),
        (SQL("SELECT {} FROM thing WHERE id = %s").format(Identifier("label")), (1,)),
        (SQL("SELECT {}, %s::int").format("a literal"), (1,)),
        ("-- why\n/* and */ SELECT %s::int", (1,)),
        ("VALUES (%s::int)", (1,)),
        ("SELECT %s::text -- " + "x" * 5000, ("long",)),
    ],
)
def test_queries_are_what_psycopg_makes_of_them(
    db: Connection,
    ordinary: Connection,
    query: Any,  # noqa: ANN401 - all that psycopg takes
    params: Any,  # noqa: ANN401
    sent: list[bytes],
) -> None:
    with ordinary.pipelined():
        expected = ordinary.execute(query, params).fetchall()
    with db.pipelined():
        for _ in range(OFTEN):
            assert db.execute(query, params).fetchall() == expected
    assert len(sent) == OFTEN


@pytest.mark.parametrize(
    ("query", "params"),
    [
        ("SELECT %s, %s", (1,)),
        ("SELECT %(a)s", {"b": 1}),
        ("SELECT %(a)s", (1,)),
        ("SELECT %s", {"a": 1}),
        ("SELECT %s, %(a)s", (1,)),
        ("SELECT 5 % 2, %s", (1,)),
        ("SELECT %x", (1,)),
        ("SELECT %(a)s, %(a)b", {"a": 1}),
        ("SELECT %s", "x"),
        ("SELECT %s", (object(),)),
        ("SELECT %s; SELECT 2", (1,)),
        ("SELECT 1; SELECT 2", None),
        ("SELECT nothing FROM nowhere", None),
        ("SELECT %s", ("a\x00b",)),
    ],
)
def test_what_is_refused_is_refused_as_by_psycopg(
    db: Connection,
    ordinary: Connection,
    query: LiteralString,
    params: Any,  # noqa: ANN401 - all that psycopg refuses
) -> None:
    found = []
    for connection in (ordinary, db):
        with pytest.raises((psycopg.Error, TypeError)) as caught, connection.pipelined():
            connection.execute(query, params).fetchall()
        found.append((type(caught.value), str(caught.value)))
        connection.close()
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "statement",
    [
        "SET LOCAL client_encoding TO LATIN1",
        "set local Client_Encoding to latin1",
        "SET LOCAL NAMES 'LATIN1'",
        "SELECT set_config('CLIENT_ENCODING', 'LATIN1', true)",
    ],
)
def test_texts_are_encoded_as_the_session_has_it(db: Connection, statement: LiteralString) -> None:
    with db.pipelined(), db.transaction():
        for _ in range(OFTEN):
            assert db.execute("SELECT %s::text", ("é",)).fetchone() == ("é",)
        db.execute(statement)
        assert db.execute("SELECT %s::text", ("é",)).fetchone() == ("é",)


# --- results


def test_a_cursor_that_nobody_has_looked_at_shows_what_one_of_psycopg_shows(
    db: Connection, ordinary: Connection
) -> None:
    def show(connection: Connection) -> dict[str, object]:
        names = [name for name in dir(psycopg.Cursor) if not name.startswith("_")]
        with connection.pipelined():
            # A new one for each: looking makes it whole.
            shown = {name: getattr(connection.execute(ONE, (1,)), name) for name in names}
        assert {name for name, each in shown.items() if callable(each)} == CALLABLE
        return {name: each for name, each in shown.items() if name not in {*CALLABLE, "adapters", "connection"}}

    mine, theirs = show(db), show(ordinary)
    for shown in (mine, theirs):
        result = shown.pop("pgresult")
        assert result is None or isinstance(result, psycopg.pq.PGresult)
        shown["description"] = repr(shown["description"])
    assert mine == theirs


CALLABLE: Final = {
    *("close", "copy", "execute", "executemany", "fetchall", "fetchmany", "fetchone", "nextset", "results"),
    *("row_factory", "scroll", "set_result", "setinputsizes", "setoutputsize", "stream"),
}


def test_what_is_set_on_a_cursor_that_nobody_has_looked_at_stays(db: Connection) -> None:
    with db.pipelined():
        cursor = db.execute("SELECT generate_series(1, 3) AS n")
        cursor.arraysize = 2
        assert cursor.fetchmany() == [(1,), (2,)]
        cursor = db.execute("SELECT 1 AS n")
        setattr(cursor, "row_factory", dict_row)  # noqa: B010 - its type forbids it
        rows: list[object] = [*cursor]
        assert rows == [{"n": 1}]
        cursor.row_factory = namedtuple_row
        cursor.scroll(0, "absolute")
        assert cursor.fetchone() == (1,)
        cursor = db.cursor(binary=True)
        cursor.execute("SELECT 1::int")
        db.settle()
        result = cursor.pgresult
        assert result is not None
        assert result.fformat(0) == 1
        with pytest.raises(AttributeError, match="colour"):
            assert cursor.colour  # type: ignore[attr-defined]


def test_rows_are_as_the_row_factory_was_when_the_statement_was_executed(db: Connection) -> None:
    with db.pipelined(), db.guarded():
        before = db.execute(ONE, (1,))
        setattr(db, "row_factory", dict_row)  # noqa: B010 - its type forbids it
        after = db.execute(ONE, (1,))
        rows: list[object] = [before.fetchone(), after.fetchone()]
        assert rows == [(1,), {"one": 1}]


def test_a_loader_that_is_registered_later_is_used(db: Connection) -> None:
    class Loud(psycopg.adapt.Loader):
        def load(self, data: Any) -> str:  # noqa: ANN401 - psycopg's buffer
            return f"<{bytes(data).decode()}>"

    with db.pipelined():
        cursor = db.execute("SELECT 'a'::text UNION ALL SELECT 'b'")
        assert cursor.fetchone() == ("a",)
        cursor.adapters.register_loader("text", Loud)
        assert cursor.fetchone() == ("<b>",)


@pytest.mark.parametrize("again", ["express", "psycopg", "executemany"])
def test_a_cursor_that_is_used_again_has_the_result_of_its_last_statement(
    db: Connection, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    talk_after(monkeypatch, statements=1)
    with db.pipelined(), db.transaction():
        cursor = db.execute(ONE, (1,))
        db.execute("SELECT repeat('x', 100000)")
        assert select.select([db], [], [], 30)[0]
        if again == "express":
            assert cursor.execute(ONE, (2,)).fetchall() == [(2,)]
        elif again == "psycopg":
            assert cursor.execute("SHOW is_superuser").fetchall() == [("on",)]
        else:
            cursor.executemany("INSERT INTO thing VALUES (%s)", [(1,), (2,)])
            assert (cursor.rowcount, cursor.statusmessage) == (2, "INSERT 0 1")
            with pytest.raises(psycopg.ProgrammingError, match="no result"):
                cursor.fetchone()


def test_a_cursor_stays_closed(db: Connection) -> None:
    with db.pipelined():
        with db.cursor() as cursor:
            cursor.execute(ONE, (1,))
        assert cursor.closed
        for use in (cursor.fetchone, lambda: cursor.execute(ONE, (1,)), lambda: cursor.executemany(ONE, [(1,)])):
            with pytest.raises(psycopg.InterfaceError, match="closed"):
                use()


def test_results_can_be_looked_at_after_the_end(db: Connection) -> None:
    with db.pipelined():
        cursor = db.execute(ONE, (1,))
    assert (cursor.rowcount, cursor.fetchall()) == (1, [(1,)])


@pytest.fixture
def often_switched() -> Iterator[None]:
    """Have threads take turns a thousand times as often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 1000)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("often_switched")
@pytest.mark.parametrize("is_mixed", [False, True])
def test_statements_of_several_threads_get_their_own_results(db: Connection, *, is_mixed: bool) -> None:
    wrong: list[object] = []

    def ask(number: int) -> None:
        try:
            for _ in range(150):
                if is_mixed and number % 2:
                    # By psycopg.
                    plan = db.execute("EXPLAIN (VERBOSE) SELECT %s::int", (number,)).fetchall()
                    assert f"Output: {number}" in str(plan)
                else:
                    assert db.execute(ONE, (number,)).fetchone() == (number,)
        except (psycopg.Error, AssertionError) as error:
            wrong.append(error)

    with db.pipelined(), db.transaction():
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_notices_are_handed_over(db: Connection) -> None:
    told: list[str | None] = []
    db.add_notice_handler(lambda notice: told.append(notice.message_primary))
    body: LiteralString = "BEGIN RAISE NOTICE 'told'; RETURN 1; END"
    db.execute(f"CREATE OR REPLACE FUNCTION tell() RETURNS int LANGUAGE plpgsql AS $${body}$$")
    with db.pipelined():
        db.execute("SELECT tell()")
    assert told == ["told"]


# --- errors


def test_an_error_comes_at_the_latest_with_the_end(db: Connection) -> None:
    with pytest.raises(errors.DivisionByZero), db.pipelined(), db.transaction():  # noqa: PT012 - somewhere in it
        db.execute("INSERT INTO thing (id) VALUES (%s)", (1,))
        db.execute("SELECT 1 / %s", (0,))
    assert value(db, "SELECT count(*) FROM thing") == 0


@pytest.mark.parametrize("is_in_savepoint", [True, False])
def test_a_failure_is_known_whoever_catches_it(db: Connection, *, is_in_savepoint: bool) -> None:
    with pytest.raises(psycopg.Error), db.pipelined(), db.transaction():  # noqa: PT012 - somewhere in it
        db.execute("INSERT INTO thing (id) VALUES (%s)", (1,))
        if not is_in_savepoint:
            db.execute("SELECT 1 / %s", (0,))
        with pytest.raises(errors.DivisionByZero), db.transaction():
            db.execute("SELECT 1 / %s", (0,))
        assert db.has_failed
        if is_in_savepoint:
            assert db.execute(ONE, (1,)).fetchone() == (1,)
        raise psycopg.DatabaseError("as the applier does")
    assert not db.has_failed
    assert db.info.transaction_status is TransactionStatus.IDLE


@pytest.mark.parametrize("is_express", [True, False])
@pytest.mark.parametrize(
    "go_on",
    [
        lambda db: db.execute("INSERT INTO thing (id) VALUES (1)"),
        lambda db: db.execute("DO 'BEGIN INSERT INTO thing (id) VALUES (1); END'"),
        lambda db: db.cursor().executemany("INSERT INTO thing (id) VALUES (%s)", [(1,)]),
        lambda db: psycopg.ClientCursor(db).execute("INSERT INTO thing (id) VALUES (%s)", (1,)),
        lambda db: insert_in_savepoint(db),  # noqa: PLW0108 - defined below
    ],
)
def test_nothing_is_executed_when_the_transaction_could_not_be_begun(
    db: Connection, monkeypatch: pytest.MonkeyPatch, go_on: Callable[[Connection], object], *, is_express: bool
) -> None:
    talk_after(monkeypatch)
    db.is_express = is_express
    with pytest.raises(PoisonError), db.pipelined():  # noqa: PT012 - as the applier does
        # BEGIN, and somebody has cancelled it.
        db.execute("SELECT 1 / %s", (0,))
        if not is_express:
            # So that psycopg meets the error before it has sent everything.
            assert select.select([db], [], [], 30)[0]
        with db.guarded():
            for swallowing in (insert_in_savepoint, go_on):
                with suppress(psycopg.Error):
                    swallowing(db)
        assert db.has_failed
        raise PoisonError("a statement failed, and the handler went on")
    assert value(db, "SELECT count(*) FROM thing") == 0


def insert_in_savepoint(db: Connection) -> None:
    with db.transaction():
        db.execute("INSERT INTO thing (id) VALUES (1)")


def test_a_result_that_never_comes_is_not_waited_for_among_those_of_others(
    db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk_after(monkeypatch)
    with pytest.raises(errors.DivisionByZero), db.pipelined():  # noqa: PT012 - in this order
        failed = db.execute("SELECT 1 / %s", (0,))
        kept = db.execute(ONE, (1,))
    found = []
    with pytest.raises(errors.InvalidTextRepresentation), db.pipelined():  # noqa: PT012 - in this order
        # Another projection's, while a handler has kept its cursors.
        db.execute("SELECT %s::int", ("x",))
        for cursor in (failed, kept):
            try:
                cursor.fetchone()
            except psycopg.Error as error:
                found.append(type(error))
    assert found == [psycopg.ProgrammingError] * 2


@pytest.mark.parametrize(
    "statement",
    [
        "SET LOCAL DateStyle TO 'SQL, DMY'",
        "set local \"datestyle\" to 'SQL, DMY'",
        "SELECT set_config('DateStyle', 'SQL, DMY', true)",
        "/* of old */ SET LOCAL IntervalStyle TO iso_8601",
        "SET LOCAL client_encoding TO LATIN1",
        "SET LOCAL NAMES 'LATIN1'",
    ],
)
def test_how_values_are_written_is_not_changed_while_results_may_be_unread(
    db: Connection, statement: LiteralString
) -> None:
    for is_pipelined in (True, False):
        with db.pipelined() if is_pipelined else nullcontext(), db.transaction(), db.guarded():
            db.execute(statement)
            # Then nothing is committed, and the events are applied again without a pipeline.
            assert db.has_failed is is_pipelined
    with db.pipelined(), db.transaction(), db.guarded():
        db.execute("SELECT 'datestyle' AS client_encoding")
        assert not db.has_failed


# psycopg does not let a named cursor be closed in a pipeline.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    "use",
    [
        lambda db: [*db.cursor().stream(ONE, (1,))],
        lambda db: db.cursor("named").execute(ONE, (1,)),
        lambda db: db.cursor().copy("COPY thing TO STDOUT").__enter__(),
    ],
)
def test_what_a_pipeline_cannot_carry_is_a_failure_whoever_catches_it(
    db: Connection, use: Callable[[Connection], object]
) -> None:
    with db.pipelined(), db.transaction():
        with pytest.raises((psycopg.ProgrammingError, psycopg.NotSupportedError)):
            use(db)
        assert db.has_failed
    with db.transaction(), db.cursor("named") as cursor:
        assert cursor.execute(ONE, (1,)).fetchall() == [(1,)]


def test_an_error_of_the_handler_is_not_hidden_by_one_of_the_server(
    db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk_after(monkeypatch)
    with pytest.raises(ZeroDivisionError), db.pipelined(), db.transaction():  # noqa: PT012 - both are needed
        db.execute("SELECT 1 / %s", (0,))
        raise ZeroDivisionError
    assert db.execute(ONE, (1,)).fetchone() == (1,)


def test_a_result_that_was_skipped_is_none(db: Connection) -> None:
    with pytest.raises(errors.DivisionByZero), db.pipelined():  # noqa: PT012 - in this order
        db.execute("SELECT 1 / %s", (0,))
        cursor = db.execute(ONE, (1,))
        try:
            assert cursor.fetchone()
        finally:
            assert (cursor.rowcount, cursor.statusmessage, cursor.description) == (-1, None, None)
            with pytest.raises(psycopg.ProgrammingError, match="no result"):
                cursor.fetchone()


def test_a_statement_that_takes_too_long_is_ended(db: Connection) -> None:
    with pytest.raises(errors.QueryCanceled), db.pipelined(), db.transaction():  # noqa: PT012 - somewhere in it
        db.execute("SELECT set_config('statement_timeout', '50', true)")
        db.execute("SELECT pg_sleep(%s)", (20,))
        for _ in range(100):
            db.execute(ONE, (1,))
    assert db.execute(ONE, (1,)).fetchone() == (1,)


@pytest.mark.parametrize("is_busy", [True, False])
def test_a_server_process_that_is_ended_is_an_operational_error(
    db: Connection, database: Database, *, is_busy: bool
) -> None:
    admin = database.connect()
    with pytest.raises(psycopg.OperationalError), db.pipelined(), db.transaction():  # noqa: PT012 - somewhere in it
        db.execute("INSERT INTO thing (id) VALUES (%s)", (1,))
        if is_busy:
            db.execute("SELECT pg_sleep(%s)", (0.2,))
        admin.execute("SELECT pg_terminate_backend(%s)", (db.info.backend_pid,))
        for _ in range(100):
            db.execute(ONE, (1,))
        db.settle()
    assert db.broken
    assert value(admin, "SELECT count(*) FROM thing") == 0


@pytest.mark.parametrize("is_pipelined", [True, False])
@pytest.mark.parametrize("is_gone", [True, False])
def test_a_rollback_that_cannot_be_done_is_an_error_of_the_database(
    db: Connection, database: Database, *, is_pipelined: bool, is_gone: bool
) -> None:
    admin = database.connect()
    expected = psycopg.OperationalError if is_gone else psycopg.DatabaseError
    with (  # noqa: PT012 - in this order
        pytest.raises(expected),
        db.pipelined() if is_pipelined else nullcontext(),
        db.transaction(),
        db.transaction("mine") as savepoint,
        db.transaction(),
    ):
        if is_gone:
            admin.execute("SELECT pg_terminate_backend(%s, 30000)", (db.info.backend_pid,))
        else:
            db.execute("RELEASE mine")
        raise psycopg.Rollback(savepoint)


@pytest.mark.parametrize("statement", ["COMMIT", "BEGIN", "rollback", " COMMIT", "/* x */ COMMIT", "END"])
def test_transaction_control_is_refused(db: Connection, statement: LiteralString) -> None:
    with db.pipelined(), db.transaction(), db.guarded():
        for run in (db.execute, db.cursor().execute):
            with pytest.raises(TransactionControlError):
                run(statement)


def test_transaction_control_is_refused_where_copy_is_expected(db: Connection) -> None:
    with db.transaction(), db.guarded(), pytest.raises(TransactionControlError), db.cursor().copy("COMMIT"):
        pass


def test_a_statement_that_changes_the_session_is_noted_however_often_it_comes(db: Connection) -> None:
    with db.pipelined(), db.transaction():
        for _ in range(OFTEN):
            db.execute("SELECT set_config('a.b', %s, false)", ("c",))
        assert not db.is_altered
        with db.guarded():
            db.execute("SELECT set_config('a.b', %s, false)", ("c",))
    assert db.is_altered


# --- beside psycopg


def add(db: Connection, number: int) -> None:
    db.execute("INSERT INTO thing (id) VALUES (%s)", (number,))


def ask_many(db: Connection) -> object:
    cursor = db.cursor()
    cursor.executemany("SELECT count(*) + %s FROM thing", [(0,), (1,)], returning=True)
    return [result.fetchone() for result in cursor.results()]


def ask_by_client(db: Connection) -> object:
    return psycopg.ClientCursor(db).execute("SELECT count(*) FROM thing WHERE id < %s", (99,)).fetchone()


def ask_in_savepoint(db: Connection) -> object:
    with db.transaction():
        add(db, 50)
        return db.execute("SELECT count(*) FROM thing").fetchone()


def ask_after_undone(db: Connection) -> object:
    with suppress(ZeroDivisionError), db.transaction():
        add(db, 51)
        raise ZeroDivisionError
    return db.execute("SELECT count(*) FROM thing").fetchone()


def ask_in_pipeline(db: Connection) -> object:
    with db.pipeline() as pipeline:
        add(db, 52)
        pipeline.sync()
        return db.execute("SELECT count(*) FROM thing").fetchone()


ASKING: dict[str, Callable[[Connection], object]] = {
    "express": lambda db: db.execute("SELECT count(*) FROM thing WHERE id > %s", (0,)).fetchone(),
    "several": ask_many,
    "nobody looks": lambda db: db.execute("EXPLAIN SELECT 1").closed,
    "explain": lambda db: len(db.execute("EXPLAIN SELECT 1").fetchall()),
    "ddl": lambda db: db.execute("ALTER TABLE thing ADD more int").statusmessage,
    "never prepared": lambda db: db.execute("SELECT count(*) FROM thing", prepare=False).fetchone(),
    "by client": ask_by_client,
    "savepoint": ask_in_savepoint,
    "undone": ask_after_undone,
    "pipeline": ask_in_pipeline,
    "cursor in sql": lambda db: (
        db.execute("DECLARE c CURSOR FOR SELECT count(*) FROM thing"),
        db.execute("FETCH ALL FROM c").fetchall(),
    )[1],
    "deallocate": lambda db: db.execute("DEALLOCATE ALL").statusmessage,
}


@pytest.mark.parametrize("what", list(ASKING))
def test_statements_are_executed_in_the_order_in_which_they_were_called(
    db: Connection, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def run() -> object:
        db.execute("DROP TABLE thing; CREATE TABLE thing (id int PRIMARY KEY, n numeric, label text)")
        found = []
        with db.pipelined():
            db.execute("BEGIN")
            for number in range(OFTEN):
                add(db, number)
            found.append(ASKING[what](db))
            for number in range(OFTEN):
                add(db, 100 + number)
            found.append(db.execute("SELECT count(*) FROM thing").fetchone())
            db.execute("COMMIT")
        return found

    talk_after(monkeypatch)
    db.is_express = False
    expected = run()
    db.is_express = True
    assert run() == expected


def test_several_executions_are_on_their_way_together(db: Connection, sent: list[bytes]) -> None:
    with db.pipelined(), db.transaction():
        cursor = db.cursor()
        cursor.executemany("INSERT INTO thing (id, label) VALUES (%s, %s)", [(n, "x") for n in range(50)])
        assert cursor.rowcount == 50
        with pytest.raises(psycopg.ProgrammingError, match="placeholders"):
            cursor.executemany("INSERT INTO thing (id, label) VALUES (%s, %s)", [(51, "x"), (52,)])
    assert len(sent) == 51
    with db.pipelined():
        cursor.executemany("CALL nothing(%s)", [])
        db.execute("CREATE OR REPLACE PROCEDURE pg_temp.nothing(int) LANGUAGE sql AS 'SELECT 1'")
        cursor.executemany("CALL pg_temp.nothing(%s)", [(1,), (2,)])
    assert (len(sent), cursor.statusmessage) == (51, "CALL")


# --- what the server keeps


def run_often(db: Connection, number: int = OFTEN) -> None:
    for _ in range(number):
        assert db.execute("SELECT * FROM thing WHERE id >= %s", (0,)).fetchall() is not None


def test_a_statement_is_prepared_once_and_for_long(db: Connection, sent: list[bytes]) -> None:
    for _ in range(3):
        with db.pipelined(), db.transaction():
            run_often(db)
    assert value(db, PLANS) == 1
    assert len(sent) == 3 * OFTEN


@pytest.mark.parametrize("threshold", [None, 0])
def test_the_threshold_of_the_connection_counts(db: Connection, threshold: int | None) -> None:
    db.prepare_threshold = threshold
    with db.pipelined():
        db.execute(ONE, (1,))
        run_often(db)
    assert value(db, PLANS) == (0 if threshold is None else 2)


def test_without_a_threshold_nothing_is_prepared_though_it_is_wanted(db: Connection) -> None:
    db.prepare_threshold = None
    with db.pipelined():
        db.execute(ONE, (1,), prepare=True)
        db.cursor().executemany(ONE, [(1,), (2,)])
    assert value(db, PLANS) == 0


@pytest.mark.parametrize(
    "how", ["deallocate", "discard", "altered here", "altered elsewhere", "rollback", "savepoint", "rollback()"]
)
def test_what_was_prepared_may_vanish_or_change_under_it(db: Connection, database: Database, how: str) -> None:
    with db.pipelined(), db.transaction():
        run_often(db)
    with db.cursor() as cursor:
        # psycopg has some of its own, and deallocates all when it thinks that it should.
        cursor.executemany("SELECT %s::text", [("x",)])
    if how == "deallocate":
        db.execute("DEALLOCATE ALL")
    elif how == "discard":
        db.execute("DISCARD ALL")
    elif how == "altered here":
        db.execute("ALTER TABLE thing ADD more int")
    elif how == "altered elsewhere":
        database.connect().execute("ALTER TABLE thing ADD more int")
        with pytest.raises(errors.FeatureNotSupported), db.pipelined(), db.transaction():
            run_often(db)
    elif how == "rollback":
        with pytest.raises(ZeroDivisionError), db.transaction():
            raise ZeroDivisionError
    elif how == "savepoint":
        with db.transaction(), db.transaction() as savepoint:
            raise psycopg.Rollback(savepoint)
    else:
        db.execute("BEGIN")
        db.rollback()
    with db.pipelined(), db.transaction():
        run_often(db)
    assert value(db, PLANS) == 1


def test_failures_leave_nothing_behind_on_the_server(db: Connection) -> None:
    for _ in range(5):
        with pytest.raises(errors.DivisionByZero), db.pipelined(), db.transaction():  # noqa: PT012 - somewhere in it
            run_often(db)
            db.execute("SELECT 1 / %s", (0,))
    with db.pipelined():
        run_often(db)
    assert value(db, PLANS) == 1


def test_the_server_keeps_no_more_than_so_many(db: Connection) -> None:
    with db.pipelined():
        db.execute(ONE, (1,), prepare=True)
        for number in range(MOST_PLANS + 50):
            db.execute(SQL("SELECT {}").format(number), prepare=True)
            db.execute(ONE, (1,))
    assert value(db, PLANS) == MOST_PLANS
    # The one that is used is none of those that have gone.
    assert value(db, f"{PLANS} AND name LIKE '%plan\\_1'") == 1


# --- in time, and in memory


@pytest.mark.parametrize("is_prepared", [False, True])
@pytest.mark.parametrize(("rule", "most"), [("statements", 16), ("size", 100), ("seconds", 0)])
def test_the_server_has_statements_before_the_handler_is_done(
    db: Connection, database: Database, monkeypatch: pytest.MonkeyPatch, rule: str, most: int, *, is_prepared: bool
) -> None:
    conn = database.connect()
    if is_prepared:
        with db.pipelined():
            for _ in range(OFTEN):
                db.execute(LOCK, (2**40,))
    talk_after(monkeypatch, **{rule: most})
    with db.pipelined(), db.transaction():
        # Fewer than what libpq sends by itself.
        for _ in range(40):
            db.execute(LOCK, (2**40,))
        assert eventually(lambda: value(conn, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")) == 1


def test_what_is_sent_off_is_executed_and_answered(db: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    talk_after(monkeypatch)
    with db.pipelined():
        cursor = db.execute(ONE, (1,))

        def has_answer() -> bool:
            db.send_off()
            return cursor.pgresult is not None

        assert eventually(has_answer)


@pytest.mark.parametrize("times", [1, OFTEN + 1])
def test_large_parameters_do_not_pile_up_in_memory(db: Connection, times: int) -> None:
    with db.pipelined(), db.transaction():
        for _ in range(times):
            db.execute("SELECT length(%s::text)", ("x" * 4_000_000,))
            assert db.pgconn.flush() == 0


@pytest.mark.parametrize("direction", ["out", "in", "both"])
def test_large_values_do_not_make_both_sides_wait(
    db: Connection, monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    talk_after(monkeypatch)
    text = "x" * 8_000_000 if direction != "in" else "x"
    with db.pipelined(), db.transaction():
        for _ in range(3):
            size = 1 if direction == "out" else 8_000_000
            cursor = db.execute("SELECT length(%s::text), repeat('y', %s)", (text, size))
        with db.transaction():
            assert cursor.fetchall() == [(len(text), "y" * size)]


def test_results_that_nobody_looks_at_are_let_go(db: Connection) -> None:
    def count() -> int:
        gc.collect()
        return sum(isinstance(each, (express.Answer, Cursor)) for each in gc.get_objects())

    before = count()
    with db.pipelined(), db.transaction():
        for _ in range(5000):
            db.execute("SELECT %s::text", ("x" * 100,))
        assert count() - before < 1000


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
        for _ in range(OFTEN):
            db.execute("SELECT %s::text", (Name("name"),))
        assert [reference() for reference in dumped] == [None] * OFTEN


def test_a_connection_that_is_dropped_is_not_kept(database: Database) -> None:
    db = connect(database.dsn, role="runner", statement_timeout_seconds=30)
    with db.pipelined():
        db.execute(ONE, (1,))
    db.close()
    reference = weakref.ref(db)
    gc.disable()
    try:
        del db
        assert reference() is None
    finally:
        gc.enable()


# --- without


def test_another_psycopg_carries_everything_itself(
    database: Database, monkeypatch: pytest.MonkeyPatch, sent: list[bytes]
) -> None:
    monkeypatch.setattr(Connection, "is_express", False)
    with connect(database.dsn, role="runner", statement_timeout_seconds=30) as db, db.pipelined(), db.transaction():
        for _ in range(OFTEN):
            cursor = db.execute(ONE, (1,))
            assert (cursor.rowcount, cursor.fetchall()) == (1, [(1,)])
    assert not sent
