"""A pool goes on trying at short intervals, however long the database has been away."""

import logging
import time
from contextlib import closing
from typing import Any

import psycopg
import psycopg_pool
import pytest

from projectiond.postgres import database as database_module
from projectiond.postgres.connection import Connection
from tests.support.daemon import Daemon, journal
from tests.support.events import append
from tests.support.postgres import Database
from tests.support.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.any_server]


def test_a_runner_that_waits_for_a_connection_gets_one_soon_after_the_pool_has_given_up(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []
    is_refusing = True
    connect = Connection.connect

    def connect_or_not(dsn: str, **kwargs: Any) -> Connection:  # noqa: ANN401 - as psycopg has it
        if is_refusing and kwargs["application_name"] == "projectiond/runner":
            refused.append(dsn)
            raise psycopg.OperationalError("sorry, too many clients already")
        return connect(dsn, **kwargs)

    monkeypatch.setattr(Connection, "connect", connect_or_not)
    # As psycopg's pause is after an outage of many minutes.
    monkeypatch.setattr(psycopg_pool.base.AttemptWithBackoff, "INITIAL_DELAY", 200.0)
    monkeypatch.setattr(database_module, "LONGEST_RECONNECT_SECONDS", 0.2)
    with Daemon(database, journal()) as daemon:
        # The second of them is the end of an attempt: the pool has given up, while a runner waits in its queue.
        eventually(lambda: len(refused) > 3)
        is_refusing = False
        daemon.wait_until_at("journal", append(database.connect(), "OrderPlaced"))


def test_a_pool_whose_thread_is_held_up_while_it_asks_begins_anew_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a busy machine a thread may wait for the interpreter between any two of its steps."""
    refused: list[str] = []

    def refuse(dsn: str, **_: object) -> Connection:
        refused.append(dsn)
        raise psycopg.OperationalError("sorry, too many clients already")

    def hold_up(record: logging.LogRecord) -> bool:
        if record.msg.startswith("connection requested"):
            time.sleep(0.02)
        return True

    monkeypatch.setattr(Connection, "connect", refuse)
    monkeypatch.setattr(database_module, "LONGEST_RECONNECT_SECONDS", 0.01)
    monkeypatch.setattr(logging.getLogger("psycopg.pool"), "filters", [hold_up])
    caplog.set_level("INFO", "psycopg.pool")
    with closing(database_module.open_pool("", role="runner", statement_timeout_seconds=1, size=2)):
        eventually(lambda: len(refused) > 6, 10, "the pool has given up")
