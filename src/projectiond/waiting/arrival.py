"""Arrival: has a projection everything up to a given sequence number?

Called by whatever waits (``waiting``, the command ``catchup``); ``projectiond_wait_for`` in schema.sql takes the same
steps on the server.  The position alone does not answer it: a number that was rolled back at the end of the store is
never passed by a checkpoint, since no mark goes beyond the largest visible number.  So N is reached when the position
is at N or above, or else when

1. N has been drawn (it is not beyond the store's end),
2. the transactions that held the store's lock at a *later* statement have all ended, so N and what is below it are
   settled (``highwater`` says why), and
3. in a statement later still, no event is to be seen between the position and N.

Where N itself is to be seen, which is what most callers ask for, none of this is needed: only the position counts, and
nothing more is asked.

One object serves one wait.  Its looks may go over different connections, as a pool gives them.  Virtual transaction ids
do not outlive a crash or a restart of the server, so what an earlier look found is taken for good only on a connection
that was open already at that time; else it is found out anew.

On a standby the locks are not to be seen, so there only the position counts.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, LiteralString

from psycopg.rows import TupleRow

from projectiond import sql
from projectiond.postgres.database import Connection

Rows = Sequence[TupleRow]


@dataclass(frozen=True, slots=True)
class Question:
    """A statement whose rows are needed to go on; whoever asks it may do so in its own way (async, over a pool)."""

    statement: LiteralString
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing to ask for so long; ``position`` is where the projection is."""

    seconds: float
    position: int


@dataclass(slots=True)
class Arrival:
    """Judges positions against one sequence number."""

    sequence_number: int
    is_visible: bool = False
    """Whether the number's own event has been seen."""
    lockers: frozenset[str] | None = None
    """The transactions that may still fill a number up to ours; None while that is not known."""
    _server: datetime | None = None
    _known_since: datetime | None = None

    def is_reached(self, db: Connection, position: int) -> bool:
        """Say whether a projection at this position has every event up to the number."""
        steps = self.judge(position)
        rows: Rows | None = None
        while True:
            try:
                question = next(steps) if rows is None else steps.send(rows)
            except StopIteration as verdict:
                return bool(verdict.value)
            rows = db.execute(question.statement, question.parameters).fetchall()

    def judge(self, position: int) -> Generator[Question, Rows, bool]:
        """Ask what is needed to say it; each question is a statement of its own, later than the one before."""
        if self.is_visible and position < self.sequence_number:
            return False
        facts = self.ask_facts(position)
        ((end, self.is_visible, has_events_between, is_standby),) = yield facts
        if position >= self.sequence_number:
            # Beyond the end there is nothing: the store has lost what this checkpoint stands for.
            return bool(position <= end)
        if self.is_visible or end < self.sequence_number or is_standby:
            return False
        if self.lockers is None or self.lockers:
            self._account(*(yield Question(sql.arrival.ARRIVAL_LOCKERS))[0])
            if self.lockers or has_events_between:
                return False
            ((_, _, has_events_between, _),) = yield facts
        return not has_events_between

    def ask_facts(self, position: int) -> Question:
        """Give the question of which the first answer is the store's end."""
        return Question(sql.arrival.ARRIVAL_FACTS, {"position": position, "number": self.sequence_number})

    def _account(self, server: datetime, session: datetime, now: datetime, lockers: Sequence[str]) -> None:
        if self.lockers is None or self._known_since is None or server != self._server or session > self._known_since:
            self._server, self._known_since, self.lockers = server, now, frozenset(lockers)
        else:
            self.lockers &= frozenset(lockers)
