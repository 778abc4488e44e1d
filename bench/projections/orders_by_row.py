# ruff: noqa: INP001 - a directory of plugins, no package
"""The order summary as rows in memory: two projections, since each keeps one table."""

from dataclasses import dataclass
from uuid import UUID

from bench import orders
from bench.orders import ItemAdded, OrderPaid, OrderPlaced, OrderShipped
from bench.tables import prefixed
from projectiond import Event, RowProjection, handles


@dataclass(slots=True)
class Order:
    """A row of the orders' totals."""

    order_id: UUID
    customer_id: str = ""
    currency: str = ""
    status: str = ""
    item_count: int = 0
    total_cents: int = 0
    paid_cents: int = 0
    carrier: str | None = None


@dataclass(slots=True)
class Customer:
    """A row of the customers' totals."""

    customer_id: str
    orders: int = 0
    paid_cents: int = 0


class OrdersByRow(RowProjection):
    """Keeps orders' totals."""

    row = Order
    tables = (prefixed("order_totals", "by_row"),)
    schema = prefixed(orders.READ_MODEL, "by_row")

    @handles("OrderPlaced")
    def placed(self, row: Order, event: Event[OrderPlaced]) -> None:
        """Begin the order."""
        row.customer_id, row.currency, row.status = event.data.customer_id, event.data.currency, "placed"

    @handles("ItemAdded")
    def item_added(self, row: Order, event: Event[ItemAdded]) -> None:
        """Count the items."""
        row.item_count += event.data.quantity
        row.total_cents += event.data.quantity * event.data.unit_price_cents

    @handles("OrderPaid")
    def paid(self, row: Order, event: Event[OrderPaid]) -> None:
        """Add the payment."""
        row.status = "paid"
        row.paid_cents += event.data.amount_cents

    @handles("OrderShipped")
    def shipped(self, row: Order, event: Event[OrderShipped]) -> None:
        """Note the carrier."""
        row.status, row.carrier = "shipped", event.data.carrier


class CustomersByRow(RowProjection):
    """Keeps customers' totals."""

    row = Customer
    tables = (prefixed("customer_totals", "by_row"),)
    schema = prefixed(orders.READ_MODEL, "by_row")

    def key(self, event: Event) -> str:
        """An order's payment belongs to the row of who paid."""
        return str(event.data["customer_id"])

    @handles("OrderPaid")
    def paid(self, row: Customer, event: Event[OrderPaid]) -> None:
        """Add the payment."""
        row.orders += 1
        row.paid_cents += event.data.amount_cents
