# ruff: noqa: INP001 - a directory of plugins, no package
"""The order summary event by event, with the very statements of the loops."""

from bench import orders
from bench.orders import ItemAdded, OrderPaid, OrderPlaced, OrderShipped
from bench.tables import prefixed
from projectiond import Connection, Event, Projection, handles

PLACE = prefixed(orders.PLACE, "by_event")
ADD_ITEM = prefixed(orders.ADD_ITEM, "by_event")
PAY = prefixed(orders.PAY, "by_event")
CREDIT_CUSTOMER = prefixed(orders.CREDIT_CUSTOMER, "by_event")
SHIP = prefixed(orders.SHIP, "by_event")


class OrdersByEvent(Projection):
    """Keeps orders' and customers' totals."""

    tables = (prefixed("order_totals", "by_event"), prefixed("customer_totals", "by_event"))
    schema = prefixed(orders.READ_MODEL, "by_event")

    @handles("OrderPlaced")
    def placed(self, event: Event[OrderPlaced], db: Connection) -> None:
        """Begin the order's row."""
        data = event.data
        parameters = {"order_id": event.aggregate_id, "customer_id": data.customer_id, "currency": data.currency}
        db.execute(PLACE, parameters)

    @handles("ItemAdded")
    def item_added(self, event: Event[ItemAdded], db: Connection) -> None:
        """Count the items."""
        data = event.data
        cents = data.quantity * data.unit_price_cents
        db.execute(ADD_ITEM, {"order_id": event.aggregate_id, "quantity": data.quantity, "cents": cents})

    @handles("OrderPaid")
    def paid(self, event: Event[OrderPaid], db: Connection) -> None:
        """Add the payment to the order and to the customer."""
        data = event.data
        db.execute(PAY, {"order_id": event.aggregate_id, "cents": data.amount_cents})
        db.execute(CREDIT_CUSTOMER, {"customer_id": data.customer_id, "cents": data.amount_cents})

    @handles("OrderShipped")
    def shipped(self, event: Event[OrderShipped], db: Connection) -> None:
        """Note the carrier."""
        db.execute(SHIP, {"order_id": event.aggregate_id, "carrier": event.data.carrier})
