"""Waiting: read your writes.

An append gives a sequence number; :func:`wait_for` stays until a projection has applied everything up to it, so that
the read model that is read next shows what was written.  For web applications (``wait_for_async``), tests and scripts;
the command ``wait`` drives the same steps, and ``projectiond_wait_for`` in schema.sql takes them on the server, for
whoever speaks only SQL.

It polls.  A notification for each checkpoint would put the daemon's commits into one queue, and the writers' with them
(see ``doorbell``), while a look is one row by its primary key, some 30 µs.  The first pause is half a millisecond; from
then on each is an eighth of the time waited so far, at most 50 ms.  So the answer comes some eighth later than the
commit at most, which is about 1 ms at the head; and a hundred who wait in vain ask for 2,000 rows a second together,
a tenth of what one core of the server can do.

How: the steps are a generator, :func:`watch`.  It yields a question (one statement), a pause, or in the end the row of
the projection that has arrived; the functions here ask and sleep, each in its own way.  A connection of a pool is
borrowed for the questions and given back for the pauses: hundreds may wait with few connections.

What counts as applied: see ``arrival``.  During a rebuild beside the live tables it is what these hold, as ever.  In
place it is the new history that counts: from the request on nothing is applied, and then what the replay has passed.  A
paused projection that lacks something is an error at once, since only an operator can change it.

A transaction of the caller's own.  Under REPEATABLE READ every look would see the same, for ever.  A transaction that
has itself appended keeps the mark below its own events until it commits.  Both are refused whatever the position is,
for code that works only when the daemon was quick is worse than code that never does.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow, tuple_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

from projectiond import sql
from projectiond.checkpoint import Checkpoint
from projectiond.errors import (
    ConfigurationError,
    ProjectiondError,
    ProjectionPausedError,
    WaitTimeoutError,
)
from projectiond.failure import printable
from projectiond.postgres.database import CONNECT_TIMEOUT_SECONDS, unreachable
from projectiond.settings_faults import sentence_of_unknown
from projectiond.waiting.arrival import Arrival, Pause, Question, Rows
from projectiond.waiting.lateness import explain, paused_sentence

Source = psycopg.Connection[Any] | ConnectionPool[Any] | str
AsyncSource = psycopg.AsyncConnection[Any] | AsyncConnectionPool[Any] | str

DEFAULT_TIMEOUT_SECONDS: Final = 5.0

SHORTEST_PAUSE_SECONDS: Final = 0.0005
LONGEST_PAUSE_SECONDS: Final = 0.05
PAUSE_SHARE: Final = 1 / 8

# A pool gets at least so long to hand out a connection, also for the look at the very end.
SHORTEST_BORROWING_SECONDS: Final = 0.05

Step = Question | Pause | Checkpoint


def wait_for(
    source: Source,
    projection: str,
    sequence_number: int,
    timeout_seconds: float | None = DEFAULT_TIMEOUT_SECONDS,
) -> int:
    """Wait until a projection has applied every event up to a sequence number.

    Call it after the append has been committed. A number that was rolled back counts as reached once everything below
    it is applied; one that has not been drawn yet is waited for.

    Args:
        source: A psycopg connection (outside a transaction, or in one of READ COMMITTED that has appended nothing), a
            pool, of which a connection is borrowed for each look only, or a connection string.
        projection: Its name.
        sequence_number: What an append returned.
        timeout_seconds: 0 looks once; None waits for ever.

    Returns:
        The position reached; less than the number where numbers were rolled back.

    Raises:
        WaitTimeoutError: It was not there in time; the message says how far it is and what holds it back.
        ProjectionPausedError: It is paused and lacks an event, so waiting is of no use; raised at once.
        ConfigurationError: There is no such projection, or timeout_seconds is below 0 or not a number; raised at once.
        ProjectiondError: The caller's own transaction makes waiting impossible.
        DatabaseUnavailableError: The connection string leads nowhere. Later failures are psycopg's own.
    """
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    with _borrower(source, deadline) as borrow:
        steps = watch(
            projection, Arrival(sequence_number), timeout_seconds, is_in_transaction=_is_in_transaction(source)
        )
        step: Step = next(steps)
        while True:
            with borrow() as db:
                while isinstance(step, Question):
                    step = steps.send(_ask(db, step))
            if isinstance(step, Checkpoint):
                return step.position
            time.sleep(step.seconds)
            step = next(steps)


async def wait_for_async(
    source: AsyncSource,
    projection: str,
    sequence_number: int,
    timeout_seconds: float | None = DEFAULT_TIMEOUT_SECONDS,
) -> int:
    """Do as :func:`wait_for` over psycopg's async connection, its async pool or a connection string."""
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    async with _async_borrower(source, deadline) as borrow:
        steps = watch(
            projection, Arrival(sequence_number), timeout_seconds, is_in_transaction=_is_in_transaction(source)
        )
        step: Step = next(steps)
        while True:
            async with borrow() as db:
                while isinstance(step, Question):
                    step = steps.send(await _ask_async(db, step))
            if isinstance(step, Checkpoint):
                return step.position
            await asyncio.sleep(step.seconds)
            step = next(steps)


def watch(
    name: str,
    arrival: Arrival,
    timeout_seconds: float | None,
    *,
    is_in_transaction: bool = False,
    is_known: bool = False,
) -> Generator[Step, Rows, None]:
    """Give the steps of one wait, in order; the last is the row of the projection that has arrived.

    Args:
        name: The projection.
        arrival: The judge of this wait.
        timeout_seconds: None for ever.
        is_in_transaction: Whether the questions will be asked within a transaction of the caller's.
        is_known: Whether it exists though it may not have a row yet, as a projection that no daemon has begun.

    Raises:
        ProjectiondError: As :func:`wait_for`.
    """
    began = time.monotonic()
    _refuse_timeout(timeout_seconds)
    if is_in_transaction:
        yield from _refuse_transaction(arrival.sequence_number)
    while True:
        rows = yield Question(sql.checkpoint.READ_CHECKPOINT, {"name": name})
        if not rows and not is_known:
            raise _unknown(name, [str(row[0]) for row in (yield Question(sql.checkpoint.READ_STATUSES))])
        now = Checkpoint(name, *rows[0]) if rows else None
        if now is not None:
            if not now.is_about_to_be_reset and (yield from arrival.judge(now.position)):
                yield now
                return
            if now.status == "paused":
                raise ProjectionPausedError(paused_sentence(name, now))
        position = 0 if now is None else now.position
        waited = time.monotonic() - began
        if timeout_seconds is not None and waited >= timeout_seconds:
            raise (yield from explain(name, now, arrival, timeout_seconds))
        seconds = min(max(waited * PAUSE_SHARE, SHORTEST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        if timeout_seconds is not None:
            seconds = min(seconds, timeout_seconds - waited)
        yield Pause(seconds, position)


# --- what is refused


def _refuse_timeout(seconds: float | None) -> None:
    # Not "< 0": not a number is neither, and no time would ever be up.
    if seconds is not None and not seconds >= 0:
        raise ConfigurationError(
            f"timeout_seconds is {seconds}", hint="give seconds from 0, which looks once, or None to wait for ever"
        )


def _refuse_transaction(sequence_number: int) -> Generator[Question, Rows, None]:
    ((isolation, has_written),) = yield Question(sql.arrival.OWN_TRANSACTION)
    if isolation not in {"read committed", "read uncommitted"}:
        raise ProjectiondError(
            f"a transaction that is {isolation} sees nothing that is committed after its start, so waiting for "
            f"{sequence_number} in it would never end",
            hint="wait before it begins, or use READ COMMITTED",
        )
    if has_written:
        raise ProjectiondError(
            f"waiting for {sequence_number} inside a transaction that has itself written to event_store would be "
            "waiting for itself: no projection sees its events before it commits",
            hint="commit first, then wait",
        )


def _unknown(name: str, known: list[str]) -> ConfigurationError:
    if not known:
        return ConfigurationError(
            f'unknown projection "{name}": no projection has ever run on this database',
            hint='start the daemon with "projectiond run"',
        )
    return ConfigurationError(printable(sentence_of_unknown("projection", name, known=known)))


# --- connections


def _is_in_transaction(source: Source | AsyncSource) -> bool:
    if not isinstance(source, psycopg.Connection | psycopg.AsyncConnection):
        return False
    return source.info.transaction_status is not TransactionStatus.IDLE


def _ask(db: psycopg.Connection[Any], question: Question) -> list[TupleRow]:
    # A cursor of our own: the connection's may give dicts, or want another form of parameters.
    with psycopg.Cursor(db, row_factory=tuple_row) as cursor:
        return cursor.execute(question.statement, question.parameters).fetchall()


async def _ask_async(db: psycopg.AsyncConnection[Any], question: Question) -> list[TupleRow]:
    async with psycopg.AsyncCursor(db, row_factory=tuple_row) as cursor:
        await cursor.execute(question.statement, question.parameters)
        return await cursor.fetchall()


@contextmanager
def _borrower(
    source: Source, deadline: float | None
) -> Iterator[Callable[[], AbstractContextManager[psycopg.Connection[Any]]]]:
    """Give what opens, for each burst of questions, the connection to ask them over."""
    if isinstance(source, ConnectionPool):
        pool = source
        yield lambda: _from_pool(pool, deadline)
    elif isinstance(source, psycopg.Connection):
        with _autocommit(source):
            yield lambda: _itself(source)
    else:
        with _opened(source) as db:
            yield lambda: _itself(db)


@contextmanager
def _itself(db: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    yield db


@contextmanager
def _from_pool(pool: ConnectionPool[Any], deadline: float | None) -> Iterator[psycopg.Connection[Any]]:
    try:
        db = pool.getconn(_borrowing_seconds(deadline))
    except PoolTimeout as error:
        raise _exhausted() from error
    try:
        with _autocommit(db):
            yield db
    finally:
        pool.putconn(db)


@contextmanager
def _autocommit(db: psycopg.Connection[Any]) -> Iterator[None]:
    """Have each look be a transaction of its own, unless the caller has one open."""
    if db.autocommit or db.info.transaction_status is not TransactionStatus.IDLE:
        yield
        return
    try:
        db.autocommit = True
        yield
    finally:
        if not db.closed:
            db.autocommit = False


@contextmanager
def _opened(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    try:
        db = psycopg.connect(dsn, autocommit=True, **_PARAMETERS)
    except psycopg.OperationalError as error:
        raise unreachable(dsn, error) from error
    with db:
        yield db


@asynccontextmanager
async def _async_borrower(
    source: AsyncSource, deadline: float | None
) -> AsyncIterator[Callable[[], AbstractAsyncContextManager[psycopg.AsyncConnection[Any]]]]:
    if isinstance(source, AsyncConnectionPool):
        pool = source
        yield lambda: _from_async_pool(pool, deadline)
    elif isinstance(source, psycopg.AsyncConnection):
        async with _async_autocommit(source):
            yield lambda: _itself_async(source)
    else:
        async with _opened_async(source) as db:
            yield lambda: _itself_async(db)


@asynccontextmanager
async def _itself_async(db: psycopg.AsyncConnection[Any]) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    yield db


@asynccontextmanager
async def _from_async_pool(
    pool: AsyncConnectionPool[Any], deadline: float | None
) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    try:
        db = await pool.getconn(_borrowing_seconds(deadline))
    except PoolTimeout as error:
        raise _exhausted() from error
    try:
        async with _async_autocommit(db):
            yield db
    finally:
        await pool.putconn(db)


@asynccontextmanager
async def _async_autocommit(db: psycopg.AsyncConnection[Any]) -> AsyncIterator[None]:
    if db.autocommit or db.info.transaction_status is not TransactionStatus.IDLE:
        yield
        return
    try:
        # Within: psycopg may yield to the loop when it is set already, and be cancelled there.
        await db.set_autocommit(True)
        yield
    finally:
        if not db.closed:
            await db.set_autocommit(False)


@asynccontextmanager
async def _opened_async(dsn: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    try:
        db = await psycopg.AsyncConnection.connect(dsn, autocommit=True, **_PARAMETERS)
    except psycopg.OperationalError as error:
        raise unreachable(dsn, error) from error
    async with db:
        yield db


_PARAMETERS: Final[dict[str, Any]] = {
    "application_name": "projectiond/wait_for",
    "connect_timeout": CONNECT_TIMEOUT_SECONDS,
}


def _borrowing_seconds(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), SHORTEST_BORROWING_SECONDS)


def _exhausted() -> WaitTimeoutError:
    return WaitTimeoutError(
        "no connection of the pool became free to look at the projection's position",
        hint="enlarge the pool, or do not hold its connections while waiting",
    )
