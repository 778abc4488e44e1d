"""Plans: what the event store does, apart from how it talks to the database.

Each operation is a generator that yields statements, gets their rows (or the database's error, thrown in) and returns
its result.  ``EventStore`` runs a plan on a psycopg connection, ``AsyncEventStore`` on an asynchronous one; both do no
more than the calls, so that nothing is decided twice.  This is how psycopg itself shares its protocol.

A plan holds no connection between its statements and leaves nothing behind in a session, so each of them may be
served by another session: a pooler in transaction mode is welcome.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString, NamedTuple, TypeAlias, TypeVar

import psycopg
from psycopg.abc import Loader
from psycopg.pq import Format
from psycopg.rows import TupleRow

T = TypeVar("T")

# psycopg's loader of binary data, for text: in the binary format text is its bytes as they are.
JSON_AS_BYTES: Final[type[Loader] | None] = psycopg.adapters.get_loader(
    psycopg.adapters.types["bytea"].oid, Format.BINARY
)


# Of those that get into each other's way one goes on, so an attempt fails only because another's has succeeded.
MAX_ATTEMPTS: Final = 100


class Statement(NamedTuple):
    """One statement, one round trip; it always gives rows."""

    query: LiteralString
    parameters: Mapping[str, Any]

    may_fail: bool = False
    """Whether the plan goes on after an error, so that a transaction of the caller must survive it."""

    has_json: bool = False
    """Whether columns of type text are JSON, to be given as bytes."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before the next statement."""

    seconds: float


Plan: TypeAlias = Generator[Statement | Pause, Sequence[TupleRow], T]
