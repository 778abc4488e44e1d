"""What each read model must be, computed by SQL from ``event_store`` alone, and what is found instead.

Called by the run between two rounds, while nobody writes.  All is read in one snapshot.
"""

from dataclasses import dataclass
from typing import Final, LiteralString

import psycopg
from psycopg.rows import TupleRow

ANY_TYPE: Final = ("Opened", "Counted", "Moved", "Closed")


@dataclass(frozen=True, slots=True)
class ReadModel:
    """A projection's table and its truth."""

    actual: LiteralString
    expected: LiteralString
    event_types: tuple[str, ...] = ANY_TYPE
    is_rebuilt: bool = True
    """Whether it may be rebuilt: the audit has its own order, which a replay does not give again."""
    has_connection: bool = True
    """Whether its handlers are given one."""
    has_handlers: bool = True


_BY_STREAM: LiteralString = """
SELECT
    aggregate_id,
    count(*)::int,
    sum((event_data ->> 'amount')::bigint)::bigint,
    (array_agg(event_type::text ORDER BY sequence_number DESC))[1]
FROM event_store
GROUP BY aggregate_id
"""

_BY_TYPE: LiteralString = """
SELECT event_type::text, count(*)::int, sum((event_data ->> 'amount')::bigint)::bigint
FROM event_store
"""

READ_MODELS: Final[dict[str, ReadModel]] = {
    "audit": ReadModel(
        "SELECT sequence_number FROM audit", "SELECT sequence_number FROM event_store", is_rebuilt=False
    ),
    "tally_by_event": ReadModel("SELECT * FROM tally_by_event", _BY_STREAM),
    "tally_by_row": ReadModel("SELECT * FROM tally_by_row", _BY_STREAM, has_connection=False),
    "types_by_batch": ReadModel(
        "SELECT * FROM types_by_batch",
        f"{_BY_TYPE} WHERE event_type IN ('Counted', 'Moved') GROUP BY event_type",
        event_types=("Counted", "Moved"),
    ),
    "types_by_sql": ReadModel(
        "SELECT * FROM types_by_sql", f"{_BY_TYPE} GROUP BY event_type", has_connection=False, has_handlers=False
    ),
    "newest": ReadModel(
        "SELECT * FROM newest",
        """
        SELECT DISTINCT ON (aggregate_id) aggregate_id, sequence_number, version
        FROM event_store
        WHERE event_type IN ('Opened', 'Closed')
        ORDER BY aggregate_id, sequence_number DESC
        """,
        event_types=("Opened", "Closed"),
    ),
}

# Rows: one (events in the store, lost, repeated, applied after a later one).
_READ_AUDIT: LiteralString = """
WITH lines AS (
    SELECT sequence_number, lag(sequence_number) OVER (ORDER BY place) AS before FROM audit
),
applied AS (
    SELECT
        count(*) AS lines,
        count(DISTINCT sequence_number) AS events,
        count(*) FILTER (WHERE sequence_number < before) AS late
    FROM lines
)
SELECT
    (SELECT count(*) FROM event_store),
    (SELECT count(*) FROM event_store WHERE sequence_number NOT IN (SELECT sequence_number FROM audit)),
    applied.lines - applied.events,
    applied.late
FROM applied
"""

_READ_CHECKPOINT: LiteralString = """
SELECT
    last_sequence_number,
    events_processed,
    status,
    error_message
FROM projection_checkpoints
WHERE projection_name = %(name)s
"""

_COUNT_SURPLUS: LiteralString = """
SELECT events_processed - (SELECT count(*) FROM event_store WHERE event_type = ANY(%(event_types)s::text[]))
FROM projection_checkpoints
WHERE projection_name = %(name)s
"""

_COUNT_LETTERS: LiteralString = "SELECT count(*) FROM projection_dead_letters"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the comparison came to."""

    events: int
    lost: int
    repeated: int
    differences: tuple[str, ...]


def compare(db: psycopg.Connection[TupleRow], head: int) -> Verdict:
    """Compare all read models, the audit and the checkpoints with the store, of which ``head`` is the last event."""
    with db.transaction():
        db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        events, lost, repeated, late = db.execute(_READ_AUDIT).fetchone() or (0, 0, 0, 0)
        differences = [difference for name in READ_MODELS for difference in _differences(db, name, head)]
        # The audit names events; the others only count them, and one of them may have met what it has not.
        surplus = [_surplus(db, name) for name in READ_MODELS]
        (letters,) = db.execute(_COUNT_LETTERS).fetchone() or (0,)
    for count, what in (
        (lost, "lost"),
        (repeated, "applied more than once"),
        (late, "applied after a later one"),
    ):
        if count:
            differences.append(f"audit: {count} events were {what}")
    if letters:
        differences.append(f"{letters} events were set aside as dead letters")
    return Verdict(events, max(lost, -min(surplus)), max(repeated, *surplus), tuple(differences))


def _differences(db: psycopg.Connection[TupleRow], name: str, head: int) -> list[str]:
    model = READ_MODELS[name]
    found = []
    wrong = _count_except(db, model.actual, model.expected)
    missing = _count_except(db, model.expected, model.actual)
    if wrong or missing:
        found.append(f"{name}: {wrong} rows should not be there, {missing} rows are missing")
    row = db.execute(_READ_CHECKPOINT, {"name": name}).fetchone()
    if row is None:
        return [*found, f"{name}: has no checkpoint"]
    position, processed, status, error = row
    if (position, status, error) != (head, "running", None):
        found.append(f"{name}: is {status} at {position} of {head}: {error}")
    if surplus := _surplus(db, name):
        found.append(f"{name}: events_processed is {processed}, and there are {processed - surplus}")
    return found


def _surplus(db: psycopg.Connection[TupleRow], name: str) -> int:
    """Say by how many events more than there are a projection has counted."""
    row = db.execute(_COUNT_SURPLUS, {"name": name, "event_types": list(READ_MODELS[name].event_types)}).fetchone()
    return 0 if row is None else int(row[0])


def _count_except(db: psycopg.Connection[TupleRow], these: LiteralString, those: LiteralString) -> int:
    row = db.execute(f"SELECT count(*) FROM (({these}) EXCEPT ALL ({those})) AS surplus").fetchone()
    return 0 if row is None else int(row[0])
