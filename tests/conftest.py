"""Fixtures that give tests a real PostgreSQL.

- `server`: a server that the whole run shares; a test that uses it runs once on each kind that is available, or on
  one of them where it is marked `any_server`.
- `database`: a fresh database with `schema.sql` applied.
- `empty_database`: a fresh database with nothing in it.
- `own_server`: a server of the test's own, which it may stop, crash and restart.
- `own_database`: a fresh database with `schema.sql` applied, on `own_server`.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg
import pytest

from tests.support import postgres, servers
from tests.support.postgres import Database, LocalServer, Server
from tests.support.scratch import remove_scratch_directory


@dataclass(frozen=True)
class SharedServer:
    """A server that all tests of the run share, and the database on it that theirs are copied from."""

    server: Server
    template: str


@pytest.fixture(scope="session")
def start_shared_server() -> Iterator[Callable[[str], SharedServer]]:
    """Start each kind of server when a test first asks for it; they run until the run ends."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def start(kind: str) -> SharedServer:
            server = stack.enter_context(servers.running_server(kind))
            stack.callback(postgres.close_administrators)
            template = stack.enter_context(postgres.fresh_database(server))
            _apply_schema(template)
            return SharedServer(server, template.name)

        yield start


@pytest.fixture(scope="session", params=servers.server_kinds(), ids=servers.label)
def shared_server(request: pytest.FixtureRequest, start_shared_server: Callable[[str], SharedServer]) -> SharedServer:
    """Give one kind of server after the other."""
    return start_shared_server(request.param)


@pytest.fixture(scope="session")
def server(shared_server: SharedServer) -> Server:
    """Give a server that all tests of the run share."""
    return shared_server.server


@pytest.fixture
def database(shared_server: SharedServer) -> Iterator[Database]:
    """Make a database with the schema applied, for one test."""
    with postgres.fresh_database(shared_server.server, shared_server.template) as fresh:
        yield fresh


@pytest.fixture(scope="session")
def schema_template(shared_server: SharedServer) -> str:
    """Return the name of the database that those of the tests are copied from."""
    return shared_server.template


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


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let the tests that are marked `any_server` run on one kind of server only, and begin with the `slow` ones.

    Begun last, a slow one would let the other processes of a parallel run wait for it.
    """
    surplus = {item for item in items if item.get_closest_marker("any_server") and _is_on_another_server(item)}
    config.hook.pytest_deselected(items=list(surplus))
    items[:] = [item for item in items if item not in surplus]
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_sessionfinish() -> None:
    """Remove the directories of this run's servers."""
    remove_scratch_directory()


def _apply_schema(database: Database) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as conn:
        conn.execute(postgres.SCHEMA_FILE.read_bytes())


def _is_on_another_server(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    kinds = {"shared_server": servers.server_kinds(), "own_server": servers.local_kinds()}
    return callspec is not None and any(callspec.params.get(name) in kinds[name][1:] for name in kinds)
