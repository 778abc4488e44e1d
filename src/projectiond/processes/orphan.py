"""The last resort of a process that has to end: it ends itself when a handler does not let it.

A worker, or a builder, that is to drain waits for the handlers that it is in.  One that hangs would keep it for ever,
so its supervisor kills it after ``drain_seconds``.  But that may be gone: killed, or out of memory.  Then nobody looks,
and the session that holds the leases stays open, so the projection would stand still on every machine there is.

Called by the thread that hears of the end, which dies with the process.
"""

import os
import time
from typing import Final

from projectiond import logs

# Beyond drain_seconds: a supervisor that lives comes first, and says which event it was.
GRACE_SECONDS: Final = 2.0

# The number that sysexits.h gives to an internal software error.
EXIT_HUNG: Final = 70

log = logs.get_logger()


def end_in_time(drain_seconds: float) -> None:
    """End this process after as long as it may need to end by itself."""
    time.sleep(drain_seconds + GRACE_SECONDS)
    log.error(logs.WORKER_KILLED, reason="it had not drained in time, and its supervisor is gone")
    os._exit(EXIT_HUNG)
