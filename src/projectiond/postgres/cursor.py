"""The cursors of our connections: in a pipeline they know their result, and cost next to nothing until somebody looks.

Made by ``connection``.  In a pipeline a result is on its way when ``execute`` returns.  Whatever is asked of it waits
until it is there: rows, and also how many there were, which in psycopg's pipeline is -1, so that a handler that inserts
where it has updated nothing would err without a word.  A cursor that is used again has the result of its last
statement.

What the pipeline does not send (see ``statements``) is psycopg's, and so are the cursor's answers then.  What it does
send is answered here, from libpq's result and psycopg's published parts: ``Transformer`` makes Python's values of it.

Most handlers look at nothing.  The cursor that they drop would then be a sixth of what a statement costs.  So psycopg's
part of it is made when it is first asked for.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Self

import psycopg
from psycopg.abc import Params, Query
from psycopg.abc import Transformer as Converter
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.pq import ExecStatus, Format
from psycopg.rows import RowFactory, RowMaker, TupleRow

from projectiond.postgres.express import Answer, Tally

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from projectiond.postgres.connection import Connection


def _keeps_its_state_in_the_instance() -> bool:
    """Say whether a psycopg cursor that was not initialised has nothing to show for one that was."""
    try:
        psycopg.Cursor.closed.__get__(object.__new__(psycopg.Cursor))
    except AttributeError:
        return True
    return False


# Else cursors are made at once.
IS_LAZY: Final = _keeps_its_state_in_the_instance()


_ROW_FACTORY: Final[Any] = psycopg.Cursor.row_factory


class Cursor(psycopg.Cursor[TupleRow]):
    """A cursor that refuses transaction control while its connection is guarded, and knows its result in a pipeline."""

    __slots__ = (
        "_answer",
        "_db",
        "_format",
        "_given_factory",
        "_has_new_loaders",
        "_has_own_adapters",
        "_is_made",
        "_is_over",
        "_is_psycopgs",
        "_loading",
        "_make",
        "_place",
        "_shown",
        "_size",
    )

    def __init__(
        self,
        connection: "Connection",
        *,
        row_factory: RowFactory[TupleRow] | None = None,
        answer: Answer | None = None,
    ) -> None:
        """Make a cursor.

        Args:
            connection: That it is of.
            row_factory: Makes its rows; the connection's if there is none.
            answer: The result of a statement that the pipeline has sent for it.
        """
        self._db = connection
        self._given_factory = row_factory
        self._answer = answer
        self._is_made = self._is_over = self._is_psycopgs = self._has_own_adapters = self._has_new_loaders = False
        self._place = 0
        self._loading: Converter | None = None
        if not IS_LAZY:
            self._become_whole()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of a cursor
        """Called for what psycopg keeps in a cursor: it is not there yet."""
        if self._is_made:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._become_whole()
        return getattr(self, name)

    def _become_whole(self) -> None:
        if not self._is_made:
            self._is_made = True
            super().__init__(self._db, row_factory=self._given_factory or self._db.row_factory)
            if self._is_over:
                super().close()

    # --- what is executed

    def execute(
        self,
        query: Query,
        params: Params | None = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> Self:
        """Execute a statement."""
        if self._db.active_pipeline is not None and not self._is_over:
            self._finish_last()
            answer = self._hold(Answer())
            if self._send(answer, query, params, prepare=prepare, binary=binary):
                return self
        self._let_psycopg(query)
        # What types psycopg takes together is for psycopg to say.
        given: Any = query
        return super().execute(given, params, prepare=prepare, binary=binary)

    def executemany(self, query: Query, params_seq: Iterable[Params], *, returning: bool = False) -> None:
        """Execute a statement for each set of parameters."""
        if returning or self._is_over or not self._db.takes(query):
            self._let_psycopg(query)
            super().executemany(query, params_seq, returning=returning)
            return
        self._finish_last()
        tally = Tally()
        self._hold(tally)
        for params in params_seq:
            if not self._send(tally, query, params, prepare=True):
                self._let_psycopg(query)
                super().executemany(query, [params])
                self._db.settle()
                tally.count += super().rowcount
                tally.command_status = (super().statusmessage or "").encode()
        self._finish_last()
        self._hold(tally)

    def stream(self, query: Query, params: Params | None = None, **options: Any) -> Iterator[TupleRow]:  # noqa: ANN401
        """Give the rows of a query as they come; not in a pipeline."""
        self._db.note_failure()
        self._let_psycopg(query)
        return super().stream(query, params, **options)

    @contextmanager
    def copy(self, statement: Query, *args: Any, **kwargs: Any) -> Iterator[psycopg.Copy]:  # noqa: ANN401
        """Begin a COPY."""
        self._let_psycopg(statement)
        with super().copy(statement, *args, **kwargs) as copy:
            yield copy

    def _send(
        self,
        answer: Answer,
        query: Query,
        params: Params | None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> bool:
        result_format = (self.format if self._is_made else Format.TEXT) if binary is None else Format(binary)
        return self._db.send(
            answer, query, params, prepare, result_format, self if self._has_own_adapters else None, is_raw=self._is_raw
        )

    def _let_psycopg(self, query: Query) -> None:
        self._db.inspect(query)
        self._become_whole()
        self._finish_last()
        self._is_psycopgs = True
        self._answer = None

    def _finish_last(self) -> None:
        """See that psycopg gives nothing to this cursor any more, and what comes is the next statement's."""
        if self._is_psycopgs:
            self._db.settle()
            self._is_psycopgs = False

    def _hold(self, answer: Answer) -> Answer:
        self._answer = answer
        self._loading = None
        self._place = 0
        return answer

    # Whether its statements have libpq's placeholders.
    _is_raw = False

    # --- what there is to know of the result

    @property
    def pgresult(self) -> "PGresult | None":
        """The result as libpq has it, if it has come."""
        return self._shown if self._answer is None else self._answer.result

    @pgresult.setter
    def pgresult(self, result: "PGresult | None") -> None:
        self._shown = result

    @property
    def rowcount(self) -> int:
        """How many rows the statement gave or changed."""
        answer = self._awaited()
        if answer is None:
            return super().rowcount
        if isinstance(answer, Tally):
            return answer.count
        result = answer.result
        if result is None:
            return -1
        if result.status == ExecStatus.TUPLES_OK:
            return result.ntuples
        return -1 if result.command_tuples is None else result.command_tuples

    @property
    def statusmessage(self) -> str | None:
        """The server's word on what it did."""
        answer = self._awaited()
        if answer is None:
            return super().statusmessage
        status = answer.command_status if isinstance(answer, Tally) else answer.result and answer.result.command_status
        return status.decode() if status else None

    @property
    def description(self) -> list[psycopg.Column] | None:
        """The result's columns."""
        self._awaited()
        return super().description

    @property
    def rownumber(self) -> int | None:
        """The index of the next row to fetch."""
        answer = self._awaited()
        if answer is None:
            return super().rownumber
        is_of_rows = answer.result is not None and answer.result.status == ExecStatus.TUPLES_OK
        return self._place if is_of_rows else None

    def nextset(self) -> bool | None:
        """Move to the next result, if there are several."""
        return super().nextset() if self._awaited() is None else None

    def results(self) -> Iterator[Self]:
        """Give the cursor for each of its results."""
        answer = self._awaited()
        if answer is None:
            yield from super().results()
        elif answer.result is not None:
            yield self

    def set_result(self, index: int) -> Self:
        """Move to one of the results."""
        answer = self._awaited()
        if answer is None:
            return super().set_result(index)
        count = 0 if answer.result is None else 1
        if not -count <= index < count:
            raise IndexError(f"index {index} out of range: {count} result(s) available")
        self._place = 0
        return self

    def _awaited(self) -> Answer | None:
        """Give the answer of what the pipeline has sent, when it has come; None if psycopg has executed it."""
        answer = self._answer
        if (self.pgresult is None) if answer is None else (answer.result is None and not answer.is_lost):
            self._db.settle()
        return answer

    # --- rows

    def fetchone(self) -> TupleRow | None:
        """Give the next row, if there is one more."""
        if self._awaited() is None:
            return super().fetchone()
        result, loading = self._begin_to_load()
        if self._place >= result.ntuples:
            return None
        row = loading.load_row(self._place, self._make)
        self._place += 1
        return row

    def fetchmany(self, size: int = 0) -> list[TupleRow]:
        """Give the next rows."""
        if self._awaited() is None:
            return super().fetchmany(size)
        result, loading = self._begin_to_load()
        rows = loading.load_rows(self._place, min(self._place + (size or self.arraysize), result.ntuples), self._make)
        self._place += len(rows)
        return rows

    def fetchall(self) -> list[TupleRow]:
        """Give the rows that are left."""
        if self._awaited() is None:
            return super().fetchall()
        result, loading = self._begin_to_load()
        rows = loading.load_rows(self._place, result.ntuples, self._make)
        self._place = result.ntuples
        return rows

    def __iter__(self) -> Self:
        """Give the rows that are left."""
        return self

    def __next__(self) -> TupleRow:
        """Give the next row."""
        if self._awaited() is None:
            return super().__next__()
        result, loading = self._begin_to_load()
        if self._place >= result.ntuples:
            raise StopIteration("no more records to return")
        row = loading.load_row(self._place, self._make)
        self._place += 1
        return row

    def scroll(self, value: int, mode: str = "relative") -> None:
        """Move to another row."""
        if self._awaited() is None:
            super().scroll(value, mode)
            return
        result, _ = self._begin_to_load()
        if mode not in {"relative", "absolute"}:
            raise ValueError(f"bad mode: {mode}. It should be 'relative' or 'absolute'")
        place = self._place + value if mode == "relative" else value
        if not 0 <= place < result.ntuples:
            raise IndexError("position out of bound")
        self._place = place

    def _begin_to_load(self) -> "tuple[PGresult, Converter]":
        if self.closed:
            raise psycopg.InterfaceError("the cursor is closed")
        result = self.pgresult
        if result is None:
            raise psycopg.ProgrammingError("no result available")
        if result.status != ExecStatus.TUPLES_OK:
            said = (result.command_status or b"").decode()
            raise psycopg.ProgrammingError(f"the last operation didn't produce records (command status: {said})")
        loading = self._loading
        if loading is None:
            self._make: RowMaker[TupleRow] = self.row_factory(self)
        if loading is None or self._has_new_loaders:
            loading = self._loading = Transformer(self)
            loading.set_pgresult(result)
            self._has_new_loaders = False
        return result, loading

    # --- what can be set

    @property
    def arraysize(self) -> int:
        """How many rows `fetchmany` gives."""
        self._become_whole()
        return self._size

    @arraysize.setter
    def arraysize(self, size: int) -> None:
        self._become_whole()
        self._size = size

    @property
    def format(self) -> Format:
        """The format in which rows come."""
        self._become_whole()
        return self._format

    @format.setter  # noqa: A003 - psycopg's name
    def format(self, value: Format) -> None:
        self._become_whole()
        self._format = value

    @property
    def row_factory(self) -> RowFactory[TupleRow]:
        """What makes rows."""
        self._become_whole()
        return super().row_factory

    @row_factory.setter
    def row_factory(self, row_factory: RowFactory[TupleRow]) -> None:
        self._become_whole()
        _ROW_FACTORY.__set__(self, row_factory)
        if self._answer is not None and self._loading is not None:
            self._make = row_factory(self)

    @property
    def adapters(self) -> AdaptersMap:
        """How values are converted by this cursor alone."""
        self._become_whole()
        # Whoever asks may register some.
        self._has_own_adapters = self._has_new_loaders = True
        return super().adapters

    # --- its end

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._is_over

    def close(self) -> None:
        """Close it."""
        self._is_over = True
        self._answer = None
        if self._is_made:
            super().close()


class RawCursor(Cursor, psycopg.RawCursor[TupleRow]):
    """A cursor whose statements have libpq's placeholders."""

    __slots__ = ()

    _is_raw = True


class NamedCursor(psycopg.ServerCursor[TupleRow]):
    """A cursor that the server keeps; psycopg refuses it in a pipeline, and a handler may swallow that."""

    def __init__(self, connection: "Connection", *args: Any, **options: Any) -> None:  # noqa: ANN401 - psycopg's
        connection.note_failure()
        super().__init__(connection, *args, **options)
