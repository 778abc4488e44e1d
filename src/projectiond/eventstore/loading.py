"""The plans of ``load`` and ``save_snapshot``: a snapshot, the events after it, and a new snapshot now and then.

A snapshot is a cache of a fold over events: it may be missing, and must never be wrong.  It is used only when

* its shape is that of the class that is loaded (``aggregate``);
* the event that it ends with is there, under its version and with its id: a store that was restored to an earlier time
  may lack it, or have another one in its place;
* its JSON fits the class.

Otherwise all events are read, and the snapshot is overwritten by the next one.  One is taken when ``save_every``
events had to be applied, by whoever had to, in a statement of its own after the load.  Of two that save at once the
newer one stays.  It is not taken inside a transaction of the caller, which would hold the row's lock, or be read-only;
``save_snapshot`` does it there.  An aggregate that JSON does not give back as it was is never saved: that is tried
each time.
"""

import logging
from typing import Any, Final
from uuid import UUID

import psycopg
from pydantic import ValidationError

from projectiond.eventstore import statements
from projectiond.eventstore.aggregate import A, Loaded, Shape
from projectiond.eventstore.plan import Plan, Statement
from projectiond.eventstore.reading import Decode, Pages, by_version

# Events of one page of a load.
PAGE: Final = 500

_log = logging.getLogger(__name__)


def load(aggregate_id: UUID, initial: A, shape: Shape[A], decode: Decode, save_every: int | None) -> Plan[Loaded[A]]:
    """Load an aggregate.

    Args:
        aggregate_id: Whose events.
        initial: The state before the first event.
        shape: That of the initial state's class.
        decode: What makes events typed.
        save_every: After how many events a snapshot is taken; None for never.
    """
    found = yield Statement(
        statements.READ_SNAPSHOT, {"aggregate_id": aggregate_id, "shape": shape.fingerprint}, has_json=True
    )
    discarded = None
    for version, last_event_id, state_json in found:
        loaded = _restore(aggregate_id, version, last_event_id, state_json, shape)
        if loaded is not None:
            folded = yield from _fold(loaded, decode)
            if folded is not None:
                yield from _save_if_due(folded[0], shape, folded[1], save_every, None)
                return folded[0]
        discarded = last_event_id
    empty = Loaded(aggregate_id, 0, initial, "", None)
    folded = yield from _fold(empty, decode)
    assert folded is not None  # noqa: S101 - a fold from the beginning has no snapshot's event to miss
    yield from _save_if_due(folded[0], shape, folded[1], save_every, discarded)
    return folded[0]


def save(loaded: Loaded[A], shape: Shape[A], discarded: UUID | None = None) -> Plan[bool]:
    """Save a snapshot; say whether it was written, and not an older one than there is or one that would be wrong."""
    if loaded.last_event_id is None:
        return False
    state = _make_json(loaded.state, shape)
    if state is None:
        _log.warning(
            "no snapshot of aggregate %s: %s is not the same once it has been through JSON; all of its events are "
            "applied at each load",
            loaded.aggregate_id,
            type(loaded.state).__name__,
        )
        return False
    parameters = {
        "aggregate_id": loaded.aggregate_id,
        "aggregate_type": loaded.aggregate_type,
        "version": loaded.version,
        "shape": shape.fingerprint,
        "last_event_id": loaded.last_event_id,
        "aggregate": state.decode(),
        "discarded": discarded,
    }
    rows = yield Statement(statements.WRITE_SNAPSHOT, parameters, may_fail=True)
    return bool(rows)


def _restore(
    aggregate_id: UUID, version: int, last_event_id: UUID | None, state: bytes | None, shape: Shape[A]
) -> Loaded[A] | None:
    if last_event_id is None or state is None:
        return None
    try:
        return Loaded(aggregate_id, version, shape.adapter.validate_json(state), "", last_event_id)
    except ValidationError:
        return None


def _fold(start: Loaded[A], decode: Decode) -> Plan[tuple[Loaded[A], int] | None]:
    """Apply what comes after; None when the event that the start ends with is not there."""
    # The last event of a snapshot is read once more, to see that it is the one.
    pages = Pages.of_aggregate(start.aggregate_id, max(start.version - 1, 0), PAGE)
    state, last, applied = start.state, None, 0
    while not pages.is_done:
        events = yield from pages.read(by_version)
        if last is None and start.version:
            if not events or (events[0].version, events[0].event_id) != (start.version, start.last_event_id):
                return None
            last, events = events[0], events[1:]
        for event in events:
            after = state.apply(decode(event))
            state = state if after is None else after
            last = event
            applied += 1
    if last is None:
        return start, 0
    return Loaded(start.aggregate_id, last.version, state, last.aggregate_type, last.event_id), applied


def _save_if_due(
    loaded: Loaded[Any], shape: Shape[Any], applied: int, save_every: int | None, discarded: UUID | None
) -> Plan[None]:
    if save_every is None or applied < save_every:
        return
    try:
        yield from save(loaded, shape, discarded)
    except psycopg.Error as error:
        # A standby, a role that only reads, a row that is locked for too long: what was loaded is right without it.
        told = error.diag.message_primary or str(error)
        _log.warning("no snapshot of aggregate %s: %s", loaded.aggregate_id, told[:200])


def _make_json(state: A, shape: Shape[A]) -> bytes | None:
    """Give the JSON of a state, if that gives the state back."""
    try:
        state_json = shape.adapter.dump_json(state, by_alias=True)
        return state_json if shape.adapter.validate_json(state_json) == state else None
    except (ValueError, RecursionError):  # pydantic's own are ValueErrors
        return None
