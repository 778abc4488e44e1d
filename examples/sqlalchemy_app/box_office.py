"""Sells tickets, one transaction each: the ticket's row and its event are committed together or not at all."""

import uuid

from sqlalchemy.orm import Session, sessionmaker

from examples.sqlalchemy_app.concert import Concert, events_of
from projectiond.errors import ConcurrencyError
from projectiond.sqlalchemy import translate_conflicts

MOST_ATTEMPTS = 10


def open_concert(sessions: sessionmaker[Session], seats: int) -> uuid.UUID:
    """Open a concert and give its id."""
    concert = Concert(uuid.uuid4())
    with sessions() as session, session.begin():
        session.add(concert.open(seats))
    return concert.concert_id


def sell(sessions: sessionmaker[Session], concert_id: uuid.UUID, holder: str, seats: int) -> uuid.UUID:
    """Sell a ticket and give its id; who was overtaken by another sale looks again and decides anew.

    Raises:
        SoldOutError: There are not so many seats left.
        ConcurrencyError: Others were faster, again and again.
    """
    attempt = 1
    while True:
        try:
            return _sell_once(sessions, concert_id, holder, seats)
        except ConcurrencyError:
            if attempt == MOST_ATTEMPTS:
                raise
            attempt += 1


def _sell_once(sessions: sessionmaker[Session], concert_id: uuid.UUID, holder: str, seats: int) -> uuid.UUID:
    with sessions() as session, translate_conflicts(session), session.begin():
        concert = Concert.from_events(concert_id, session.scalars(events_of(concert_id)))
        ticket, event = concert.sell(holder, seats)
        session.add_all([ticket, event])
        return ticket.ticket_id
