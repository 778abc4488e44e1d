"""Kept answers: written once for all who ask at about the same time.

Writing the metrics of fifty projections takes more than ten milliseconds, sending them a fraction of one.  So the bytes
are kept, compressed too for those who take that, as Prometheus does.  They are given again only while what they were
made of is the same, as far as a version says it, and for a time that the manual states: whatever tells an age is off by
that much at most.

Called from the event loop alone, where writing does not wait: many who ask at once make one of them write.
"""

import gzip
import math
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response


class Kept:
    """One answer."""

    def __init__(self, seconds: float, content_type: str) -> None:
        """Make one.

        Args:
            seconds: How long it may be given again.
            content_type: Of its bytes.
        """
        self._seconds = seconds
        self._headers: Mapping[str, str] = {"Content-Type": content_type, "Vary": "Accept-Encoding"}
        self._version: Hashable = None
        self._written_at = -math.inf
        self._bytes = b""
        self._compressed = b""

    def answer(self, request: Request, version: Hashable, write: Callable[[], bytes]) -> Response:
        """Give it; anew when it is of another version, or too old.

        Args:
            request: Who asks.
            version: Of what it is made of.
            write: Makes it.
        """
        now = time.monotonic()
        if version != self._version or now - self._written_at >= self._seconds:
            self._bytes, self._compressed = write(), b""
            self._version, self._written_at = version, now
        if not takes_gzip(request.headers.get("accept-encoding", "")):
            return Response(self._bytes, headers=self._headers)
        if not self._compressed:
            self._compressed = gzip.compress(self._bytes, compresslevel=1, mtime=0)
        return Response(self._compressed, headers={**self._headers, "Content-Encoding": "gzip"})


def takes_gzip(accepted: str) -> bool:
    """Say whether a header ``Accept-Encoding`` allows gzip.  Source: RFC 9110, section 12.5.3."""
    for part in accepted.lower().split(","):
        coding, *parameters = (text.strip() for text in part.split(";"))
        if coding == "gzip":
            return not any(parameter.replace(" ", "") in _NOT_AT_ALL for parameter in parameters)
    return False


_NOT_AT_ALL: Final = frozenset({"q=0", "q=0.0", "q=0.00", "q=0.000"})
