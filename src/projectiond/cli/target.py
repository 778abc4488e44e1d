"""What a command works on: the settings, and the database that they name or the embedded one.

Called by every command first.  Where no database is named, the embedded PostgreSQL of the current directory is
started or joined, and brought up to date by itself: in development nobody should have to know about ``init``.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from projectiond import logs, sql
from projectiond.errors import ConfigurationError
from projectiond.postgres.database import Connection, check_server, connect, describe_target, fetch_row
from projectiond.postgres.embedded import DIRECTORY, is_running, require_package, start_embedded
from projectiond.postgres.pooler import refuse_shared_sessions
from projectiond.postgres.privileges import hidden_schemas
from projectiond.postgres.schema import apply_schema
from projectiond.settings import Settings, load_settings


@dataclass(frozen=True, slots=True)
class Options:
    """The options that stand before the command, or anywhere after it."""

    config_file: Path | None = None
    is_debug: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """Settings with database_url set, and the database's name for people."""

    settings: Settings
    is_embedded: bool

    @property
    def dsn(self) -> str:
        """The connection string; it may hold a password."""
        return self.settings.database_dsn() or ""

    def __str__(self) -> str:
        return f"the embedded PostgreSQL in {DIRECTORY}/" if self.is_embedded else describe_target(self.dsn)

    def connect(self, role: str) -> Connection:
        """Open a connection for a command.

        Raises:
            DatabaseUnavailableError: It cannot be opened.
            ConfigurationError: The server is none that the daemon could work with, or the schema is missing.
        """
        self.refuse_pooler()
        db = connect(self.dsn, role=role, statement_timeout_seconds=self.settings.statement_timeout_seconds)
        try:
            check_server(db)
            self._refuse_empty(db)
        except BaseException:
            db.close()
            raise
        return db

    def refuse_pooler(self) -> None:
        """Refuse a pooler that would hand the sessions' settings and locks on to others; before anything is set.

        Raises:
            ConfigurationError: There is one.
        """
        if not self.is_embedded:
            refuse_shared_sessions(self.dsn)

    def _refuse_empty(self, db: Connection) -> None:
        if hidden := hidden_schemas(db):
            raise ConfigurationError("\n".join(hidden))
        if fetch_row(db, sql.schema.IS_WITHOUT_SCHEMA)[0]:
            raise ConfigurationError(
                f"{self} has neither event_store nor projection_checkpoints in its search_path",
                hint='run "projectiond init"',
            )


def find_target(options: Options) -> Target:
    """Load the settings and see to it that there is a database.

    Raises:
        ConfigurationError: The settings have faults, or nothing is there that could be used.
        DatabaseUnavailableError: The embedded server does not start.
    """
    settings = load_settings(options.config_file)
    if settings.database_url is not None:
        return Target(settings, is_embedded=False)
    require_package()
    if not is_running():
        say(f"no database_url is set: starting the embedded PostgreSQL in {DIRECTORY}/")
    dsn = start_embedded()
    with connect(dsn, role="init", statement_timeout_seconds=0) as db:
        changes = apply_schema(db)
    if changes:
        say(f"applied schema.sql to it ({len(changes)} changes)")
    return Target(settings.model_copy(update={"database_url": SecretStr(dsn)}), is_embedded=True)


def log_warnings(target: Target, options: Options) -> None:
    """Let what is at work say only what is wrong, on stderr; a command's result is told by the command."""
    level: logs.LogLevel = "debug" if options.is_debug else "warning"
    logs.configure_logging(target.settings.log_format, level, stream=sys.stderr)


def say(text: str) -> None:
    """Tell a person something beside the command's result."""
    print(f"projectiond: {text}", file=sys.stderr, flush=True)  # noqa: T201 - it is for a person
