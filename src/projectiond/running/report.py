"""What the log says of a projection's progress: enough to see it move, little enough to read.

Called by the runner after each transaction.  Every one is a line for whoever debugs.  For everybody else small ones at
the head are silence, and a backlog is a line a second that sums up.
"""

import time
from typing import Final

from structlog.typing import FilteringBoundLogger

from projectiond import logs

REPORT_SECONDS: Final = 1.0

# What is shorter says little about how fast a whole history would be applied.
MEASURED_EVENTS: Final = 1000

# Between two batches of a backlog: longer than that, and the projection was paused or waited for something.
LONGEST_GAP_SECONDS: Final = 5.0


class BatchReport:
    """Logs the batches of one projection."""

    def __init__(self, log: FilteringBoundLogger, batch_size: int) -> None:
        self._log = log
        self._batch_size = batch_size
        self._is_behind = False
        self._unreported = 0
        self._reported_at = 0.0
        # Of the backlog in hand: when the last batch was committed, and what came after the first.
        self._noted_at: float | None = None
        self._events = 0
        self._seconds = 0.0

    def note(self, committed: int, position: int, mark: int) -> None:
        """Log so many events that have been committed, up to ``position``."""
        is_full = committed >= self._batch_size
        self._is_behind = self._is_behind or is_full
        self._unreported += committed
        self._measure(committed)
        facts = {"position": position, "lag": mark - position}
        if is_full and time.monotonic() - self._reported_at >= REPORT_SECONDS:
            self._log.info(logs.BATCH_COMMITTED, events=self._unreported, **facts)
            self._unreported, self._reported_at = 0, time.monotonic()
        else:
            self._log.debug(logs.BATCH_COMMITTED, events=committed, **facts)

    def note_arrival(self, position: int) -> float | None:
        """Say that a backlog is done; nothing when there was none.

        Returns:
            How many events a second were applied, if there were enough of them to tell.
        """
        rate = self._events / self._seconds if self._events >= MEASURED_EVENTS and self._seconds else None
        self._noted_at, self._events, self._seconds = None, 0, 0.0
        if self._is_behind:
            self._log.info(logs.PROJECTION_CAUGHT_UP, events=self._unreported, position=position)
        self._is_behind = False
        self._unreported = 0
        return rate

    def _measure(self, committed: int) -> None:
        now = time.monotonic()
        if self._noted_at is not None and now - self._noted_at < LONGEST_GAP_SECONDS:
            self._events += committed
            self._seconds += now - self._noted_at
        self._noted_at = now if self._is_behind else None
