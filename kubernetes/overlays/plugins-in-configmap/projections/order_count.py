"""One row: how many orders there are.  An example of a plugin that a ConfigMap carries."""

from projectiond import SqlProjection


class OrderCount(SqlProjection):
    """Counts orders."""

    tables = ("order_count",)
    event_types = ("OrderPlaced",)
    schema = """
        CREATE TABLE IF NOT EXISTS order_count (
            is_all BOOLEAN PRIMARY KEY DEFAULT true CHECK (is_all),
            orders BIGINT NOT NULL
        )
    """
    sql = """
        INSERT INTO order_count AS kept (orders)
        SELECT count(*)
        FROM events
        ON CONFLICT (is_all) DO UPDATE
        SET orders = kept.orders + excluded.orders
    """
