"""Events as the starting set-up has them: a pydantic class for each type, and a registry by name.

Used by the two loops that projectiond is compared with.  The set-up's ``_to_event`` gives an event its id, aggregate
and version; here it has its sequence number too, since a loop that keeps a checkpoint needs it.
"""

from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel

from bench import orders


class DomainEvent(BaseModel):
    """What all events have."""

    event_id: UUID
    aggregate_id: UUID
    version: int
    sequence_number: int


class OrderPlaced(DomainEvent, orders.OrderPlaced):
    """A customer has begun an order."""


class ItemAdded(DomainEvent, orders.ItemAdded):
    """Items have been put into an order."""


class OrderPaid(DomainEvent, orders.OrderPaid):
    """The customer has paid."""


class OrderShipped(DomainEvent, orders.OrderShipped):
    """The parcel is on its way."""


EVENT_REGISTRY: Final[dict[str, type[DomainEvent]]] = {
    kind.__name__: kind for kind in (OrderPlaced, ItemAdded, OrderPaid, OrderShipped)
}


def statements_of(event: DomainEvent) -> list[tuple[str, dict[str, Any]]]:
    """Give what the order summary executes for an event."""
    key = {"order_id": event.aggregate_id}
    match event:
        case OrderPlaced():
            return [(orders.PLACE, {**key, "customer_id": event.customer_id, "currency": event.currency})]
        case ItemAdded():
            cents = event.quantity * event.unit_price_cents
            return [(orders.ADD_ITEM, {**key, "quantity": event.quantity, "cents": cents})]
        case OrderPaid():
            return [
                (orders.PAY, {**key, "cents": event.amount_cents}),
                (orders.CREDIT_CUSTOMER, {"customer_id": event.customer_id, "cents": event.amount_cents}),
            ]
        case OrderShipped():
            return [(orders.SHIP, {**key, "carrier": event.carrier})]
    raise ValueError(f"no handler for {type(event).__name__}")
