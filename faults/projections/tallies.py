# ruff: noqa: INP001 - a directory of plugins, no package
"""The same counts by each kind of projection, so that an event applied twice or never shows in each."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from faults.mischief import meet
from projectiond import BatchProjection, Connection, Event, Projection, RowProjection, SqlProjection, handles


class Audit(Projection):
    """A line for each application of each event, and nothing is ever changed."""

    tables = ("audit",)
    schema = """
        CREATE TABLE IF NOT EXISTS audit (place BIGSERIAL PRIMARY KEY, sequence_number BIGINT NOT NULL)
    """

    @handles("*")
    def note(self, event: Event, db: Connection) -> None:
        """Add a line."""
        db.execute("INSERT INTO audit (sequence_number) VALUES (%s)", (event.sequence_number,))
        meet("audit", db)


class TallyByEvent(Projection):
    """A row for each stream, by one statement for each event."""

    tables = ("tally_by_event",)
    schema = """
        CREATE TABLE IF NOT EXISTS tally_by_event (
            id UUID PRIMARY KEY, events INT NOT NULL, amount BIGINT NOT NULL, last_type TEXT NOT NULL
        )
    """

    @handles("*")
    def count(self, event: Event, db: Connection) -> None:
        """Count it."""
        db.execute(
            """
            INSERT INTO tally_by_event AS kept VALUES (%s, 1, %s, %s)
            ON CONFLICT (id) DO UPDATE SET
                events = kept.events + 1, amount = kept.amount + excluded.amount, last_type = excluded.last_type
            """,
            (event.aggregate_id, event.data["amount"], event.event_type),
        )
        meet("tally_by_event", db)


class TallyByRow(RowProjection):
    """The same, its row changed in memory."""

    tables = ("tally_by_row",)
    schema = """
        CREATE TABLE IF NOT EXISTS tally_by_row (
            id UUID PRIMARY KEY, events INT NOT NULL, amount BIGINT NOT NULL, last_type TEXT NOT NULL
        )
    """

    @dataclass
    class Row:
        """A stream."""

        id: UUID
        events: int = 0
        amount: int = 0
        last_type: str = ""

    row = Row

    @handles("*")
    def count(self, row: Row, event: Event) -> None:
        """Count it."""
        row.events += 1
        row.amount += event.data["amount"]
        row.last_type = event.event_type
        meet("tally_by_row")


class TypesByBatch(BatchProjection):
    """A row for each of two types, by one statement for each batch."""

    tables = ("types_by_batch",)
    schema = """
        CREATE TABLE IF NOT EXISTS types_by_batch (
            event_type TEXT PRIMARY KEY, events INT NOT NULL, amount BIGINT NOT NULL
        )
    """
    event_types = ("Counted", "Moved")

    def apply(self, events: Sequence[Event], db: Connection) -> None:
        """Count them."""
        counts: Counter[str] = Counter()
        amounts: Counter[str] = Counter()
        for event in events:
            counts[event.event_type] += 1
            amounts[event.event_type] += event.data["amount"]
        with db.cursor() as cursor:
            cursor.executemany(
                """
                INSERT INTO types_by_batch AS kept VALUES (%s, %s, %s)
                ON CONFLICT (event_type) DO UPDATE SET
                    events = kept.events + excluded.events, amount = kept.amount + excluded.amount
                """,
                [(event_type, counts[event_type], amounts[event_type]) for event_type in sorted(counts)],
            )
        meet("types_by_batch", db)


class TypesBySql(SqlProjection):
    """A row for each type, counted on the server."""

    tables = ("types_by_sql",)
    schema = """
        CREATE TABLE IF NOT EXISTS types_by_sql (
            event_type TEXT PRIMARY KEY, events INT NOT NULL, amount BIGINT NOT NULL
        )
    """
    sql = """
        INSERT INTO types_by_sql AS kept
        SELECT event_type, count(*), sum((event_data ->> 'amount')::bigint) FROM events GROUP BY event_type
        ON CONFLICT (event_type) DO UPDATE SET
            events = kept.events + excluded.events, amount = kept.amount + excluded.amount
    """


class Newest(Projection):
    """The newest event of each stream, so that an event out of order shows."""

    tables = ("newest",)
    schema = """
        CREATE TABLE IF NOT EXISTS newest (id UUID PRIMARY KEY, sequence_number BIGINT NOT NULL, version INT NOT NULL)
    """

    @handles("Opened", "Closed")
    def keep(self, event: Event, db: Connection) -> None:
        """Overwrite what was there."""
        db.execute(
            """
            INSERT INTO newest VALUES (%s, %s, %s)
            ON CONFLICT (id) DO UPDATE SET sequence_number = excluded.sequence_number, version = excluded.version
            """,
            (event.aggregate_id, event.sequence_number, event.version),
        )
        meet("newest", db)
