"""The rebuild's row, as those see it who do not build: what keeps it from going on is said there.

Called by the builder, and by the supervisor over a builder that cannot say it any more.
"""

from typing import Final

from projectiond import logs
from projectiond.postgres.database import Connection
from projectiond.rebuild import statements

# How an error begins that may pass by itself: whoever waits for the rebuild goes on waiting.
RETRYING: Final = "retrying: "

log = logs.get_logger()


def note_failure(db: Connection, name: str, error: str) -> None:
    """Say what keeps a rebuild from going on, in the log and in its row; it has none yet if it could not begin."""
    db.execute(statements.NOTE_FAILURE, {"name": name, "error": error})
    log.error(logs.REBUILD_FAILED, projection=name, error=error)
