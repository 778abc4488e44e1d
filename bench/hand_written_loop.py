"""The hand-written loop: ``stream_all`` of the widely used set-up, by SQLAlchemy's asyncio, and a handler behind it.

Run by ``bench.race`` as ``python -m bench.hand_written_loop DSN DOMAIN``: applies what is there and prints its
seconds.  Model and ``stream_all`` are the set-up's, batch 100, with what they need to run at all: imports, the
attribute ``metadata`` by another name (SQLAlchemy reserves it), and the event's sequence number and time.  Around it
stands a decent version of the rest: one session, one transaction for every hundred events with their checkpoint in it,
statements compiled once.  The driver is psycopg, as projectiond's.
"""

# The set-up's models and store are not typed, and stay as they are.
# mypy: disable-error-code="misc, arg-type, assignment"

import asyncio
import sys
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Integer, String, TextClause, select, text
from sqlalchemy.dialects.postgresql import JSONB, UUID
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import declarative_base

from bench.domain import DOMAINS, Domain, DomainEvent
from bench.orders import CHECKPOINT_EVERY

NAME = "hand_written_loop"

Base: Any = declarative_base()


class EventStoreModel(Base):
    """The set-up's model."""

    __tablename__ = "event_store"

    event_id = Column(UUID(as_uuid=True), primary_key=True, default=uuid.uuid4)
    aggregate_id = Column(UUID(as_uuid=True), nullable=False, index=True)
    aggregate_type = Column(String(100), nullable=False)
    event_type = Column(String(100), nullable=False, index=True)
    event_data = Column(JSONB, nullable=False)
    metadata_ = Column("metadata", JSONB, default={})
    version = Column(Integer, nullable=False)
    sequence_number = Column(BigInteger, autoincrement=True)
    created_at = Column(DateTime, default=lambda: datetime.now(UTC))


class PostgresEventStore:
    """The set-up's event store, its reading half."""

    def __init__(
        self, session_factory: async_sessionmaker[AsyncSession], registry: dict[str, type[DomainEvent]]
    ) -> None:
        self.session_factory = session_factory
        self.registry = registry

    async def stream_all(self, after_sequence: int = 0, batch_size: int = 100) -> AsyncIterator[DomainEvent]:
        """Stream all events for projections."""
        async with self.session_factory() as session:
            current = after_sequence
            while True:
                result = await session.execute(
                    select(EventStoreModel)
                    .where(EventStoreModel.sequence_number > current)
                    .order_by(EventStoreModel.sequence_number)
                    .limit(batch_size)
                )
                rows = result.scalars().all()
                if not rows:
                    break

                for row in rows:
                    yield self._to_event(row)
                    current = row.sequence_number

    def _to_event(self, row: Any) -> DomainEvent:  # noqa: ANN401 - the set-up's models are untyped
        event_class = self.registry[row.event_type]
        return event_class(
            event_id=row.event_id,
            aggregate_id=row.aggregate_id,
            version=row.version,
            sequence_number=row.sequence_number,
            created_at=row.created_at,
            **row.event_data,
        )


@cache
def compiled(statement: str) -> TextClause:
    """Give the statement with SQLAlchemy's parameters."""
    return text(statement.replace("%(", ":").replace(")s", ""))


_READ_CHECKPOINT = text("SELECT last_sequence_number FROM projection_checkpoints WHERE projection_name = :name")

_MOVE_CHECKPOINT = text(
    """
    UPDATE projection_checkpoints
    SET last_sequence_number = :to, last_event_id = :event_id, last_processed_at = now(),
        events_processed = events_processed + :applied
    WHERE projection_name = :name
    """
)


async def project(session: AsyncSession, store: PostgresEventStore, domain: Domain) -> None:
    """Apply everything above the checkpoint."""
    position = (await session.execute(_READ_CHECKPOINT, {"name": NAME})).scalar_one()
    pending = 0
    event: DomainEvent | None = None
    async for event in store.stream_all(position):
        for statement, parameters in domain.statements_of(event):
            await session.execute(compiled(statement), parameters)
        pending += 1
        if pending == CHECKPOINT_EVERY:
            await _commit(session, event, pending)
            pending = 0
    if event is not None and pending:
        await _commit(session, event, pending)


async def _commit(session: AsyncSession, event: DomainEvent, applied: int) -> None:
    parameters = {"name": NAME, "to": event.sequence_number, "event_id": event.event_id, "applied": applied}
    await session.execute(_MOVE_CHECKPOINT, parameters)
    await session.commit()


async def main(dsn: str, domain: Domain) -> None:
    """Connect, then measure."""
    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+psycopg://", 1))
    factory = async_sessionmaker(engine, expire_on_commit=False)
    async with factory() as session:
        await session.execute(text("SELECT 1"))
        await session.rollback()
        began = time.perf_counter()
        await project(session, PostgresEventStore(factory, domain.registry), domain)
        print(time.perf_counter() - began)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], DOMAINS[sys.argv[2]]))
