"""Connections: how they are set up, what is refused, and what a handler may not do with its own."""

import errno
import os
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from projectiond.errors import ConfigurationError, DatabaseUnavailableError, TransactionControlError
from projectiond.postgres import database as databases
from projectiond.postgres.database import Connection, check_server, connect, describe_target, fetch_row
from tests.support.postgres import Database, LocalServer
from tests.support.queries import value
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration


@pytest.fixture
def db(database: Database) -> Iterator[databases.Connection]:
    with connect(database.dsn, role="runner", statement_timeout_seconds=12.5) as db:
        yield db


def test_a_connection_is_set_up_for_the_daemon(db: databases.Connection) -> None:
    assert db.autocommit
    settings = {
        "application_name": "projectiond/runner",
        "statement_timeout": "12500ms",
        "default_transaction_isolation": "read committed",
    }
    for setting, expected in settings.items():
        assert fetch_row(db, "SELECT current_setting(%(name)s)", {"name": setting})[0] == expected
    assert db.incarnation == fetch_row(db, "SELECT pg_postmaster_start_time()")[0]


def test_an_isolation_level_of_the_role_does_not_reach_us(database: Database) -> None:
    admin = database.connect()
    name = sql.Identifier(database.name)
    admin.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_isolation = 'serializable'").format(name))
    with connect(database.dsn, role="runner", statement_timeout_seconds=30) as db, db.transaction():
        assert fetch_row(db, "SHOW transaction_isolation")[0] == "read committed"


def test_a_statement_that_takes_too_long_is_ended(database: Database) -> None:
    with (
        connect(database.dsn, role="runner", statement_timeout_seconds=0.1) as db,
        pytest.raises(psycopg.errors.QueryCanceled),
    ):
        db.execute("SELECT pg_sleep(30)")


@pytest.mark.parametrize(
    ("dsn", "told"),
    [
        ("postgresql://app:hunter2@localhost:1/shop", 'cannot connect to database "shop" at localhost:1: '),
        (
            "postgresql://app:hunter2@no-such-host.invalid/shop",
            'cannot connect to database "shop" at no-such-host.invalid: ',
        ),
        ("host=/nowhere dbname=shop password=hunter2", 'cannot connect to database "shop" at /nowhere: '),
    ],
)
def test_no_connection_is_one_sentence_without_the_password(dsn: str, told: str) -> None:
    with pytest.raises(DatabaseUnavailableError) as raised:
        connect(dsn, role="watcher", statement_timeout_seconds=30)
    assert raised.value.message.startswith(told)
    assert len(raised.value.message) > len(told)
    assert "hunter2" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_of_several_addresses_the_one_that_says_something_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container that has no IPv6, localhost is first of all an address that cannot be reached."""

    def refuse(*_: object, **__: object) -> None:
        attempt = "connection failed: connection to server at"
        last = f'{attempt} "::1", port 5432 failed: {os.strerror(errno.EADDRNOTAVAIL)}'
        first = f'{attempt} "127.0.0.1", port 5432 failed: Connection refused'
        raise psycopg.OperationalError(
            f"{last}\nMultiple connection attempts failed. All failures were:\n"
            f"- host: 'localhost', port: '5432', hostaddr: '127.0.0.1': {first}\n"
            f"- host: 'localhost', port: '5432', hostaddr: '::1': {last}"
        )

    monkeypatch.setattr(Connection, "connect", refuse)
    with pytest.raises(DatabaseUnavailableError, match="at localhost: Connection refused; "):
        connect("postgresql://localhost/shop", role="watcher", statement_timeout_seconds=30)


def test_a_database_that_is_not_there_is_told_in_the_servers_words(database: Database) -> None:
    dsn = database.server.dsn("nowhere")
    with pytest.raises(DatabaseUnavailableError, match='database "nowhere" does not exist'):
        connect(dsn, role="watcher", statement_timeout_seconds=30)


def test_a_target_is_named_without_secrets() -> None:
    assert describe_target("postgresql://app:hunter2@db:5433/shop") == 'database "shop" at db:5433'
    assert describe_target("dbname=shop") == 'database "shop" at the local socket'
    assert describe_target("user=app") == 'database "app" at the local socket'
    assert describe_target("host=h\\ost =") == "the database"


def test_a_server_that_is_new_enough_and_no_standby_is_accepted(db: databases.Connection) -> None:
    check_server(db)


def test_a_server_that_is_too_old_is_refused(db: databases.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "OLDEST_SERVER", 990000)
    with pytest.raises(ConfigurationError, match="the server is PostgreSQL 1"):
        check_server(db)


def test_a_standby_is_refused(own_server: LocalServer) -> None:
    own_server.stop()
    (own_server.data_directory / "standby.signal").touch()
    own_server.start()
    with (
        connect(own_server.dsn(), role="watcher", statement_timeout_seconds=30) as db,
        pytest.raises(ConfigurationError, match="the server is a standby"),
    ):
        check_server(db)


@pytest.mark.any_server
def test_a_session_asks_the_server_to_notice_when_its_client_has_gone(own_server: LocalServer) -> None:
    # An address of this process alone, so that the usual port is free on it.
    address = f"127.77.{os.getpid() // 256 % 256}.{os.getpid() % 255 + 1}"
    with psycopg.connect(own_server.dsn(), autocommit=True) as admin:
        admin.execute(sql.SQL("ALTER SYSTEM SET listen_addresses = {}").format(address))
    own_server.restart()
    asked = """
        SELECT name, setting FROM pg_settings
        WHERE name LIKE 'tcp%' OR name = 'client_connection_check_interval' ORDER BY 1
    """
    on_tcp = {"keepalives_count": "3", "keepalives_idle": "5", "keepalives_interval": "3", "user_timeout": "10000"}
    for dsn, wanted in (
        (f"host={address} user=postgres", on_tcp),
        # Taken, and without effect.
        (own_server.dsn(), dict.fromkeys(on_tcp, "0")),
    ):
        with connect(dsn, role="leases", statement_timeout_seconds=30) as session:
            found: dict[str, str] = dict(session.execute(asked).fetchall())
            assert found.pop("client_connection_check_interval") == "1000"
            assert found == {f"tcp_{name}": setting for name, setting in wanted.items()}


def test_a_row_that_is_missing_is_an_error(db: databases.Connection) -> None:
    with pytest.raises(psycopg.InternalError, match="no row came back from 'SELECT 1 WHERE false'"):
        fetch_row(db, "SELECT 1 WHERE false")


# --- the guard

CONTROL = [
    "BEGIN",
    "begin work",
    "COMMIT",
    "Commit and chain",
    "COMMIT PREPARED 'x'",
    "END",
    "ABORT",
    "ROLLBACK",
    "ROLLBACK WORK",
    "rollback and chain",
    "ROLLBACK PREPARED 'to'",
    "START TRANSACTION READ ONLY",
    "start\n\ttransaction",
    "PREPARE TRANSACTION 'x'",
    "  \n\t COMMIT",
    "-- a comment\nCOMMIT",
    "--\n--\nCOMMIT;",
    "/* a comment */COMMIT",
    "/* two */ /* lines\n */ -- and one\n COMMIT",
    ";COMMIT",
    " ; ; COMMIT",
]

NO_CONTROL = [
    "SELECT 1",
    "SELECT 'COMMIT'",
    "-- COMMIT\nSELECT 1",
    "/* COMMIT */ SELECT 1",
    "SAVEPOINT commit",
    "RELEASE SAVEPOINT commit",
    "ROLLBACK TO SAVEPOINT x",
    "ROLLBACK TO x",
    "rollback work to savepoint x",
    "ROLLBACK TRANSACTION TO x",
    "PREPARE x AS SELECT 1",
    "INSERT INTO commits VALUES (1)",
    "WITH commit AS (SELECT 1) SELECT * FROM commit",
    "ENDORSE",
    "BEGINNING",
    "COMMITTED",
    "DO $$ BEGIN NULL; END $$",
    "START_TRANSACTION",
    "",
]


@pytest.mark.parametrize("statement", CONTROL)
def test_transaction_control_is_recognised(db: databases.Connection, statement: str) -> None:
    with db.guarded():
        for query in (statement, statement.encode(), sql.SQL(statement)):
            with pytest.raises(TransactionControlError, match="the transaction is the daemon's"):
                db.execute(query)


@pytest.mark.parametrize("statement", NO_CONTROL)
def test_other_statements_pass(db: databases.Connection, statement: str) -> None:
    with db.guarded():
        db.inspect(statement.encode())


@pytest.mark.timeout(10)
def test_a_hostile_statement_is_recognised_in_no_time(db: databases.Connection) -> None:
    with db.guarded():
        for statement in (
            "\n" + " " * 40 + "INSERT INTO t",
            "/*" * 5_000,
            " " * 500_000,
            "--\n" * 100_000,
            "/**/" * 100_000 + "x",
            ";" * 500_000,
        ):
            db.inspect(statement.encode())


def test_every_way_to_end_the_transaction_is_refused_within_the_guard_and_open_outside(
    db: databases.Connection,
) -> None:
    with db.transaction():
        db.execute("CREATE TABLE kept ()")
        with db.guarded():
            for end in (db.commit, db.rollback, db.close):
                with pytest.raises(TransactionControlError):
                    end()
            with pytest.raises(psycopg.ProgrammingError):
                db.autocommit = False
        assert db.info.transaction_status.name == "INTRANS"
    assert fetch_row(db, "SELECT count(*) FROM kept") == (0,)
    db.commit()
    db.rollback()


@pytest.mark.parametrize("verb", ["execute", "executemany", "stream"])
def test_every_verb_of_a_cursor_is_guarded(db: databases.Connection, verb: str) -> None:
    cursor = db.cursor()
    verbs: dict[str, Callable[[], object]] = {
        "execute": lambda: cursor.execute("COMMIT"),
        "executemany": lambda: cursor.executemany("COMMIT", [()]),
        "stream": lambda: list(cursor.stream("COMMIT")),
    }
    with db.transaction(), db.guarded(), pytest.raises(TransactionControlError):
        verbs[verb]()


def test_what_is_set_on_the_connection_object_is_undone(db: databases.Connection) -> None:
    with db.guarded():
        setattr(db, "row_factory", dict_row)  # noqa: B010 -- its type forbids it, authors do it
        db.prepare_threshold = 1
    assert fetch_row(db, "SELECT 1 AS one") == (1,)
    assert db.prepare_threshold != 1


@pytest.mark.parametrize(
    "statement",
    [
        "SET search_path TO x",
        "set statement_timeout = 1",
        "RESET ALL",
        "SELECT set_config('a.b', 'c', false)",
        "SELECT set_config('a.b', %(value)s, false)",
        "SELECT set_config('a.b', %(value)s, true), set_config('a.c', %(value)s, false)",
        "SET ROLE x",
    ],
)
def test_a_session_that_a_handler_has_changed_is_known(db: databases.Connection, statement: str) -> None:
    assert not db.is_altered
    with db.guarded():
        db.inspect(statement.encode())
    assert db.is_altered


@pytest.mark.parametrize(
    "statement",
    [
        "SET LOCAL search_path TO x",
        "UPDATE t SET x = 1",
        "SELECT 'reset'",
        "SELECT set_config('a.b', 'c', true)",
        "SELECT set_config('a.b', %s, true)",
        "SELECT set_config('a.b', %(value)s, true)",
    ],
)
def test_a_session_is_not_believed_changed_by_other_statements(db: databases.Connection, statement: str) -> None:
    with db.guarded():
        db.inspect(statement.encode())
    assert not db.is_altered


def test_the_pool_connects_again_after_its_connections_were_killed(database: Database) -> None:
    conn = database.connect()
    pool = databases.open_pool(database.dsn, role="runner", statement_timeout_seconds=30, size=2)
    with pool:
        with pool.connection() as db:
            assert db.incarnation is not None
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'projectiond/runner' AND datname = current_database()"
        )

        def works() -> bool:
            try:
                with pool.connection() as db:
                    return fetch_row(db, "SELECT 1") == (1,)
            except psycopg.OperationalError:
                return False

        assert eventually(works)
    assert value(conn, "SELECT 1") == 1
