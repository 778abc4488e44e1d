"""Pace: how much the next transaction of one projection takes.

Decided by what became of the last one::

    at the head   as much as has arrived, at most ``checkpoint_every`` events
    behind        once a transaction has left something below the mark: more and more, until it takes about
                  ``catchup_transaction_seconds``
    searching     after a failure that may be an event's fault: half as many events as failed, until one fails alone;
                  what succeeds doubles it again, so a bad event costs some twenty transactions, not a thousand

A time bound, and not a number of events, keeps pausing, draining and the watchdog prompt whatever a handler does.  What
fits into the time has to be known beforehand, since nothing that has been sent can be committed by halves; it is learnt
from the last transactions, and begins small.

Called by the runner, from one thread.
"""

from typing import Final

from projectiond.plugins.limits import Limits

# The first range of a projection whose events stay on the server, in sequence numbers.  What makes its statements slow
# may be something else than the range (they read the whole read model), and ever smaller ranges would not help: only a
# failure, such as a time-out, makes them smaller than this.
SMALL_RANGE: Final = 1_000

# A second or so of the cheapest statement; more would gain nothing, and block an operator's pause for longer.
LARGE: Final = 1_000_000

# After so many good transactions of a size that is bounded by a failure, twice as much is tried again.
PATIENCE: Final = 100


class Size:
    """How many events, or sequence numbers, a transaction takes about so long for."""

    def __init__(self, seconds: float, first: int, least: int = 1) -> None:
        """Begin with ``first``; slowness alone makes it no smaller than ``least``."""
        self._seconds = seconds
        self._first = first
        self._least = least
        self._ceiling = LARGE
        self._patience = PATIENCE
        self.value = first

    def __repr__(self) -> str:
        return f"<Size {self.value}>"

    def note(self, done: int, seconds: float) -> None:
        """So many were committed after so long, and more could have been."""
        if seconds > self._seconds:
            fitting = int(done * self._seconds / seconds)
            self.value = min(self.value, max(fitting, self._least))
        elif seconds < self._seconds / 2 and done >= self.value:
            self._grow()

    def note_failure(self, done: int) -> None:
        """So many failed together, for a reason that may be their number: a time-out."""
        self._ceiling = max(1, min(done, self._ceiling) // 2)
        self._patience = PATIENCE
        self.value = min(self._first, self._ceiling)

    def _grow(self) -> None:
        if self.value >= self._ceiling:
            self._patience -= 1
            if self._patience:
                return
            self._ceiling, self._patience = self._ceiling * 2, PATIENCE
        self.value = min(self.value * 2, self._ceiling, LARGE)


class Pace:
    """The pace of one projection."""

    def __init__(self, limits: Limits, *, is_by_range: bool) -> None:
        """Begin at the head.

        Args:
            limits: How much at the head, and for how long when behind.
            is_by_range: Whether a transaction is a range on the server, whose size is in sequence numbers.
        """
        self.seconds = limits.catchup_transaction_seconds
        self._first = SMALL_RANGE if is_by_range else limits.checkpoint_every
        self._size = Size(self.seconds, self._first, least=SMALL_RANGE if is_by_range else 1)
        self._is_by_range = is_by_range
        self.is_behind = False
        self._searching: int | None = None

    def __repr__(self) -> str:
        return f"<Pace most={self.most} seconds={self.seconds}>"

    @property
    def most(self) -> int:
        """The most events (of a range: sequence numbers) of the next transaction."""
        if self._searching is not None:
            return self._searching
        if self.is_behind or self._is_by_range:
            return self._size.value
        return min(self._first, self._size.value)

    @property
    def is_searching(self) -> bool:
        """Whether a bad event is being looked for."""
        return self._searching is not None

    def note_success(self, done: int, seconds: float, *, is_behind: bool) -> None:
        """So many were committed after so long, and left something below the mark or not."""
        was_searching = self._searching is not None
        self.is_behind = is_behind
        if self._searching is not None:
            self._searching *= 2
            if self._searching >= self._first:
                self._searching = None
        if is_behind and not was_searching:
            self._size.note(done, seconds)

    def note_suspicion(self, done: int) -> None:
        """So many failed, perhaps for the sake of one of them."""
        self._searching = max(1, done // 2)

    def search_one_by_one(self) -> None:
        """Take a single event, because a worker died over one of the next."""
        self._searching = 1

    def note_trouble(self, done: int) -> None:
        """So many failed for another reason than an event, a time-out perhaps: the next transaction is shorter."""
        if done > 1:
            self._size.note_failure(done)
