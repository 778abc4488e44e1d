"""Journals of all four kinds: they note the number of each event, in order, and twice what is applied twice.

    @pytest.fixture(params=KINDS)
    def journal(request): return journal_of(request.param)

    with Daemon(database, journal("a"), journal("b", "Good")) as daemon: ...

They differ in nothing that a test can see: the table has the columns place and sequence_number, and the effect of an
event of the type "Bad" is what `Effect` says.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from psycopg import sql

from projectiond.event import Event
from projectiond.postgres.database import Connection
from projectiond.projection import (
    BaseProjection,
    BatchProjection,
    Projection,
    RowProjection,
    SqlProjection,
    handles,
)

KINDS = ("event", "batch", "row", "sql")

# What an event of the type "Bad" does: nothing special, fail in the author's code, or fail in a statement of it.
Effect = Literal["none", "raise", "statement"]

# A class of a journal: called with the table, the event types (all when left out), and class attributes.
Journal = Callable[..., type[BaseProjection]]


class BadEventError(Exception):
    """What a journal raises over an event of the type "Bad"."""


@dataclass(slots=True)
class Line:
    """A row of a row projection's journal: one for each application, so that a second one would be a second row."""

    application: uuid.UUID
    sequence_number: int = 0
    divisor: int = 1


def journal_of(kind: str) -> Journal:
    """Give what makes journals of this kind."""
    return {"event": _by_event, "batch": _by_batch, "row": _by_row, "sql": _by_sql}[kind]


def _schema(table: str) -> str:
    return (
        f'CREATE TABLE IF NOT EXISTS "{table}" ('
        " place bigint GENERATED ALWAYS AS IDENTITY, sequence_number bigint NOT NULL,"
        " application uuid PRIMARY KEY DEFAULT gen_random_uuid(),"
        " divisor int NOT NULL DEFAULT 1 CHECK (1 / divisor = 1))"
    )


def _insert(table: str) -> sql.Composed:
    return sql.SQL("INSERT INTO {} (sequence_number, divisor) VALUES (%s, %s)").format(sql.Identifier(table))


def _divisor(event: Event, effect: Effect) -> int:
    """Give what the table's check divides by; or fail right away."""
    if event.event_type == "Bad" and effect == "raise":
        raise BadEventError(f"no use for {event.sequence_number}")
    return 0 if event.event_type == "Bad" and effect == "statement" else 1


def _options(table: str, options: Mapping[str, object]) -> dict[str, object]:
    return {"name": table, "tables": (table,), "schema": _schema(table), **options}


def _by_event(
    table: str = "journal", *event_types: str, effect: Effect = "none", **options: object
) -> type[Projection]:
    insert = _insert(table)

    def note(_self: Projection, event: Event, db: Connection) -> None:
        db.execute(insert, (event.sequence_number, _divisor(event, effect)))

    note = handles(*event_types or ("*",))(note)
    return type("Journal", (Projection,), _options(table, {"note": note, **options}))


def _by_batch(
    table: str = "journal", *event_types: str, effect: Effect = "none", **options: object
) -> type[BatchProjection]:
    insert = _insert(table)

    def apply(_self: BatchProjection, events: Sequence[Event], db: Connection) -> None:
        with db.cursor() as cursor:
            cursor.executemany(insert, [(event.sequence_number, _divisor(event, effect)) for event in events])

    own = {"apply": apply, "event_types": event_types or ("*",)}
    return type("Journal", (BatchProjection,), _options(table, {**own, **options}))


def _by_row(
    table: str = "journal", *event_types: str, effect: Effect = "none", **options: object
) -> type[RowProjection]:
    def key(_self: RowProjection, _event: Event) -> uuid.UUID:
        return uuid.uuid4()

    def note(_self: RowProjection, line: Line, event: Event) -> None:
        line.sequence_number = event.sequence_number
        line.divisor = _divisor(event, effect)

    own = {"row": Line, "key": key, "note": handles(*event_types or ("*",))(note)}
    return type("Journal", (RowProjection,), _options(table, {**own, **options}))


def _by_sql(
    table: str = "journal", *event_types: str, effect: Effect = "none", **options: object
) -> type[SqlProjection]:
    divisor = "CASE event_type WHEN 'Bad' THEN 0 ELSE 1 END" if effect != "none" else "1"
    statement = (
        f'INSERT INTO "{table}" (sequence_number, divisor)'
        f" SELECT sequence_number, {divisor} FROM events ORDER BY sequence_number"
    )
    own = {"sql": statement, "event_types": event_types or ("*",)}
    # What is cut by time has no such sizes.
    options = {name: value for name, value in options.items() if name not in {"batch_size", "checkpoint_every"}}
    return type("Journal", (SqlProjection,), _options(table, {**own, **options}))
