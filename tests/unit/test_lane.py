"""The lane: many passes in one thread, none of them a second time, and nobody waits for one that is stuck."""

import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from projectiond.running import lane
from projectiond.running.lane import Lane, Pass
from tests.support.waiting import eventually


class Traveller:
    """A runner whose passes only note what they do."""

    def __init__(self, name: str, trace: list[str], *, first: Callable[[], object] = lambda: None) -> None:
        self.name = name
        self.trace = trace
        self.first = first
        self.is_at_home = True
        self.wakes = 0
        self.overstays = 0
        self.ends: list[object] = []
        self.threads: set[str] = set()

    def wake(self) -> None:
        self.wakes += 1

    def lend(self) -> bool:
        was_at_home, self.is_at_home = self.is_at_home, False
        return was_at_home

    def steps(self) -> Pass:
        self.threads.add(threading.current_thread().name)
        self.trace.append(f"{self.name} begins")
        self.first()
        yield
        self.trace.append(f"{self.name} ends")
        return "done"

    def take_note(self, end: object, *, is_summoned: bool) -> bool:
        assert not self.is_at_home
        self.ends.append(end)
        return is_summoned and end == "done"

    def overstay(self) -> None:
        self.overstays += 1

    def give_back(self) -> None:
        self.is_at_home = True


def have_gone_on(seen: dict[Traveller, int]) -> bool:
    return all(len(one.ends) > count for one, count in seen.items())


@pytest.fixture
def road() -> Iterator[Lane]:
    road = Lane(4)
    yield road
    road.stop()


def test_the_next_pass_begins_before_the_last_has_its_answer(road: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "PATIENCE_SECONDS", 30.0)
    trace: list[str] = []
    travellers = [Traveller(name, trace) for name in "abcd"]
    road.summon(travellers)
    eventually(lambda: all(one.is_at_home and one.ends for one in travellers))
    # Three may be under way: of four connections one is left to others.
    assert trace == [f"{one} begins" for one in "abc"] + ["a ends", "d begins"] + [f"{one} ends" for one in "bcd"]
    assert [one.ends for one in travellers] == [["done"]] * 4
    assert len(set().union(*(one.threads for one in travellers))) == 1


def test_a_pass_that_is_stuck_holds_nobody_back(road: Lane) -> None:
    is_over = threading.Event()
    trace: list[str] = []
    stuck = [Traveller(name, trace, first=is_over.wait) for name in "xy"]
    others = [Traveller(name, trace) for name in "abc"]
    road.summon([stuck[0], others[0], stuck[1], *others[1:]])
    eventually(lambda: all(one.is_at_home and one.ends for one in others))
    assert not any(one.ends for one in stuck)
    eventually(lambda: all(one.overstays == 1 for one in stuck))
    # What arrives meanwhile is not held back either.
    road.summon(others)
    eventually(lambda: all(len(one.ends) == 2 and one.is_at_home for one in others))
    is_over.set()
    eventually(lambda: all(one.is_at_home for one in stuck))
    assert [one.ends for one in stuck] == [["done"]] * 2
    assert all(trace.count(f"{one.name} begins") == 1 for one in stuck)


def test_who_is_not_lent_is_woken(road: Lane) -> None:
    at_work = Traveller("a", [])
    at_work.is_at_home = False
    road.summon([at_work])
    assert at_work.wakes == 1
    assert not at_work.trace


def test_the_mark_that_moves_during_a_pass_makes_another(road: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "PATIENCE_SECONDS", 30.0)
    goes_on = threading.Event()
    traveller = Traveller("a", [], first=goes_on.wait)
    road.summon([traveller])
    eventually(lambda: bool(traveller.trace))
    road.summon([traveller])
    road.summon([traveller])
    goes_on.set()
    eventually(lambda: traveller.is_at_home)
    assert traveller.ends == ["done", "done"]
    assert traveller.wakes == 0


def test_an_error_is_handed_over_and_ends_nothing_else(road: Lane) -> None:
    fault = SystemExit()

    def fail() -> None:
        raise fault

    bad, good = Traveller("a", [], first=fail), Traveller("b", [])
    road.summon([bad, good])
    eventually(lambda: bad.is_at_home and good.is_at_home and good.ends)
    assert bad.ends == [fault]
    assert good.ends == ["done"]


def test_whatever_happens_at_once_each_summons_is_followed_by_a_pass(
    road: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "PATIENCE_SECONDS", 0.0005)
    trace: list[str] = []
    travellers = [Traveller(str(number), trace) for number in range(20)]
    for _ in range(200):
        seen = {one: len(one.ends) for one in travellers}
        road.summon(travellers)
        eventually(partial(have_gone_on, seen))
    eventually(lambda: all(one.is_at_home for one in travellers))
    assert all(end == "done" for one in travellers for end in one.ends)
    assert trace.count("0 begins") == trace.count("0 ends") == len(travellers[0].ends)


def test_what_was_sent_is_finished_before_more_wait_for_its_connection(road: Lane) -> None:
    connections = threading.Semaphore(1)
    trace: list[str] = []

    class Borrower(Traveller):
        def take_note(self, end: object, *, is_summoned: bool) -> bool:
            connections.release()
            return super().take_note(end, is_summoned=is_summoned)

    travellers = [Borrower(str(number), trace, first=connections.acquire) for number in range(9)]
    road.summon(travellers)
    eventually(lambda: all(one.is_at_home and one.ends for one in travellers))
    # The second waited for it, and then the first was finished.
    assert trace.index("0 ends") < trace.index("3 begins")
    assert len(set().union(*(one.threads for one in travellers))) < len(travellers)


def test_without_a_thread_for_a_deputy_the_leader_goes_on(road: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    travellers = [Traveller(name, []) for name in "abc"]
    before, started = threading.Thread.start, threading.Event()

    def start_one(thread: threading.Thread) -> None:
        if started.is_set():
            refuse(thread)
        started.set()
        before(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_one)
        road.summon(travellers)
        eventually(lambda: all(one.is_at_home and one.ends for one in travellers))
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            Lane(4).summon(travellers)
    assert road.is_sound
    assert all(one.ends == ["done"] for one in travellers)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_of_the_lane_itself_can_be_seen(road: Lane) -> None:
    class Bad(Traveller):
        def take_note(self, end: object, *, is_summoned: bool) -> bool:
            raise ValueError(end, is_summoned)

    assert road.is_sound
    road.summon([Bad("a", [])])
    eventually(lambda: not road.is_sound)


def test_who_watches_keeps_nobody_from_being_served(road: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "PATIENCE_SECONDS", 30.0)
    travellers = [Traveller(name, []) for name in "ab"]
    for _ in range(10):
        # The first time a deputy is called, and it sleeps on when the leader is done.
        seen = {one: len(one.ends) for one in travellers}
        road.summon(travellers)
        eventually(partial(have_gone_on, seen))
        eventually(lambda: all(one.is_at_home for one in travellers))
