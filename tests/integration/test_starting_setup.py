"""The event store class that the widely used set-up comes with, on our models: only its imports are other ones.

Its three methods stand here as teams have them.  What these do wrong is told in docs/schema-decisions.md, and what can
be shown of it is shown below; what they do right has to go on working.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

import pytest
from pydantic import BaseModel, Field
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from projectiond import errors
from projectiond.sqlalchemy import EventStoreModel, translate_conflicts_async
from tests.support.daemon import Daemon, journal
from tests.support.events import append
from tests.support.postgres import Database
from tests.support.queries import Connection
from tests.support.sqlalchemy_engines import ASYNC_DRIVERS, async_engine_of
from tests.support.starting_schema import MONITORING_QUERIES

pytestmark = pytest.mark.integration


class DomainEvent(BaseModel):
    """What the class expects of an event: the envelope is no part of the data."""

    aggregate_type: ClassVar[str] = "Account"

    event_id: UUID = Field(default_factory=uuid.uuid4, exclude=True)
    aggregate_id: UUID | None = Field(default=None, exclude=True)
    version: int = Field(default=0, exclude=True)
    metadata: dict[str, Any] = Field(default_factory=dict, exclude=True)

    @property
    def event_type(self) -> str:
        return type(self).__name__


class Deposited(DomainEvent):
    cents: int
    booked_at: datetime


class Closed(DomainEvent):
    reason: str


EVENT_REGISTRY: dict[str, type[DomainEvent]] = {"Deposited": Deposited, "Closed": Closed}


class PostgresEventStore:
    def __init__(self, session_factory: async_sessionmaker[AsyncSession]) -> None:
        self.session_factory = session_factory

    async def append(self, aggregate_id: UUID, events: list[DomainEvent], expected_version: int) -> None:
        async with self.session_factory() as session:  # noqa: SIM117 -- as teams have it
            async with session.begin():
                current = await self._get_version(session, aggregate_id)
                if current != expected_version:
                    raise ConcurrencyError(f"Expected version {expected_version}, got {current}")
                for i, event in enumerate(events):
                    session.add(
                        EventStoreModel(
                            event_id=event.event_id,
                            aggregate_id=aggregate_id,
                            aggregate_type=event.aggregate_type,
                            event_type=event.event_type,
                            event_data=event.model_dump(mode="json"),
                            metadata=event.metadata,
                            version=expected_version + i + 1,
                        )
                    )

    async def get_events(self, aggregate_id: UUID, after_version: int = 0) -> list[DomainEvent]:
        async with self.session_factory() as session:
            result = await session.execute(
                select(EventStoreModel)
                .where(EventStoreModel.aggregate_id == aggregate_id)
                .where(EventStoreModel.version > after_version)
                .order_by(EventStoreModel.version)
            )
            rows = result.scalars().all()
            return [self._to_event(row) for row in rows]

    async def stream_all(self, after_sequence: int = 0, batch_size: int = 100) -> AsyncIterator[DomainEvent]:
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

    async def _get_version(self, session: AsyncSession, aggregate_id: UUID) -> int:
        result = await session.execute(
            select(func.max(EventStoreModel.version)).where(EventStoreModel.aggregate_id == aggregate_id)
        )
        return result.scalar() or 0

    def _to_event(self, row: EventStoreModel) -> DomainEvent:
        event_class = EVENT_REGISTRY.get(row.event_type)
        assert event_class is not None
        return event_class(event_id=row.event_id, aggregate_id=row.aggregate_id, version=row.version, **row.event_data)


class ConcurrencyError(Exception):
    pass


class MendedEventStore(PostgresEventStore):
    """The same with the one line that makes the constraint's verdict the error that callers expect."""

    async def append(self, aggregate_id: UUID, events: list[DomainEvent], expected_version: int) -> None:
        async with self.session_factory() as session, translate_conflicts_async(session), session.begin():
            session.add_all(
                EventStoreModel(
                    event_id=event.event_id,
                    aggregate_id=aggregate_id,
                    aggregate_type=event.aggregate_type,
                    event_type=event.event_type,
                    event_data=event.model_dump(mode="json"),
                    metadata=event.metadata,
                    version=expected_version + i + 1,
                )
                for i, event in enumerate(events)
            )


def deposited(cents: int, **metadata: str) -> Deposited:
    return Deposited(cents=cents, booked_at=datetime(2026, 3, 1, 12, tzinfo=UTC), metadata=metadata)


Story = Callable[[async_sessionmaker[AsyncSession]], Coroutine[Any, Any, None]]


@pytest.fixture(params=ASYNC_DRIVERS)
def run(request: pytest.FixtureRequest, database: Database) -> Callable[[Story], None]:
    """Run a coroutine with a factory of sessions, by each driver."""

    async def told(story: Story) -> None:
        engine = async_engine_of(database, request.param)
        try:
            await story(async_sessionmaker(engine, expire_on_commit=False))
        finally:
            await engine.dispose()

    return lambda story: asyncio.run(told(story))


@pytest.fixture
def conn(database: Database) -> Connection:
    return database.connect()


def test_what_was_appended_is_loaded_again(run: Callable[[Story], None], conn: Connection) -> None:
    account = uuid.uuid4()
    written = [deposited(100, user="ann"), deposited(50), Closed(reason="moved")]

    async def story(sessions: async_sessionmaker[AsyncSession]) -> None:
        store = PostgresEventStore(sessions)
        await store.append(account, written[:2], expected_version=0)
        await store.append(account, written[2:], expected_version=2)
        loaded = await store.get_events(account)
        assert [(type(event), event.event_id, event.version) for event in loaded] == [
            (type(event), event.event_id, place) for place, event in enumerate(written, 1)
        ]
        assert isinstance(loaded[0], Deposited)
        assert (loaded[0].cents, loaded[0].booked_at) == (100, datetime(2026, 3, 1, 12, tzinfo=UTC))
        assert [event.version for event in await store.get_events(account, after_version=2)] == [3]
        assert await store.get_events(uuid.uuid4()) == []

    run(story)
    rows = conn.execute(
        "SELECT sequence_number, metadata, now() - created_at FROM event_store ORDER BY sequence_number"
    ).fetchall()
    assert [row[:2] for row in rows] == [(1, {"user": "ann"}), (2, {}), (3, {})]
    assert all(abs(age) < timedelta(minutes=5) for *_, age in rows)


def test_all_events_are_streamed_in_order_over_several_batches(run: Callable[[Story], None]) -> None:
    async def story(sessions: async_sessionmaker[AsyncSession]) -> None:
        store = PostgresEventStore(sessions)
        accounts = [uuid.uuid4() for _ in range(3)]
        for place in range(4):
            for account in accounts:
                await store.append(account, [deposited(place)], expected_version=place)
        streamed = [(event.aggregate_id, event.version) async for event in store.stream_all(batch_size=5)]
        assert streamed == [(account, place) for place in range(1, 5) for account in accounts]
        assert len([event async for event in store.stream_all(after_sequence=10)]) == 2
        assert [event async for event in store.stream_all(after_sequence=12)] == []

    run(story)


def test_its_own_check_finds_a_version_that_was_taken_before(run: Callable[[Story], None]) -> None:
    async def story(sessions: async_sessionmaker[AsyncSession]) -> None:
        store, account = PostgresEventStore(sessions), uuid.uuid4()
        await store.append(account, [deposited(1), deposited(2)], expected_version=0)
        with pytest.raises(ConcurrencyError, match="Expected version 1, got 2"):
            await store.append(account, [deposited(3)], expected_version=1)
        assert len(await store.get_events(account)) == 2

    run(story)


def test_two_at_once_pass_its_check_and_the_constraint_decides(run: Callable[[Story], None]) -> None:
    async def race(sessions: async_sessionmaker[AsyncSession], account: UUID) -> list[BaseException | None]:
        both_have_looked = asyncio.Barrier(2)

        class Racing(PostgresEventStore):
            async def _get_version(self, session: AsyncSession, aggregate_id: UUID) -> int:
                version = await super()._get_version(session, aggregate_id)
                await both_have_looked.wait()
                return version

        racer = Racing(sessions)
        appends = (racer.append(account, [deposited(n)], expected_version=0) for n in range(2))
        return await asyncio.gather(*appends, return_exceptions=True)

    async def story(sessions: async_sessionmaker[AsyncSession]) -> None:
        account = uuid.uuid4()
        outcome = await race(sessions, account)
        assert sorted(type(error).__name__ for error in outcome) == ["IntegrityError", "NoneType"]
        assert len(await PostgresEventStore(sessions).get_events(account)) == 1

    run(story)


def test_the_mended_append_says_concurrency_error_however_the_writers_met(run: Callable[[Story], None]) -> None:
    async def story(sessions: async_sessionmaker[AsyncSession]) -> None:
        store, account = MendedEventStore(sessions), uuid.uuid4()
        outcome = await asyncio.gather(
            *(store.append(account, [deposited(n), deposited(n)], expected_version=0) for n in range(4)),
            return_exceptions=True,
        )
        conflicts = [error for error in outcome if isinstance(error, errors.ConcurrencyError)]
        assert len(conflicts) == 3
        assert outcome.count(None) == 1
        for conflict in conflicts:
            assert (conflict.aggregate_id, conflict.expected_version, conflict.actual_version) == (account, 0, 2)
            assert isinstance(conflict.__cause__, IntegrityError)
        await store.append(account, [Closed(reason="done")], expected_version=2)

    run(story)


def test_what_it_appends_reaches_the_projections(run: Callable[[Story], None], database: Database) -> None:
    async def story(sessions: async_sessionmaker[AsyncSession]) -> None:
        store, account = PostgresEventStore(sessions), uuid.uuid4()
        await store.append(account, [deposited(1), deposited(2)], expected_version=0)
        with pytest.raises(ConcurrencyError):
            await store.append(account, [deposited(3)], expected_version=0)
        await store.append(account, [Closed(reason="moved")], expected_version=2)

    # Found because the trigger woke it: it never polls.
    with Daemon(database, journal()) as daemon:
        run(story)
        daemon.wait_until_at("journal", 3)
        assert daemon.applied() == daemon.stored()
        assert len(daemon.applied()) == 3


def test_its_monitoring_queries_run_and_agree_with_what_is_there(conn: Connection) -> None:
    lag, per_day, most_active = MONITORING_QUERIES
    conn.execute("INSERT INTO projection_checkpoints (projection_name) VALUES ('orders')")
    assert [row[:2] for row in conn.execute(lag)] == [("orders", None)]
    assert conn.execute(per_day).fetchall() == conn.execute(most_active).fetchall() == []
    busy, quiet = uuid.uuid4(), uuid.uuid4()
    for aggregate_id in (busy, quiet, busy):
        append(conn, "Counted", aggregate_id=aggregate_id)
    assert [row[:2] for row in conn.execute(lag)] == [("orders", 3)]
    assert [row[1:] for row in conn.execute(per_day)] == [(3, 2)]
    assert conn.execute(most_active).fetchall() == [(busy, "Order", 2), (quiet, "Order", 1)]
