"""The procedures and the preparation of ``server_alone``, which says what they are for.

Every name is found by the search_path, so the same text serves in every schema.  Placeholders in braces are filled by
``server_alone`` with the statements of ``orders`` and ``order_sets``.  Event numbers begin with 1 and have no gaps.
"""

from typing import LiteralString

# What a client would read: its JSON has to be made into text.
READ: LiteralString = """
    event_id, aggregate_id, aggregate_type, event_type, event_data, event_data::text AS data_text,
    metadata::text AS metadata_text, version, sequence_number, created_at
FROM event_store
WHERE sequence_number > here AND sequence_number <= head
ORDER BY sequence_number
LIMIT {batch}
"""

MOVE: LiteralString = """
UPDATE projection_checkpoints
SET last_sequence_number = here, last_processed_at = now(), events_processed = events_processed + {batch}
WHERE projection_name = 'order_by_event';
IF here % {transaction} = 0 THEN
    COMMIT;
END IF;
"""

BY_EVENT: LiteralString = """
CREATE PROCEDURE apply_all(head bigint) LANGUAGE plpgsql AS $$
DECLARE
    event record;
    here bigint := 0;
BEGIN
    LOOP
        FOR event IN SELECT {read} LOOP
            CASE event.event_type
                WHEN 'ItemAdded' THEN {add_item};
                WHEN 'OrderPlaced' THEN {place};
                WHEN 'OrderPaid' THEN {pay}; {credit_customer};
                WHEN 'OrderShipped' THEN {ship};
            END CASE;
        END LOOP;
        EXIT WHEN NOT FOUND;
        here := event.sequence_number;
        {move}
    END LOOP;
END
$$
"""

BY_BATCH: LiteralString = """
CREATE PROCEDURE apply_all(head bigint) LANGUAGE plpgsql AS $$
DECLARE
    stage record;
    here bigint := 0;
BEGIN
    FOR number IN 0 .. (head - 1) / {batch} LOOP
        PERFORM {read};
        SELECT * INTO stage FROM staged WHERE batch = number;
        {write}
        here := least(here + {batch}, head);
        {move}
    END LOOP;
END
$$
"""

LOAD_AND_WRITE_ROWS: LiteralString = """
PERFORM order_id, customer_id, currency, status, item_count, total_cents, paid_cents, carrier
FROM order_totals
WHERE order_id = ANY(stage.order_id);
INSERT INTO order_totals (order_id, customer_id, currency, status, item_count, total_cents, paid_cents, carrier)
SELECT *
FROM unnest(
    stage.order_id, stage.customer_id, stage.currency, stage.status, stage.item_count, stage.total_cents,
    stage.paid_cents, stage.carrier
)
ON CONFLICT (order_id) DO UPDATE
SET customer_id = excluded.customer_id, currency = excluded.currency, status = excluded.status,
    item_count = excluded.item_count, total_cents = excluded.total_cents, paid_cents = excluded.paid_cents,
    carrier = excluded.carrier;
PERFORM customer_id, orders, paid_cents
FROM customer_totals
WHERE customer_id = ANY(stage.payer_customer_id);
INSERT INTO customer_totals (customer_id, orders, paid_cents)
SELECT *
FROM unnest(stage.payer_customer_id, stage.payer_orders, stage.payer_paid_cents)
ON CONFLICT (customer_id) DO UPDATE
SET orders = excluded.orders, paid_cents = excluded.paid_cents;
"""

# One row for each batch, with an array for each column.
STAGE: LiteralString = """
CREATE TABLE staged AS
WITH change AS (
    SELECT (sequence_number - 1) / {batch} AS batch, {order_columns}
    FROM event_store
    GROUP BY batch, aggregate_id
), credit AS (
    SELECT (sequence_number - 1) / {batch} AS batch, {customer_columns}
    FROM event_store
    WHERE event_type = 'OrderPaid'
    GROUP BY batch, event_data ->> 'customer_id'
), {rows}
orders_of AS (
    SELECT batch,
        array_agg(order_id) AS order_id, array_agg(customer_id) AS customer_id, array_agg(currency) AS currency,
        array_agg(status) AS status, array_agg(item_count::int) AS item_count,
        array_agg(total_cents::bigint) AS total_cents, array_agg(paid_cents::bigint) AS paid_cents,
        array_agg(carrier) AS carrier
    FROM order_row
    GROUP BY batch
), customers_of AS (
    SELECT batch, array_agg(customer_id) AS payer_customer_id,
        array_agg(orders::bigint) AS payer_orders, array_agg(paid_cents::bigint) AS payer_paid_cents
    FROM customer_row
    GROUP BY batch
)
SELECT *
FROM orders_of
LEFT JOIN customers_of USING (batch);
ALTER TABLE staged ADD PRIMARY KEY (batch)
"""

# What each batch changes.
ROWS_ARE_CHANGES: LiteralString = "order_row AS (TABLE change), customer_row AS (TABLE credit),"

# The rows that a batch touches, as they are after it.
ROWS_ARE_SUMS: LiteralString = """
order_row AS (
    SELECT batch, order_id,
        max(customer_id) OVER so_far AS customer_id,
        max(currency) OVER so_far AS currency,
        (ARRAY['placed', 'paid', 'shipped'])[
            max(array_position(ARRAY['placed', 'paid', 'shipped'], status)) OVER so_far
        ] AS status,
        sum(item_count) OVER so_far AS item_count,
        sum(total_cents) OVER so_far AS total_cents,
        sum(paid_cents) OVER so_far AS paid_cents,
        max(carrier) OVER so_far AS carrier
    FROM change
    WINDOW so_far AS (PARTITION BY order_id ORDER BY batch)
), customer_row AS (
    SELECT batch, customer_id, sum(orders) OVER so_far AS orders, sum(paid_cents) OVER so_far AS paid_cents
    FROM credit
    WINDOW so_far AS (PARTITION BY customer_id ORDER BY batch)
),
"""

# Parameters: head.
EVENTS: LiteralString = """
WITH events AS (
    SELECT *
    FROM event_store
    WHERE sequence_number > 0
        AND sequence_number <= %(head)s
)
"""
