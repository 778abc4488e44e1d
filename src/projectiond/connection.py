"""The connection that a handler gets.

It is inside the batch's transaction.  That transaction is the runner's: it also holds the checkpoint, and ending it
early would let a crash apply the batch twice.  So while handlers run (``with db.guarded()``) every way to end or to
begin a transaction is refused: the methods, and statements that start with such a verb.  One that is hidden behind
another statement gets past that look; the compare-and-set of the checkpoint then fails, for a setting that is local to
the transaction is gone.  Savepoints (``with db.transaction()``) are welcome.

Statements may travel in a pipeline (``with db.pipelined()``; see ``pipeline`` and ``cursor``), and a handler need not
know.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import psycopg
from psycopg.abc import RV, Dumper, Params, PQGen, Query
from psycopg.adapt import AdaptersMap
from psycopg.rows import TupleRow

from projectiond import pipeline as pipelines
from projectiond.cursor import Cursor, PendingCursor, Result
from projectiond.errors import TransactionControlError
from projectiond.guard import beginning_of, is_session_change, is_transaction_control
from projectiond.pipeline import KnownStatements, Pipeline


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
    # handler may catch it and go back to a savepoint.  So whatever becomes of it, nothing that followed it is to be
    # committed.
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
        self.cursor_factory = PendingCursor
        self._known = KnownStatements()
        self._own_adapters = _Adapters(self._known)

    @property
    def adapters(self) -> AdaptersMap:
        """How values are converted on this connection."""
        return self._own_adapters

    def send_known(self, query: str, params: Params) -> Result | None:
        """Send a statement in the pipeline and give what its result will come to, if psycopg need not be asked."""
        pipeline = self.active_pipeline
        if not isinstance(pipeline, Pipeline) or not self._is_utf8:
            return None
        with self.lock:
            known = self._known.find(self, query, params)
            if known is None:
                return None
            result = Result(self)
            pipeline.send(result, known)
            return result

    def learn(self, query: str, params: Params, cursor: Cursor) -> None:
        """Remember a statement that the cursor has executed, if psycopg has prepared it."""
        # It keeps the conversion of what it does not prepare.
        if isinstance(self.active_pipeline, Pipeline) and self._is_utf8 and cursor._query is None:  # noqa: SLF001
            with self.lock:
                self._known.learn(self, query, params)

    @property
    def _is_utf8(self) -> bool:
        # What is known converts texts as the session does that it was opened with.
        return self.pgconn.parameter_status(b"client_encoding") == b"UTF8"

    @contextmanager
    def pipelined(self) -> Iterator[None]:
        """Send the statements of the block without waiting for each."""
        with self._our_pipeline(), self.pipeline() as pipeline:
            outer, self.active_pipeline = self.active_pipeline, pipeline
            try:
                yield
            finally:
                self.active_pipeline = outer
                self.has_failed = False

    @contextmanager
    def _our_pipeline(self) -> Iterator[None]:
        """See that psycopg finds a pipeline that is there already, and it is ours."""
        if self._pipeline is not None or not pipelines.IS_USED:
            yield
            return
        self._pipeline = Pipeline(self)
        try:
            yield
        finally:
            self._pipeline = None

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
        """While guarded, refuse a statement that begins or ends a transaction; note one that changes the session."""
        if not self.is_guarded:
            return
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
        # They refer to the connection.
        self._known.forget()
        super().close()


class _Adapters(AdaptersMap):
    """The adapters of a connection; whoever registers a dumper gets it used at once."""

    def __init__(self, known: KnownStatements) -> None:
        super().__init__(psycopg.adapters)
        self._known = known

    def register_dumper(self, cls: type | str | None, dumper: type[Dumper]) -> None:
        """See psycopg."""
        super().register_dumper(cls, dumper)
        self._known.forget()


def _refusal(what: str) -> TransactionControlError:
    return TransactionControlError(
        f"a handler ran {what}, but the transaction is the daemon's",
        hint="remove it: the read model and the checkpoint are committed together when the batch is done",
    )
