"""A statement that goes to the server by libpq itself: the one question that every new event waits for.

Whoever executes through psycopg pays for what it does around a query: a cursor, the text and its parameters looked at
anew, generators, a poll.  In a busy process that is nothing.  But on a processor that has slept until an event arrived
it takes as long as the server needs for its answer: a third of the look's 0.6 ms is saved here.

So the statement is prepared by hand, once for its connection, and executed by libpq's blocking call, which lets other
threads run meanwhile.  Parameters are numbers, text or null; rows come as psycopg would have loaded them.  What
arrives besides, notifications, libpq keeps (see ``doorbell``).

Called by the watcher's thread alone, on its own connection, outside of transactions and pipelines: whoever else uses
that connection at the same time would get the other's answer.
"""

from collections.abc import Mapping, Sequence
from typing import LiteralString, cast

import psycopg
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus, Format
from psycopg.pq.abc import PGresult
from psycopg.rows import TupleRow


class Direct:
    """One statement of one connection."""

    def __init__(
        self, cursor: psycopg.Cursor[TupleRow], name: str, statement: LiteralString, parameters: Sequence[str]
    ) -> None:
        """Take a statement; it is prepared when it is first executed.

        Args:
            cursor: Of the connection; rows are loaded by its adapters, from the binary format.
            name: What the server calls it.
            statement: In psycopg's style, with named parameters.
            parameters: Their names.
        """
        self._link = cursor.connection.pgconn
        self._name = name.encode()
        self._statement: str = statement
        self._parameters = parameters
        for place, parameter in enumerate(parameters, start=1):
            self._statement = self._statement.replace(f"%({parameter})s", f"${place}")
        self._loading = Transformer(cursor)
        self._is_prepared = False

    def fetch(self, values: Mapping[str, int | str | None]) -> list[TupleRow]:
        """Execute it and give its rows.

        Raises:
            psycopg.Error: What went wrong, as psycopg would have said it.
        """
        if not self._is_prepared:
            self._prepare()
        given = [None if (value := values[name]) is None else str(value).encode() for name in self._parameters]
        # Null is None here as everywhere; only psycopg's annotation does not say so.
        result = self._link.exec_prepared(self._name, cast("list[bytes]", given), None, Format.BINARY)
        self._check(result, ExecStatus.TUPLES_OK)
        self._loading.set_pgresult(result)
        return self._loading.load_rows(0, result.ntuples, tuple)

    def _prepare(self) -> None:
        self._check(self._link.prepare(self._name, self._statement.encode()), ExecStatus.COMMAND_OK)
        self._is_prepared = True

    def _check(self, result: PGresult, expected: ExecStatus) -> None:
        if result.status == expected:
            return
        error = error_from_result(result)
        if self._link.status == ConnStatus.BAD and not isinstance(error, psycopg.OperationalError):
            # The server has no name for an error that it could not send.
            raise psycopg.OperationalError(str(error))
        raise error
