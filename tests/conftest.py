"""Fixtures that give tests a real PostgreSQL.

- `server`: one server for the test run; a test that uses it runs once on each kind that is available.
- `database`: a fresh database with `schema.sql` applied.
- `empty_database`: a fresh database with nothing in it.
- `own_server`: a server of the test's own, which it may stop, crash and restart.
- `own_database`: a fresh database with `schema.sql` applied, on `own_server`.
"""

from collections.abc import Iterator

import psycopg
import pytest

from tests.support import postgres, servers
from tests.support.postgres import Database, LocalServer, Server
from tests.support.scratch import remove_scratch_directory


@pytest.fixture(scope="session", params=servers.server_kinds(), ids=servers.label)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Run one PostgreSQL server for all tests of the run."""
    with servers.running_server(request.param) as running:
        yield running


@pytest.fixture(scope="session")
def schema_template(server: Server) -> Iterator[str]:
    """Make the database that those of the tests are copied from; return its name."""
    with postgres.fresh_database(server) as database:
        _apply_schema(database)
        yield database.name


@pytest.fixture
def database(server: Server, schema_template: str) -> Iterator[Database]:
    """Make a database with the schema applied, for one test."""
    with postgres.fresh_database(server, schema_template) as fresh:
        yield fresh


@pytest.fixture
def empty_database(server: Server) -> Iterator[Database]:
    """Make a database with nothing in it, for one test."""
    with postgres.fresh_database(server) as fresh:
        yield fresh


@pytest.fixture(params=servers.local_kinds(), ids=servers.label)
def own_server(request: pytest.FixtureRequest) -> Iterator[LocalServer]:
    """Run a server that the test may stop, crash and restart."""
    with servers.running_local_server(request.param) as running:
        yield running


@pytest.fixture
def own_database(own_server: LocalServer) -> Iterator[Database]:
    """Make a database with the schema applied on the test's own server; it goes when the server goes."""
    with psycopg.connect(own_server.dsn(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE app")
    database = Database(own_server, "app")
    _apply_schema(database)
    yield database
    database.close()


def pytest_sessionfinish() -> None:
    """Remove the directories of this run's servers."""
    remove_scratch_directory()


def _apply_schema(database: Database) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as conn:
        conn.execute(postgres.SCHEMA_FILE.read_bytes())
