"""Sells tickets as box_office.py does, with asyncio."""

import uuid

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from examples.sqlalchemy_app.concert import Concert, events_of
from projectiond.errors import ConcurrencyError
from projectiond.sqlalchemy import translate_conflicts_async

MOST_ATTEMPTS = 10


async def open_concert(sessions: async_sessionmaker[AsyncSession], seats: int) -> uuid.UUID:
    """Open a concert and give its id."""
    concert = Concert(uuid.uuid4())
    async with sessions() as session, session.begin():
        session.add(concert.open(seats))
    return concert.concert_id


async def sell(sessions: async_sessionmaker[AsyncSession], concert_id: uuid.UUID, holder: str, seats: int) -> uuid.UUID:
    """Sell a ticket and give its id; who was overtaken by another sale looks again and decides anew.

    Raises:
        SoldOutError: There are not so many seats left.
        ConcurrencyError: Others were faster, again and again.
    """
    attempt = 1
    while True:
        try:
            return await _sell_once(sessions, concert_id, holder, seats)
        except ConcurrencyError:
            if attempt == MOST_ATTEMPTS:
                raise
            attempt += 1


async def _sell_once(
    sessions: async_sessionmaker[AsyncSession], concert_id: uuid.UUID, holder: str, seats: int
) -> uuid.UUID:
    async with sessions() as session, translate_conflicts_async(session), session.begin():
        concert = Concert.from_events(concert_id, await session.scalars(events_of(concert_id)))
        ticket, event = concert.sell(holder, seats)
        session.add_all([ticket, event])
        return ticket.ticket_id
