"""The order summary for many events at once: set-based statements that keep the same tables as those of ``orders``.

Imported by the projections under ``projections/`` and by ``server_alone``.  Two ways: changes that were added up
before come as arrays, a column each (``WRITE_ORDERS``, ``WRITE_CUSTOMERS``); or the server adds them up itself, from
the relation ``events`` (``SUM_ORDERS``, ``SUM_CUSTOMERS``).

An order's first event is always the one that knows its customer and currency, so an empty text in a later change
means "as it was", as does a status that is null.
"""

from typing import LiteralString

_MERGE_ORDERS: LiteralString = """
ON CONFLICT (order_id) DO UPDATE
SET status = coalesce(nullif(excluded.status, ''), kept.status),
    item_count = kept.item_count + excluded.item_count,
    total_cents = kept.total_cents + excluded.total_cents,
    paid_cents = kept.paid_cents + excluded.paid_cents,
    carrier = coalesce(excluded.carrier, kept.carrier)
"""

_MERGE_CUSTOMERS: LiteralString = """
ON CONFLICT (customer_id) DO UPDATE
SET orders = kept.orders + excluded.orders,
    paid_cents = kept.paid_cents + excluded.paid_cents
"""

_ORDERS: LiteralString = """
INSERT INTO order_totals AS kept
    (order_id, customer_id, currency, status, item_count, total_cents, paid_cents, carrier)
"""

_CUSTOMERS: LiteralString = "INSERT INTO customer_totals AS kept (customer_id, orders, paid_cents)"

# Parameters: an array for each column, in binary (%b), which psycopg makes in a fraction of the time.
WRITE_ORDERS: LiteralString = f"""{_ORDERS}
SELECT *
FROM unnest(
    %(order_id)b::uuid[], %(customer_id)b::text[], %(currency)b::text[], %(status)b::text[], %(item_count)b::int[],
    %(total_cents)b::bigint[], %(paid_cents)b::bigint[], %(carrier)b::text[]
)
{_MERGE_ORDERS}"""

WRITE_CUSTOMERS: LiteralString = f"""{_CUSTOMERS}
SELECT *
FROM unnest(%(customer_id)b::text[], %(orders)b::bigint[], %(paid_cents)b::bigint[])
{_MERGE_CUSTOMERS}"""

# The change of each order by a set of events.
ORDER_COLUMNS: LiteralString = """
    aggregate_id AS order_id,
    coalesce(max(event_data ->> 'customer_id') FILTER (WHERE event_type = 'OrderPlaced'), '') AS customer_id,
    coalesce(max(event_data ->> 'currency') FILTER (WHERE event_type = 'OrderPlaced'), '') AS currency,
    CASE
        WHEN bool_or(event_type = 'OrderShipped') THEN 'shipped'
        WHEN bool_or(event_type = 'OrderPaid') THEN 'paid'
        WHEN bool_or(event_type = 'OrderPlaced') THEN 'placed'
        ELSE ''
    END AS status,
    coalesce(sum((event_data ->> 'quantity')::int) FILTER (WHERE event_type = 'ItemAdded'), 0) AS item_count,
    coalesce(
        sum((event_data ->> 'quantity')::bigint * (event_data ->> 'unit_price_cents')::bigint)
            FILTER (WHERE event_type = 'ItemAdded'),
        0
    ) AS total_cents,
    coalesce(sum((event_data ->> 'amount_cents')::bigint) FILTER (WHERE event_type = 'OrderPaid'), 0) AS paid_cents,
    max(event_data ->> 'carrier') FILTER (WHERE event_type = 'OrderShipped') AS carrier
"""

CUSTOMER_COLUMNS: LiteralString = """
    event_data ->> 'customer_id' AS customer_id,
    count(*) AS orders,
    sum((event_data ->> 'amount_cents')::bigint) AS paid_cents
"""

SUM_ORDERS: LiteralString = f"""{_ORDERS}
SELECT {ORDER_COLUMNS}
FROM events
GROUP BY aggregate_id
{_MERGE_ORDERS}"""

SUM_CUSTOMERS: LiteralString = f"""{_CUSTOMERS}
SELECT {CUSTOMER_COLUMNS}
FROM events
WHERE event_type = 'OrderPaid'
GROUP BY event_data ->> 'customer_id'
{_MERGE_CUSTOMERS}"""
