"""Probation: when may the lane take a projection's passes?

What fits into the lane is a pass that has sent its COMMIT after ``SHORT_SECONDS``.  One such in the projection's own
thread is enough at first.  After one that took too long in the lane so many have to be short in the thread; each time
twice as many, for on a busy machine it may have been nobody's fault.
"""

from typing import Final

SHORT_SECONDS: Final = 0.005
SHORTEST: Final = 4
LONGEST: Final = 1024


class Probation:
    """The probation of one projection."""

    def __init__(self) -> None:
        self.is_lent = False
        """Whether the lane takes its passes just now."""
        self._left = 1
        self._length = SHORTEST
        self._lent_passes = 0

    def __repr__(self) -> str:
        return f"<Probation left={self._left} of {self._length}{' lent' if self.is_lent else ''}>"

    @property
    def is_over(self) -> bool:
        """Whether passes are likely to be short."""
        return not self._left

    def note_pass(self, seconds_to_send: float) -> None:
        """Count a pass that has applied something, and sent its COMMIT after so long."""
        if self.is_lent:
            self._lent_passes += 1
        elif self._left and seconds_to_send <= SHORT_SECONDS:
            self._left -= 1

    def begin_again(self) -> None:
        """Hear that a pass took too long in the lane."""
        is_long_ago = self._lent_passes > LONGEST
        self._left = self._length = SHORTEST if is_long_ago else min(2 * self._length, LONGEST)
        self._lent_passes = 0
