"""The cursors of a handler: they know their result in a pipeline, and cost next to nothing while nobody looks.

Made by ``connection``.  In a pipeline a result is on its way when ``execute`` returns.  psycopg waits for it where rows
are asked for.  Asked how many rows there were it would answer -1, and a handler that inserts where it has updated
nothing would err without a word; and a cursor that is used again would take the first statement's rows for the
second's.  :class:`Cursor` is psycopg's cursor without these two.

Most handlers look at nothing.  The cursor that they drop is then most of what a statement costs.  So every cursor
begins as a :class:`PendingCursor`, which has no state but what it is made from, and sends statements that are known
(see ``pipeline``) by itself.  The first attribute that is read or set makes it an ordinary cursor, with the result if
that has come; so does whatever else is done with it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Self

import psycopg
from psycopg.abc import Params, Query
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus
from psycopg.rows import RowFactory, TupleRow

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from projectiond.connection import Connection

_SUCCEEDED: Final = frozenset({ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK})


class Result:
    """Takes a statement's result from the pipeline, for the cursor that may come to want it.

    The pipeline takes it for a cursor.
    """

    __slots__ = ("_conn", "cursor", "results")

    def __init__(self, connection: "Connection") -> None:
        self._conn = connection
        self.results: list[PGresult] = []
        self.cursor: Cursor | None = None

    def _check_results(self, results: "list[PGresult]") -> None:
        if len(results) != 1 or results[0].status not in _SUCCEEDED:
            psycopg.Cursor(self._conn)._check_results(results)  # noqa: SLF001

    def _set_results(self, results: "list[PGresult]") -> None:
        if self.cursor is None:
            self.results = results
        else:
            self.cursor._set_results(results)  # noqa: SLF001


class Cursor(psycopg.Cursor[TupleRow]):
    """A cursor that refuses transaction control while its connection is guarded, and knows its result in a pipeline."""

    __slots__ = ("_connection", "_is_over", "_made_with", "_result", "_statement")

    _conn: "Connection"

    # What a PendingCursor has: its connection, its row factory, the last statement with its result, and whether it was
    # closed.
    _connection: "Connection"
    _made_with: RowFactory[TupleRow]
    _statement: str | None
    _result: Result | None
    _is_over: bool

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
        """Execute a statement."""
        self._conn.inspect(query)
        self._disown_results()
        return super().execute(query, *args, **kwargs)

    def executemany(self, query: Query, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as above
        """Execute a statement for each set of parameters."""
        self._conn.inspect(query)
        self._disown_results()
        super().executemany(query, *args, **kwargs)

    def stream(self, query: Query, *args: Any, **kwargs: Any) -> Iterator[TupleRow]:  # noqa: ANN401 - as above
        """Give the rows of a query as they come."""
        self._conn.inspect(query)
        return super().stream(query, *args, **kwargs)

    def _await_result(self) -> None:
        pipeline = self._conn.active_pipeline
        if pipeline is not None and self.pgresult is None:
            pipeline.sync()

    def _disown_results(self) -> None:
        """See that what is still on its way does not come to this cursor; its next statement has other results."""
        pipeline = self._conn.active_pipeline
        is_of_many = self._execmany_returning is not None
        if pipeline is None or self._last_query is None or (self.pgresult is not None and not is_of_many):
            return
        with self._conn.lock:
            queue: Any = pipeline.result_queue
            for place in range(len(queue) - 1, -1, -1):
                taker, prepared = queue[place] or (None, None)
                if taker is self or (isinstance(taker, Result) and taker.cursor is self):
                    queue[place] = (Result(self._conn), prepared)
                    if not is_of_many:
                        return


class PendingCursor(Cursor):
    """A cursor that nobody has looked at yet."""

    __slots__ = ()

    def __init__(self, connection: "Connection", *, row_factory: RowFactory[TupleRow] | None = None) -> None:
        _set_connection(self, connection)
        _set_made_with(self, row_factory or connection.row_factory)
        _set_statement(self, None)
        _set_result(self, None)
        _set_is_over(self, False)  # noqa: FBT003 - a slot's setter

    def execute(
        self, query: Query, params: Params | None = None, *, prepare: bool | None = None, binary: bool | None = None
    ) -> Self:
        """Execute a statement; stay as it is if the statement is known."""
        if params is not None and prepare is None and not binary and isinstance(query, str) and not self._is_over:
            return self._execute(query, params)
        self._become_cursor()
        return Cursor.execute(self, query, params, prepare=prepare, binary=binary)

    def close(self) -> None:
        """Close it; whoever looks from now on finds it closed."""
        _set_is_over(self, True)  # noqa: FBT003

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of a cursor
        """Called for what psycopg keeps in a cursor: it is not there yet."""
        self._become_cursor()
        return getattr(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        self._become_cursor()
        setattr(self, name, value)

    def _execute(self, query: str, params: Params) -> Self:
        connection = self._connection
        _set_result(self, None)
        if (result := connection.send_known(query, params)) is not None:
            _set_statement(self, query)
            _set_result(self, result)
        else:
            self._become_cursor()
            Cursor.execute(self, query, params)
            connection.learn(query, params, self)
        return self

    def _become_cursor(self) -> None:
        object.__setattr__(self, "__class__", Cursor)
        Cursor.__init__(self, self._connection, row_factory=self._made_with)
        result, self._result = self._result, None
        if self._is_over:
            self.close()
        elif result is not None:
            # What psycopg's `execute` leaves behind.
            self._last_query = self._statement
            self._tx = Transformer(self)
            if result.results:
                self._set_results(result.results)
            else:
                result.cursor = self


# Past __setattr__, which would make it an ordinary one.
_set_connection = Cursor.__dict__["_connection"].__set__
_set_made_with = Cursor.__dict__["_made_with"].__set__
_set_statement = Cursor.__dict__["_statement"].__set__
_set_result = Cursor.__dict__["_result"].__set__
_set_is_over = Cursor.__dict__["_is_over"].__set__
