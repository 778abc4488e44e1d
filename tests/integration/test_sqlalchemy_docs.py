"""docs/sqlalchemy.md: its snippets, one after the other, do what the page says."""

import asyncio
import types
import uuid
from typing import Any

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from projectiond.errors import ConcurrencyError
from projectiond.eventstore import AsyncEventStore, NewEvent
from projectiond.sqlalchemy import include_object
from tests.support.postgres import Database
from tests.support.snippets import python_snippets
from tests.support.sqlalchemy_engines import async_engine_of, engine_of

pytestmark = pytest.mark.integration


def test_the_event_store_appends_in_the_transaction_of_an_asynchronous_session(database: Database) -> None:
    order_id = uuid.uuid4()

    async def append(expected_version: int, end: str) -> None:
        engine = async_engine_of(database, "psycopg")
        async with AsyncSession(engine) as session:
            connection = (await (await session.connection()).get_raw_connection()).driver_connection
            assert isinstance(connection, psycopg.AsyncConnection)
            await AsyncEventStore(connection).append(
                order_id, [NewEvent("OrderPacked", {})], expected_version, aggregate_type="Order"
            )
            await getattr(session, end)()
        await engine.dispose()

    asyncio.run(append(0, "rollback"))
    asyncio.run(append(0, "commit"))
    assert database.connect().execute("SELECT aggregate_id, version FROM event_store").fetchall() == [(order_id, 1)]


def test_the_pages_snippets_run_in_their_order(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    engine, async_engine = engine_of(database), async_engine_of(database, "asyncpg")
    configured: dict[str, Any] = {}
    names: dict[str, Any] = {
        "__name__": "page",
        "engine": engine,
        "async_engine": async_engine,
        "connection": None,
        "context": types.SimpleNamespace(configure=configured.update),
    }
    snippets = [snippet for snippet in python_snippets("other") if snippet.page.name == "sqlalchemy.md"]
    assert len(snippets) == 7
    for snippet in snippets:
        exec(compile(snippet.code, str(snippet), "exec", dont_inherit=True), names)  # noqa: S102 -- our own page

    assert capsys.readouterr().out.splitlines() == [
        "its sequence number is 1",
        "['OrderPlaced']",
        "the order is at version 2 already: load it again, and decide anew",
    ]
    assert configured["include_object"] is include_object
    assert set(configured["target_metadata"].tables) == {"event_store", "invoices"}

    async def ship() -> None:
        with pytest.raises(ConcurrencyError):
            await names["ship"](names["order_id"], 3)
        await names["ship"](names["order_id"], 4)
        await async_engine.dispose()

    asyncio.run(ship())
    engine.dispose()
    stored = database.connect().execute(
        "SELECT aggregate_id, event_type, version, metadata FROM event_store ORDER BY sequence_number"
    )
    order_id: uuid.UUID = names["order_id"]
    assert stored.fetchall() == [
        (order_id, "OrderPlaced", 1, {"user": "ann"}),
        (order_id, "OrderPaid", 2, {}),
        (order_id, "OrderPacked", 3, {}),
        (order_id, "InvoiceSent", 4, {}),
        (order_id, "OrderShipped", 5, {}),
    ]
