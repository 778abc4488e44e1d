"""A session: one connection to the database, made when it is first used, and made anew when it turns out to be lost.

Used by one thread.  What is asked over a connection of before a restart of the server is asked once more; what fails
over a new one, or takes too long, is an error.
"""

from collections.abc import Callable
from typing import Final, TypeVar

import psycopg

from projectiond.errors import DatabaseUnavailableError
from projectiond.failure import describe
from projectiond.postgres.database import Connection, connect
from projectiond.settings import Settings

CONNECT_SECONDS: Final = 2

T = TypeVar("T")


class Session:
    """The one connection of a thread."""

    def __init__(self, settings: Settings, role: str, *, timeout_seconds: float) -> None:
        """Make one.

        Args:
            settings: With ``database_url`` set.
            role: Of the connection, for whoever looks at pg_stat_activity.
            timeout_seconds: How long a statement may take.
        """
        self._settings = settings
        self._role = role
        self._timeout_seconds = timeout_seconds
        self._db: Connection | None = None

    def ask(self, question: Callable[[Connection], T]) -> T:
        """Ask; twice, when the connection turns out to be lost.

        Raises:
            DatabaseUnavailableError: No connection is to be had.
        """
        is_new = self._db is None
        try:
            return question(self._connected())
        except psycopg.errors.QueryCanceled:
            raise
        except psycopg.OperationalError:
            self.close()
            if is_new:
                raise
        return question(self._connected())

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._db is not None:
            self._db.close()
        self._db = None

    def _connected(self) -> Connection:
        if self._db is None:
            self._db = connect(
                self._settings.database_dsn() or "",
                role=self._role,
                statement_timeout_seconds=self._timeout_seconds,
                connect_timeout_seconds=CONNECT_SECONDS,
            )
        return self._db


def fault_of(error: psycopg.Error) -> DatabaseUnavailableError:
    """Say for people what went wrong with a question."""
    if isinstance(error, psycopg.OperationalError):
        return unanswered(describe(error))
    return DatabaseUnavailableError(
        f"the database refuses to answer: {describe(error)}", hint="see what projectiond check says"
    )


def unanswered(why: str) -> DatabaseUnavailableError:
    """Say that it does not answer for now."""
    return DatabaseUnavailableError(f"the database does not answer: {why}", hint="try again in a moment")
