"""A statement that libpq executes itself: rows and errors are as psycopg would give them."""

import os
import socket
import threading
from collections.abc import Iterator
from typing import LiteralString

import psycopg
import pytest

from projectiond.postgres import database as databases
from projectiond.postgres.direct import Direct
from projectiond.stream.doorbell import Doorbell
from projectiond.stream.recent import event_cursor
from tests.support.postgres import Database
from tests.support.queries import Connection

pytestmark = pytest.mark.integration

TYPES: LiteralString = """
SELECT
    %(number)s::bigint + 1,
    %(text)s::varchar,
    %(text)s::text,
    %(nothing)s::int,
    'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid,
    '2026-01-02 03:04:05.678901+00'::timestamptz,
    '2026-01-02 03:04:05.678901'::timestamp,
    ARRAY[1, 2]
FROM generate_series(1, %(number)s::bigint)
"""


@pytest.fixture
def db(database: Database) -> Iterator[databases.Connection]:
    with databases.connect(database.dsn, role="watcher", statement_timeout_seconds=30) as db:
        yield db


def direct(db: databases.Connection, statement: LiteralString, *parameters: str) -> Direct:
    return Direct(event_cursor(db), "statement", statement, parameters)


def cut(db: databases.Connection) -> None:
    """End the connection's stream as a network that fails does."""
    with socket.socket(fileno=os.dup(db.fileno())) as link:
        link.shutdown(socket.SHUT_RDWR)


def test_rows_are_those_that_psycopg_loads(db: databases.Connection) -> None:
    statement = direct(db, TYPES, "number", "text", "nothing")
    for number, text in ((1, "Größe'漢字%s"), (3, ""), (0, "-")):
        values: dict[str, int | str | None] = {"number": number, "text": text, "nothing": None}
        rows = event_cursor(db).execute(TYPES, values).fetchall()
        assert statement.fetch(values) == rows
        assert len(rows) == number


def test_an_error_is_the_one_that_psycopg_raises_and_leaves_the_connection_usable(db: databases.Connection) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        direct(db, "SELECT 1 / %(zero)s::int", "zero").fetch({"zero": 0})
    with pytest.raises(psycopg.errors.UndefinedTable):
        Direct(event_cursor(db), "other", "SELECT FROM nowhere", ()).fetch({})
    assert db.execute("SELECT 1").fetchone() == (1,)


def test_a_row_that_cannot_be_loaded_is_a_data_error(db: databases.Connection) -> None:
    statement = direct(db, "SELECT %(moment)s::timestamptz", "moment")
    with pytest.raises(psycopg.DataError):
        statement.fetch({"moment": "infinity"})
    assert statement.fetch({"moment": "2026-01-01 00:00+00"})[0][0].year == 2026


def test_a_lost_connection_is_an_operational_error(db: databases.Connection, database: Database) -> None:
    statement = direct(db, "SELECT 1")
    statement.fetch({})
    database.connect().execute("SELECT pg_terminate_backend(%s, 5000)", (db.info.backend_pid,))
    for _ in range(2):
        with pytest.raises(psycopg.OperationalError):
            statement.fetch({})


def test_a_connection_that_is_cut_without_a_word_is_an_operational_error(db: databases.Connection) -> None:
    """Without a word from the server the error has no code."""
    statement = direct(db, "SELECT 1")
    statement.fetch({})
    cut(db)
    with pytest.raises(psycopg.OperationalError):
        statement.fetch({})


def test_a_ring_that_arrives_meanwhile_is_heard(db: databases.Connection, database: Database) -> None:
    bell = Doorbell(db)
    bell.listen()
    conn: Connection = database.connect()
    statement = direct(db, "SELECT pg_sleep(0.05)")
    ringing = threading.Thread(target=lambda: conn.execute("NOTIFY projectiond_doorbell, 'now'"))
    ringing.start()
    ringing.join()
    statement.fetch({})
    assert [note.payload for note in bell.heard()] == ["now"]
