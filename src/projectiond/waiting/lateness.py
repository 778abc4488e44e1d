"""Lateness: why a projection that is waited for has not arrived, in a sentence that says what to do.

Called by ``waiting`` when the time is over.  As all steps of a wait these are questions that are yielded, so that they
can be asked over any kind of connection.  The readings are made one after the other; what is true by now may have
changed since the last look, and the sentence then is of the newer state.
"""

from collections.abc import Generator
from typing import Final

from projectiond import sql
from projectiond.checkpoint import Checkpoint
from projectiond.errors import WaitTimeoutError
from projectiond.failure import printable
from projectiond.leases.lease import lease_key
from projectiond.operating.overview import MOST_LOOKS, SECOND_LOOK_SECONDS
from projectiond.stream.highwater import RUN_LIMIT, HighWaterMark, Holder, Sighting
from projectiond.waiting.arrival import Arrival, Pause, Question, Rows

# The lag is counted so far; more would take longer than the message is worth.
MOST_COUNTED: Final = 100_000

Steps = Generator[Question | Pause, Rows, str]


def explain(
    name: str, now: Checkpoint | None, arrival: Arrival, timeout_seconds: float
) -> Generator[Question | Pause, Rows, WaitTimeoutError]:
    """Make the error of a wait that has taken too long.

    Args:
        name: The projection.
        now: Its row at the last look, if it has one.
        arrival: The judge of this wait.
        timeout_seconds: How long it was.
    """
    position = 0 if now is None else now.position
    ((end, _, _, is_standby),) = yield arrival.ask_facts(position)
    distance = yield from _distance(now, position, end, arrival)
    if is_standby:
        hint = 'this server is a standby, so see "projectiond status" of the primary'
    else:
        hint = yield from _reason(name, now, end, arrival)
    status = "" if now is None or now.status == "running" else f" ({now.status})"
    return WaitTimeoutError(
        printable(f'after {timeout_seconds:g} s "{name}" is at {position}{status}, {distance}'), hint=printable(hint)
    )


def paused_sentence(name: str, now: Checkpoint | None) -> str:
    """Say that a projection is paused, why, and how it goes on."""
    if now is None:
        return f'the checkpoint row of "{name}" is gone; see "projectiond status"'
    if now.error_message:
        return f'"{name}" is paused at {now.position}: {now.error_message} ("projectiond resume {name}")'
    return f'"{name}" is paused at {now.position}; "projectiond resume {name}" lets it go on'


def _distance(now: Checkpoint | None, position: int, end: int, arrival: Arrival) -> Steps:
    number = arrival.sequence_number
    if now is not None and now.is_about_to_be_reset:
        return "and its rebuild has been asked for but not begun"
    if position > end:
        return f"but the store ends at {end}"
    if end < number:
        return f"and the store ends at {end}: no event up to {number} has been appended yet"
    between = {"position": position, "number": number, "most": MOST_COUNTED + 1}
    ((count,),) = yield Question(sql.arrival.COUNT_EVENTS_BETWEEN, between)
    if count == 0:
        return f"and an open transaction may yet add an event up to {number}"
    if count > MOST_COUNTED:
        return f"more than {MOST_COUNTED:,} events behind {number}"
    return f"{count:,} event{'' if count == 1 else 's'} behind {number}"


def _reason(name: str, now: Checkpoint | None, end: int, arrival: Arrival) -> Steps:
    """Say what holds it back and what to do; the first that is true explains the rest."""
    if now is not None and now.position > end and now.status == "running":
        return f'the store was emptied, or restored from an older backup: run "projectiond rebuild {name}"'
    if now is not None and now.error_message:
        return f"its last error was: {now.error_message}"
    idleness = yield from _idleness(name)
    hold = yield from _hold(0 if now is None else now.position, arrival)
    if idleness or hold:
        return "; ".join(part for part in (idleness, hold) if part)
    if end < arrival.sequence_number:
        return "wait for the number that an append has returned, once it is committed"
    return 'it is at work: wait longer, or see "projectiond status"'


def _idleness(name: str) -> Steps:
    if (yield Question(sql.leases.LIVE_WORKERS, {"key": sql.keys.WORKERS_KEY}))[0][0] == 0:
        return 'no daemon is running on this database: start one with "projectiond run"'
    leased = {key for key, is_exclusive, *_ in (yield Question(sql.leases.READ_LEASES)) if is_exclusive}
    if lease_key(name) not in leased:
        return 'no worker runs it: see "projectiond status" and "projectiond check"'
    return ""


def _hold(position: int, arrival: Arrival) -> Steps:
    """Say who keeps our number, or the mark behind a position, from being settled; nothing when nobody does."""
    if arrival.lockers:
        lockers, where = arrival.lockers, f"{arrival.sequence_number} may yet be filled by"
    else:
        mark = yield from _find_mark(position)
        lockers, where = mark.blockers, f"the high-water mark is held at {mark.settled} by"
    rows = yield Question(sql.highwater.DESCRIBE_LOCKERS, {"lockers": sorted(lockers)})
    holders = "; ".join(str(Holder(*row)) for row in rows)
    return f'{where} {holders}, see "projectiond status"' if holders else ""


def _find_mark(position: int) -> Generator[Question | Pause, Rows, HighWaterMark]:
    mark = HighWaterMark(position)
    for _ in range(MOST_LOOKS):
        before = mark.settled
        yield from _look(mark)
        if mark.settled == before:
            break
    if mark.is_held:
        # A writer in the middle of its append holds it for a moment, which explains nothing.
        yield Pause(SECOND_LOOK_SECONDS, position)
        yield from _look(mark)
    return mark


def _look(mark: HighWaterMark) -> Generator[Question, Rows, None]:
    # Without the sequence, which the role may not be allowed to ask: a number written by hand does not matter here.
    parameters = {"settled": mark.settled, "run_limit": RUN_LIMIT, "sequence": None}
    ((run_end, largest, _),) = yield Question(sql.highwater.SIGHTING, parameters)
    if mark.see(Sighting(run_end, largest)):
        mark.account(frozenset(row[0] for row in (yield Question(sql.highwater.LOCKERS))))
