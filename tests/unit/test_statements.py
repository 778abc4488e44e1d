"""Which statements the pipeline sends by itself: those that come with every batch are among them."""

import pytest

from projectiond import sql
from projectiond.postgres.statements import is_ordinary


@pytest.mark.parametrize(
    "statement",
    [
        sql.checkpoint.OPEN_TRANSACTION,
        sql.checkpoint.OPEN_ASYNCHRONOUS_TRANSACTION,
        sql.session.RESTORE_SEARCH_PATH,
        sql.events.READ_ALL_EVENTS,
        sql.events.READ_EVENTS,
        sql.rows.PREFER_INDEXES,
        sql.checkpoint.ADVANCE_CHECKPOINT,
    ],
)
def test_what_the_daemon_sends_for_a_batch_is_ordinary(statement: str) -> None:
    """Else each batch waits for all answers, and begins with nothing prepared."""
    assert is_ordinary(statement)
