"""A concert: its state is what its events add up to, and every decision is made on it.

No database here, so that both box offices share it and its tests need none.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import Select, select

from examples.sqlalchemy_app.models import EventStoreModel, Ticket


class SoldOutError(Exception):
    """There are not so many seats left."""


@dataclass(slots=True)
class Concert:
    """A concert at a version."""

    concert_id: uuid.UUID
    version: int = 0
    seats_left: int = 0

    @classmethod
    def from_events(cls, concert_id: uuid.UUID, events: Iterable[EventStoreModel]) -> Self:
        """Add the events up, in order of their versions."""
        concert = cls(concert_id)
        for event in events:
            concert.version = event.version
            match event.event_type:
                case "ConcertOpened":
                    concert.seats_left = event.event_data["seats"]
                case "TicketSold":
                    concert.seats_left -= event.event_data["seats"]
        return concert

    def open(self, seats: int) -> EventStoreModel:
        """Give the event that the concert was opened."""
        return self._event("ConcertOpened", {"seats": seats})

    def sell(self, holder: str, seats: int) -> tuple[Ticket, EventStoreModel]:
        """Give a ticket, and the event that it was sold.

        Raises:
            SoldOutError: There are not so many seats left.
        """
        if seats > self.seats_left:
            raise SoldOutError(f"{self.seats_left} seats are left, {seats} were wanted")
        ticket = Ticket(ticket_id=uuid.uuid4(), concert_id=self.concert_id, holder=holder, seats=seats)
        return ticket, self._event("TicketSold", {"ticket_id": str(ticket.ticket_id), "seats": seats})

    def _event(self, event_type: str, data: dict[str, Any]) -> EventStoreModel:
        return EventStoreModel(
            aggregate_id=self.concert_id,
            aggregate_type="Concert",
            event_type=event_type,
            event_data=data,
            metadata={"application": "box office"},
            version=self.version + 1,
        )


def events_of(concert_id: uuid.UUID) -> Select[EventStoreModel]:
    """Give the query of a concert's stream."""
    return select(EventStoreModel).where(EventStoreModel.aggregate_id == concert_id).order_by(EventStoreModel.version)
