"""One row per day: orders placed and cancelled, payments, revenue. See order_summary.py for the events.

The days are those of UTC. A day that depended on the session's time zone would make a rebuild on another
machine give another table.
"""

from datetime import UTC

from projectiond import Connection, Event, Projection, handles

# Each event adds to one row, which may not exist yet: an upsert says both at once, and reads nothing.
ADD_TO_DAY = """
    INSERT INTO daily_sales AS sales (day, orders_placed, orders_cancelled, payments, revenue_cents)
    VALUES (%(day)s, %(placed)s, %(cancelled)s, %(payments)s, %(revenue_cents)s)
    ON CONFLICT (day) DO UPDATE
    SET orders_placed = sales.orders_placed + excluded.orders_placed,
        orders_cancelled = sales.orders_cancelled + excluded.orders_cancelled,
        payments = sales.payments + excluded.payments,
        revenue_cents = sales.revenue_cents + excluded.revenue_cents
"""


class DailySales(Projection):
    """Keeps the table daily_sales.

    Adding is safe although it is not idempotent: an event is applied exactly once, because the daemon commits
    these rows and its checkpoint together.
    """

    tables = ("daily_sales",)
    schema = """
        CREATE TABLE IF NOT EXISTS daily_sales (
            day DATE PRIMARY KEY,
            orders_placed INTEGER NOT NULL,
            orders_cancelled INTEGER NOT NULL,
            payments INTEGER NOT NULL,
            revenue_cents BIGINT NOT NULL -- money is never a float
        );
    """

    @handles("OrderPlaced")
    def placed(self, event: Event, db: Connection) -> None:
        """Count an order on the day it was placed."""
        self._add(event, db, placed=1)

    @handles("OrderCancelled")
    def cancelled(self, event: Event, db: Connection) -> None:
        """Count it on the day of the cancellation: the past of this table never changes."""
        self._add(event, db, cancelled=1)

    @handles("OrderPaid")
    def paid(self, event: Event, db: Connection) -> None:
        """Add the payment to the day's revenue."""
        self._add(event, db, payments=1, revenue_cents=event.data["amount_cents"])

    def _add(self, event: Event, db: Connection, **amounts: int) -> None:
        nothing = {"placed": 0, "cancelled": 0, "payments": 0, "revenue_cents": 0}
        day = event.created_at.astimezone(UTC).date()
        db.execute(ADD_TO_DAY, {**nothing, **amounts, "day": day})
