"""A real event log: 262,200 events of 13,087 loan applications (BPI Challenge 2012, doi 10.4121/uuid:3926db30-f712-…).

It is not ours to ship.  Tests use the file that PROJECTIOND_TEST_EVENTS names, and are skipped, visibly, where it names
none.  One JSON object a line (gzipped), in time order, with the columns of `event_store` except those that the database
fills.  They use the beginning of the log, or all of it where PROJECTIOND_TEST_ALL_EVENTS is set: minutes instead of
seconds, and the same demands.
"""

import gzip
import json
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

VARIABLE = "PROJECTIOND_TEST_EVENTS"
FILE = Path(os.environ.get(VARIABLE) or "nowhere")

HAS_TIME = bool(os.environ.get("PROJECTIOND_TEST_ALL_EVENTS"))

needs_real_events = pytest.mark.skipif(
    not FILE.is_file(), reason=f"{VARIABLE} names no file of real events; see tests/support/real_events.py"
)

APPEND: LiteralString = """
    INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version, created_at)
    VALUES (%s, %s, %s, %s, %s, %s)
"""

IS_STORED: LiteralString = "SELECT FROM event_store WHERE aggregate_id = %s AND version = %s"

# Events that a writer appends in one transaction, at most.
MAX_TRANSACTION = 40

# Three read models that use all of an event: types with spaces, optional keys, times, several rows for one event.
# Each once event by event, and once by another kind of projection.
PLUGIN = '''
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from projectiond import (
    BatchProjection, Connection, Event, Projection, RowProjection, SqlProjection, handles
)


class LoanSummary(Projection):
    """One row per application, and a line in an audit table for each event: an event applied twice shows there."""

    tables = ("loan_summary", "loan_audit")
    schema = """
        CREATE TABLE IF NOT EXISTS loan_summary (
            application_id UUID PRIMARY KEY, amount BIGINT, last_type TEXT NOT NULL, events INT NOT NULL,
            first_at TIMESTAMPTZ NOT NULL, last_at TIMESTAMPTZ NOT NULL
        );
        CREATE TABLE IF NOT EXISTS loan_audit (place BIGSERIAL, sequence_number BIGINT NOT NULL);
    """

    @handles("*")
    def summarise(self, event: Event, db: Connection) -> None:
        amount = event.data.get("amount_req")
        db.execute(
            """
            INSERT INTO loan_summary VALUES (%(id)s, %(amount)s, %(type)s, 1, %(at)s, %(at)s)
            ON CONFLICT (application_id) DO UPDATE SET
                amount = coalesce(loan_summary.amount, excluded.amount), last_type = excluded.last_type,
                events = loan_summary.events + 1, last_at = excluded.last_at
            """,
            {"id": event.aggregate_id, "amount": amount and int(amount), "type": event.event_type,
             "at": event.created_at},
        )
        db.execute("INSERT INTO loan_audit (sequence_number) VALUES (%s)", (event.sequence_number,))


class DailyEvents(Projection):
    """Events by day and type."""

    tables = ("daily_events",)
    schema = """
        CREATE TABLE IF NOT EXISTS daily_events (
            day DATE, event_type TEXT, events INT NOT NULL, PRIMARY KEY (day, event_type)
        )
    """

    @handles("*")
    def count(self, event: Event, db: Connection) -> None:
        db.execute(
            """
            INSERT INTO daily_events VALUES ((%s AT TIME ZONE 'UTC')::date, %s, 1)
            ON CONFLICT (day, event_type) DO UPDATE SET events = daily_events.events + 1
            """,
            (event.created_at, event.event_type),
        )


class Calls(Projection):
    """Who called whom how often: two types of twenty-four, both with a space."""

    tables = ("calls",)
    schema = """
        CREATE TABLE IF NOT EXISTS calls (
            resource TEXT, event_type TEXT, calls INT NOT NULL, last_sequence BIGINT NOT NULL,
            PRIMARY KEY (resource, event_type)
        )
    """

    @handles("W_Nabellen offertes", "W_Nabellen incomplete dossiers")
    def called(self, event: Event, db: Connection) -> None:
        db.execute(
            """
            INSERT INTO calls VALUES (%s, %s, 1, %s)
            ON CONFLICT (resource, event_type) DO UPDATE SET
                calls = calls.calls + 1, last_sequence = excluded.last_sequence
            """,
            (event.data.get("resource", "nobody"), event.event_type, event.sequence_number),
        )


class LoanRow(RowProjection):
    """As LoanSummary, its row changed in memory."""

    tables = ("loan_row",)
    schema = """
        CREATE TABLE IF NOT EXISTS loan_row (
            application_id UUID PRIMARY KEY, amount BIGINT, last_type TEXT NOT NULL, events INT NOT NULL,
            first_at TIMESTAMPTZ, last_at TIMESTAMPTZ
        )
    """

    @dataclass
    class Row:
        application_id: UUID
        amount: int | None = None
        last_type: str = ""
        events: int = 0
        first_at: datetime | None = None
        last_at: datetime | None = None

    row = Row

    @handles("*")
    def summarise(self, row: Row, event: Event) -> None:
        amount = event.data.get("amount_req")
        if row.amount is None and amount is not None:
            row.amount = int(amount)
        row.last_type = event.event_type
        row.events += 1
        row.first_at = row.first_at or event.created_at
        row.last_at = event.created_at


class DailyBySql(SqlProjection):
    """As DailyEvents, counted on the server."""

    tables = ("daily_by_sql",)
    schema = """
        CREATE TABLE IF NOT EXISTS daily_by_sql (
            day DATE, event_type TEXT, events INT NOT NULL, PRIMARY KEY (day, event_type)
        )
    """
    sql = """
        INSERT INTO daily_by_sql AS kept
        SELECT (created_at AT TIME ZONE 'UTC')::date, event_type, count(*) FROM events GROUP BY 1, 2
        ON CONFLICT (day, event_type) DO UPDATE SET events = kept.events + excluded.events
    """


class CallsByBatch(BatchProjection):
    """As Calls, counted for a batch at a time."""

    tables = ("calls_by_batch",)
    schema = """
        CREATE TABLE IF NOT EXISTS calls_by_batch (
            resource TEXT, event_type TEXT, calls INT NOT NULL, last_sequence BIGINT NOT NULL,
            PRIMARY KEY (resource, event_type)
        )
    """
    event_types = ("W_Nabellen offertes", "W_Nabellen incomplete dossiers")

    def apply(self, events: Sequence[Event], db: Connection) -> None:
        calls, last = Counter(), {}
        for event in events:
            key = event.data.get("resource", "nobody"), event.event_type
            calls[key] += 1
            last[key] = event.sequence_number
        with db.cursor() as cursor:
            cursor.executemany(
                """
                INSERT INTO calls_by_batch AS kept VALUES (%s, %s, %s, %s)
                ON CONFLICT (resource, event_type) DO UPDATE SET
                    calls = kept.calls + excluded.calls, last_sequence = excluded.last_sequence
                """,
                [(*key, count, last[key]) for key, count in calls.items()],
            )
'''

# What each read model must be, computed from event_store alone; and the events that its projection handles.
EXPECTED: dict[str, tuple[LiteralString, LiteralString, LiteralString]] = {
    "loan_summary": (
        "SELECT * FROM loan_summary",
        """
        SELECT
            aggregate_id, (array_agg((event_data ->> 'amount_req')::bigint ORDER BY sequence_number)
                FILTER (WHERE event_data ? 'amount_req'))[1],
            (array_agg(event_type::text ORDER BY sequence_number DESC))[1], count(*)::int,
            (array_agg(created_at ORDER BY sequence_number))[1],
            (array_agg(created_at ORDER BY sequence_number DESC))[1]
        FROM event_store GROUP BY aggregate_id
        """,
        "SELECT count(*) FROM event_store",
    ),
    "daily_events": (
        "SELECT * FROM daily_events",
        """
        SELECT (created_at AT TIME ZONE 'UTC')::date, event_type::text, count(*)::int
        FROM event_store GROUP BY 1, 2
        """,
        "SELECT count(*) FROM event_store",
    ),
    "calls": (
        "SELECT * FROM calls",
        """
        SELECT coalesce(event_data ->> 'resource', 'nobody'), event_type::text, count(*)::int, max(sequence_number)
        FROM event_store WHERE event_type LIKE 'W\\_Nabellen %%' GROUP BY 1, 2
        """,
        "SELECT count(*) FROM event_store WHERE event_type LIKE 'W\\_Nabellen %%'",
    ),
}
# The other kinds have to come to the same.
EXPECTED |= {
    "loan_row": ("SELECT * FROM loan_row", *EXPECTED["loan_summary"][1:]),
    "daily_by_sql": ("SELECT * FROM daily_by_sql", *EXPECTED["daily_events"][1:]),
    "calls_by_batch": ("SELECT * FROM calls_by_batch", *EXPECTED["calls"][1:]),
}


def read_events(limit: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the events in time order."""
    with gzip.open(FILE, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            if number == limit:
                return
            yield json.loads(line)


class Writers:
    """Appends the log from several connections at once, with pauses before commit and with rollbacks.

    Each stream belongs to one writer, so versions come in order; a transaction that was rolled back is written again,
    under new sequence numbers. A writer whose connection breaks connects again and goes on after its last commit.
    """

    def __init__(self, dsn: str, events: list[dict[str, Any]], *, writers: int = 8, seed: int = 1) -> None:
        self._dsn = dsn
        self.rollbacks = 0
        shares: list[list[dict[str, Any]]] = [[] for _ in range(writers)]
        for event in events:
            shares[int(event["aggregate_id"][:8], 16) % writers].append(event)
        self._threads = [
            threading.Thread(target=self._write, args=(share, random.Random(f"{seed}-{number}")), daemon=True)  # noqa: S311
            for number, share in enumerate(shares)
        ]
        self.errors: list[BaseException] = []

    def start(self) -> None:
        """Start all writers."""
        for thread in self._threads:
            thread.start()

    def is_busy(self) -> bool:
        """Return whether any writer is still at work."""
        return any(thread.is_alive() for thread in self._threads)

    def join(self, timeout_seconds: float) -> None:
        """Wait until everything is written."""
        deadline = time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        assert not self.errors, self.errors[0]
        assert not self.is_busy(), "writers did not finish in time"

    def _write(self, share: list[dict[str, Any]], chance: random.Random) -> None:
        done = 0
        deadline = time.monotonic() + 240
        try:
            while done < len(share):
                try:
                    # Also after a broken connection: did the commit in hand arrive?
                    done = self._recount(share, done)
                    with psycopg.connect(self._dsn, application_name="writer") as conn:
                        while done < len(share):
                            size = chance.randint(1, MAX_TRANSACTION)
                            done += self._append(conn, share[done : done + size], chance)
                except psycopg.OperationalError:
                    assert time.monotonic() < deadline, "the server did not come back"
                    time.sleep(0.05)
        except BaseException as error:  # noqa: BLE001 - handed to the test's thread
            self.errors.append(error)

    def _append(self, conn: psycopg.Connection[Any], events: list[dict[str, Any]], chance: random.Random) -> int:
        rows = [
            (e["aggregate_id"], e["aggregate_type"], e["event_type"], json.dumps(e["event_data"]), e["version"],
             e["created_at"])
            for e in events
        ]  # fmt: skip
        with conn.cursor() as cursor:
            cursor.executemany(APPEND, rows)
        if chance.random() < 0.2:
            time.sleep(chance.uniform(0, 0.02))
        if chance.random() < 0.1:
            self.rollbacks += 1
            conn.rollback()
            return 0
        conn.commit()
        return len(events)

    def _recount(self, share: list[dict[str, Any]], done: int) -> int:
        """Return how many of the share are in the store, after a commit of unknown outcome."""
        upcoming = share[done : done + MAX_TRANSACTION]
        with psycopg.connect(self._dsn) as conn:
            stored = [conn.execute(IS_STORED, (e["aggregate_id"], e["version"])).fetchone() for e in upcoming]
        # A transaction is stored whole or not at all, so those that are come first.
        return done + sum(row is not None for row in stored)
