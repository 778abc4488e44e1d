"""The lane of a worker: short passes of many projections in one thread, each with a transaction of its own."""

import threading
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import sql

from projectiond.event import Event
from projectiond.postgres.database import Connection
from projectiond.projection import BaseProjection
from projectiond.running import lane
from tests.support.daemon import Daemon, Effect, journal
from tests.support.events import append
from tests.support.postgres import Database
from tests.support.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.any_server]

NAMES = [f"journal_{number}" for number in range(5)]


def is_in_lane() -> bool:
    return threading.current_thread().name.startswith("lane")


def plugins(effect: Effect) -> list[type[BaseProjection]]:
    """Make journals, the first of which does something at events of the type "Bad"."""
    return [journal(NAMES[0], effect=effect), *map(journal, NAMES[1:])]


def apply_one(daemon: Daemon, conn: psycopg.Connection[Any], kind: str = "OrderPlaced", *names: str) -> int:
    """Append an event, and wait until all have applied it and wait for the next."""
    number = append(conn, kind)
    runners = daemon.worker._runners
    for name in names or NAMES:
        daemon.wait_until_at(name, number)
        eventually(partial(getattr, runners[name], "is_waiting"))
    return number


def share_a_thread(daemon: Daemon, conn: psycopg.Connection[Any]) -> None:
    """Append events until the lane takes all."""

    def is_lent() -> bool:
        apply_one(daemon, conn)
        return all(runner._probation.is_over for runner in daemon.worker._runners.values())

    eventually(is_lent)


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nobody take too long, however busy the machine is."""
    monkeypatch.setattr(lane, "PATIENCE_SECONDS", 30.0)


@pytest.mark.usefixtures("unhurried")
def test_each_projection_has_a_transaction_of_its_own_in_a_shared_thread(database: Database) -> None:
    conn = database.connect()
    places = []
    with Daemon(database, *plugins(lambda _event, _db: places.append(is_in_lane()))) as daemon:
        share_a_thread(daemon, conn)
        number = apply_one(daemon, conn, "Bad")
        assert places == [True]
        transactions = set()
        for name in NAMES:
            assert daemon.applied(name) == daemon.stored()
            assert daemon.checkpoint(name)["processed"] == number
            query = sql.SQL("SELECT xmin::text FROM {} ORDER BY place DESC LIMIT 1").format(sql.Identifier(name))
            transactions.add(daemon.ask(query)[0][0])
        assert len(transactions) == len(NAMES)


def test_a_handler_that_hangs_in_the_lane_holds_up_its_own_projection_alone(database: Database) -> None:
    conn = database.connect()
    is_over = threading.Event()

    def hang(_event: Event, _db: Connection) -> None:
        is_over.wait(60)

    with Daemon(database, *plugins(hang)) as daemon:
        try:
            share_a_thread(daemon, conn)
            for kind in ("Bad", "OrderPlaced", "OrderPlaced"):
                number = apply_one(daemon, conn, kind, *NAMES[1:])
            assert daemon.checkpoint(NAMES[0])["position"] == number - 3
        finally:
            is_over.set()
        daemon.wait_until_at(NAMES[0], number)
        assert not daemon.worker._runners[NAMES[0]]._probation.is_over
        for name in NAMES:
            assert daemon.applied(name) == daemon.stored()


def test_an_event_that_fails_in_the_lane_pauses_its_own_projection_alone(database: Database) -> None:
    conn = database.connect()

    def fail(_event: Event, _db: Connection) -> None:
        raise ValueError("no such order")

    with Daemon(database, *plugins(fail)) as daemon:
        share_a_thread(daemon, conn)
        number = apply_one(daemon, conn, "Bad", *NAMES[1:])
        row = daemon.wait_for_status(NAMES[0], "paused")
        assert row["position"] == number - 1
        assert "no such order" in row["error"]
        apply_one(daemon, conn, "OrderPlaced", *NAMES[1:])


@pytest.mark.usefixtures("unhurried")
def test_a_handler_that_belongs_to_one_thread_goes_back_to_its_own(database: Database) -> None:
    conn = database.connect()
    places = []

    def refuse_other_threads(_event: Event, _db: Connection) -> None:
        places.append(is_in_lane())
        if is_in_lane():
            raise RuntimeError("objects of one thread can only be used in that one")

    with Daemon(database, *plugins(refuse_other_threads)) as daemon:
        share_a_thread(daemon, conn)
        for _ in range(3):
            apply_one(daemon, conn, "Bad")
        assert places.count(True) == 1
        assert daemon.applied(NAMES[0]) == daemon.stored()
        runner = daemon.worker._runners[NAMES[0]]
        assert runner._stepper.pipelining.is_on
        assert not runner._may_be_lent()


def test_a_worker_whose_lane_is_at_fault_ends(database: Database) -> None:
    daemon = Daemon(database, journal("journal"))
    worker = daemon.worker
    worker._lanes[1].is_sound = False
    with pytest.raises(RuntimeError, match="lane"):
        worker.run()
    # What the end of its process would do.
    worker._shut_down()
    daemon.recorder.close()
    daemon._own_log.close()
