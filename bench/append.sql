-- One append in a transaction of its own, for pgbench: the first event of a new order.
INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version)
VALUES (gen_random_uuid(), 'order', 'OrderPlaced', '{"customer_id": "c-17", "currency": "EUR"}', 1);
