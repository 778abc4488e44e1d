"""The plan of an append: one statement where all goes well, and what follows when it does not.

The statement reads the versions and inserts where they are as expected (``statements.APPEND``).  So a version that is
stale already costs no failed INSERT and no number.  Two writers at the very same time both pass that look; then the
unique constraint on (aggregate_id, version) lets one of them in and the other one's INSERT fail as a whole, since it
is one statement.  Nobody waits for anybody except for that one row, which is what has to be decided.

What was not written is looked into by one statement more (``statements.LOOK``), and judged in this order:

1. *Are these events there already?*  All of them, in this order and unchanged: this is a retry, after an answer that
   was lost or beside a twin that was faster, and its result is the first one's.  A part of them, or another event under
   one of the ids: refused.
2. *Is a version another one than expected?*  That is the conflict, with the true version.

Versions and events are read in one statement, hence as of one time: a version that a twin has moved is never seen
without the twin's events, and no conflict is reported that the caller itself has caused.  For a single event a smaller
statement (``LOOK_ONE``) has the answer nearly always: it is not there, and the version is another one.

A caller's transaction with a snapshot of its own (REPEATABLE READ, SERIALIZABLE) cannot see what it has run into.  Then
the version is not known, and the caller has to begin anew.  What the server itself calls a serialization failure or a
deadlock there is passed on, for the transaction is to be repeated as a whole.
"""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import psycopg
from psycopg.rows import TupleRow

from projectiond.errors import ConcurrencyError, EventDataError, EventIdTakenError
from projectiond.eventstore import statements
from projectiond.eventstore.new_event import Request
from projectiond.eventstore.plan import MAX_ATTEMPTS, Plan, Statement

# What cannot be a value of its column, or is too large for one.
_UNSTORABLE: Final = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded)

_KEYS: Final = ({"aggregate_id", "version"}, {"event_id"})


def append(request: Request) -> Plan[int]:
    """Append, and give the sequence number of the last event (without events, of the aggregates' last one).

    Raises:
        ConcurrencyError: An aggregate is not at the expected version.
        EventIdTakenError: An id is another event's, or only some of the events are there.
        EventDataError: The server cannot store an event's data.
    """
    if not request.expected:
        return 0
    for _ in range(MAX_ATTEMPTS):
        number, violation = yield from _attempt(request)
        if number is not None:
            return number
        try:
            # It may be the first to read the events: the server leaves them unread where the versions decide.
            seen = yield Statement(statements.LOOK, request.parameters(), may_fail=True)
        except _UNSTORABLE as error:
            raise _unstorable(request, error) from None
        aggregates, stored = seen[: len(request.expected)], seen[len(request.expected) :]
        if stored:
            return _recognise(request, stored)
        if (mismatch := _mismatch(request, aggregates)) is not None:
            raise ConcurrencyError(*mismatch)
        if violation is not None:
            yield from _judge(violation, request, is_snapshot_older=bool(aggregates[0][4]))
        # The caller takes any version, or the version has become the expected one.
    aggregate_id, expected = request.expected[0]
    raise ConcurrencyError(aggregate_id, expected, aggregates[0][2])


def _attempt(request: Request) -> Plan[tuple[int | None, psycopg.errors.UniqueViolation | None]]:
    """Append; without a number nothing was written, because of a version that was seen or of the violation."""
    single = request.single()
    violation = None
    try:
        if single is None:
            written = yield Statement(statements.APPEND, request.parameters(), may_fail=True)
        else:
            written = yield Statement(statements.APPEND_ONE, single, may_fail=True)
        if written:
            return int(written[0][0]), None
    except psycopg.errors.UniqueViolation as error:
        violation = error
    except _UNSTORABLE as error:
        raise _unstorable(request, error) from None
    if single is not None:
        ((version, is_stored),) = yield Statement(statements.LOOK_ONE, single)
        if version != single["expected_version"] and not is_stored:
            raise ConcurrencyError(single["aggregate_id"], single["expected_version"], version)
    return None, violation


def _mismatch(request: Request, aggregates: Sequence[TupleRow]) -> tuple[UUID, int, int] | None:
    """Find the first aggregate that is not at its expected version."""
    versions = {row[1]: int(row[2]) for row in aggregates}
    for aggregate_id, expected in request.expected:
        if expected is not None and versions[aggregate_id] != expected:
            return aggregate_id, expected, versions[aggregate_id]
    return None


def _recognise(request: Request, stored: Sequence[TupleRow]) -> int:
    """Give the result of the first append, or say why this is no retry of it."""
    for ordinal, _, _, _, is_the_same in stored:
        if not is_the_same:
            row = request.rows[ordinal - 1]
            raise EventIdTakenError(
                f"event id {row.event_id} is in the store already, for another event than this {row.event_type!r} "
                f"of aggregate {row.aggregate_id}",
                hint="give the new event an id of its own",
            )
    if len(stored) < len(request.rows):
        raise EventIdTakenError(
            f"{len(stored)} of these {len(request.rows)} events are in the store already, the others are not",
            hint="append the very same events again, or give new ones new ids",
        )
    # The version before each aggregate's first event, as each of its events gives it.
    befores = {(row.aggregate_id, found[2] - row.place) for row, found in zip(request.rows, stored, strict=True)}
    if len(befores) > len({row.aggregate_id for row in request.rows}):
        raise EventIdTakenError(
            "all these events are in the store already, but not next to each other in this order",
            hint="append the very same events again, or give new ones new ids",
        )
    return max(int(found[3]) for found in stored)


def _judge(violation: psycopg.errors.UniqueViolation, request: Request, *, is_snapshot_older: bool) -> Plan[None]:
    """Decide about a violation whose reason cannot be seen: another rule of this store, or an older snapshot."""
    parameters = {"schema": violation.diag.schema_name, "index": violation.diag.constraint_name}
    columns = yield Statement(statements.INDEX_COLUMNS, parameters)
    is_ours = any(key <= set(row[0] or ()) for row in columns for key in _KEYS)
    if not is_ours:
        raise violation
    if is_snapshot_older:
        aggregate_id, expected = request.expected[0]
        raise ConcurrencyError(aggregate_id, expected, None)


def _unstorable(request: Request, error: psycopg.Error) -> EventDataError:
    types = ", ".join(sorted({row.event_type for row in request.rows})[:3])
    # psycopg's own have no more than their text.
    told = [error.diag.message_primary or str(error), error.diag.message_detail or ""]
    return EventDataError(f"events of {types} cannot be stored: {'; '.join(part[:200] for part in told if part)}")
