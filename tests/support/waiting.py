"""Waiting for a condition with a deadline: the one place of the test suite that sleeps.

Tests call `eventually` where something happens in another thread, process or server. A test that needs
a fixed pause is wrong: it is slow when the machine is fast and fails when the machine is slow.
"""

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

# Short enough that a wait costs a test next to nothing, long enough not to compete with what is waited for.
_PAUSE_SECONDS = 0.005


def eventually(
    condition: Callable[[], Value],
    timeout_seconds: float = 10,
    message: str = "the condition did not become true",
) -> Value:
    """Call `condition` until its result is true, and return that result.

    Args:
        condition: called at least once, and once more after the deadline, so that a machine that stood still
            for the whole time does not fail the test. It may raise AssertionError for "not yet".
        timeout_seconds: how long to keep asking.
        message: what was waited for; begins the text of the failure.

    Raises:
        AssertionError: the condition was still false at the deadline.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        is_last_look = time.monotonic() >= deadline
        reason = ""
        try:
            result = condition()
        except AssertionError as error:
            reason = f"; last: {error}"
        else:
            if result:
                return result
            reason = f"; last result: {result!r}"
        if is_last_look:
            raise AssertionError(f"{message} within {timeout_seconds} s{reason}")
        time.sleep(_PAUSE_SECONDS)
