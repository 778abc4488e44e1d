"""The sample projections, on a real PostgreSQL: their rows are what plain SQL computes from the events."""

import random
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from projectiond.errors import EventDataError
from projectiond.event import Event
from projectiond.plugins.definition import Definition
from projectiond.plugins.registry import load_projections
from projectiond.postgres.database import Connection
from tests.support.postgres import Database

pytestmark = pytest.mark.integration

SAMPLES = Path(__file__).parents[2] / "projections"

CUSTOMERS = [
    {"customer": "Ann Lee", "customer_id": "c-1"},
    {"customer": "Bo Øst", "customer_id": "c-2"},
    {"customer": "A guest"},
]

ORDER_SUMMARY: LiteralString = """
    SELECT
        aggregate_id,
        max(event_data ->> 'customer') FILTER (WHERE event_type = 'OrderPlaced'),
        max(event_data ->> 'currency') FILTER (WHERE event_type = 'OrderPlaced'),
        (
            array_agg(
                CASE event_type
                    WHEN 'OrderPlaced' THEN 'placed'
                    WHEN 'OrderPaid' THEN 'paid'
                    WHEN 'OrderShipped' THEN 'shipped'
                    WHEN 'OrderCancelled' THEN 'cancelled'
                END
                ORDER BY sequence_number DESC
            ) FILTER (WHERE event_type NOT IN ('ItemAdded', 'ItemRemoved'))
        )[1],
        coalesce(sum(sign * (event_data ->> 'quantity')::int), 0),
        coalesce(sum(sign * (event_data ->> 'quantity')::int * (event_data ->> 'unit_price_cents')::int), 0),
        coalesce(sum((event_data ->> 'amount_cents')::int), 0),
        max(event_data ->> 'carrier'),
        max(event_data ->> 'reason'),
        min(created_at),
        max(created_at)
    FROM event_store,
        LATERAL (
            SELECT CASE event_type WHEN 'ItemAdded' THEN 1 WHEN 'ItemRemoved' THEN -1 END AS sign
        ) AS signs
    WHERE aggregate_type = 'order'
    GROUP BY aggregate_id
    ORDER BY aggregate_id
"""

DAILY_SALES: LiteralString = """
    SELECT
        (created_at AT TIME ZONE 'UTC')::date AS day,
        count(*) FILTER (WHERE event_type = 'OrderPlaced'),
        count(*) FILTER (WHERE event_type = 'OrderCancelled'),
        count(*) FILTER (WHERE event_type = 'OrderPaid'),
        coalesce(sum((event_data ->> 'amount_cents')::int), 0)
    FROM event_store
    WHERE event_type IN ('OrderPlaced', 'OrderCancelled', 'OrderPaid')
    GROUP BY day
    ORDER BY day
"""

CUSTOMER_ACTIVITY: LiteralString = """
    SELECT
        event.sequence_number,
        coalesce(placed.event_data ->> 'customer_id', placed.event_data ->> 'customer'),
        placed.event_data ->> 'customer',
        CASE event.event_type
            WHEN 'OrderPlaced' THEN 'placed an order'
            WHEN 'OrderPaid' THEN 'paid'
            WHEN 'OrderShipped' THEN 'received a parcel notice'
            WHEN 'OrderCancelled' THEN 'cancelled'
        END,
        event.aggregate_id,
        event.created_at
    FROM event_store AS event
    JOIN event_store AS placed
        ON placed.aggregate_id = event.aggregate_id
        AND placed.event_type = 'OrderPlaced'
    WHERE event.event_type IN ('OrderPlaced', 'OrderPaid', 'OrderShipped', 'OrderCancelled')
    ORDER BY event.sequence_number
"""

COMPARISONS: list[tuple[str, LiteralString, LiteralString]] = [
    ("order_summary", "SELECT * FROM order_summary ORDER BY order_id", ORDER_SUMMARY),
    ("daily_sales", "SELECT * FROM daily_sales ORDER BY day", DAILY_SALES),
    ("customer_activity", "SELECT * FROM customer_activity ORDER BY sequence_number", CUSTOMER_ACTIVITY),
]


@pytest.fixture
def far_from_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in another time zone, so that a projection which leans on the machine's is found out."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Pacific/Auckland")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def db(database: Database, far_from_utc: None) -> Iterator[Connection]:  # noqa: ARG001 - used for its effect
    with Connection.connect(database.dsn, autocommit=True) as connection:
        connection.execute("SET TIME ZONE 'Pacific/Auckland'")
        yield connection


def sample(name: str) -> Definition:
    registry = load_projections([SAMPLES], {})
    assert registry.faults == ()
    (definition,) = [each for each in registry.definitions if each.name == name]
    return definition


def order_story(chance: random.Random) -> list[tuple[str, dict[str, Any]]]:
    """One order's events, in the order in which they happen."""
    story: list[tuple[str, dict[str, Any]]] = [
        ("OrderPlaced", {**chance.choice(CUSTOMERS), "currency": "EUR"}),
    ]
    total = 0
    for _ in range(chance.randint(1, 4)):
        price = chance.randint(1, 5000)
        item = {"sku": f"SKU-{chance.randint(1, 9)}", "quantity": 2, "unit_price_cents": price}
        story.append(("ItemAdded", item))
        total += 2 * price
        if chance.random() < 0.3:
            story.append(("ItemRemoved", {**item, "quantity": 1}))
            total -= price
    if chance.random() < 0.2:
        return [*story, ("OrderCancelled", {"reason": "changed my mind"})]
    story.append(("OrderPaid", {"amount_cents": total}))
    if chance.random() < 0.5:
        story.append(("OrderShipped", {"carrier": "DHL"}))
    return story


def append_orders(db: psycopg.Connection[Any], count: int) -> None:
    """Append the events of many orders, interleaved, over some days; also events of something else."""
    chance = random.Random(count)  # noqa: S311 - the same events in every run
    stories: dict[UUID, list[tuple[str, dict[str, Any]]]] = {uuid4(): order_story(chance) for _ in range(count)}
    versions = dict.fromkeys(stories, 0)
    moment = datetime(2024, 2, 27, 20, 0, tzinfo=UTC)
    rows: list[Sequence[Any]] = []
    while stories:
        order = chance.choice(list(stories))
        event_type, data = stories[order].pop(0)
        if not stories[order]:
            del stories[order]
        versions[order] += 1
        moment += timedelta(minutes=chance.randint(1, 30))
        rows.append((order, "order", event_type, Jsonb(data), versions[order], moment))
        if chance.random() < 0.1:
            rows.append((uuid4(), "parcel", "ParcelWeighed", Jsonb({"grams": 700}), 1, moment))
    with db.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO event_store
                (aggregate_id, aggregate_type, event_type, event_data, version, created_at)
            VALUES (%s, %s, %s, %s, %s, %s)
            """,
            rows,
        )


def stored_events(db: psycopg.Connection[Any]) -> list[Event[Any]]:
    rows = db.execute(
        """
        SELECT event_id, aggregate_id, aggregate_type, event_type,
            convert_to(event_data::text, 'UTF8'), convert_to(metadata::text, 'UTF8'),
            version, sequence_number, created_at
        FROM event_store
        ORDER BY sequence_number
        """
    ).fetchall()
    return [Event.from_row(row) for row in rows]


def apply(definition: Definition, events: Sequence[Event[Any]], db: Connection, *, pipelined: bool) -> None:
    with db.transaction():
        if pipelined:
            with db.pipeline():
                apply_each(definition, events, db)
        else:
            apply_each(definition, events, db)


def apply_each(definition: Definition, events: Sequence[Event[Any]], db: Connection) -> None:
    for event in events:
        for handler in definition.handlers_for(event.event_type):
            handler.function(handler.event_for(event), db)


@pytest.mark.parametrize("pipelined", [True, False], ids=["pipelined", "one by one"])
@pytest.mark.parametrize(("name", "actual", "expected"), COMPARISONS, ids=[name for name, _, _ in COMPARISONS])
def test_a_read_model_equals_what_sql_computes_from_the_events(
    db: Connection, name: str, actual: LiteralString, expected: LiteralString, *, pipelined: bool
) -> None:
    append_orders(db, 60)
    definition = sample(name)
    db.execute(definition.schema.encode())
    events = stored_events(db)
    for start in range(0, len(events), 50):
        apply(definition, events[start : start + 50], db, pipelined=pipelined)
    rows = db.execute(actual).fetchall()
    assert len(rows) > 3
    assert rows == db.execute(expected).fetchall()


@pytest.mark.parametrize("name", [name for name, _, _ in COMPARISONS])
def test_a_schema_can_be_applied_again_and_makes_the_tables_that_it_owns(db: Connection, name: str) -> None:
    definition = sample(name)
    before = tables(db)
    db.execute(definition.schema.encode())
    db.execute(definition.schema.encode())
    assert tables(db) - before == set(definition.tables)


def tables(db: psycopg.Connection[Any]) -> set[str]:
    rows = db.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    return {row[0] for row in rows}


def test_the_order_summary_refuses_an_item_without_a_quantity(db: Connection) -> None:
    definition = sample("order_summary")
    event = Event(event_type="ItemAdded", data={"sku": "TEA-250", "unit_price_cents": 495})
    with pytest.raises(EventDataError, match="does not fit ItemChanged: quantity: Field required"):
        apply_each(definition, [event], db)
