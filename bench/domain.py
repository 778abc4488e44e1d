"""Events as the starting set-up has them: a pydantic class for each type, and a registry by name.

Used by the two loops that projectiond is compared with.  The set-up's ``_to_event`` gives an event its id, aggregate
and version; here it has its sequence number too, since a loop that keeps a checkpoint needs it, and its time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Final
from uuid import UUID

from pydantic import BaseModel

from bench import loans, orders


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


class LoanEvent(DomainEvent, loans.LoanEvent):
    """Something was done with a loan application; each type is a class of its own."""

    event_type: ClassVar[str]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Domain:
    """Events of one kind of aggregate, and what the read model executes for each."""

    registry: dict[str, type[DomainEvent]]
    statements_of: Callable[[Any], list[tuple[str, dict[str, Any]]]]
    needs_time: bool


def _statements_of_order(event: DomainEvent) -> list[tuple[str, dict[str, Any]]]:
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


def _statements_of_loan(event: LoanEvent) -> list[tuple[str, dict[str, Any]]]:
    summary = {
        "application_id": event.aggregate_id,
        "status": event.event_type if event.event_type.startswith("A_") else None,
        "amount": event.amount_req,
        "offers": int(event.event_type == "O_SENT"),
        "work_steps": int(event.event_type.startswith("W_")),
        "last_activity": event.created_at,
    }
    activity = {"day": event.created_at.astimezone(UTC).date(), "event_type": event.event_type}
    return [(loans.SUMMARISE, summary), (loans.COUNT, activity)]


def _loan_event(event_type: str) -> type[DomainEvent]:
    return type(event_type, (LoanEvent,), {"__module__": __name__, "event_type": event_type})


DOMAINS: Final = {
    "orders": Domain(
        {kind.__name__: kind for kind in (OrderPlaced, ItemAdded, OrderPaid, OrderShipped)},
        _statements_of_order,
        needs_time=False,
    ),
    "loans": Domain({name: _loan_event(name) for name in loans.EVENT_TYPES}, _statements_of_loan, needs_time=True),
}
