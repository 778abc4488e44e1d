"""The database: how connections to it are opened, what they are set to, and which servers are accepted.

Called by everything that talks to PostgreSQL.  All connections are in autocommit mode, so that a transaction
exists only where the code says ``with db.transaction()``, and reads never hold a snapshot open.

Failures are psycopg's own (``OperationalError`` when the server is away), except in :func:`connect`, whose
message a person reads: it raises :class:`DatabaseUnavailableError` in one sentence.
"""

import errno
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, LiteralString

import psycopg
from psycopg import conninfo
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from projectiond import logs, sql
from projectiond.errors import ConfigurationError, DatabaseUnavailableError
from projectiond.failure import describe
from projectiond.postgres.connection import Connection as Connection  # noqa: PLC0414 - opened here, and asked for here

log = logs.get_logger()

# PostgreSQL 14: since it (and the minor releases of that year) a prepared transaction keeps its virtual
# transaction id, which the high-water mark relies on.
OLDEST_SERVER: Final = 140000

CONNECT_TIMEOUT_SECONDS: Final = 10

# How long a runner waits for a free connection of its worker's pool before it counts as trouble and is logged.  Long,
# for whoever gives up loses its place in the queue.
POOL_TIMEOUT_SECONDS: Final = 120.0

# No pause between two attempts to reach the server is longer, however long it has been away.
LONGEST_RECONNECT_SECONDS: Final = 5.0

_NO_ROAD: Final = os.strerror(errno.EADDRNOTAVAIL)

# It is the request that counts.  One that is too short is over before it is made, if its thread is held up meanwhile.
REQUEST_SECONDS: Final = 0.1


def connect(
    dsn: str,
    *,
    role: str,
    statement_timeout_seconds: float,
    connect_timeout_seconds: int = CONNECT_TIMEOUT_SECONDS,
) -> Connection:
    """Open one connection, set up for the daemon.

    Args:
        dsn: A libpq connection string or URL.
        role: What it is for; ends up in ``application_name`` as ``projectiond/role``.
        statement_timeout_seconds: 0 switches the time-out off.
        connect_timeout_seconds: For each host of the connection string.

    Raises:
        DatabaseUnavailableError: No connection could be made; the message names the server, never the password.
    """
    try:
        db = Connection.connect(dsn, **{**_parameters(role), "connect_timeout": connect_timeout_seconds})
        configure(db, statement_timeout_seconds)
    except psycopg.OperationalError as error:
        raise DatabaseUnavailableError(
            f"cannot connect to {describe_target(dsn)}: {_word_of(error)}", hint=_advice(dsn, error)
        ) from error
    return db


def open_pool(
    dsn: str, *, role: str, statement_timeout_seconds: float, size: int, first_schema: str = "", replay_id: str = ""
) -> ConnectionPool[Connection]:
    """Open a pool of at most ``size`` connections; it connects in the background and never raises here.

    With ``first_schema`` its sessions look for tables there before they look anywhere else; ``replay_id`` is whose.
    """
    if not Connection.is_express:
        log.warning(logs.PIPELINE_PLAIN, psycopg=psycopg.__version__)
    return ConnectionPool(
        dsn,
        connection_class=Connection,
        kwargs=dict(_parameters(role)),
        configure=lambda db: configure(db, statement_timeout_seconds, first_schema, replay_id),
        min_size=1,
        max_size=size,
        timeout=POOL_TIMEOUT_SECONDS,
        # The pool's own pauses double until then.
        reconnect_timeout=LONGEST_RECONNECT_SECONDS,
        reconnect_failed=_begin_anew,
        name=role,
        open=True,
    )


@contextmanager
def borrow(pool: ConnectionPool[Connection]) -> Iterator[Connection]:
    """Take a connection from the pool for the block."""
    with pool.connection() as db:
        try:
            yield db
        finally:
            if db.is_altered:
                # The next to borrow it would inherit what was done to it; the pool opens a new one.
                db.close()


def _begin_anew(pool: ConnectionPool[Any]) -> None:
    """Have a pool that has given up try again, with short pauses: a new request makes it grow, an old one does not."""
    with suppress(PoolTimeout, PoolClosed):
        pool.putconn(pool.getconn(REQUEST_SECONDS))


def configure(db: Connection, statement_timeout_seconds: float, first_schema: str = "", replay_id: str = "") -> None:
    """Set the session's time-out, isolation level, keepalives and search_path, and note which server it is."""
    timeout = str(int(statement_timeout_seconds * 1000))
    if first_schema:
        db.execute(sql.session.ENTER_SPACE, {"schema": first_schema, "replay_id": replay_id})
    # Where the server's system cannot tell (Windows), the setting is refused.
    with suppress(psycopg.errors.InvalidParameterValue):
        db.execute(sql.session.CHECK_CLIENT)
    *_, db.search_path, db.incarnation = fetch_row(db, sql.session.CONFIGURE_SESSION, {"statement_timeout": timeout})
    db.opened_at = time.monotonic()


def fetch_row(db: Connection, statement: LiteralString, parameters: Mapping[str, Any] | None = None) -> TupleRow:
    """Run a statement that gives exactly one row, and give that row."""
    row = db.execute(statement, parameters).fetchone()
    if row is None:
        raise psycopg.InternalError(f"no row came back from {statement.strip()[:60]!r}")
    return row


def check_server(db: Connection) -> None:
    """Refuse a server on which the guarantees would not hold.

    Raises:
        ConfigurationError: A standby (numbers become visible there in another order, and it cannot be written), or
            a server older than PostgreSQL 14.
    """
    version, is_standby = fetch_row(db, sql.session.SERVER_FACTS)
    if version < OLDEST_SERVER:
        raise ConfigurationError(
            f"the server is PostgreSQL {version // 10000}", hint="projectiond needs PostgreSQL 14 or later"
        )
    if is_standby:
        raise ConfigurationError(
            "the server is a standby, which cannot be projected from",
            hint="point database_url at the primary (several hosts with target_session_attrs=read-write find it)",
        )


def describe_target(dsn: str) -> str:
    """Name the server and database of a connection string for people, without secrets."""
    try:
        parts = conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        return "the database"
    if parts.get("service"):
        return f'the database of service "{parts["service"]}"'
    host = parts.get("host") or parts.get("hostaddr") or "the local socket"
    port = f":{parts['port']}" if parts.get("port") else ""
    name = parts.get("dbname") or parts.get("user") or "default"
    return f'database "{name}" at {host}{port}'


def count_hosts(dsn: str | None) -> int:
    """Say how many servers a connection string names; the time-out of a connection is for each."""
    try:
        parts = conninfo.conninfo_to_dict(dsn or "")
    except psycopg.ProgrammingError:
        return 1
    return str(parts.get("host") or parts.get("hostaddr") or "").count(",") + 1


def unreachable(dsn: str, error: psycopg.Error) -> DatabaseUnavailableError:
    """Say, for an application's own connection string, why it leads nowhere."""
    return DatabaseUnavailableError(
        f"cannot connect to {describe_target(dsn)}: {describe(error)}",
        hint="check the connection string, and that the server is up and accepts this user",
    )


def _parameters(role: str) -> Mapping[str, Any]:
    return {
        "autocommit": True,
        "application_name": f"projectiond/{role}",
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        # In a database without an encoding of its own (SQL_ASCII) text would come as bytes.
        "client_encoding": "UTF8",
        # A server that is gone without a word is noticed as soon from this side, see CONFIGURE_SESSION.
        "keepalives_idle": 5,
        "keepalives_interval": 3,
        "keepalives_count": 3,
        "tcp_user_timeout": 10000,
    }


def _advice(dsn: str, error: psycopg.Error) -> str:
    """Say what to do about a connection that could not be made."""
    # The keyword is in no other refusal, and is not translated.
    if "CONNECT" not in str(error):
        return "check database_url, and that the server is up and accepts this user"
    parts = conninfo.conninfo_to_dict(dsn)
    database, role = (psycopg.sql.Identifier(str(parts.get(name, "…"))).as_string() for name in ("dbname", "user"))
    return f"run GRANT CONNECT ON DATABASE {database} TO {role}"


def _word_of(error: psycopg.Error) -> str:
    """Keep the server's own word of libpq's many lines, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # A name may stand for several addresses; one that no road of this machine leads to says nothing about the server.
    attempts = [line for line in lines if line.startswith("- host:") and _NO_ROAD not in line]
    chosen = next((line for line in lines if "FATAL:" in line), (attempts or lines)[0])
    for mark in ("FATAL:", " failed:", "connection is bad:"):
        chosen = chosen.rpartition(mark)[2]
    return chosen.strip()
