"""The snippets of docs/writing-events.md do what the page says, one after the other."""

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.support.postgres import Database
from tests.support.queries import value
from tests.support.snippets import SNIPPETS, python_snippets

pytestmark = pytest.mark.integration

PAGE = "writing-events.md"
DSN = "postgresql://localhost/shop"


@pytest.fixture
def namespace() -> Iterator[dict[str, Any]]:
    names: dict[str, Any] = {"__name__": "writing_events"}
    yield names
    for name in ("store", "shop"):
        if name in names:
            names[name].close()


def test_the_python_snippets_run_one_after_the_other(database: Database, namespace: dict[str, Any]) -> None:
    snippets = [snippet for snippet in python_snippets("other") if snippet.page.name == PAGE]
    assert len(snippets) >= 9
    for snippet in snippets:
        code = compile(snippet.code.replace(DSN, database.dsn), str(snippet), "exec", dont_inherit=True)
        exec(code, namespace)  # noqa: S102 -- our own pages
    conn = database.connect()
    assert value(conn, "SELECT count(*) FROM requests") == 1
    versions = "SELECT count(*) FROM event_store WHERE aggregate_id = %s"
    assert value(conn, versions, namespace["order_id"]) == 3
    assert value(conn, "SELECT count(*) FROM event_store WHERE event_type = 'OrderPaid'") == 1


def test_the_sql_appends_at_the_expected_version_alone(database: Database) -> None:
    (snippet,) = [snippet for snippet in SNIPPETS if snippet.page.name == PAGE and snippet.language == "sql"]
    conn = database.connect()
    conn.execute(snippet.code)
    order = uuid.uuid4()

    def append(version: int, event_id: uuid.UUID) -> list[Any]:
        statement = f"EXECUTE append_event ('{event_id}', '{order}', 'OrderPlaced', '{{}}', {version})"
        return list(conn.execute(statement.encode()))

    first = uuid.uuid4()
    ((number,),) = append(0, first)
    assert append(1, uuid.uuid4()) == [(number + 1,)]
    for stale in (0, 1, 3):
        assert append(stale, uuid.uuid4()) == []
    with pytest.raises(psycopg.errors.UniqueViolation, match="event_store_pkey"):
        append(2, first)
    assert value(conn, "SELECT array_agg(version ORDER BY version) FROM event_store") == [1, 2]
    assert value(conn, "SELECT conname FROM pg_constraint WHERE conname = 'unique_aggregate_version'")
