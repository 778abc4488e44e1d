"""Pace: how much the next transaction of one projection takes.

Decided by what became of the last one::

    at the head   as much as has arrived, at most ``checkpoint_every`` events
    behind        once a transaction has left something below the mark: as many batches as fit in
                  ``catchup_transaction_seconds``; a range on the server grows until it takes so long
    searching     after a failure that may be an event's fault: half as many events as failed, until one fails alone;
                  what succeeds doubles it again, so a bad event costs some twenty transactions, not a thousand

A time bound, and not a number of events, keeps pausing, draining and the watchdog prompt whatever a handler does.

Called by the runner, from one thread.
"""

from projectiond.limits import Limits
from projectiond.rangesize import RangeSize


class Pace:
    """The pace of one projection."""

    def __init__(self, limits: Limits, *, is_by_range: bool) -> None:
        """Begin at the head.

        Args:
            limits: How much at the head, and for how long when behind.
            is_by_range: Whether a transaction is a range on the server, whose size is in sequence numbers.
        """
        self._limits = limits
        self._range = RangeSize(limits.catchup_transaction_seconds) if is_by_range else None
        self._is_behind = False
        self._searching: int | None = None

    def __repr__(self) -> str:
        return f"<Pace most={self.most} seconds={self.seconds}>"

    @property
    def most(self) -> int | None:
        """The most events (of a range: sequence numbers) of the next transaction; ``None`` for no such bound."""
        if self._searching is not None:
            return self._searching
        if self._range is not None:
            return self._range.size
        return None if self._is_behind else self._limits.checkpoint_every

    @property
    def seconds(self) -> float:
        """After how long the transaction takes no further batch."""
        return self._limits.catchup_transaction_seconds

    @property
    def is_searching(self) -> bool:
        """Whether a bad event is being looked for."""
        return self._searching is not None

    def note_success(self, seconds: float, *, is_behind: bool) -> None:
        """A transaction was committed after so long, and left something below the mark or not."""
        self._is_behind = is_behind
        if self._searching is not None:
            self._searching *= 2
            if self._searching >= self._limits.checkpoint_every:
                self._searching = None
        elif self._range is not None and is_behind:
            self._range.note(seconds)

    def note_failure(self, size: int) -> None:
        """A transaction of so many events (or numbers) failed, perhaps for the sake of one of them."""
        self._searching = max(1, size // 2)
        if self._range is not None:
            self._range.reset()

    def search_one_by_one(self) -> None:
        """Take a single event, because a worker died over one of the next."""
        self._searching = 1

    def note_trouble(self) -> None:
        """A transaction failed for another reason; a time-out among them, so the next is short."""
        self._is_behind = False
        if self._range is not None:
            self._range.reset()
