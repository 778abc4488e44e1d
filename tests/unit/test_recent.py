"""The newest events: a runner gets all of a range or nothing, and only what its own query would have found."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projectiond.event import Event
from projectiond.postgres.database import Connection
from projectiond.stream import recent
from projectiond.stream.recent import KEPT_BYTES, KEPT_EVENTS, KEPT_SECONDS, Passage, Recent

SERVER = datetime(2026, 1, 1, tzinfo=UTC)
OTHER_SERVER = SERVER + timedelta(seconds=1)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(recent, "time", clock)
    return clock


def connection(server: datetime = SERVER, opened_at: float = 0.0) -> Connection:
    """Make as much of a connection as is looked at."""
    return cast("Connection", SimpleNamespace(incarnation=server, opened_at=opened_at))


def event(number: int) -> Event[Any]:
    data, metadata = json.dumps({"n": number}).encode(), None if number % 2 else b"{}"
    return Event.from_row((UUID(int=number), UUID(int=1), "Order", "Counted", data, metadata, 1, number, SERVER))


def passage(
    after: int,
    upto: int,
    numbers: Iterable[int] | None = None,
    *,
    server: datetime = SERVER,
    read_at: float = 1000.0,
    weight: int = 100,
) -> Passage:
    """Make a passage; without numbers there is an event for each."""
    events = tuple(map(event, range(after + 1, upto + 1) if numbers is None else numbers))
    return Passage(after, upto, events, weight, server, read_at)


def numbers(events: Iterable[Event[Any]] | None) -> list[int] | None:
    return None if events is None else [event.sequence_number for event in events]


def kept(*passages: Passage) -> Recent:
    shared = Recent()
    for each in passages:
        shared.keep(each)
    return shared


# --- all of a range, or nothing


def test_a_range_that_is_here_is_given_in_order() -> None:
    shared = kept(passage(10, 15, [11, 12, 15]), passage(15, 16))
    assert numbers(shared.read(connection(), 10, 16)) == [11, 12, 15, 16]
    assert numbers(shared.read(connection(), 11, 15)) == [12, 15]
    assert numbers(shared.read(connection(), 12, 14)) == []
    assert numbers(shared.read(connection(), 16, 16)) == []
    assert repr(shared) == "<Recent 10..16>"


@pytest.mark.parametrize(("after", "upto"), [(9, 12), (14, 17), (5, 20), (1, 2), (20, 30)])
def test_a_range_of_which_a_part_is_missing_is_not_given(after: int, upto: int) -> None:
    assert kept(passage(10, 16)).read(connection(), after, upto) is None


def test_nothing_is_given_before_anything_was_read() -> None:
    shared = Recent()
    assert shared.read(connection(), 0, 0) is None
    assert repr(shared) == "<Recent empty>"


def test_a_hole_between_two_passages_is_never_bridged() -> None:
    shared = kept(passage(10, 12), passage(13, 15))
    assert shared.read(connection(), 10, 15) is None
    assert numbers(shared.read(connection(), 13, 15)) == [14, 15]


def test_a_look_that_has_read_nothing_keeps_what_is_here() -> None:
    shared = kept(passage(10, 12), passage(12, 12), passage(12, 13))
    assert numbers(shared.read(connection(), 10, 13)) == [11, 12, 13]


def test_what_has_been_cleared_is_not_given() -> None:
    shared = kept(passage(10, 12))
    shared.clear()
    assert shared.read(connection(), 10, 12) is None
    shared.keep(passage(12, 13))
    assert shared.read(connection(), 10, 13) is None


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.booleans()), max_size=60), st.data())
def test_whatever_is_given_is_all_of_its_range(looks: list[tuple[int, int, bool]], data: st.DataObject) -> None:
    """Looks settle ranges of the store, some of them unread, and of each range some numbers have no event."""
    shared, store, mark = Recent(), set[int](), 0
    for unread, length, has_holes in looks:
        mark += unread
        store |= set(range(mark - unread + 1, mark + 1))
        found = [number for number in range(mark + 1, mark + length + 1) if not has_holes or number % 3]
        shared.keep(passage(mark, mark + length, found))
        store |= set(found)
        mark += length
        upto = data.draw(st.integers(0, mark))
        after = data.draw(st.integers(0, upto))
        given = numbers(shared.read(connection(), after, upto))
        assert given is None or given == sorted(number for number in store if after < number <= upto)
        assert numbers(shared.read(connection(), mark - length, mark)) == found or length == 0


# --- only what this connection would have found


def test_a_connection_to_another_server_gets_nothing() -> None:
    assert kept(passage(10, 12)).read(connection(OTHER_SERVER), 10, 12) is None


def test_the_events_of_two_servers_are_never_mixed() -> None:
    shared = kept(passage(10, 12), passage(12, 14, server=OTHER_SERVER))
    assert shared.read(connection(OTHER_SERVER), 10, 14) is None
    assert numbers(shared.read(connection(OTHER_SERVER), 12, 14)) == [13, 14]
    assert shared.read(connection(), 10, 12) is None


def test_a_connection_that_was_opened_later_gets_nothing() -> None:
    """A crash of the server between the two may have taken back what was read."""
    shared = kept(passage(10, 12, read_at=999.8), passage(12, 14, read_at=999.9))
    assert numbers(shared.read(connection(opened_at=999.7), 10, 14)) == [11, 12, 13, 14]
    assert shared.read(connection(opened_at=999.8), 10, 12) is None
    assert shared.read(connection(opened_at=999.8), 11, 13) is None
    assert numbers(shared.read(connection(opened_at=999.8), 12, 14)) == [13, 14]


def test_what_was_read_before_the_row_is_not_used() -> None:
    """Whoever has mended an event in the store and resumed the projection wants it as it is now."""
    shared = kept(passage(10, 12, read_at=999.8), passage(12, 14, read_at=999.9))
    assert numbers(shared.read(connection(), 10, 14, since=999.7)) == [11, 12, 13, 14]
    assert shared.read(connection(), 10, 14, since=999.85) is None
    assert numbers(shared.read(connection(), 12, 14, since=999.85)) == [13, 14]
    assert shared.read(connection(), 12, 14, since=999.95) is None


def test_what_is_old_is_not_used(clock: Clock) -> None:
    shared = kept(passage(10, 12))
    clock.now += KEPT_SECONDS * 0.9
    assert numbers(shared.read(connection(), 10, 12)) == [11, 12]
    clock.now += KEPT_SECONDS * 0.2
    assert shared.read(connection(), 10, 12) is None


def test_what_is_new_is_not_lost_with_what_is_old(clock: Clock) -> None:
    """A steady trickle must not make the oldest passage spoil the newest."""
    shared = Recent()
    for mark in range(20):
        shared.keep(passage(mark, mark + 1, read_at=clock.now))
        clock.now += KEPT_SECONDS / 4
        assert numbers(shared.read(connection(), mark, mark + 1)) == [mark + 1]


# --- bounds, and sharing


def test_the_number_of_events_is_bounded() -> None:
    shared = Recent()
    for mark in range(0, KEPT_EVENTS * 3, 50):
        shared.keep(passage(mark, mark + 50))
        assert sum(len(each.events) for each in shared._passages) <= KEPT_EVENTS
        assert numbers(shared.read(connection(), mark, mark + 50)) == list(range(mark + 1, mark + 51))
    assert shared.read(connection(), 0, mark + 50) is None


def test_their_bytes_are_bounded() -> None:
    shared = Recent()
    for mark in range(20):
        shared.keep(passage(mark, mark + 1, weight=KEPT_BYTES // 5))
        assert sum(each.weight for each in shared._passages) <= KEPT_BYTES
    assert numbers(shared.read(connection(), 15, 20)) == [16, 17, 18, 19, 20]
    assert shared.read(connection(), 14, 20) is None


def test_what_a_runner_holds_does_not_change_while_more_arrives() -> None:
    shared = kept(passage(10, 12))
    held = shared.read(connection(), 10, 12)
    shared.keep(passage(12, 20))
    shared.clear()
    assert numbers(held) == [11, 12]


@pytest.mark.parametrize("number", [11, 12], ids=["without metadata", "with metadata"])
def test_two_handlers_never_see_what_each_other_has_done_to_an_event(number: int) -> None:
    shared = kept(passage(10, 12))
    first, second = (shared.read(connection(), number - 1, number) for _ in range(2))
    assert first is not None
    assert second is not None
    one, other = first[0].pristine(), second[0].pristine()
    one.data.clear()
    cast("dict[str, Any]", one.metadata)["seen"] = True
    assert other.data == {"n": number}
    assert other.metadata == {}
    assert second[0].pristine().metadata == {}
