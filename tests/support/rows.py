"""Plays events to a `RowProjection` without a runner, in batches that the test cuts.

player = Player(db, Orders)
player.play([happened(1, "OrderPlaced", customer="Ada"), ...], cuts=[3, 7])
assert player.rows() == [...]
"""

import itertools
import json
import re
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import sql

from projectiond.event import Event
from projectiond.kinds.kind import AuthorCode
from projectiond.kinds.row import RowByKey
from projectiond.plugins.definition import Definition
from projectiond.plugins.registry import define
from projectiond.postgres.database import Connection
from projectiond.processes.recorder import nowhere
from projectiond.projection import RowProjection
from projectiond.stream.reader import Batch

BEGAN = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)


def happened(number: int, event_type: str, aggregate_id: uuid.UUID | None = None, **data: object) -> Event[Any]:
    """Make an event as the reader does: its data are JSON until somebody looks."""
    aggregate_id = aggregate_id or uuid.UUID(int=0)
    moment = BEGAN + timedelta(seconds=number)
    content = json.dumps(data).encode()
    return Event.from_row(
        (uuid.UUID(int=number), aggregate_id, "order", event_type, content, None, number, number, moment)
    )


def bare(projection: RowProjection, *tables: str) -> Definition:
    """Make the definition of a projection that the registry would refuse, or that has no handlers."""
    return Definition(
        name="orders",
        projection=projection,
        tables=tables or projection.tables,
        schema="",
        event_types=None,
        handlers={},
        source="orders.py:1",
    )


class Player:
    """One projection and its table."""

    def __init__(self, db: Connection, projection: type[RowProjection]) -> None:
        self.db = db
        self.definition = define(projection)
        if self.definition.schema:
            db.execute(self.definition.schema.encode())
        self.kind = RowByKey(self.definition, AuthorCode(nowhere()))
        self.kind.check(db)

    def play(self, events: Sequence[Event[Any]], cuts: Iterable[int] = ()) -> None:
        """Apply the events, with a commit at each cut."""
        places = [0, *sorted(set(cuts)), len(events)]
        for start, end in itertools.pairwise(places):
            self.apply(events[start:end])

    def apply(self, events: Sequence[Event[Any]]) -> None:
        """Apply the events in one transaction, as one batch."""
        numbers = [event.sequence_number for event in events] or [0]
        batch = Batch(numbers[0] - 1, numbers[-1], events, len(events), None)
        with self.db.pipelined(), self.db.transaction():
            self.kind.load(self.db, batch)
            self.kind.apply(self.db, batch)

    def rows(self, columns: str = "*") -> list[tuple[Any, ...]]:
        """Give what the table holds, in the order of its first column."""
        table = sql.Identifier(*self.definition.tables[0].split("."))
        query = sql.SQL("SELECT {} FROM {} ORDER BY 1").format(sql.SQL(columns), table)
        return self.db.execute(query).fetchall()

    def empty(self) -> None:
        """Empty the table."""
        table = sql.Identifier(*self.definition.tables[0].split("."))
        self.db.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY").format(table))


def told(value: object) -> str:
    """Name a parameter in a test's id, in the same way in each process: nobody's address is in it."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))[:60]
