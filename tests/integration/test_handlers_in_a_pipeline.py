"""A handler in a pipeline finds and leaves what it would without one, whatever it does, however statements are sent."""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, LiteralString
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.abc import Params
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row, tuple_row
from psycopg.types.json import Jsonb

from projectiond.postgres import express
from projectiond.postgres.database import Connection, connect
from tests.support.postgres import Database

pytestmark = pytest.mark.integration

TABLE: LiteralString = """
CREATE TABLE thing (id INT PRIMARY KEY, n NUMERIC NOT NULL, label TEXT, doc JSONB, at TIMESTAMPTZ)
"""
INSERT: LiteralString = "INSERT INTO thing (id, n) VALUES (%(id)s, %(n)s)"
UPSERT: LiteralString = f"{INSERT} ON CONFLICT (id) DO UPDATE SET n = thing.n + 1"
UPDATE: LiteralString = "UPDATE thing SET n = n + %(n)s, label = %(value)s::text WHERE id = %(id)s"
DOCUMENT: LiteralString = "UPDATE thing SET doc = %s, at = %s WHERE id >= %s"
SELECT: LiteralString = """
SELECT id, n::text, label, doc, %(value)s::text AS given FROM thing WHERE id >= %(id)s ORDER BY id
"""
DIVIDE: LiteralString = "SELECT 1 / %(zero)s"
COUNT: LiteralString = "SELECT count(*) FROM thing"

Operation = Callable[["Handler"], None]


@pytest.fixture(params=[True, False], ids=["express", "ordinary"])
def db(database: Database, request: pytest.FixtureRequest) -> Iterator[Connection]:
    with connect(database.dsn, role="runner", statement_timeout_seconds=30) as db:
        db.execute(TABLE)
        db.is_express = request.param
        yield db


def fetch_three(cursor: psycopg.Cursor[Any]) -> object:
    cursor.arraysize = 3
    return cursor.fetchmany()


def fetch_dict(cursor: psycopg.Cursor[Any]) -> object:
    cursor.row_factory = dict_row
    return cursor.fetchone()


def fetch_second(cursor: psycopg.Cursor[Any]) -> object:
    cursor.scroll(1)
    return cursor.fetchone()


def close(cursor: psycopg.Cursor[Any]) -> object:
    cursor.close()
    return cursor.closed


LOOKS: dict[str, Callable[[psycopg.Cursor[Any]], object]] = {
    "rowcount": lambda cursor: cursor.rowcount,
    "status": lambda cursor: cursor.statusmessage,
    "columns": lambda cursor: [column.name for column in cursor.description or ()],
    "rownumber": lambda cursor: cursor.rownumber,
    "one": lambda cursor: cursor.fetchone(),
    "some": lambda cursor: cursor.fetchmany(2),
    "all": lambda cursor: cursor.fetchall(),
    "iterate": list,
    "results": lambda cursor: [each.rowcount for each in cursor.results()],
    "set result": lambda cursor: cursor.set_result(0).rowcount,
    "next set": lambda cursor: cursor.nextset(),
    "size": fetch_three,
    "dicts": fetch_dict,
    "scroll": fetch_second,
    "close": close,
    "again": lambda cursor: cursor.execute(SELECT, {"id": 2, "value": "again"}).fetchall(),
}


class Handler:
    """Does what it is told with its connection, and notes what it sees."""

    def __init__(self, db: Connection) -> None:
        self.db = db
        self.seen: list[object] = []
        self.kept: list[psycopg.Cursor[Any]] = []

    def execute(self, times: int, statement: LiteralString, parameters: Params | None, look: str | None) -> None:
        for _ in range(times):
            cursor = self.db.execute(statement, parameters)
            self.see(cursor, look)
        self.kept.append(cursor)

    def use_cursor(self, statements: Sequence[tuple[LiteralString, Any]], look: str | None) -> None:
        with self.db.cursor() as cursor:
            for statement, parameters in statements:
                cursor.execute(statement, parameters)
                self.see(cursor, look)

    def execute_many(self, ids: Sequence[int], look: str | None, *, returning: bool) -> None:
        cursor = self.db.cursor()
        parameters = [{"id": number, "n": number, "value": None} for number in ids]
        cursor.executemany(f"{UPDATE} RETURNING id" if returning else UPDATE, parameters, returning=returning)
        if returning:
            self.see(cursor, look)
        else:
            self.seen.append(cursor.rowcount)

    def look_back(self, index: int, look: str) -> None:
        if self.kept:
            self.see(self.kept[index % len(self.kept)], look)

    def use_savepoint(self, operations: Sequence[Operation], *, is_undone: bool) -> None:
        before = len(self.seen), len(self.kept)
        try:
            with self.db.transaction() as savepoint:
                for operation in operations:
                    operation(self)
                if is_undone:
                    raise psycopg.Rollback(savepoint)
        except psycopg.Error:
            # In a pipeline it may come later, and what was done in between is of no use to anybody.
            del self.seen[before[0] :], self.kept[before[1] :]
            self.seen.append("an error")

    def use_dicts(self, *, is_dict: bool) -> None:
        setattr(self.db, "row_factory", dict_row if is_dict else tuple_row)  # noqa: B010 - its type forbids it

    def see(self, cursor: psycopg.Cursor[Any], look: str | None) -> None:
        if look is None or cursor.closed:
            # What psycopg has forgotten of a closed cursor's result depends on when it was closed.
            return
        try:
            self.seen.append((look, LOOKS[look](cursor)))
        except (psycopg.ProgrammingError, psycopg.InterfaceError, IndexError) as error:
            # No rows to fetch, closed, nowhere to scroll to: psycopg says so, and the server has no part in it.
            if getattr(error, "sqlstate", None):
                raise
            self.seen.append((look, type(error)))


Outcome = tuple[list[object], list[tuple[Any, ...]]]


def outcome(db: Connection, operations: Sequence[Operation], *, is_pipelined: bool) -> Outcome | Exception:
    """Run a handler in a transaction, as the daemon does; give what it saw and what it left, or the error."""
    db.execute("TRUNCATE thing")
    db.execute("INSERT INTO thing SELECT n, n FROM generate_series(1, 3) AS n")
    handler = Handler(db)
    try:
        with db.pipelined() if is_pipelined else nullcontext(), db.transaction():
            with db.guarded():
                for operation in operations:
                    operation(handler)
            # As the applier does: nothing is committed around a failure, whatever the handler made of it.
            if db.has_failed:
                raise psycopg.DatabaseError("a statement failed")
    except psycopg.Error as error:
        if db.info.transaction_status is TransactionStatus.INERROR:
            db.rollback()
        assert db.info.transaction_status is TransactionStatus.IDLE
        return error
    for index in range(len(handler.kept)):
        # After the end too.
        handler.look_back(index, "rowcount")
    return handler.seen, db.execute("SELECT * FROM thing ORDER BY id").fetchall()


class Long(str):
    """A text that is not shown."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} characters>"


ids = st.integers(0, 4)
numbers = st.sampled_from([0, 1, -1, 40_000, 2**40, 2**70])
texts = st.sampled_from([None, "", "text", 7, 70_000, Long("x" * 100_000), UUID(int=1)])
documents = st.sampled_from([None, Jsonb({"a": 1}), Jsonb([])])
some_look = st.sampled_from(sorted(LOOKS))
looks = st.none() | some_look
statements: st.SearchStrategy[tuple[LiteralString, Any]] = st.one_of(
    st.tuples(st.just(UPDATE), st.fixed_dictionaries({"id": ids, "n": numbers, "value": texts})),
    st.tuples(st.just(SELECT), st.fixed_dictionaries({"id": ids, "value": texts})),
    st.tuples(st.just(UPSERT), st.fixed_dictionaries({"id": ids, "n": numbers})),
    st.tuples(st.just(DOCUMENT), st.tuples(documents, st.just(dt.datetime(2024, 1, 1, tzinfo=dt.UTC)), ids)),
    st.just((COUNT, None)),
)
failures: st.SearchStrategy[tuple[LiteralString, Mapping[str, object]]] = st.sampled_from(
    [(DIVIDE, {"zero": 0}), (INSERT, {"id": 1, "n": 1}), (SELECT, {"id": 1})]
)


work: st.SearchStrategy[Operation] = st.one_of(
    st.builds(
        lambda times, it, look: partial(Handler.execute, times=times, statement=it[0], parameters=it[1], look=look),
        st.integers(1, 9),
        statements,
        looks,
    ),
    st.builds(lambda it, look: partial(Handler.use_cursor, statements=it, look=look), st.lists(statements), looks),
    st.builds(
        lambda ids, look, returning: partial(Handler.execute_many, ids=ids, look=look, returning=returning),
        st.lists(ids),
        looks,
        st.booleans(),
    ),
)
use_dicts = st.builds(lambda is_dict: partial(Handler.use_dicts, is_dict=is_dict), st.booleans())
look_back = st.builds(
    lambda index, look: partial(Handler.look_back, index=index, look=look), st.integers(0, 9), some_look
)
failure = st.builds(
    lambda it: partial(Handler.execute, times=1, statement=it[0], parameters=it[1], look=None), failures
)


def savepoint(inner: st.SearchStrategy[Operation]) -> st.SearchStrategy[Operation]:
    """Give a strategy for a savepoint with one operation of ``inner`` among others."""
    return st.builds(
        lambda before, inner, after, undone: partial(
            Handler.use_savepoint, operations=[*before, inner, *after], is_undone=undone
        ),
        st.lists(work | look_back | use_dicts, max_size=3),
        inner,
        # Statements only: after a failure a handler in a pipeline comes to what it would not have come to without.
        st.lists(work, max_size=3),
        st.booleans(),
    )


operations = st.lists(
    st.one_of(
        work, work, work, look_back, use_dicts, savepoint(work | failure), savepoint(savepoint(work | failure)), failure
    ),
    max_size=8,
)


@pytest.mark.timeout(300)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    operations=operations,
    statements_ahead=st.sampled_from([1, 2, 16, 1000]),
    seconds_ahead=st.sampled_from([0.0, 1000.0]),
)
def test_a_handler_in_a_pipeline_finds_what_it_finds_without_one(
    db: Connection, operations: list[Operation], statements_ahead: int, seconds_ahead: float
) -> None:
    single = outcome(db, operations, is_pipelined=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(express, "STATEMENTS_AHEAD", statements_ahead)
        patch.setattr(express, "SECONDS_AHEAD", seconds_ahead)
        pipelined = outcome(db, operations, is_pipelined=True)
    if isinstance(single, Exception):
        assert isinstance(pipelined, Exception), (single, pipelined)
    elif isinstance(pipelined, Exception):
        # The daemon applies the events again, one by one: an error that the handler takes for normal is no loss.
        assert "an error" in single[0], (single, pipelined)
    else:
        assert pipelined == single


def test_a_cursor_that_is_used_again_has_the_rows_of_its_last_statement(db: Connection) -> None:
    with db.pipelined():
        cursor = db.cursor()
        cursor.execute("SELECT 1")
        cursor.execute("SELECT 2")
        assert cursor.fetchall() == [(2,)]
        cursor.execute("SELECT 3")
        cursor.executemany("INSERT INTO thing (id, n) VALUES (%s, 1)", [(1,), (2,)])
        assert cursor.rowcount == 2
        cursor.execute("SELECT count(*) FROM thing")
        assert cursor.fetchone() == (2,)


@pytest.mark.parametrize("look", ["rowcount", "savepoint", "cursor used again", "fetch", "end"])
def test_a_parameter_that_does_not_fit_a_socket_is_sent_to_its_end(db: Connection, look: str) -> None:
    text = "x" * 8_000_000
    with db.pipelined():
        db.execute("BEGIN")
        db.execute("INSERT INTO thing (id, n) VALUES (1, 1)")
        cursor = db.cursor()
        cursor.execute("UPDATE thing SET label = %s WHERE id = 1", (text,))
        if look == "rowcount":
            assert cursor.rowcount == 1
        elif look == "savepoint":
            with db.transaction():
                db.execute("UPDATE thing SET n = 2 WHERE id = 1")
        elif look == "cursor used again":
            cursor.execute("UPDATE thing SET n = 2 WHERE id = 1")
        elif look == "fetch":
            assert db.execute("SELECT n FROM thing").fetchone() == (1,)
        db.execute("COMMIT")
    assert db.execute("SELECT length(label) FROM thing").fetchone() == (len(text),)
