"""Readings of the database: one for all who ask, few statements, the last one while it hangs; and all who wait."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
from psycopg import sql
from pydantic import SecretStr

from projectiond import sql as statement_texts
from projectiond.errors import (
    ConfigurationError,
    DatabaseUnavailableError,
    ProjectionPausedError,
    WaitTimeoutError,
)
from projectiond.http import readings as readings_module
from projectiond.http import session
from projectiond.http import waiters as waiters_module
from projectiond.http.crew import Crew
from projectiond.http.readings import CACHE_SECONDS, Reading, Readings
from projectiond.http.waiters import Outcome, TooManyWaitersError, Waiters
from projectiond.postgres.database import Connection
from projectiond.settings import Settings
from projectiond.waiting import wait as waiting
from tests.support.events import append
from tests.support.postgres import Database
from tests.support.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.any_server]

Ask = Callable[[], Reading]


@pytest.fixture
def readings(database: Database) -> Iterator[Readings]:
    readings = Readings(Settings(database_url=SecretStr(database.dsn)), Crew)
    yield readings
    readings.stop()


@pytest.fixture
def waiters(database: Database) -> Iterator[Waiters]:
    waiters = Waiters(Settings(database_url=SecretStr(database.dsn)))
    yield waiters
    waiters.stop()


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Note every statement that a connection of ours executes."""
    noted: list[object] = []
    execute: Callable[..., object] = Connection.execute

    def note(self: Connection, query: object, *args: object, **kwargs: object) -> object:
        noted.append(query)
        return execute(self, query, *args, **kwargs)

    monkeypatch.setattr(Connection, "execute", note)
    return noted


def enroll(database: Database, name: str, position: int, status: str = "running", error: str | None = None) -> None:
    database.connect().execute(
        "INSERT INTO projection_checkpoints (projection_name, last_sequence_number, status, error_message)"
        " VALUES (%s, %s, %s, %s)",
        (name, position, status, error),
    )


def connections(database: Database, role: str) -> int:
    query = sql.SQL("SELECT count(*) FROM pg_stat_activity WHERE application_name = {}")
    row = database.connect().execute(query.format(f"projectiond/{role}")).fetchone()
    assert row is not None
    return int(row[0])


def terminate(database: Database, role: str) -> None:
    query = sql.SQL("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = {}")
    database.connect().execute(query.format(f"projectiond/{role}"))


class TestReadings:
    def test_a_hundred_who_ask_at_once_get_one_reading_of_few_statements(
        self, readings: Readings, database: Database, statements: list[object]
    ) -> None:
        enroll(database, "orders", 0)
        append(database.connect(), "Placed")

        async def ask() -> Sequence[Reading]:
            first = await asyncio.gather(*(readings.get() for _ in range(100)))
            return [*first, *[await readings.get() for _ in range(100)]]

        found = asyncio.run(ask())
        assert all(reading is found[0] for reading in found)
        (state,) = found[0].overview.projections if found[0].overview else ()
        assert (state.name, state.lag) == ("orders", 1)
        assert state.lag_seconds is not None
        assert state.lag_seconds > 0
        # Two of them configure the session, once.
        assert len(statements) - 2 <= 5
        assert connections(database, "http") == 1

    def test_while_the_mark_is_held_a_reading_names_who_holds_it_by_some_more_statements(
        self, readings: Readings, database: Database, statements: list[object]
    ) -> None:
        with database.connect(autocommit=False) as writer:
            append(writer, "Placed")
            append(database.connect(), "Placed")
            reading = asyncio.run(readings.get())
            assert reading.overview is not None
            assert reading.overview.hold is not None
            assert f"pid {writer.info.backend_pid}" in reading.overview.hold.holders[0]
            assert len(statements) - 2 <= 10
            assert readings._next_at - time.monotonic() > CACHE_SECONDS

    def test_who_looks_on_gets_a_newer_one_sooner(self, readings: Readings) -> None:
        async def story() -> None:
            first = await readings.get()
            readings._next_live_at = 0.0
            assert await readings.get() is first
            assert await readings.get(is_live=True) is not first

        asyncio.run(story())

    def test_the_schema_is_looked_at_when_somebody_wants_to_know(self, readings: Readings, database: Database) -> None:
        assert asyncio.run(readings.get()).schema_faults is None
        readings._next_at = readings._next_live_at = 0.0
        assert asyncio.run(readings.get(with_schema=True)).schema_faults == []
        database.connect().execute("DROP TRIGGER projectiond_ring_doorbell ON event_store")
        readings._next_at = readings._next_live_at = 0.0
        readings._inspected_at = None
        faults = asyncio.run(readings.get(with_schema=True)).schema_faults
        assert faults
        assert "projectiond init" in faults[0]

    def test_while_the_database_hangs_the_last_reading_is_given_and_said_to_be_old(
        self, readings: Readings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        released = threading.Event()
        take = readings._take

        def hang() -> Reading:
            released.wait(10)
            return take()

        async def story() -> tuple[Reading, Reading, Reading]:
            good = await readings.get()
            monkeypatch.setattr(readings_module, "PATIENCE_SECONDS", 0.05)
            monkeypatch.setattr(readings, "_take", hang)
            readings._next_at = readings._next_live_at = 0.0
            return good, await readings.get(), await readings.get()

        good, *hanging = asyncio.run(story())
        assert good.error == ""
        for reading in hanging:
            assert reading.overview is good.overview
            assert reading.error.startswith("the database has not answered for ")
            assert reading.was_away(time.monotonic())
        released.set()
        eventually(lambda: readings.current().error == "", 5, "it did not go on")
        # Who was hung up gets some time to go on as well.
        assert readings.current().was_away(time.monotonic())
        assert not replace(readings.current(), failed_at=None).was_away(time.monotonic())

    def test_a_connection_of_before_a_restart_is_no_outage(self, readings: Readings, database: Database) -> None:
        assert asyncio.run(readings.get()).error == ""
        terminate(database, "http")
        readings._next_at = readings._next_live_at = 0.0
        reading = asyncio.run(readings.get())
        assert (reading.error, reading.failed_at) == ("", None)

    def test_a_created_at_without_a_time_breaks_nothing(self, readings: Readings, database: Database) -> None:
        enroll(database, "orders", 0)
        conn = database.connect()
        append(conn, "Placed")
        conn.execute("UPDATE event_store SET created_at = 'infinity'")
        reading = asyncio.run(readings.get())
        assert reading.overview is not None
        assert reading.overview.projections[0].lag_seconds is None


class TestWaiters:
    def wait(self, waiters: Waiters, name: str, number: int, seconds: float = 5.0) -> Outcome:
        return asyncio.run(waiters.wait(name, number, seconds))

    def test_a_position_that_has_arrived_is_given(self, waiters: Waiters, database: Database) -> None:
        number = append(database.connect(), "Placed")
        enroll(database, "orders", number)
        assert self.wait(waiters, "orders", number) == Outcome(number, None)

    def test_a_number_that_was_rolled_back_counts_as_reached(self, waiters: Waiters, database: Database) -> None:
        number = append(database.connect(), "Placed")
        enroll(database, "orders", number)
        with database.connect(autocommit=False) as conn:
            burnt = append(conn, "Placed")
            conn.rollback()
        assert self.wait(waiters, "orders", burnt) == Outcome(number, None)

    @pytest.mark.parametrize(
        ("name", "kind"),
        [("late", WaitTimeoutError), ("paused", ProjectionPausedError), ("nope", ConfigurationError)],
    )
    def test_what_does_not_arrive_says_what_wait_for_says(
        self, waiters: Waiters, database: Database, name: str, kind: type[Exception]
    ) -> None:
        number = append(database.connect(), "Placed")
        enroll(database, "late", 0)
        enroll(database, "paused", 0, "paused", "it was bad")
        with pytest.raises(kind) as expected:
            waiting.wait_for(database.dsn, name, number, 0.05)
        outcome = self.wait(waiters, name, number, 0.05)
        assert type(outcome.error) is kind
        assert str(outcome.error) == str(expected.value)
        assert outcome.position == (None if name == "nope" else 0)

    def test_many_wait_over_one_connection_and_arrive_together(
        self, waiters: Waiters, database: Database, statements: list[object]
    ) -> None:
        conn = database.connect()
        number = append(conn, "Placed")
        enroll(database, "orders", 0)

        def asked_for_themselves() -> int:
            return statements.count(statement_texts.arrival.ARRIVAL_FACTS)

        async def story() -> tuple[list[Outcome], int]:
            waits = [asyncio.create_task(waiters.wait("orders", number, 10)) for _ in range(100)]
            await asyncio.to_thread(eventually, lambda: asked_for_themselves() >= 100, 10, "not all have asked")
            # What they ask for again and again they ask for together.
            assert statements.count(statement_texts.checkpoint.READ_CHECKPOINT) < 50
            held = connections(database, "http-wait")
            conn.execute("UPDATE projection_checkpoints SET last_sequence_number = %s", (number,))
            return await asyncio.gather(*waits), held

        outcomes, held = asyncio.run(story())
        assert outcomes == [Outcome(number, None)] * 100
        assert held == 1
        assert len(waiters) == 0
        assert asked_for_themselves() == 200

    def test_there_are_no_more_than_may_be(
        self, waiters: Waiters, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(waiters_module, "MOST_WAITERS", 2)
        enroll(database, "orders", 0)
        number = append(database.connect(), "Placed")

        async def story() -> None:
            waits = [asyncio.create_task(waiters.wait("orders", number, 10)) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(TooManyWaitersError):
                await waiters.wait("orders", number, 10)
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
            assert len(waiters) == 0
            assert (await waiters.wait("orders", number, 0)).error is not None

        asyncio.run(story())

    def test_a_server_that_is_away_is_asked_once_for_all_who_wait(
        self, waiters: Waiters, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        attempts: list[None] = []

        def refuse(*_: object, **__: object) -> Connection:
            attempts.append(None)
            raise DatabaseUnavailableError("no route to it")

        async def story() -> list[Outcome]:
            waits = [asyncio.create_task(waiters.wait("orders", 1, 10)) for _ in range(50)]
            return await asyncio.gather(*waits)

        monkeypatch.setattr(session, "connect", refuse)
        outcomes = asyncio.run(story())
        assert {str(outcome.error) for outcome in outcomes} == {"no route to it"}
        assert len(attempts) <= 5

    def test_what_the_database_refuses_to_one_it_does_not_refuse_to_others(
        self, waiters: Waiters, database: Database
    ) -> None:
        number = append(database.connect(), "Placed")
        enroll(database, "orders", number)

        async def story() -> tuple[Outcome, Outcome]:
            # PostgreSQL takes no text with that.
            return await asyncio.gather(waiters.wait("\x00", 1, 5), waiters.wait("orders", number, 5))

        refused, arrived = asyncio.run(story())
        assert str(refused.error).startswith("the database refuses to answer: DataError")
        assert arrived == Outcome(number, None)

    def test_a_connection_that_breaks_is_made_anew(self, waiters: Waiters, database: Database) -> None:
        number = append(database.connect(), "Placed")
        enroll(database, "orders", number)
        for _ in range(2):
            assert self.wait(waiters, "orders", number).error is None
            terminate(database, "http-wait")

    def test_a_database_that_hangs_ends_the_wait_in_time(
        self, waiters: Waiters, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(waiters_module, "GRACE_SECONDS", 0.05)
        released = threading.Event()
        monkeypatch.setattr(waiters, "_ask", lambda _: released.wait(10))
        enroll(database, "orders", 0)
        outcome = self.wait(waiters, "orders", 1, 0.05)
        assert isinstance(outcome.error, DatabaseUnavailableError)
        released.set()
