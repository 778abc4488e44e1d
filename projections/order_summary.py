"""One row per order: who ordered, what it comes to, and how far it has got.

The sample projections read the events of a small shop. All of them have the aggregate type "order" and the
order's id as their aggregate id; an order's first event is always its OrderPlaced. Amounts are whole cents.

    OrderPlaced    {"customer": "Ann Lee", "customer_id": "c-17", "currency": "EUR"}
    ItemAdded      {"sku": "TEA-250", "quantity": 2, "unit_price_cents": 495}
    ItemRemoved    {"sku": "TEA-250", "quantity": 1, "unit_price_cents": 495}
    OrderPaid      {"amount_cents": 495}
    OrderShipped   {"carrier": "DHL"}
    OrderCancelled {"reason": "changed my mind"}

A guest's order has no customer_id. Other keys may be present, and are ignored.
"""

from pydantic import BaseModel, NonNegativeInt, PositiveInt

from projectiond import Connection, Event, Projection, handles


class OrderPlaced(BaseModel):
    """A customer has begun an order."""

    customer: str
    customer_id: str | None = None
    currency: str


class ItemChanged(BaseModel):
    """Items have been put into an order, or taken out; the event's type says which."""

    sku: str
    quantity: PositiveInt
    unit_price_cents: NonNegativeInt


class OrderPaid(BaseModel):
    """The customer has paid."""

    amount_cents: PositiveInt


class OrderShipped(BaseModel):
    """The parcel is on its way."""

    carrier: str


class OrderCancelled(BaseModel):
    """There will be no parcel."""

    reason: str


class OrderSummary(Projection):
    """Keeps the table order_summary.

    No handler reads before it writes: each statement says how the row changes, so that the daemon can send
    many of them without waiting for an answer. No handler asks for the time either: a rebuild has to give the
    same rows next year, so every time is the event's.
    """

    tables = ("order_summary",)
    schema = """
        CREATE TABLE IF NOT EXISTS order_summary (
            order_id UUID PRIMARY KEY,
            customer TEXT NOT NULL,
            currency TEXT NOT NULL,
            status TEXT NOT NULL,
            item_count INTEGER NOT NULL DEFAULT 0,
            total_cents BIGINT NOT NULL DEFAULT 0,
            paid_cents BIGINT NOT NULL DEFAULT 0,
            carrier TEXT,
            cancel_reason TEXT,
            placed_at TIMESTAMPTZ NOT NULL,
            updated_at TIMESTAMPTZ NOT NULL
        );
        CREATE INDEX IF NOT EXISTS order_summary_status ON order_summary (status, updated_at);
    """

    @handles("OrderPlaced")
    def placed(self, event: Event[OrderPlaced], db: Connection) -> None:
        """Begin the order's row."""
        db.execute(
            """
            INSERT INTO order_summary (order_id, customer, currency, status, placed_at, updated_at)
            VALUES (%s, %s, %s, 'placed', %s, %s)
            """,
            (
                event.aggregate_id,
                event.data.customer,
                event.data.currency,
                event.created_at,
                event.created_at,
            ),
        )

    @handles("ItemAdded", "ItemRemoved")
    def changed(self, event: Event[ItemChanged], db: Connection) -> None:
        """Count the items and what they cost."""
        quantity = event.data.quantity if event.event_type == "ItemAdded" else -event.data.quantity
        db.execute(
            """
            UPDATE order_summary
            SET item_count = item_count + %s, total_cents = total_cents + %s, updated_at = %s
            WHERE order_id = %s
            """,
            (quantity, quantity * event.data.unit_price_cents, event.created_at, event.aggregate_id),
        )

    @handles("OrderPaid")
    def paid(self, event: Event[OrderPaid], db: Connection) -> None:
        """Add the payment; there may be several."""
        db.execute(
            """
            UPDATE order_summary
            SET status = 'paid', paid_cents = paid_cents + %s, updated_at = %s
            WHERE order_id = %s
            """,
            (event.data.amount_cents, event.created_at, event.aggregate_id),
        )

    @handles("OrderShipped")
    def shipped(self, event: Event[OrderShipped], db: Connection) -> None:
        """Note who carries the parcel."""
        db.execute(
            """
            UPDATE order_summary
            SET status = 'shipped', carrier = %s, updated_at = %s
            WHERE order_id = %s
            """,
            (event.data.carrier, event.created_at, event.aggregate_id),
        )

    @handles("OrderCancelled")
    def cancelled(self, event: Event[OrderCancelled], db: Connection) -> None:
        """Keep the row: a cancelled order is still one that people ask about."""
        db.execute(
            """
            UPDATE order_summary
            SET status = 'cancelled', cancel_reason = %s, updated_at = %s
            WHERE order_id = %s
            """,
            (event.data.reason, event.created_at, event.aggregate_id),
        )
