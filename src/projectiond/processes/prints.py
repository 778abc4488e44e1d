"""What plugins print, as lines of the log.

Called by the worker at its start.  Standard output carries the log, one JSON object a line; a handler's ``print`` in
the middle of it would break whatever reads that.  So ``sys.stdout`` is replaced by a stream that logs each line.
"""

import io
from typing import Final

from projectiond import logs

# A line that never ends is cut here, and so is one that a log could not take.
LONGEST_LINE: Final = 2000

log = logs.get_logger()


class LinesToLog(io.TextIOBase):
    """A text stream whose lines are logged as ``plugin.printed``."""

    def __init__(self) -> None:
        super().__init__()
        self._unfinished = ""

    def writable(self) -> bool:
        """Say that it can be written to."""
        return True

    def write(self, text: str) -> int:
        """Take text, and log the lines that it completes."""
        *lines, self._unfinished = (self._unfinished + text).split("\n")
        for line in lines:
            self._log(line)
        if len(self._unfinished) > LONGEST_LINE:
            self._log(self._unfinished)
            self._unfinished = ""
        return len(text)

    def _log(self, line: str) -> None:
        if line.strip():
            log.info(logs.PLUGIN_PRINTED, message=line[:LONGEST_LINE])
