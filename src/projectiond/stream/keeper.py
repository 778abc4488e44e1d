"""The keeper of the mark: writes it down for the next start, and says who holds it.

Called by the watcher after each look.  Nothing is silent: a mark that stands still for a second while something waits
above it is in the log, with the transactions that it waits for, and again every ten seconds until it moves.
"""

import time
from typing import Final

from projectiond import logs
from projectiond.postgres.database import Connection
from projectiond.stream.highwater import HighWaterMark, describe_holders, keep_proven_mark

# A mark that waits longer than this is named in the log.
HELD_SECONDS: Final = 1.0

# How often that is said again, and how often a mark that moves is written down for the next start.
REPEAT_SECONDS: Final = 10.0

log = logs.get_logger()


class Keeper:
    """Follows one worker's mark."""

    def __init__(self) -> None:
        self._mark = -1
        self._since = 0.0
        self._logged_at: float | None = None
        self._kept = -1
        self._kept_at = 0.0

    def note(self, db: Connection, mark: HighWaterMark) -> None:
        """Take note of where the mark is after a look."""
        now = time.monotonic()
        if not (mark.is_held or mark.stray) or mark.settled != self._mark:
            if self._logged_at is not None:
                log.info(
                    logs.HIGHWATER_RELEASED, held_at=self._mark, mark=mark.settled, seconds=round(now - self._since, 1)
                )
            self._mark, self._since, self._logged_at = mark.settled, now, None
        elif now - self._since >= HELD_SECONDS and (self._logged_at is None or now - self._logged_at >= REPEAT_SECONDS):
            self._logged_at = now
            holders = [str(holder) for holder in describe_holders(db, mark.blockers)]
            if mark.stray:
                holders.append(f'number {mark.stray}, which the sequence has not drawn yet; see "projectiond check"')
            log.warning(logs.HIGHWATER_HELD, held_at=mark.settled, by=holders, seconds=round(now - self._since, 1))
        if mark.settled > self._kept and now - self._kept_at >= REPEAT_SECONDS:
            keep_proven_mark(db, mark.settled)
            self._kept, self._kept_at = mark.settled, now
