"""The store's figures: what was appended in the last days, for all who look at the dashboard.

Counting reads all events of these days, so it is done seldom, for all viewers together, only when somebody looks, and
given up after TIMEOUT_SECONDS: a store with too many events for that is asked again after a long while only.
"""

import time
from dataclasses import asdict
from typing import Any, Final

from projectiond.activity import Activity, count_activity
from projectiond.database import Connection
from projectiond.errors import ProjectiondError
from projectiond.http.desk import Desk
from projectiond.settings import Settings

DAYS: Final = 7
AGGREGATES: Final = 8

TIMEOUT_SECONDS: Final = 1.5
KEPT_SECONDS: Final = 60.0
FAILED_KEPT_SECONDS: Final = 600.0

# Counting may take this share of the time.
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
        # Whoever comes while it is being counted gets the last ones.
        self._next_at = time.monotonic() + KEPT_SECONDS
        try:
            counted, seconds = await self._desk.ask(_timed_count)
        except ProjectiondError as error:
            self._error = error.message
            self._next_at = time.monotonic() + FAILED_KEPT_SECONDS
            return
        self._counted, self._counted_at, self._error = counted, time.monotonic(), ""
        self._next_at = time.monotonic() + max(KEPT_SECONDS, seconds / COST_SHARE)


def _timed_count(db: Connection) -> tuple[Activity, float]:
    began = time.monotonic()
    return count_activity(db, DAYS, AGGREGATES), time.monotonic() - began
