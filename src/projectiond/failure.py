"""Failures, classified by what has to happen next.

Called by the runner for whatever its step raised.  The classes are the operator's, not the programmer's:

========== ==================================================== ==========================================
class      for example                                          what the runner does
========== ==================================================== ==========================================
TRANSIENT  connection lost, deadlock, time-out, disk full       roll back, wait, try again for ever
CONFLICT   the checkpoint was moved or the status changed       roll back, read the row again
FATAL      missing table or privilege, COMMIT in a handler      pause the projection, whatever its policy
POISON     anything else: a handler's exception, a constraint   isolate the event, then its policy
========== ==================================================== ==========================================

A handler's exception is poison unless it clearly is one of the others: to retry for ever what will never work
holds a projection back silently, to skip an event because the server was away loses it.
"""

import enum
from typing import Final

import psycopg
from psycopg import errors
from psycopg_pool import PoolClosed

from projectiond.errors import (
    AttemptFailedError,
    ConfigurationError,
    ConflictError,
    DatabaseUnavailableError,
    TransactionControlError,
)

# Error messages go into a column, a log line and a terminal.
MAX_TEXT: Final = 1000

# SQLSTATE classes and codes, see PostgreSQL's manual, appendix A "PostgreSQL Error Codes".
_TRANSIENT_CLASSES: Final = frozenset(
    {
        "08",  # connection exception
        "53",  # insufficient resources: disk full, out of memory, too many connections
        "57",  # operator intervention: shutdown, crash, cancelled by a time-out
        "58",  # system error: the server's input or output failed
    }
)
_TRANSIENT_CODES: Final = frozenset(
    {
        "25006",  # read only: a failover has demoted the server
        "25P03",  # idle-in-transaction time-out
        "25P04",  # transaction time-out
        "40001",  # serialization failure
        "40P01",  # deadlock
        "55006",  # object in use
        "55P03",  # lock not available
    }
)
# The server is away: connection exceptions, its shutdown or crash (not 57014, a time-out), too many connections.
_ABSENCE_PREFIXES: Final = ("08", "57P", "53300")
# These say that every event will fail in the same way, so skipping would throw all of them away.
_FATAL_CODES: Final = frozenset(
    {
        "3F000",  # no such schema
        "42501",  # missing privilege
        "42601",  # syntax error in the handler's SQL
        "42703",  # no such column
        "42P01",  # no such table
    }
)


class Failure(enum.Enum):
    """What has to happen next."""

    TRANSIENT = "transient"
    CONFLICT = "conflict"
    FATAL = "fatal"
    POISON = "poison"


def classify(error: BaseException) -> Failure:
    """Say what has to happen after this error."""
    match error:
        case ConflictError():
            return Failure.CONFLICT
        case ConfigurationError() | TransactionControlError():
            return Failure.FATAL
        case DatabaseUnavailableError() | AttemptFailedError() | PoolClosed():
            return Failure.TRANSIENT
        case errors.PipelineAborted():
            # Its cause was swallowed by the handler: only single steps can tell what it was.
            return Failure.POISON
        case psycopg.Error():
            return _classify_database_error(error)
        case _:
            return Failure.POISON


def is_stale_plan(error: BaseException | None) -> bool:
    """Say whether a prepared statement failed because a table has been altered since: new connections have none.

    Source: PostgreSQL, src/backend/utils/cache/plancache.c.  Its SQLSTATE is that of other errors too, and its text is
    translated.
    """
    return isinstance(error, psycopg.Error) and error.diag.source_function == "RevalidateCachedQuery"


def is_absence(error: BaseException | None) -> bool:
    """Say whether it is the database that is away, not something in it that is busy."""
    code = error.sqlstate if isinstance(error, psycopg.Error) else None
    if code is not None:
        return code.startswith(_ABSENCE_PREFIXES)
    return isinstance(error, psycopg.OperationalError | DatabaseUnavailableError | PoolClosed)


def is_transient(error: BaseException) -> bool:
    """Say whether waiting and trying again is all that has to happen."""
    return classify(error) is Failure.TRANSIENT


def describe(error: BaseException) -> str:
    """Say what was raised in one line that any column, log or terminal can take.

    Text from events is hostile: a NUL or a lone surrogate cannot be stored, control characters move cursors.
    """
    kind = type(error).__name__
    try:
        text = _server_text(error) if isinstance(error, psycopg.Error) else str(error)
    except Exception:  # noqa: BLE001 - an author's exception may fail at this too, and its story must not be lost
        text = "(its text cannot be shown)"
    return printable(f"{kind}: {text}" if text else kind)


def _server_text(error: psycopg.Error) -> str:
    """Leave out the quotation of the statement, whose lines and pointer mean nothing in one line."""
    parts = [error.diag.message_primary, error.diag.message_detail, error.diag.message_hint]
    return "; ".join(part for part in parts if part) or str(error)


def printable(text: str) -> str:
    """Cut to length, fold white space and escape what is not printable."""
    folded = " ".join(text[: 2 * MAX_TEXT].split())[:MAX_TEXT]
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in folded)


def _classify_database_error(error: psycopg.Error) -> Failure:
    code = error.sqlstate
    if is_stale_plan(error):
        return Failure.TRANSIENT
    if code is None:
        # libpq's own errors have no code: the connection is gone, or the pool had none in time.
        return Failure.TRANSIENT if isinstance(error, psycopg.OperationalError) else Failure.POISON
    if code in _FATAL_CODES:
        return Failure.FATAL
    if code in _TRANSIENT_CODES or code[:2] in _TRANSIENT_CLASSES:
        return Failure.TRANSIENT
    return Failure.POISON
