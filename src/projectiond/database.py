"""Connections: how they are opened, what they are set to, and what a handler may do with its own.

Called by everything that talks to PostgreSQL.  All connections are in autocommit mode, so that a transaction
exists only where the code says ``with db.transaction()``, and reads never hold a snapshot open.

A handler gets a :class:`Connection` inside the batch's transaction.  That transaction is the runner's: it also
holds the checkpoint, and ending it early would let a crash apply the batch twice.  So while handlers run
(``with db.guarded()``) every way to end or to begin a transaction is refused: the methods, and statements that
start with such a verb.  One that is hidden behind another statement gets past that look; the compare-and-set of
the checkpoint then fails, for a setting that is local to the transaction is gone.  Savepoints
(``with db.transaction()``) are welcome.

Failures are psycopg's own (``OperationalError`` when the server is away), except in :func:`connect`, whose
message a person reads: it raises :class:`DatabaseUnavailableError` in one sentence.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, LiteralString, Self

import psycopg
import psycopg.sql
from psycopg import conninfo, generators
from psycopg.abc import RV, PQGen, Query
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool

from projectiond import sql
from projectiond.errors import ConfigurationError, DatabaseUnavailableError, TransactionControlError
from projectiond.guard import beginning_of, is_session_change, is_transaction_control

# PostgreSQL 14: since it (and the minor releases of that year) a prepared transaction keeps its virtual
# transaction id, which the high-water mark relies on.
OLDEST_SERVER: Final = 140000

CONNECT_TIMEOUT_SECONDS: Final = 10

# How long a runner waits for a free connection of its worker's pool before it counts as trouble and is logged.  Long,
# for whoever gives up loses its place in the queue.
POOL_TIMEOUT_SECONDS: Final = 120.0


class _Cursor(psycopg.Cursor[TupleRow]):
    """A cursor that refuses transaction control while its connection is guarded, and knows its result in a pipeline.

    In a pipeline a result is on its way when ``execute`` returns.  psycopg waits for it where rows are asked for; asked
    how many rows there were, it would answer -1, and a handler that inserts where it has updated nothing would err
    without a word.  So here these questions wait too.  And so does a cursor that is used again: psycopg would give it
    the first statement's rows for the second's.
    """

    _is_used = False

    @property
    def rowcount(self) -> int:
        """How many rows the statement gave or changed."""
        self._await_result()
        return super().rowcount

    @property
    def statusmessage(self) -> str | None:
        """The server's word on what it did."""
        self._await_result()
        return super().statusmessage

    @property
    def description(self) -> list[psycopg.Column] | None:
        """The result's columns."""
        self._await_result()
        return super().description

    @property
    def rownumber(self) -> int | None:
        """The index of the next row to fetch."""
        self._await_result()
        return super().rownumber

    def results(self) -> Iterator[Self]:
        """Give the cursor for each of its results."""
        self._await_result()
        return super().results()

    def set_result(self, index: int) -> Self:
        """Move to one of the results."""
        self._await_result()
        return super().set_result(index)

    def execute(self, query: Query, *args: Any, **kwargs: Any) -> Self:  # noqa: ANN401 - psycopg's, passed through
        self._inspect(query)
        self._begin()
        return super().execute(query, *args, **kwargs)

    def executemany(self, query: Query, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as above
        self._inspect(query)
        self._begin()
        super().executemany(query, *args, **kwargs)

    def stream(self, query: Query, *args: Any, **kwargs: Any) -> Iterator[TupleRow]:  # noqa: ANN401 - as above
        self._inspect(query)
        return super().stream(query, *args, **kwargs)

    def _inspect(self, query: Query) -> None:
        if isinstance(self.connection, Connection) and self.connection.is_guarded:
            self.connection.inspect(query)

    def _begin(self) -> None:
        if self._is_used and isinstance(self.connection, Connection):
            self.connection.settle()
        self._is_used = True

    def _await_result(self) -> None:
        if self.pgresult is None and isinstance(self.connection, Connection):
            self.connection.settle()


class Connection(psycopg.Connection[TupleRow]):
    """A psycopg connection; in a handler it is inside the batch's transaction.

    Everything of psycopg 3 works (``execute``, ``executemany``, ``cursor``, ``transaction`` for savepoints), except
    that a handler cannot end the transaction or close the connection.

    Raises:
        TransactionControlError: A handler called ``commit``, ``rollback`` or ``close``, or executed such a statement.
    """

    is_guarded = False

    # The pipeline that statements are sent through, while there is one; and whether anything in it has failed.  A
    # failure surfaces where somebody happens to wait next, which may be in the handler of another event, and that
    # handler may catch it and go back to a savepoint.  So whatever becomes of it, nothing that followed is committed.
    active_pipeline: psycopg.Pipeline | None = None
    has_failed = False

    # Whether a handler has changed settings of the session (SET search_path); the pool must not hand it on.
    is_altered = False

    # When the server process was started, and (by our monotonic clock) a time at which this connection was open
    # already.  A mark that was proven on another server, or before a crash of this one, says nothing here.
    incarnation: datetime | None = None
    opened_at = 0.0

    # Where tables are looked for, whatever a handler sets for its transaction.
    search_path = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - psycopg's, passed through
        super().__init__(*args, **kwargs)
        self.cursor_factory = _Cursor

    @contextmanager
    def pipelined(self) -> Iterator[None]:
        """Send the statements of the block without waiting for each."""
        with self.pipeline() as pipeline:
            self.active_pipeline = pipeline
            try:
                yield
            finally:
                self.active_pipeline = None
                self.has_failed = False

    def settle(self) -> None:
        """Wait until everything that was sent through the pipeline has its result; outside of one there is no need."""
        if self.active_pipeline is not None:
            self._send_all()
            self.active_pipeline.sync()

    def send_off(self) -> None:
        """Send what has been called and not been sent yet, without waiting for results."""
        if self.active_pipeline is not None:
            self._send_all()

    @contextmanager
    def transaction(self, *args: Any, **kwargs: Any) -> Iterator[psycopg.Transaction]:  # noqa: ANN401 - psycopg's
        """Begin a transaction; of a handler, which is inside of one: a savepoint."""
        if self.active_pipeline is not None:
            self._send_all()
        with super().transaction(*args, **kwargs) as transaction:
            yield transaction

    def _send_all(self) -> None:
        # psycopg waits for answers without having sent a large parameter to its end, and the server waits for the rest.
        with self.lock:
            self.wait(generators.send(self.pgconn))

    def wait(self, gen: PQGen[RV], *args: Any, **kwargs: Any) -> RV:  # noqa: ANN401 - psycopg's, passed through
        """Do whatever there is to do with the server; psycopg's one place for it."""
        try:
            return super().wait(gen, *args, **kwargs)
        except psycopg.Error:
            self.has_failed = self.has_failed or self.active_pipeline is not None
            raise

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Refuse transaction control within the block, and undo what is done to the connection object in it."""
        before = self.row_factory, self.cursor_factory, self.prepare_threshold
        self.is_guarded = True
        try:
            yield
        finally:
            self.is_guarded = False
            # The connection goes back to a pool that other projections use.
            self.row_factory, self.cursor_factory, self.prepare_threshold = before

    def inspect(self, query: Query) -> None:
        """Refuse a statement that would end or begin a transaction; note one that changes the session."""
        beginning = beginning_of(query, self)
        if is_transaction_control(beginning):
            raise _refusal(" ".join(beginning.split())[:40])
        self.is_altered = self.is_altered or is_session_change(beginning)

    def commit(self) -> None:
        """Refused in a handler."""
        if self.is_guarded:
            raise _refusal("db.commit()")
        super().commit()

    def rollback(self) -> None:
        """Refused in a handler."""
        if self.is_guarded:
            raise _refusal("db.rollback()")
        super().rollback()

    def close(self) -> None:
        """Refused in a handler."""
        if self.is_guarded:
            raise _refusal("db.close()")
        super().close()


def _refusal(what: str) -> TransactionControlError:
    return TransactionControlError(
        f"a handler ran {what}, but the transaction is the daemon's",
        hint="remove it: the read model and the checkpoint are committed together when the batch is done",
    )


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
            f"cannot connect to {describe_target(dsn)}: {_last_line(error)}",
            hint="check database_url, and that the server is up and accepts this user",
        ) from error
    return db


def open_pool(
    dsn: str, *, role: str, statement_timeout_seconds: float, size: int, first_schema: str = "", replay_id: str = ""
) -> ConnectionPool[Connection]:
    """Open a pool of at most ``size`` connections; it connects in the background and never raises here.

    With ``first_schema`` its sessions look for tables there before they look anywhere else; ``replay_id`` is whose.
    """
    return ConnectionPool(
        dsn,
        connection_class=Connection,
        kwargs=dict(_parameters(role)),
        configure=lambda db: configure(db, statement_timeout_seconds, first_schema, replay_id),
        min_size=1,
        max_size=size,
        timeout=POOL_TIMEOUT_SECONDS,
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


def configure(db: Connection, statement_timeout_seconds: float, first_schema: str = "", replay_id: str = "") -> None:
    """Set the session's time-out, isolation level, keepalives and search_path, and note which server it is."""
    timeout = str(int(statement_timeout_seconds * 1000))
    if first_schema:
        db.execute(sql.ENTER_SPACE, {"schema": first_schema, "replay_id": replay_id})
    *_, db.search_path, db.incarnation = fetch_row(db, sql.CONFIGURE_SESSION, {"statement_timeout": timeout})
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
    version, is_standby = fetch_row(db, sql.SERVER_FACTS)
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


def _parameters(role: str) -> Mapping[str, Any]:
    return {
        "autocommit": True,
        "application_name": f"projectiond/{role}",
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        # In a database without an encoding of its own (SQL_ASCII) text would come as bytes.
        "client_encoding": "UTF8",
        # A server that is gone without a word is noticed within some 15 s from this side too.
        "keepalives_idle": 5,
        "keepalives_interval": 3,
        "keepalives_count": 3,
        "tcp_user_timeout": 15000,
    }


def _last_line(error: psycopg.Error) -> str:
    """Keep the server's own word of libpq's many lines, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    chosen = next((line for line in lines if "FATAL:" in line), lines[0])
    for mark in ("FATAL:", " failed:", "connection is bad:"):
        chosen = chosen.rpartition(mark)[2]
    return chosen.strip()
