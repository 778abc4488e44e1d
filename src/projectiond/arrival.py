"""Arrival: has a projection everything up to a given sequence number?

Called by the commands that wait.  The position alone does not answer it: a number that was rolled back at the end
of the store is never passed by a checkpoint, since no mark goes beyond the largest visible number.  So N is reached
when the position is at N or above, or else when

1. N has been drawn (it is not beyond the store's end),
2. the transactions that held the store's lock at a *later* statement have all ended, so N and what is below it are
   settled (``highwater`` says why), and
3. in a statement later still, no event is to be seen between the position and N.

One object serves one wait, on one connection, since virtual transaction ids do not outlive the server's restart.
"""

from dataclasses import dataclass

from projectiond import sql
from projectiond.database import Connection, fetch_row
from projectiond.highwater import read_store_end


@dataclass(slots=True)
class Arrival:
    """Judges positions against one sequence number."""

    sequence_number: int
    _lockers: frozenset[str] | None = None

    def is_reached(self, db: Connection, position: int) -> bool:
        """Say whether a projection at this position has every event up to the number."""
        if position >= self.sequence_number:
            # Beyond the end there is nothing: the store has lost what this checkpoint stands for.
            return position <= read_store_end(db)
        if self._lockers is None and read_store_end(db) < self.sequence_number:
            return False
        lockers = frozenset(row[0] for row in db.execute(sql.LOCKERS))
        self._lockers = lockers if self._lockers is None else self._lockers & lockers
        if self._lockers:
            return False
        between = {"after": position, "upto": self.sequence_number}
        return not fetch_row(db, sql.HAS_EVENTS_BETWEEN, between)[0]
