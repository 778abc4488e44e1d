"""What each customer did, newest last: one row per step of an order. See order_summary.py for the events.

Only OrderPlaced says who the customer is; the later events of an order do not. So this projection keeps a
small table of its own, order to customer, and looks the customer up in the statement that adds the row. It
does not ask the table of another projection: that one runs at its own pace, and may be behind or ahead.
"""

from projectiond import Connection, Event, Projection, handles

ACTIVITIES = {
    "OrderPaid": "paid",
    "OrderShipped": "received a parcel notice",
    "OrderCancelled": "cancelled",
}


class CustomerActivity(Projection):
    """Keeps the tables customer_activity and customer_activity_order."""

    tables = ("customer_activity", "customer_activity_order")
    schema = """
        CREATE TABLE IF NOT EXISTS customer_activity_order (
            order_id UUID PRIMARY KEY,
            customer_id TEXT NOT NULL,
            customer TEXT NOT NULL
        );
        CREATE TABLE IF NOT EXISTS customer_activity (
            sequence_number BIGINT PRIMARY KEY, -- one event, one row
            customer_id TEXT NOT NULL,
            customer TEXT NOT NULL,
            activity TEXT NOT NULL,
            order_id UUID NOT NULL,
            happened_at TIMESTAMPTZ NOT NULL
        );
        CREATE INDEX IF NOT EXISTS customer_activity_of_customer
            ON customer_activity (customer_id, sequence_number);
    """

    @handles("OrderPlaced")
    def placed(self, event: Event, db: Connection) -> None:
        """Remember whose order it is, then list it as any other step."""
        customer = event.data["customer"]
        db.execute(
            """
            INSERT INTO customer_activity_order (order_id, customer_id, customer)
            VALUES (%s, %s, %s)
            """,
            # A guest has no id; the name has to do.
            (event.aggregate_id, event.data.get("customer_id") or customer, customer),
        )
        self._list(event, db, "placed an order")

    @handles(*ACTIVITIES)
    def acted(self, event: Event, db: Connection) -> None:
        """List a later step of an order."""
        self._list(event, db, ACTIVITIES[event.event_type])

    def _list(self, event: Event, db: Connection, activity: str) -> None:
        db.execute(
            """
            INSERT INTO customer_activity
                (sequence_number, customer_id, customer, activity, order_id, happened_at)
            SELECT %s, customer_id, customer, %s, order_id, %s
            FROM customer_activity_order
            WHERE order_id = %s
            """,
            (event.sequence_number, activity, event.created_at, event.aggregate_id),
        )
