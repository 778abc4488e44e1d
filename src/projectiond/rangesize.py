"""How many sequence numbers the next range takes, so that a transaction over it takes about so long.

Used by ``pace`` for projections whose events stay on the server. A statement over a range cannot be stopped halfway to
commit what it has done, as a loop over batches can: how much fits into the time has to be known beforehand, and is
learnt from the last range.

It begins small and doubles, so the first statements of a projection, which may be slow, are short. What is slow for
another reason than the range (a statement that reads the whole read model) is not made better by ever smaller ranges:
only a failure, such as a time-out, makes them smaller than the first.
"""

from typing import Final

SMALL: Final = 1_000

# A second or so of the cheapest statement; more would gain nothing, and block an operator's pause for longer.
LARGE: Final = 1_000_000


class RangeSize:
    """The size of one projection's ranges."""

    def __init__(self, seconds: float) -> None:
        """Begin small; ``seconds`` is how long a transaction is to take."""
        self._seconds = seconds
        self.size = SMALL

    def __repr__(self) -> str:
        return f"<RangeSize {self.size}>"

    def note(self, seconds: float) -> None:
        """A range of this size was committed after so long; not to be told of one that the mark cut short."""
        if seconds < self._seconds / 2:
            self.size = min(self.size * 2, LARGE)
        elif seconds > self._seconds:
            fitting = int(self.size * self._seconds / seconds)
            self.size = min(self.size, max(fitting, SMALL))

    def reset(self) -> None:
        """A range failed: begin small again, and each time it fails again at half of that."""
        self.size = max(1, min(SMALL, self.size // 2))
