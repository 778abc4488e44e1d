"""The pipeline: statements go to the server in small batches, and nobody waits for their results.

Used by ``connection`` and ``cursor``.  psycopg's own pipeline talks to the socket for every statement: two polls and a
write.  Together with the conversion of the statement, that is more than the server needs to execute it.  Here a
statement that psycopg has prepared on this connection, and that comes again, is not converted again
(:class:`KnownStatements`), and is handed to libpq, which keeps it in its buffer.  :class:`Pipeline` talks

* when ``STATEMENTS_AHEAD`` of them wait there, few enough that the server works meanwhile,
* when they weigh ``BYTES_AHEAD``, so that large parameters are not collected in memory,
* when the last talk was ``SECONDS_AHEAD`` ago: a slow handler's statements leave one by one, and the server does not
  wait for a sixteenth that comes in a minute,
* when psycopg has something to send, which is every other statement, a savepoint, a Sync, the end.

What was sent first is executed first, whichever way it was sent.  An error of the server is raised when the pipeline
talks the next time, at its end at the latest.

This rests on names that psycopg does not promise.  They were read in the versions of ``_READ_IN``; with any other
psycopg ``IS_USED`` is false, and statements go through psycopg's own pipeline.
"""

from collections import OrderedDict
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

import psycopg
from psycopg import generators
from psycopg._queries import PostgresQuery
from psycopg.abc import Buffer, Params, PQGen
from psycopg.adapt import Transformer
from psycopg.pq import Format

from projectiond.guard import is_harmless

_READ_IN: Final = ("3.2.", "3.3.")

IS_USED: Final = psycopg.__version__.startswith(_READ_IN)

STATEMENTS_AHEAD: Final = 16
BYTES_AHEAD: Final = 64 * 1024
SECONDS_AHEAD: Final = 0.001

# A statement to send: the name that it is prepared under, and its parameters' values and formats.
Prepared = tuple[bytes, Sequence[Buffer | None], Sequence[Format] | None]

# psycopg prepares at most a hundred; a few of them may come with parameters of several types.
_MOST_KNOWN: Final = 200


class Pipeline(psycopg.Pipeline):
    """A pipeline that sends known statements a few at a time."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        super().__init__(connection)
        self._statements = 0
        self._bytes = 0
        self._talked_at = 0.0

    def send(self, taker: Any, statement: Prepared) -> None:  # noqa: ANN401 - psycopg's type for it is a cursor
        """Send a statement; the taker gets its result.  The caller holds the connection's lock."""
        self._hand_over()
        name, values, formats = statement
        self.pgconn.send_query_prepared(name, values, param_formats=formats)
        self.result_queue.append((taker, None))
        self._statements += 1
        for value in values:
            if value is not None:
                self._bytes += len(value)
        if (
            self._statements >= STATEMENTS_AHEAD
            or self._bytes >= BYTES_AHEAD
            or monotonic() - self._talked_at >= SECONDS_AHEAD
        ):
            self._conn.wait(self._communicate_gen())

    def _communicate_gen(self) -> PQGen[None]:
        """Called by psycopg when it has put something into ``command_queue``."""
        self._hand_over()
        # To the end: what psycopg does next may be to wait for an answer, and it does not look at what is unsent.
        yield from generators.send(self.pgconn)
        self._statements = self._bytes = 0
        self._talked_at = monotonic()
        yield from super()._communicate_gen()

    def _hand_over(self) -> None:
        """Give psycopg's commands to libpq, in their order."""
        while self.command_queue:
            self.command_queue.popleft()()


class KnownStatements:
    """Statements that psycopg has prepared on a connection, and their conversion, by the author's text."""

    def __init__(self) -> None:
        self._queries: dict[str, PostgresQuery] = {}

    def forget(self) -> None:
        """Forget all, for parameters may be converted in another way from now on."""
        self._queries.clear()

    def find(self, connection: psycopg.Connection[Any], text: str, parameters: Params) -> Prepared | None:
        """Convert the parameters of a statement that is known and prepared for their types."""
        query = self._queries.get(text)
        if query is None:
            return None
        query.dump(parameters)
        # They can be large, and are not to be kept until the statement comes again.
        values, query.params = query.params, None
        names = _names(connection)
        key = (query.query, query.types)
        name = names.get(key)
        if name is None:
            return None
        # As psycopg does: the statement that was not used for longest is the first to go.
        names.move_to_end(key)
        return name, values or (), query.formats

    def learn(self, connection: psycopg.Connection[Any], text: str, parameters: Params) -> None:
        """Remember a statement that has just been executed, if it is prepared and the guard need not see it again."""
        if text in self._queries or not is_harmless(text):
            return
        query = PostgresQuery(Transformer(connection))
        query.convert(text, parameters)
        if (query.query, query.types) not in _names(connection):
            return
        query.params = None
        if len(self._queries) >= _MOST_KNOWN:
            self._queries.clear()
        self._queries[text] = query


def _names(connection: psycopg.Connection[Any]) -> OrderedDict[tuple[bytes, tuple[int, ...]], bytes]:
    return connection._prepared._names  # noqa: SLF001 - psycopg's list of what is prepared
