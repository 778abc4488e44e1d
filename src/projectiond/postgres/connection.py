"""The connection that a handler gets.

It is inside the batch's transaction.  That transaction is the runner's: it also holds the checkpoint, and ending it
early would let a crash apply the batch twice.  So while handlers run (``with db.guarded()``) every way to end or to
begin a transaction is refused: the methods, and statements that start with such a verb.  One that is hidden behind
another statement gets past that look; the compare-and-set of the checkpoint then fails, for a setting that is local to
the transaction is gone.  Savepoints (``with db.transaction()``) are welcome.

Statements may travel in a pipeline (``with db.pipelined()``; see ``express`` and ``cursor``), and a handler need not
know.
"""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

import psycopg
from psycopg import errors, generators
from psycopg.abc import RV, AdaptContext, Dumper, Params, PQGen, Query
from psycopg.abc import Transformer as Converter
from psycopg.adapt import AdaptersMap, PyFormat, Transformer
from psycopg.pq import ConnStatus, Format, TransactionStatus
from psycopg.rows import TupleRow
from psycopg.sql import Composable

from projectiond.errors import TransactionControlError
from projectiond.postgres.cursor import Cursor, NamedCursor
from projectiond.postgres.express import IS_KNOWN, Answer, Express
from projectiond.postgres.guard import beginning_of, is_conversion_change, is_session_change, is_transaction_control
from projectiond.postgres.statements import CONTROL, LONGEST_KEPT, Plans, convert, encode, is_ordinary

_Converted = tuple[bytes, Sequence[Any], Sequence[PyFormat]]


class Connection(psycopg.Connection[TupleRow]):
    """A psycopg connection; in a handler it is inside the batch's transaction.

    Everything of psycopg 3 works (``execute``, ``executemany``, ``cursor``, ``transaction`` for savepoints), except
    that a handler cannot end the transaction or close the connection.

    Raises:
        TransactionControlError: A handler called ``commit``, ``rollback`` or ``close``, or executed such a statement.
    """

    is_guarded = False

    # psycopg's pipeline while there is one, and our own way through it.
    active_pipeline: psycopg.Pipeline | None = None
    _express: Express | None = None

    # Whether anything that psycopg sent through it has failed.
    _has_failed = False

    # Whether ordinary statements are sent our own way; what they come to is the same.
    is_express = IS_KNOWN

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
        self.cursor_factory = Cursor
        self.server_cursor_factory = NamedCursor
        self._plans = Plans()
        # Converts parameters, for the length of a pipeline: it refers to the connection.
        self._dumping: Converter | None = None
        self._own_adapters = _Adapters(self)

    @property
    def adapters(self) -> AdaptersMap:
        """How values are converted on this connection."""
        return self._own_adapters

    # --- the pipeline

    @contextmanager
    def pipelined(self) -> Iterator[None]:
        """Send the statements of the block without waiting for each.

        Raises:
            psycopg.Error: A statement has failed; at the end of the block at the latest.
        """
        if self.active_pipeline is not None:
            yield
            return
        with self.pipeline() as pipeline:
            self.active_pipeline = pipeline
            if self.is_express:
                self._express = Express(self.pgconn, super().wait, self._plans)
            try:
                yield
                self.settle()
            finally:
                with self.lock:
                    # What is under way after a failure has failed as well, or is rolled back.
                    with suppress(psycopg.Error):
                        self._settle_express()
                    self.active_pipeline = self._express = self._dumping = None
                    self._has_failed = False

    @property
    def has_failed(self) -> bool:
        """Whether anything in the pipeline has failed.

        A failure surfaces where somebody happens to wait next, which may be in the handler of another event, and that
        handler may catch it and go back to a savepoint.  So whatever becomes of it, nothing that followed is committed.
        """
        return self._has_failed or (self._express is not None and self._express.has_failed)

    def settle(self) -> None:
        """Wait until everything that was sent through the pipeline has its result; outside of one there is no need."""
        if self.active_pipeline is None:
            return
        with self.lock:
            self._settle_express()
            is_theirs = self._express is None or self.pgconn.transaction_status == TransactionStatus.ACTIVE
        if is_theirs:
            self._send_all()
            try:
                self.active_pipeline.sync()
            except psycopg.Error:
                # Perhaps before it had the answer to its Sync, and until then nobody knows if there is a transaction.
                with suppress(psycopg.Error):
                    self.active_pipeline.sync()
                raise

    def send_off(self) -> None:
        """Send what has been called and not been sent yet, without waiting for results."""
        if self.active_pipeline is None:
            return
        with self.lock:
            if self._express is not None and not self._express.is_at_rest:
                self._express.send_off()
                return
        self._send_all()

    def _send_all(self) -> None:
        # psycopg waits for answers without having sent a large parameter to its end, and the server waits for the rest.
        with self.lock:
            self.wait(generators.send(self.pgconn))

    def _settle_express(self) -> None:
        if self._express is not None and not self._express.is_at_rest:
            self._express.settle()

    def _settle_quietly(self) -> None:
        with suppress(psycopg.Error), self.lock:
            self._settle_express()

    def wait(self, gen: PQGen[RV], *args: Any, **kwargs: Any) -> RV:  # noqa: ANN401 - psycopg's, passed through
        """Do whatever psycopg has to do with the server; its one place for it."""
        self._settle_express()
        self._refuse_without_transaction()
        try:
            return super().wait(gen, *args, **kwargs)
        except psycopg.Error:
            self.note_failure()
            raise

    def note_failure(self) -> None:
        """Note that something has failed, or cannot be right in a pipeline; outside of one the server knows."""
        self._has_failed = self._has_failed or self.active_pipeline is not None

    @contextmanager
    def transaction(
        self,
        savepoint_name: str | None = None,
        force_rollback: bool = False,  # noqa: FBT001, FBT002 - psycopg's own
    ) -> Iterator[psycopg.Transaction]:
        """Begin a transaction; of a handler, which is inside of one: a savepoint."""
        # An error of before is not the transaction's, and one of within must be met within.
        self.settle()
        is_kept = False
        transaction: psycopg.Transaction | None = None
        try:
            with super().transaction(savepoint_name, force_rollback) as transaction:
                try:
                    yield transaction
                    self.settle()
                    is_kept = not force_rollback
                finally:
                    self._settle_quietly()
        except psycopg.Rollback as rollback:
            if rollback.transaction not in {None, transaction}:
                raise
            # psycopg goes on after it, unless it could not be done; and it was not wrong to ask for it.
            is_gone = self.pgconn.status == ConnStatus.BAD
            kind = psycopg.OperationalError if is_gone else psycopg.InternalError
            raise kind("a savepoint could not be rolled back to") from rollback
        finally:
            if not is_kept:
                # What was made in it is gone, and psycopg deallocates all that is prepared; Rollback ends here too.
                self._plans.forget()

    def forget_dumpers(self) -> None:
        """See that parameters are converted anew as the adapters have it."""
        self._dumping = None

    # --- statements

    def execute(
        self,
        query: Query,
        params: Params | None = None,
        *,
        prepare: bool | None = None,
        binary: bool = False,
    ) -> psycopg.Cursor[TupleRow]:
        """Execute a statement."""
        if self._express is not None and self.cursor_factory is Cursor:
            answer = Answer()
            if self.send(answer, query, params, prepare, Format.BINARY if binary else Format.TEXT, None, is_raw=False):
                return Cursor(self, row_factory=self.row_factory, answer=answer)
        given: Any = query
        return super().execute(given, params, prepare=prepare, binary=binary)

    def send(
        self,
        answer: Answer,
        query: Query,
        params: Params | None,
        prepare: bool | None,  # noqa: FBT001 - psycopg's own
        result_format: Format,
        context: AdaptContext | None,
        *,
        is_raw: bool,
    ) -> bool:
        """Send a statement through the pipeline, if it is an ordinary one; say whether it was.

        Args:
            answer: Takes its result.
            query: What ``execute`` was called with.
            params: As well.
            prepare: As well.
            result_format: Of its rows.
            context: Converts parameters, if the connection does not.
            is_raw: Whether it has libpq's placeholders.

        Raises:
            psycopg.Error: Of this statement or of one before.
        """
        text = self._text_of(query)
        if text is None:
            return False
        converted = _convert_raw(text, params) if is_raw else _convert(text, params)
        if converted is None or (self.is_guarded and text in CONTROL):
            return False
        sent, arguments, formats = converted
        while True:
            with self.lock:
                express = self._express
                if express is None:
                    return False
                # Another thread of the handler's may have had psycopg send something, a moment ago.
                is_at_rest = express.is_at_rest
                if not (is_at_rest and express.is_theirs):
                    if is_at_rest:
                        # Known only now, for what was under way may have set it.
                        if self.pgconn.parameter_status(b"client_encoding") != b"UTF8":
                            return False
                        self._refuse_without_transaction()
                    dumping = self._dumper(context)
                    try:
                        values = dumping.dump_sequence(arguments, formats)
                    except Exception:  # noqa: BLE001 - psycopg will meet it again, and raise it as its own
                        return False
                    threshold = self._threshold(prepare=prepare)
                    express.send(sent, values, dumping.types or (), dumping.formats, result_format, answer, threshold)
                    return True
            self.settle()

    def _dumper(self, context: AdaptContext | None) -> Converter:
        if context is not None:
            return Transformer(context)
        self._dumping = self._dumping or Transformer(self)
        return self._dumping

    def _threshold(self, *, prepare: bool | None) -> int | None:
        if prepare is False or self.prepare_threshold is None:
            return None
        return 0 if prepare else self.prepare_threshold

    def takes(self, query: Query) -> bool:
        """Say whether :meth:`send` will take a statement, if its parameters are right."""
        return self._express is not None and is_ordinary(self._text_of(query) or "")

    def _text_of(self, query: Query) -> str | None:
        if isinstance(query, str):
            return query
        try:
            if isinstance(query, bytes):
                return query.decode()
            # Not of a template string (Python 3.14), which holds its parameters.
            return query.as_string(self) if isinstance(query, Composable) else None
        except (UnicodeDecodeError, psycopg.Error):
            return None

    # --- the guard

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Refuse transaction control within the block, and undo what is done to the connection object in it."""
        before = self.row_factory, self.cursor_factory, self.server_cursor_factory, self.prepare_threshold
        self.is_guarded = True
        try:
            yield
        finally:
            self.is_guarded = False
            # The connection goes back to a pool that other projections use.
            self.row_factory, self.cursor_factory, self.server_cursor_factory, self.prepare_threshold = before

    def inspect(self, query: Query) -> None:
        """Look at a statement that psycopg is to execute.

        While guarded, refuse one that would end or begin a transaction, and note one that changes the session.
        """
        if self._plans.has_any and not is_ordinary(self._text_of(query) or ""):
            # It may change what they are of, and psycopg may deallocate all of them.
            self._plans.forget()
        if not self.is_guarded:
            return
        beginning = beginning_of(query, self)
        if is_transaction_control(beginning):
            raise _refusal(" ".join(beginning.split())[:40])
        self.is_altered = self.is_altered or is_session_change(beginning)
        if is_conversion_change(beginning):
            self.note_failure()

    def _refuse_without_transaction(self) -> None:
        """See that nothing is executed after BEGIN has failed, for it would be committed at once.

        A handler that swallows the error could go on: unlike a failed transaction, an idle session takes everything.

        Raises:
            psycopg.Error: The transaction does not exist.
        """
        if self.is_guarded and self.has_failed and self.pgconn.transaction_status == TransactionStatus.IDLE:
            raise errors.InFailedSqlTransaction("the transaction could not be begun, so nothing is executed in it")

    def commit(self) -> None:
        """Refused in a handler."""
        if self.is_guarded:
            raise _refusal("db.commit()")
        super().commit()

    def rollback(self) -> None:
        """Refused in a handler."""
        if self.is_guarded:
            raise _refusal("db.rollback()")
        self._settle_quietly()
        self._plans.forget()
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


class _Adapters(AdaptersMap):
    """The adapters of a connection; whoever registers a dumper gets it used at once."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(psycopg.adapters)
        self._connection = weakref.ref(connection)

    def register_dumper(self, cls: type | str | None, dumper: type[Dumper]) -> None:
        """See psycopg."""
        super().register_dumper(cls, dumper)
        if (connection := self._connection()) is not None:
            connection.forget_dumpers()


def _convert(text: str, parameters: Params | None) -> _Converted | None:
    """Give the text for the server, the parameters in order, and their formats."""
    is_kept = len(text) <= LONGEST_KEPT
    if parameters is None:
        plain = encode(text) if is_kept else encode.__wrapped__(text)
        return None if plain is None else (plain, (), ())
    statement = convert(text) if is_kept else convert.__wrapped__(text)
    arguments = None if statement is None else statement.arrange(parameters)
    return None if statement is None or arguments is None else (statement.text, arguments, statement.formats)


def _convert_raw(text: str, parameters: Params | None) -> _Converted | None:
    if not isinstance(parameters, (list, tuple)) or not is_ordinary(text):
        return None
    return text.encode(), parameters, [PyFormat.AUTO] * len(parameters)
