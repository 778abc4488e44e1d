# ruff: noqa: INP001 - a directory of plugins, no package
"""The order summary a batch at a time: changes are added up in memory, and each table is written once."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any
from uuid import UUID

from bench import order_sets, orders
from bench.tables import prefixed
from projectiond import BatchProjection, Connection, Event

WRITE_ORDERS = prefixed(order_sets.WRITE_ORDERS, "by_batch")
WRITE_CUSTOMERS = prefixed(order_sets.WRITE_CUSTOMERS, "by_batch")


@dataclass(slots=True)
class OrderChange:
    """What a batch does to an order."""

    order_id: UUID
    customer_id: str = ""
    currency: str = ""
    status: str = ""
    item_count: int = 0
    total_cents: int = 0
    paid_cents: int = 0
    carrier: str | None = None


@dataclass(slots=True)
class CustomerChange:
    """What a batch does to a customer."""

    customer_id: str
    orders: int = 0
    paid_cents: int = 0


class OrdersByBatch(BatchProjection):
    """Keeps orders' and customers' totals."""

    tables = (prefixed("order_totals", "by_batch"), prefixed("customer_totals", "by_batch"))
    schema = prefixed(orders.READ_MODEL, "by_batch")
    event_types = ("OrderPlaced", "ItemAdded", "OrderPaid", "OrderShipped")

    def apply(self, events: Sequence[Event], db: Connection) -> None:
        """Add up, then write."""
        of_orders: dict[UUID, OrderChange] = {}
        of_customers: dict[str, CustomerChange] = {}
        for event in events:
            data = event.data
            order = of_orders.get(event.aggregate_id)
            if order is None:
                order = of_orders[event.aggregate_id] = OrderChange(event.aggregate_id)
            match event.event_type:
                case "ItemAdded":
                    order.item_count += data["quantity"]
                    order.total_cents += data["quantity"] * data["unit_price_cents"]
                case "OrderPlaced":
                    order.customer_id, order.currency, order.status = data["customer_id"], data["currency"], "placed"
                case "OrderPaid":
                    order.status = "paid"
                    order.paid_cents += data["amount_cents"]
                    customer = of_customers.setdefault(data["customer_id"], CustomerChange(data["customer_id"]))
                    customer.orders += 1
                    customer.paid_cents += data["amount_cents"]
                case "OrderShipped":
                    order.status, order.carrier = "shipped", data["carrier"]
        db.execute(WRITE_ORDERS, _columns(OrderChange, of_orders.values()))
        if of_customers:
            db.execute(WRITE_CUSTOMERS, _columns(CustomerChange, of_customers.values()))


def _columns(kind: type, changes: Any) -> dict[str, list[Any]]:  # noqa: ANN401 - instances of that dataclass
    return {field.name: [getattr(change, field.name) for change in changes] for field in fields(kind)}
