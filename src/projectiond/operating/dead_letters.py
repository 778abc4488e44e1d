"""Dead letters: what a projection could not apply and has passed over, for people who decide what becomes of it.

Called by the commands ``dead-letters …`` and by the supervisor's HTTP.  ``ask_for_retry`` only asks: the daemon tries
each letter once, between two of its transactions, and either removes it or writes down the new error; ``redelivery``
says what that means when later events have been applied.  ``discard`` forgets it: the event stays in the store, and a
rebuild meets it again.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, LiteralString, TypeAlias
from uuid import UUID

from projectiond import sql
from projectiond.postgres.database import Connection

# How much of an event's JSON is shown, unless all of it is asked for.
MOST_CHARACTERS: Final = 20_000

State: TypeAlias = Literal["kept", "to be tried again", "tried, and not ended"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A row of projection_dead_letters, without its event's data."""

    sequence_number: int
    event_id: UUID
    event_type: str
    aggregate_id: UUID
    handler: str
    error: str
    attempts: int
    failed_at: datetime
    retry_requested_at: datetime | None
    retry_begun_at: datetime | None

    @property
    def state(self) -> State:
        """What is done with it now; one that was tried and never ended was so when its worker died."""
        if self.retry_requested_at is None:
            return "kept"
        return "to be tried again" if self.retry_begun_at is None else "tried, and not ended"


@dataclass(frozen=True, slots=True)
class Data:
    """An event's JSON, perhaps the beginning of it."""

    text: str
    length: int
    """Of the whole, in characters."""

    @property
    def is_cut(self) -> bool:
        """Whether there is more of it."""
        return self.length > len(self.text)


def read_letters(
    db: Connection, name: str, numbers: Collection[int] | None = None, *, most: int
) -> Sequence[DeadLetter]:
    """Read the first letters of a projection in the events' order.

    Args:
        db: Any.
        name: Of the projection.
        numbers: Of the events; ``None`` for all.
        most: At most so many.
    """
    parameters = {"name": name, "numbers": _listed(numbers), "most": most}
    return [DeadLetter(*row) for row in db.execute(sql.dead_letters.READ_DEAD_LETTERS, parameters)]


def read_data(db: Connection, name: str, number: int, *, most: int = MOST_CHARACTERS) -> Data | None:
    """Read the event's JSON as it was when it failed; ``None`` when there is no such letter."""
    row = db.execute(
        sql.dead_letters.READ_LETTER_DATA, {"name": name, "sequence_number": number, "most": most}
    ).fetchone()
    return None if row is None else Data(*row)


def ask_for_retry(db: Connection, name: str, numbers: Collection[int] | None) -> Sequence[int]:
    """Ask the daemon to try letters again; give the numbers of those that are there."""
    return _numbers(db, sql.dead_letters.ASK_FOR_RETRY, name, numbers)


def discard(db: Connection, name: str, numbers: Collection[int] | None) -> Sequence[int]:
    """Delete letters; give the numbers of those that were there."""
    return _numbers(db, sql.dead_letters.DISCARD_DEAD_LETTERS, name, numbers)


def _numbers(db: Connection, statement: LiteralString, name: str, numbers: Collection[int] | None) -> Sequence[int]:
    rows = db.execute(statement, {"name": name, "numbers": _listed(numbers)})
    return sorted(int(number) for (number,) in rows)


def _listed(numbers: Collection[int] | None) -> list[int] | None:
    return None if numbers is None else list(numbers)
