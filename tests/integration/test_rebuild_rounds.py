"""Rebuilds under load, whose builders lose their sessions, are paused, called off or begun afresh at random moments.

A writer appends all the time, the live projection follows, and a reader looks about each millisecond, in a REPEATABLE
READ transaction, whether position and rows belong together.  PROJECTIOND_TEST_REBUILD_ROUNDS sets the number of rounds
(3; a hundred take some minutes); with -s it says how long the reader has waited at most.
"""

import os
import random
import threading
import time
from typing import Any

import psycopg
import pytest

from projectiond.operating import steering
from projectiond.postgres import database as databases
from projectiond.rebuild.builder import Result
from tests.support.builders import Running, build, make_builder
from tests.support.daemon import Daemon, journal
from tests.support.events import append, append_many
from tests.support.postgres import Database
from tests.support.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.any_server]

ROUNDS = int(os.environ.get("PROJECTIOND_TEST_REBUILD_ROUNDS", "3"))

TERMINATE = (
    b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    b" AND application_name IN ('projectiond/builder', 'projectiond/replay')"
)


class Reader(threading.Thread):
    """Looks at position and rows until told to end."""

    def __init__(self, database: Database) -> None:
        super().__init__(daemon=True)
        self._conn = database.connect(autocommit=False)
        self._conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        self.is_over = threading.Event()
        self.looks = 0
        self.longest_seconds = 0.0
        self.inconsistent: list[Any] = []

    def run(self) -> None:
        """Look and look again."""
        while not self.is_over.wait(0.001):
            began = time.monotonic()
            with self._conn.transaction():
                ((position,),) = self._conn.execute("SELECT last_sequence_number FROM projection_checkpoints")
                ((rows, total),) = self._conn.execute("SELECT count(*), coalesce(sum(sequence_number), 0) FROM journal")
                ((events, wanted),) = self._conn.execute(
                    "SELECT count(*), coalesce(sum(sequence_number), 0) FROM event_store WHERE sequence_number <= %s",
                    (position,),
                )
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
            self.looks += 1
            if (rows, total) != (events, wanted):
                self.inconsistent.append((position, rows, total, events, wanted))


class Writer(threading.Thread):
    """Appends until told to end."""

    def __init__(self, database: Database) -> None:
        super().__init__(daemon=True)
        self._conn = database.connect()
        self.is_over = threading.Event()

    def run(self) -> None:
        """Append one event after the other."""
        while not self.is_over.wait(0.02):
            append(self._conn, "OrderPlaced")


def disturb(what: str, database: Database, running: Running, admin: psycopg.Connection[Any]) -> None:
    with databases.connect(database.dsn, role="test", statement_timeout_seconds=30) as db:
        match what:
            case "kill":
                admin.execute(TERMINATE)
            case "pause":
                steering.pause(db, "journal")
                running.wait()
                steering.resume(db, "journal")
            case "afresh":
                steering.rebuild(db, "journal")
            case "call off":
                admin.execute("UPDATE projection_checkpoints SET status = 'running'")
            case _:
                running.builder.stop()


def test_whatever_happens_to_a_rebuild_the_rows_belong_to_the_position(database: Database) -> None:
    chance = random.Random(10)  # noqa: S311 -- load, not secrets
    append_many(database.connect(), 500)
    projection = journal("journal", batch_size=20, checkpoint_every=20, catchup_transaction_seconds=0.01)
    admin = database.connect()
    with Daemon(database, projection) as daemon:
        daemon.wait_until_at("journal", 300)
        writer, reader = Writer(database), Reader(database)
        for thread in (writer, reader):
            thread.start()
        for _ in range(ROUNDS):
            daemon.set_status("journal", "rebuilding")
            running = Running(make_builder(database, projection))
            running.start()
            time.sleep(chance.uniform(0, 0.4))
            disturb(chance.choice(["kill", "kill", "pause", "afresh", "call off", "stop"]), database, running, admin)
            running.wait(60)
            while daemon.checkpoint()["status"] != "running":
                # Busy while the server has not noticed yet that the last one's session has ended.
                assert build(database, projection) is not Result.FAILED
        for thread in (writer, reader):
            thread.is_over.set()
            thread.join(20)
        last = daemon.stored()[-1]
        daemon.wait_until_at("journal", last)
        assert sorted(daemon.applied()) == daemon.stored()
        eventually(lambda: daemon.ask(b"SELECT 1 FROM pg_namespace WHERE nspname LIKE 'projectiond%'") == [])
        assert daemon.ask(b"SELECT 1 FROM projection_rebuilds") == []
        assert reader.inconsistent == []
        assert reader.looks > ROUNDS
        print(f"{ROUNDS} rounds, {reader.looks} looks, the longest {1000 * reader.longest_seconds:.0f} ms")  # noqa: T201
