"""Pipelining: do a projection's statements travel in a pipeline?

They do until the pipeline itself turns out to be the trouble.  A failure there does not say whose it is: its events are
applied again, fewer at a time and at last in single steps.  Where the whole range then goes well the alarm was false,
and the handler does what a pipeline cannot carry (COPY, several statements in one); ``MAX_FALSE_ALARMS`` of them in a
row end it.  Where the failure was in the lane, the handler may as well keep something that belongs to one thread: it is
bound to its own from then on.
"""

from typing import Final

from structlog.typing import FilteringBoundLogger

from projectiond import logs
from projectiond.failure import describe

MAX_FALSE_ALARMS: Final = 3


class Pipelining:
    """Whether one projection's statements travel in a pipeline."""

    def __init__(self, *, is_on: bool, log: FilteringBoundLogger) -> None:
        self.is_on = is_on
        self.is_bound_to_thread = False
        """Whether the handlers were found to need the projection's own thread."""
        self._log = log
        # A failure whose culprit has not been found yet: up to where it may be, what it was, whether in the lane.
        self._alarm: tuple[int, Exception, bool] | None = None
        self._false_alarms = 0

    def __repr__(self) -> str:
        return f"<Pipelining {'on' if self.is_on else 'off'} false_alarms={self._false_alarms}>"

    def note_failure(self, upto: int, error: Exception, *, is_lent: bool) -> None:
        """Hear of a failure in a pipeline, of some event up to this number."""
        self._alarm = (upto, error, is_lent)

    def note_culprit(self) -> None:
        """Hear that a failure was an event's own: it was there in single steps too."""
        self._alarm = None

    def note_success(self, position: int, at_work: str, *, is_searching: bool) -> None:
        """Hear that all went well up to this number.

        Args:
            position: The number.
            at_work: The handler that was last at work; for the log.
            is_searching: Whether it was one of the steps by which a culprit is searched.
        """
        if self._alarm is None:
            if not is_searching:
                self._false_alarms = 0
            return
        upto, error, is_lent = self._alarm
        if position < upto:
            return
        self._alarm = None
        if is_lent:
            self.is_bound_to_thread = True
            return
        self._false_alarms += 1
        if self._false_alarms >= MAX_FALSE_ALARMS:
            self.is_on = False
            self._log.warning(logs.PIPELINE_ABANDONED, error=describe(error), handler=at_work)
