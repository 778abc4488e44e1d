"""Activity: what applications have appended in the last days, for people.

Called by the command ``stats`` and by the supervisor's HTTP.  All events of these days are read, found by the index on
``created_at``: the cost grows with the days and not with the store, and the caller's statement time-out bounds it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from projectiond import sql
from projectiond.postgres.database import Connection


@dataclass(frozen=True, slots=True)
class Day:
    """A day of UTC."""

    day: date
    events: int
    aggregates: int
    """How many aggregates these events are of."""


@dataclass(frozen=True, slots=True)
class Aggregate:
    """An aggregate with events in the days that were asked for."""

    aggregate_id: UUID
    aggregate_type: str
    events: int
    """In these days."""
    version: int
    """Of the last of these events: the length of its stream."""


@dataclass(frozen=True, slots=True)
class Activity:
    """What happened in some days."""

    per_day: Sequence[Day]
    """The latest first; a day without events is there too."""
    most_active: Sequence[Aggregate]
    """Those with the most events first."""


def count_activity(db: Connection, days: int, limit: int) -> Activity:
    """Count it.

    Args:
        db: In autocommit mode, with a statement time-out.
        days: Of today and the days before.
        limit: How many aggregates to name.
    """
    parameters = {"days": days, "limit": limit}
    return Activity(
        per_day=[Day(*row) for row in db.execute(sql.overview.EVENTS_PER_DAY, parameters)],
        most_active=[Aggregate(*row) for row in db.execute(sql.overview.MOST_ACTIVE_AGGREGATES, parameters)],
    )
