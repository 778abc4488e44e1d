# ruff: noqa: INP001 - a directory of plugins, no package
"""The order summary of the measurements as a projection; run by the daemon that ``bench.daemon`` starts."""

from bench import orders
from bench.orders import ItemAdded, OrderPaid, OrderPlaced, OrderShipped
from projectiond import Connection, Event, Projection, handles


class OrderTotals(Projection):
    """Keeps order_totals and customer_totals."""

    tables = ("order_totals", "customer_totals")
    schema = orders.READ_MODEL

    @handles("OrderPlaced")
    def placed(self, event: Event[OrderPlaced], db: Connection) -> None:
        """Begin the order's row."""
        data = event.data
        parameters = {"order_id": event.aggregate_id, "customer_id": data.customer_id, "currency": data.currency}
        db.execute(orders.PLACE, parameters)

    @handles("ItemAdded")
    def item_added(self, event: Event[ItemAdded], db: Connection) -> None:
        """Count the items."""
        data = event.data
        cents = data.quantity * data.unit_price_cents
        db.execute(orders.ADD_ITEM, {"order_id": event.aggregate_id, "quantity": data.quantity, "cents": cents})

    @handles("OrderPaid")
    def paid(self, event: Event[OrderPaid], db: Connection) -> None:
        """Add the payment to the order and to the customer."""
        data = event.data
        db.execute(orders.PAY, {"order_id": event.aggregate_id, "cents": data.amount_cents})
        db.execute(orders.CREDIT_CUSTOMER, {"customer_id": data.customer_id, "cents": data.amount_cents})

    @handles("OrderShipped")
    def shipped(self, event: Event[OrderShipped], db: Connection) -> None:
        """Note the carrier."""
        db.execute(orders.SHIP, {"order_id": event.aggregate_id, "carrier": event.data.carrier})
