# ruff: noqa: INP001 - a directory of plugins, no package
"""The order summary as two statements over the events of a batch, which stay on the server."""

from bench import order_sets, orders
from bench.tables import prefixed
from projectiond import SqlProjection


class OrdersBySql(SqlProjection):
    """Keeps orders' and customers' totals."""

    tables = (prefixed("order_totals", "by_sql"), prefixed("customer_totals", "by_sql"))
    schema = prefixed(orders.READ_MODEL, "by_sql")
    sql = (prefixed(order_sets.SUM_ORDERS, "by_sql"), prefixed(order_sets.SUM_CUSTOMERS, "by_sql"))
