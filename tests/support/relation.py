"""Statements over the relation `events` as tests handle them: made without the registry, applied without the daemon."""

from contextlib import nullcontext
from typing import Any

import psycopg
import pytest

from projectiond.errors import ConfigurationError
from projectiond.kinds.kind import AuthorCode
from projectiond.kinds.relation import InSql, RangeReader
from projectiond.plugins.definition import Definition
from projectiond.postgres.database import Connection
from projectiond.processes.recorder import nowhere
from projectiond.projection import SqlProjection

Conn = psycopg.Connection[Any]

# Beyond the last event of every test.
EVERYTHING = 900_000

# Tables for statements to write to.
TABLES = b"""
CREATE TABLE seen (n bigint, note text);
CREATE TABLE totals (name text PRIMARY KEY, count bigint NOT NULL, sum bigint NOT NULL);
"""


def make_author() -> AuthorCode:
    """Make an author whose events nobody records."""
    return AuthorCode(nowhere())


def make_kind_of(projection: SqlProjection, event_types: tuple[str, ...] | None) -> InSql:
    """Make the kind of a projection as the registry would define it."""
    definition = Definition("daily_sales", projection, (), "", event_types, {}, "projections/daily_sales.py:8")
    return InSql(definition, make_author())


def make_kind(*statements: str, event_types: tuple[str, ...] | None = None) -> InSql:
    """Make the kind of a projection with these statements; one alone is given as a string."""

    class DailySales(SqlProjection):
        sql = statements[0] if len(statements) == 1 else statements

    return make_kind_of(DailySales(), event_types)


def apply(db: Connection, kind: InSql, after: int = 0, upto: int = EVERYTHING, *, is_pipelined: bool = False) -> None:
    """Check the statements, then apply a range in a transaction, as the daemon does."""
    kind.check(db)
    batch = RangeReader(kind._definition.event_types).read(db, after, upto)
    with db.pipelined() if is_pipelined else nullcontext(), db.transaction(), db.guarded():
        kind.load(db, batch)
        kind.apply(db, batch)


def rows(conn: Conn, query: str = "SELECT n, note FROM seen ORDER BY n, note") -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    return conn.execute(query.encode()).fetchall()


def refusal(db: Connection, *statements: str, event_types: tuple[str, ...] | None = None) -> str:
    """Return what is said of statements that cannot be right, without what is said of every one."""
    with pytest.raises(ConfigurationError) as caught:
        make_kind(*statements, event_types=event_types).check(db)
    beginning = 'the SQL of "daily_sales" (projections/daily_sales.py:8) is refused: '
    end = "; mend it, restart the daemon with it, then set the status to running"
    text = str(caught.value)
    assert text.startswith(beginning)
    assert text.endswith(end)
    return text.removeprefix(beginning).removesuffix(end)
