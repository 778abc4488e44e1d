"""The store's figures: what was appended in the last days, for all who look at the dashboard.

Counting reads all events of these days, so it is done for all viewers together, only when somebody looks, and given up
after TIMEOUT_SECONDS.  It may take a hundredth of the time, whether or not it comes to an end: so a store with too many
events for it is asked again after some minutes, and a database that was away soon.
"""

import time
from dataclasses import asdict
from typing import Any, Final

from projectiond.errors import ProjectiondError
from projectiond.http.desk import Desk
from projectiond.operating.activity import Activity, count_activity
from projectiond.settings import Settings

DAYS: Final = 7
AGGREGATES: Final = 8

TIMEOUT_SECONDS: Final = 1.5
KEPT_SECONDS: Final = 60.0

# Of the time.
COST_SHARE: Final = 0.01


class Figures:
    """Counts, and keeps."""

    def __init__(self, settings: Settings) -> None:
        self._desk = Desk(settings, "http-figures", timeout_seconds=TIMEOUT_SECONDS)
        self._counted: Activity | None = None
        self._counted_at: float | None = None
        self._error = ""
        self._next_at = 0.0

    async def get(self) -> dict[str, Any]:
        """Give the last figures, with their age; new ones if it is time."""
        if time.monotonic() >= self._next_at:
            await self._count()
        age_seconds = None if self._counted_at is None else round(time.monotonic() - self._counted_at)
        counted = self._counted or Activity((), ())
        return {
            "days": DAYS,
            "age_seconds": age_seconds,
            "error": self._error,
            "per_day": [{**asdict(day), "day": day.day.isoformat()} for day in counted.per_day],
            "most_active": [
                {**asdict(aggregate), "aggregate_id": str(aggregate.aggregate_id)} for aggregate in counted.most_active
            ],
        }

    def stop(self) -> None:
        """End the thread, unless it hangs."""
        self._desk.stop()

    async def _count(self) -> None:
        began_at = time.monotonic()
        # Whoever comes while it is being counted gets the last ones.
        self._next_at = began_at + KEPT_SECONDS
        try:
            self._counted = await self._desk.ask(lambda db: count_activity(db, DAYS, AGGREGATES))
            self._counted_at, self._error = time.monotonic(), ""
        except ProjectiondError as error:
            self._error = error.message
        now = time.monotonic()
        self._next_at = now + max(KEPT_SECONDS, (now - began_at) / COST_SHARE)
