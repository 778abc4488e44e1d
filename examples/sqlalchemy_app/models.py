"""The application's models: its own table, and the event store's beside it."""

import uuid

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from projectiond.sqlalchemy import EventStoreMixin


class Base(DeclarativeBase):
    """What all models of the application share."""


class EventStoreModel(EventStoreMixin, Base):
    """An event.  ``projectiond init`` makes the table."""


class Ticket(Base):
    """A ticket that was sold: the application's own truth, written together with its event."""

    __tablename__ = "tickets"

    ticket_id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    concert_id: Mapped[uuid.UUID] = mapped_column(index=True)
    holder: Mapped[str]
    seats: Mapped[int]
