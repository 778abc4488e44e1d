"""What `projectiond grants` gives is all that the daemon has, and `projectiond check` names what of it is missing."""

import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import errors, sql

from projectiond.cli.application import main
from projectiond.errors import ConfigurationError
from projectiond.postgres.privileges import FUNCTIONS, TABLES, grants
from tests.support.postgres import Database
from tests.support.queries import value
from tests.support.roles import OfRole, granted_role

# One plugin, so that a check is quick.
PLUGINS = Path(__file__).parents[2] / "kubernetes" / "overlays" / "plugins-in-configmap" / "projections"

pytestmark = [pytest.mark.integration, pytest.mark.any_server]


@pytest.fixture
def as_role(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    with granted_role(database) as seen:
        monkeypatch.setenv("PROJECTIOND_DATABASE_URL", seen.dsn)
        monkeypatch.setenv("PROJECTIOND_PROJECTIONS", str(PLUGINS))
        yield seen


@pytest.fixture
def owner(database: Database) -> psycopg.Connection[tuple[object, ...]]:
    return database.connect()


def role_of(seen: Database) -> str:
    assert isinstance(seen.server, OfRole)
    return seen.server.role


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO event_store SELECT FROM event_store",
        "UPDATE event_store SET version = 2",
        "DELETE FROM event_store",
        "TRUNCATE event_store",
        "SELECT nextval('event_store_sequence_number_seq')",
        "SELECT * FROM snapshots",
        "INSERT INTO snapshots VALUES (gen_random_uuid(), 'order', 1, '{}')",
        "DELETE FROM projection_checkpoints",
        "DELETE FROM projection_rebuilds",
        "UPDATE projection_rebuild_history SET position = 0",
        "CREATE TABLE public.mine (n int)",
        "CREATE TRIGGER mine AFTER INSERT ON event_store EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "ALTER TABLE event_store DISABLE TRIGGER ALL",
        "CREATE ROLE mine",
    ],
)
def test_such_a_role_can_do_nothing_else(statement: str, as_role: Database) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        as_role.connect().execute(statement.encode())


def test_such_a_role_may_read_no_table_of_others(
    as_role: Database, owner: psycopg.Connection[tuple[object, ...]]
) -> None:
    owner.execute("CREATE TABLE customers (name text)")
    may_read = (
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm') AND has_table_privilege(oid, 'SELECT')"
    )
    others = "AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)"
    readable = {name for (name,) in as_role.connect().execute(f"{may_read} {others}".encode())}
    assert readable == set(TABLES)


def test_what_is_granted_may_be_granted_again(as_role: Database, owner: psycopg.Connection[tuple[object, ...]]) -> None:
    before = owner.execute("SELECT relname, relacl FROM pg_class WHERE relacl IS NOT NULL ORDER BY 1").fetchall()
    owner.execute(grants(owner, role_of(as_role)).encode())
    assert (
        owner.execute("SELECT relname, relacl FROM pg_class WHERE relacl IS NOT NULL ORDER BY 1").fetchall() == before
    )


def test_with_all_of_it_check_finds_nothing(as_role: Database, capsys: pytest.CaptureFixture[str]) -> None:
    del as_role
    assert main(["check"]) == 0, capsys.readouterr().err
    assert "lacks" not in capsys.readouterr().out


MISSING = [
    *((f"{privilege} ON {table}", "TABLE") for table, privileges in TABLES.items() for privilege in privileges),
    ("USAGE ON SCHEMA public", "SCHEMA"),
    ("SELECT ON SEQUENCE event_store_sequence_number_seq", "SEQUENCE"),
    *((f"EXECUTE ON FUNCTION {function}", "FUNCTION") for function in FUNCTIONS),
    ("CREATE ON DATABASE {database}", "DATABASE"),
    ("CONNECT ON DATABASE {database}", "DATABASE"),
]


@pytest.mark.parametrize("kind", ["TABLE", "SCHEMA", "SEQUENCE", "FUNCTION", "DATABASE"])
def test_check_names_exactly_the_grant_that_is_missing(
    kind: str, as_role: Database, owner: psycopg.Connection[tuple[object, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    role = role_of(as_role)
    for wanted in (text.format(database=as_role.name) for text, its_kind in MISSING if its_kind == kind):
        owner.execute(f"REVOKE {wanted} FROM {role}, PUBLIC".encode())
        main(["check"])
        out, err = capsys.readouterr()
        named = [line for line in (out + err).splitlines() if "GRANT" in line]
        assert len(named) == 1, out + err
        assert re.search(rf"run GRANT {re.escape(wanted)} TO {role}\b", named[0].replace('"', "")), named[0]
        owner.execute(f"GRANT {wanted} TO {role}".encode())


def test_a_schema_of_somebody_else_is_no_schema_of_its_own(owner: psycopg.Connection[tuple[object, ...]]) -> None:
    with pytest.raises(ConfigurationError, match='the schema "public" belongs to "'):
        grants(owner, "daemon", "public")


def test_without_an_event_store_there_is_nothing_to_grant(empty_database: Database) -> None:
    with pytest.raises(ConfigurationError, match="there is no event_store"):
        grants(empty_database.connect(), "daemon")


def test_hostile_names_stay_names(owner: psycopg.Connection[tuple[object, ...]]) -> None:
    name = f"d'\"; $$ \n-- {uuid.uuid4().hex[:8]}"
    identifier = sql.Identifier(name)
    owner.execute(grants(owner, name, name + " of its own").encode())
    try:
        assert value(owner, "SELECT count(*) FROM pg_roles WHERE rolname = %s", name) == 1
    finally:
        owner.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(identifier))
    with pytest.raises(ConfigurationError, match="cannot be part of a name"):
        grants(owner, "a$projectiond$b")
