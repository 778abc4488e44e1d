"""Which statements the pipeline sends by itself: those that come with every batch are among them."""

import pytest

from projectiond import sql
from projectiond.statements import is_ordinary


@pytest.mark.parametrize(
    "name",
    [
        "OPEN_TRANSACTION",
        "OPEN_ASYNCHRONOUS_TRANSACTION",
        "RESTORE_SEARCH_PATH",
        "READ_ALL_EVENTS",
        "READ_EVENTS",
        "PREFER_INDEXES",
        "ADVANCE_CHECKPOINT",
    ],
)
def test_what_the_daemon_sends_for_a_batch_is_ordinary(name: str) -> None:
    """Else each batch waits for all answers, and begins with nothing prepared."""
    assert is_ordinary(getattr(sql, name))
