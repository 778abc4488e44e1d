"""The database objects, as `schema.sql` makes them.

Called by `projectiond init`. Applying is one transaction: it either brings the database to what `schema.sql` says,
or changes nothing and says why not.
"""

from importlib import resources
from typing import Final

import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from projectiond.errors import ConfigurationError

# The SQLSTATE by which schema.sql marks what it refuses; all else that fails there is PostgreSQL's own word.
_REFUSED: Final = "PJ001"
# The SQLSTATE of a RAISE NOTICE; PostgreSQL's own notices, such as "already exists, skipping", have others.
_SAID_BY_SCHEMA: Final = "00000"


def schema_sql() -> str:
    """Return the text of `schema.sql` as it was shipped."""
    return (resources.files("projectiond") / "schema.sql").read_text(encoding="utf-8")


def apply_schema(conn: psycopg.Connection[TupleRow]) -> list[str]:
    """Make the database objects, or bring those that are there up to date.

    Args:
        conn: in autocommit mode, outside a transaction; its role owns the tables, or may create them.

    Returns:
        What was done, a line for each change, in order; empty when there was nothing to do.

    Raises:
        ConfigurationError: the database has something that cannot be mended, or the tables stayed locked;
            nothing has been changed.
    """
    if not conn.autocommit or conn.info.transaction_status is not TransactionStatus.IDLE:
        raise ValueError("schema.sql is a transaction of its own; it needs an idle connection in autocommit mode")
    done: list[str] = []

    def listen(notice: errors.Diagnostic) -> None:
        if notice.sqlstate == _SAID_BY_SCHEMA and notice.message_primary:
            done.append(notice.message_primary)

    conn.add_notice_handler(listen)
    try:
        conn.execute(schema_sql().encode())
    except psycopg.Error as error:
        if not conn.closed:
            conn.rollback()
        if (refusal := _refusal(error)) is not None:
            raise refusal from error
        raise
    finally:
        conn.remove_notice_handler(listen)
    return done


def _refusal(error: psycopg.Error) -> ConfigurationError | None:
    if error.sqlstate == _REFUSED:
        return ConfigurationError(error.diag.message_primary or str(error), hint=error.diag.message_hint or "")
    if isinstance(error, errors.LockNotAvailable):
        return ConfigurationError(
            "another transaction kept the tables locked for 5 s, and waiting longer would stop the writers",
            hint='end the long transactions that use event_store, then run "projectiond init" again',
        )
    return None
