"""The decisions of the high-water mark, as a function of what it is told: no database, every interleaving.

The last test plays a store in memory: transactions draw numbers, commit and roll back between any two readings. It
is the proof on paper, run: nothing is settled before it is visible or dead.
"""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from projectiond.stream.highwater import MAX_WINDOWS, HighWaterMark, Holder, Sighting


def mark_at(settled: int) -> HighWaterMark:
    mark = HighWaterMark()
    mark.settled = settled
    return mark


def lockers(*names: str) -> frozenset[str]:
    return frozenset(names)


def test_a_gapless_run_is_settled_without_asking_for_lockers() -> None:
    mark = HighWaterMark()
    assert mark.see(Sighting(run_end=7, largest=7)) is False
    assert mark.settled == 7
    assert not mark.is_held


def test_an_empty_store_settles_nothing() -> None:
    mark = HighWaterMark()
    assert mark.see(Sighting(run_end=0, largest=0)) is False
    assert mark.settled == 0


def test_a_gap_is_not_passed_before_the_lockers_have_been_asked() -> None:
    mark = HighWaterMark()
    assert mark.see(Sighting(run_end=3, largest=9)) is True
    assert mark.settled == 3


def test_a_gap_that_nobody_can_fill_is_passed_at_once() -> None:
    mark = HighWaterMark()
    mark.see(Sighting(3, 9))
    mark.account(lockers())
    assert mark.settled == 9
    assert not mark.is_held


def test_a_gap_waits_for_each_transaction_that_may_fill_it() -> None:
    mark = HighWaterMark()
    mark.see(Sighting(3, 9))
    mark.account(lockers("3/1", "4/1"))
    assert (mark.settled, mark.is_held, mark.blockers) == (3, True, lockers("3/1", "4/1"))
    mark.see(Sighting(3, 9))
    mark.account(lockers("4/1"))
    assert (mark.settled, mark.blockers) == (3, lockers("4/1"))
    mark.see(Sighting(3, 9))
    mark.account(lockers())
    assert (mark.settled, mark.is_held) == (9, False)


def test_a_transaction_that_began_later_is_not_waited_for() -> None:
    mark = HighWaterMark()
    mark.see(Sighting(3, 9))
    mark.account(lockers("3/1"))
    mark.see(Sighting(3, 20))
    mark.account(lockers("5/1"))
    assert mark.settled == 9
    assert mark.blockers == {"5/1"}


def test_a_second_gap_waits_from_when_it_was_seen_and_not_from_when_the_first_has_ended() -> None:
    mark = HighWaterMark()
    mark.see(Sighting(3, 9))
    mark.account(lockers("3/1"))
    mark.see(Sighting(3, 20))
    mark.account(lockers("3/1", "5/1"))
    # 6/1 came after 20 had been seen: it cannot hold a number below.
    mark.see(Sighting(3, 30))
    mark.account(lockers("6/1"))
    assert mark.settled == 20


def test_a_run_that_grows_past_a_window_takes_its_place() -> None:
    mark = HighWaterMark()
    mark.see(Sighting(3, 9))
    mark.account(lockers("3/1"))
    assert mark.see(Sighting(12, 12)) is False
    assert (mark.settled, mark.is_held) == (12, False)


def test_a_run_is_settled_though_a_later_transaction_is_open() -> None:
    mark = HighWaterMark()
    mark.see(Sighting(3, 9))
    mark.account(lockers("3/1", "4/1"))
    assert mark.see(Sighting(8, 20)) is True
    assert mark.settled == 8
    mark.account(lockers("4/1"))
    assert mark.settled == 8


def test_a_number_that_was_seen_after_the_lockers_were_read_gets_a_window_of_its_own() -> None:
    mark = HighWaterMark()
    mark.see(Sighting(3, 9))
    mark.account(lockers("3/1"))
    mark.see(Sighting(3, 15))
    mark.account(lockers())
    assert mark.settled == 15


def test_windows_do_not_grow_without_bound() -> None:
    mark = HighWaterMark()
    for number in range(10, 10 + 5 * MAX_WINDOWS):
        mark.see(Sighting(3, number))
        mark.account(lockers("1/1", f"9/{number}"))
    assert len(mark._windows) == MAX_WINDOWS
    # And the widened window still waits for whoever was open when its last number was seen.
    last = 10 + 5 * MAX_WINDOWS - 1
    mark.see(Sighting(3, last))
    mark.account(lockers(f"9/{last}"))
    assert mark.settled < last
    mark.see(Sighting(mark.settled, last))
    mark.account(lockers())
    assert mark.settled == last


def test_many_windows_end_at_once_when_what_they_share_has_ended() -> None:
    mark = HighWaterMark()
    for number in range(10, 10 + 3 * MAX_WINDOWS):
        mark.see(Sighting(3, number))
        mark.account(lockers("1/1", f"9/{number}"))
    mark.see(Sighting(3, 1000))
    mark.account(lockers("7/7"))
    # All but the newest, which was widened since.
    assert mark.settled >= 10 + MAX_WINDOWS - 2


def test_the_same_lockers_make_one_window() -> None:
    mark = HighWaterMark()
    for number in range(10, 40):
        mark.see(Sighting(3, number))
        mark.account(lockers("1/1"))
    assert len(mark._windows) == 1


def test_the_mark_shows_its_state() -> None:
    mark = HighWaterMark()
    mark.see(Sighting(3, 9))
    mark.account(lockers("1/1"))
    assert repr(mark) == "<HighWaterMark settled=3 windows=1>"


def test_a_holder_says_who_it_is() -> None:
    assert (
        str(Holder(812, "import", "app", "idle in transaction", 43.2, None))
        == 'pid 812 (app "import", user "app", idle in transaction, open 43 s)'
    )
    assert str(Holder(812, None, None, None, None, None)) == "pid 812"
    assert str(Holder(None, None, None, None, 43.2, "t-1")) == 'prepared transaction "t-1" (open 43 s)'


# --- a store in memory


@dataclass
class Store:
    """Numbers drawn under a lock, as PostgreSQL does it: what is visible, and who holds the lock."""

    drawn: int = 0
    visible: set[int] = field(default_factory=set)
    open: dict[str, set[int]] = field(default_factory=dict)
    # Committed, visible by now, but its lock not yet given back: the moment between the two.
    leaving: set[str] = field(default_factory=set)
    begun: int = 0

    def append(self, name: str) -> None:
        self.drawn += 1
        self.open[name].add(self.drawn)

    def begin(self) -> str:
        self.begun += 1
        self.open[f"v/{self.begun}"] = set()
        return f"v/{self.begun}"

    def commit(self, name: str) -> None:
        self.visible |= self.open.pop(name)
        self.leaving.add(name)

    def roll_back(self, name: str) -> None:
        del self.open[name]

    def sighting(self, settled: int, run_limit: int) -> Sighting:
        run_end = settled
        while run_end + 1 in self.visible and run_end - settled < run_limit:
            run_end += 1
        return Sighting(run_end, max(self.visible, default=0))

    def lockers(self) -> frozenset[str]:
        return frozenset({name for name, numbers in self.open.items() if numbers} | self.leaving)

    def can_still_appear(self, upto: int) -> set[int]:
        return {number for numbers in self.open.values() for number in numbers if number <= upto}


steps = st.lists(
    st.tuples(
        st.sampled_from(["begin", "append", "append", "append", "commit", "roll back", "leave"]), st.integers(0, 7)
    ),
    max_size=12,
)


def act(store: Store, script: list[tuple[str, int]]) -> None:
    for what, which in script:
        names = list(store.open)
        match what:
            case "begin" if len(names) < 8:
                store.append(store.begin())
            case "append" if names:
                store.append(names[which % len(names)])
            case "commit" if names:
                store.commit(names[which % len(names)])
            case "roll back" if names:
                store.roll_back(names[which % len(names)])
            case "leave":
                store.leaving.clear()
            case _:
                pass


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.tuples(steps, steps), min_size=1, max_size=12))
def test_nothing_settled_can_still_appear_whatever_happens_between_two_readings(
    script: list[tuple[list[tuple[str, int]], list[tuple[str, int]]]],
) -> None:
    store, mark = Store(), HighWaterMark()
    for before_look, between_statements in script:
        act(store, before_look)
        settled_before = mark.settled
        is_asked = mark.see(store.sighting(mark.settled, run_limit=3))
        assert not store.can_still_appear(mark.settled)
        act(store, between_statements)
        if is_asked:
            mark.account(store.lockers())
        assert not store.can_still_appear(mark.settled)
        assert mark.settled >= settled_before
    # And in the end, when all is quiet, it gets to the end.
    store.open.clear()
    store.leaving.clear()
    for _ in range(len(store.visible) + 2):
        if mark.see(store.sighting(mark.settled, run_limit=3)):
            mark.account(store.lockers())
    assert mark.settled == max(store.visible, default=0)
