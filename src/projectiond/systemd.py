"""What systemd is told: ready, status, still alive, stopping.

Called by the supervisor alone (the units say NotifyAccess=main). It writes datagrams to the socket that
NOTIFY_SOCKET names; without that variable, outside systemd, every call does nothing. A socket that cannot
be written to is no reason to stop projecting: the call returns False, and systemd draws its own conclusion.

Source: systemd manual, sd_notify(3), sections "Well-known assignments" and "Environment", and
sd_watchdog_enabled(3).
"""

import os
import socket
from typing import Final

# systemd shows the status in one line of `systemctl status`; more than this nobody reads.
MAX_STATUS_LENGTH: Final = 500

# systemd asks for a sign of life at half of WatchdogSec, so that one late turn of the loop is no death.
WATCHDOG_FRACTION: Final = 0.5


def notify_ready() -> bool:
    """Say that start-up is done; systemd then starts what is ordered after this unit."""
    return _notify("READY=1")


def notify_status(text: str) -> bool:
    """Show a line in `systemctl status`.

    Args:
        text: one line for a person; line breaks are replaced, since each line of a message is an assignment.
    """
    return _notify(f"STATUS={' '.join(text.split())[:MAX_STATUS_LENGTH]}")


def notify_stopping() -> bool:
    """Say that the daemon drains and will exit by itself."""
    return _notify("STOPPING=1")


def notify_watchdog() -> bool:
    """Give the sign of life that WatchdogSec asks for; only from a loop that does make progress."""
    return _notify("WATCHDOG=1")


def watchdog_interval_seconds() -> float | None:
    """Say how often notify_watchdog is to be called: half of the unit's WatchdogSec.

    Returns:
        Seconds between two calls; None when no watchdog waits for this process.
    """
    try:
        timeout_microseconds = int(os.environ.get("WATCHDOG_USEC", ""))
        # The variables are inherited; a child must not answer for its parent.
        is_for_us = int(os.environ.get("WATCHDOG_PID", os.getpid())) == os.getpid()
    except ValueError:
        return None
    if timeout_microseconds <= 0 or not is_for_us:
        return None
    return timeout_microseconds / 1_000_000 * WATCHDOG_FRACTION


def _notify(assignment: str) -> bool:
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    # "@" stands for the zero byte that an abstract socket's name begins with.
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify_socket:
            # A supervisor that waits for systemd's full queue would not look after its workers.
            notify_socket.setblocking(False)  # noqa: FBT003 - the standard library's own signature
            notify_socket.connect(address)
            notify_socket.sendall(assignment.encode("utf-8", "replace"))
    except OSError:
        return False
    return True
