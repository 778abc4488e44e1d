"""The box office of examples/sqlalchemy_app: its rows, its events and its projection always say the same."""

import asyncio
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import sessionmaker

from examples.sqlalchemy_app import box_office, box_office_async
from examples.sqlalchemy_app.concert import SoldOutError
from examples.sqlalchemy_app.models import Base
from examples.sqlalchemy_app.projections.seats_left import SeatsLeft
from projectiond.plugins.registry import load_projections
from tests.support.daemon import Daemon
from tests.support.postgres import Database
from tests.support.process import clean_environment
from tests.support.queries import Connection, value
from tests.support.sqlalchemy_engines import ASYNC_DRIVERS, async_engine_of, engine_of

pytestmark = pytest.mark.integration

EXAMPLE = Path(box_office.__file__).parent


@pytest.fixture
def engine(database: Database) -> Iterator[Engine]:
    engine = engine_of(database)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def conn(database: Database) -> Connection:
    return database.connect()


def sold(conn: Connection) -> tuple[int, int]:
    """Return how many seats were sold, by the application's rows and by its events."""
    return (
        value(conn, "SELECT coalesce(sum(seats), 0) FROM tickets"),
        value(
            conn,
            "SELECT coalesce(sum((event_data->>'seats')::int), 0) FROM event_store WHERE event_type = 'TicketSold'",
        ),
    )


def sell_by_threads(database: Database, seats: int, buyers: int) -> tuple[uuid.UUID, list[object]]:
    engine = engine_of(database)
    sessions = sessionmaker(engine)
    concert_id = box_office.open_concert(sessions, seats)

    def buy(number: int) -> object:
        try:
            return box_office.sell(sessions, concert_id, f"buyer {number}", 2)
        except SoldOutError as error:
            return error

    with ThreadPoolExecutor(3) as threads:
        outcomes = list(threads.map(buy, range(buyers)))
    engine.dispose()
    return concert_id, outcomes


def sell_by_tasks(driver: str) -> Callable[[Database, int, int], tuple[uuid.UUID, list[object]]]:
    async def sell(database: Database, seats: int, buyers: int) -> tuple[uuid.UUID, list[object]]:
        engine = async_engine_of(database, driver)
        sessions = async_sessionmaker(engine)
        concert_id = await box_office_async.open_concert(sessions, seats)
        outcomes: list[object] = []
        for first in range(0, buyers, 3):
            outcomes += await asyncio.gather(
                *(box_office_async.sell(sessions, concert_id, f"buyer {first + n}", 2) for n in range(3)),
                return_exceptions=True,
            )
        await engine.dispose()
        return concert_id, outcomes

    return lambda database, seats, buyers: asyncio.run(sell(database, seats, buyers))


@pytest.mark.parametrize("sell", [sell_by_threads, *map(sell_by_tasks, ASYNC_DRIVERS)], ids=["sync", *ASYNC_DRIVERS])
@pytest.mark.usefixtures("engine")
def test_no_seat_is_sold_twice_and_rows_events_and_projection_agree(
    sell: Callable[[Database, int, int], tuple[uuid.UUID, list[object]]],
    database: Database,
    conn: Connection,
) -> None:
    with Daemon(database, SeatsLeft) as daemon:
        concert_id, outcomes = sell(database, 20, 12)
        assert sum(isinstance(outcome, uuid.UUID) for outcome in outcomes) == 10
        assert sum(isinstance(outcome, SoldOutError) for outcome in outcomes) == 2
        assert sold(conn) == (20, 20)
        daemon.wait_until_at("seats_left", daemon.stored()[-1])
        assert conn.execute("SELECT * FROM seats_left").fetchall() == [(concert_id, 0)]


def test_a_sale_that_fails_leaves_neither_row_nor_event(engine: Engine, conn: Connection) -> None:
    sessions = sessionmaker(engine)
    concert_id = box_office.open_concert(sessions, 10)
    conn.execute("ALTER TABLE tickets ADD CHECK (holder <> 'mallory')")
    with pytest.raises(Exception, match="tickets_holder_check"):
        box_office.sell(sessions, concert_id, "mallory", 2)
    assert sold(conn) == (0, 0)
    box_office.sell(sessions, concert_id, "ann", 2)
    assert sold(conn) == (2, 2)
    assert value(conn, "SELECT max(version) FROM event_store") == 2


def test_the_example_runs_as_its_docstring_says(database: Database, conn: Connection) -> None:
    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=EXAMPLE.parents[1],
            env={
                **clean_environment(projections="examples/sqlalchemy_app/projections"),
                "DATABASE_URL": database.dsn,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("projectiond", "init")
    assert "8 were sold" in run("examples.sqlalchemy_app")
    run("projectiond", "catchup")
    assert value(conn, "SELECT seats FROM seats_left") == 92


def test_its_projections_have_no_fault() -> None:
    registry = load_projections([EXAMPLE / "projections"], {})
    assert [str(fault) for fault in registry.faults] == []
