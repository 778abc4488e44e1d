"""Opens a concert, and sells tickets for it in both ways."""

import asyncio
import os
import uuid

from sqlalchemy import create_engine, make_url
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

from examples.sqlalchemy_app import box_office, box_office_async
from examples.sqlalchemy_app.models import Base

URL = make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+psycopg")


def main() -> uuid.UUID:
    """Sell a ticket, and give the concert's id."""
    engine = create_engine(URL)
    # Makes the application's tables; event_store is there since "projectiond init", and is passed over.
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    concert_id = box_office.open_concert(sessions, seats=100)
    box_office.sell(sessions, concert_id, "ann", seats=2)
    engine.dispose()
    return concert_id


async def main_async(concert_id: uuid.UUID) -> None:
    """Sell two tickets at once."""
    engine = create_async_engine(URL)
    sessions = async_sessionmaker(engine)
    await asyncio.gather(*(box_office_async.sell(sessions, concert_id, holder, seats=3) for holder in ("bob", "eve")))
    await engine.dispose()


concert = main()
asyncio.run(main_async(concert))
print(f"of 100 seats of the concert {concert} 8 were sold")  # noqa: T201 - the example's result
