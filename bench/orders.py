"""The load: events of synthetic orders, and the statements of a small order summary, event by event.

Imported by the projections under ``projections/`` and by the loops that they are compared with, so that all of them
execute the same SQL; ``order_sets`` has the same read model for many events at once.  An order has eight events:
placed, five items added, paid, shipped; fifty orders are open at any time.  Paying executes two statements,
everything else one.
"""

from typing import Final, LiteralString

import psycopg
from pydantic import BaseModel

TABLES: Final = ("order_totals", "customer_totals")

CHECKPOINT_EVERY: Final = 100
"""Events per transaction of the loops: the production column of the widely used set-up."""


class OrderPlaced(BaseModel):
    """Data of the event."""

    customer_id: str
    currency: str


class ItemAdded(BaseModel):
    """Data of the event."""

    sku: str
    quantity: int
    unit_price_cents: int


class OrderPaid(BaseModel):
    """Data of the event."""

    customer_id: str
    amount_cents: int


class OrderShipped(BaseModel):
    """Data of the event."""

    carrier: str


READ_MODEL: LiteralString = """
CREATE TABLE IF NOT EXISTS order_totals (
    order_id UUID PRIMARY KEY,
    customer_id TEXT NOT NULL,
    currency TEXT NOT NULL,
    status TEXT NOT NULL,
    item_count INTEGER NOT NULL DEFAULT 0,
    total_cents BIGINT NOT NULL DEFAULT 0,
    paid_cents BIGINT NOT NULL DEFAULT 0,
    carrier TEXT
);
CREATE TABLE IF NOT EXISTS customer_totals (
    customer_id TEXT PRIMARY KEY,
    orders BIGINT NOT NULL,
    paid_cents BIGINT NOT NULL
);
"""

PLACE: LiteralString = """
INSERT INTO order_totals (order_id, customer_id, currency, status)
VALUES (%(order_id)s, %(customer_id)s, %(currency)s, 'placed')
"""

ADD_ITEM: LiteralString = """
UPDATE order_totals
SET item_count = item_count + %(quantity)s,
    total_cents = total_cents + %(cents)s
WHERE order_id = %(order_id)s
"""

PAY: LiteralString = """
UPDATE order_totals
SET status = 'paid',
    paid_cents = paid_cents + %(cents)s
WHERE order_id = %(order_id)s
"""

CREDIT_CUSTOMER: LiteralString = """
INSERT INTO customer_totals AS kept (customer_id, orders, paid_cents)
VALUES (%(customer_id)s, 1, %(cents)s)
ON CONFLICT (customer_id) DO UPDATE
SET orders = kept.orders + 1,
    paid_cents = kept.paid_cents + excluded.paid_cents
"""

SHIP: LiteralString = """
UPDATE order_totals
SET status = 'shipped',
    carrier = %(carrier)s
WHERE order_id = %(order_id)s
"""

# Parameters: first and last event, counted from 0.
_APPEND: LiteralString = """
INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version)
SELECT
    md5('order ' || place.number)::uuid,
    'order',
    CASE place.step WHEN 0 THEN 'OrderPlaced' WHEN 6 THEN 'OrderPaid' WHEN 7 THEN 'OrderShipped' ELSE 'ItemAdded' END,
    CASE place.step
        WHEN 0 THEN jsonb_build_object('customer_id', 'c-' || place.number %% 1000, 'currency', 'EUR')
        WHEN 6 THEN jsonb_build_object('customer_id', 'c-' || place.number %% 1000, 'amount_cents', 2475)
        WHEN 7 THEN jsonb_build_object('carrier', 'DHL')
        ELSE jsonb_build_object('sku', 'TEA-' || n %% 97, 'quantity', 1 + n %% 3, 'unit_price_cents', 495)
    END,
    place.step + 1
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
CROSS JOIN LATERAL (SELECT n / 400 * 50 + n %% 50 AS number, (n %% 400 / 50)::int AS step) AS place
ORDER BY n
"""


def append_orders(db: psycopg.Connection, first: int, count: int) -> None:
    """Append the events number ``first`` and following in one transaction."""
    db.execute(_APPEND, {"first": first, "last": first + count - 1})
