"""Fair shares: whatever workers come and go, every lease finds one, and no more of them move than must."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from projectiond.leases.fair_share import fair_share, shares


class Leaseholders:
    """Workers that look at the locks and act on what they see, as `Worker._balance` does."""

    def __init__(self, count: int) -> None:
        self.holder: dict[int, int | None] = dict.fromkeys(range(count))
        self.live: set[int] = set()
        self.established: set[int] = set()
        self.leaving: set[int] = set()
        self.moves = 0

    def holdings(self) -> dict[int, int]:
        held = Counter(self.holder.values())
        return {worker: held[worker] for worker in self.live}

    def tick(self, worker: int) -> None:
        """A lease that is to be given back is free only at the next tick: its runner has to end first."""
        for lease in [lease for lease in self.leaving if self.holder[lease] == worker]:
            self.holder[lease] = None
            self.leaving.remove(lease)
        share = shares(worker, self.holdings(), self.established, len(self.holder))
        ours = [lease for lease, holder in self.holder.items() if holder == worker and lease not in self.leaving]
        self.leaving.update(ours[share.keeping :])
        self.moves += len(ours[share.keeping :])
        for lease, holder in self.holder.items():
            if holder is None and self.holdings()[worker] < share.taking:
                self.holder[lease] = worker

    def kill(self, worker: int) -> None:
        self.live.discard(worker)
        self.established.discard(worker)
        for lease, holder in self.holder.items():
            if holder == worker:
                self.holder[lease] = None
                self.leaving.discard(lease)

    def settle(self) -> None:
        """Have all workers stay, and look a few times, in whatever order they have."""
        self.established.update(self.live)
        for _ in range(4):
            for worker in self.live:
                self.tick(worker)


@given(st.dictionaries(st.integers(1, 99), st.integers(0, 20), min_size=1), st.integers(0, 200))
def test_shares_add_up_and_differ_by_one_at_most(held: dict[int, int], count: int) -> None:
    shares = [fair_share(worker, held, count) for worker in held]
    assert sum(shares) == count
    assert max(shares) - min(shares) <= 1


@given(
    st.integers(0, 12),
    st.lists(st.tuples(st.sampled_from(["join", "establish", "kill", "tick"]), st.integers(0, 5)), max_size=40),
)
def test_whoever_comes_and_goes_it_ends_with_fair_shares_and_then_nothing_moves(
    count: int, story: list[tuple[str, int]]
) -> None:
    workers = Leaseholders(count)
    workers.live.add(9)
    for event, worker in story:
        if event == "join":
            workers.live.add(worker)
        elif event == "kill":
            workers.kill(worker)
        elif event == "establish" and worker in workers.live:
            workers.established.add(worker)
        elif worker in workers.live:
            workers.tick(worker)
    workers.settle()
    assert not workers.leaving
    assert None not in workers.holder.values()
    held = workers.holdings().values()
    assert max(held) - min(held) <= 1
    before, workers.moves = dict(workers.holder), 0
    workers.settle()
    assert (workers.holder, workers.moves) == (before, 0)


@given(st.integers(0, 30), st.integers(1, 6))
def test_a_worker_that_joins_moves_no_more_than_its_share(count: int, others: int) -> None:
    workers = Leaseholders(count)
    workers.live.update(range(1, others + 1))
    workers.settle()
    workers.moves = 0
    workers.live.add(0)
    workers.settle()
    assert workers.moves == workers.holdings()[0] == count // (others + 1)


@given(st.integers(0, 30), st.integers(1, 6), st.lists(st.integers(7, 9), max_size=20))
def test_whoever_does_not_stay_moves_nothing(count: int, others: int, passers_by: list[int]) -> None:
    workers = Leaseholders(count)
    workers.live.update(range(others))
    workers.settle()
    workers.moves = 0
    for passer_by in passers_by:
        workers.live.add(passer_by)
        for worker in [*range(others), passer_by, *range(others)]:
            workers.tick(worker)
        workers.kill(passer_by)
    assert (workers.moves, None in workers.holder.values()) == (0, False)


@given(st.integers(0, 30), st.integers(1, 6))
def test_what_a_dead_worker_held_is_taken_at_once_whoever_is_established(count: int, others: int) -> None:
    workers = Leaseholders(count)
    workers.live.update(range(others))
    workers.settle()
    workers.live.update({7, 8})
    workers.kill(0)
    for _ in range(2):
        for worker in list(workers.live):
            workers.tick(worker)
    assert None not in workers.holder.values()


@given(st.integers(0, 30), st.integers(1, 6))
def test_workers_that_start_together_are_even_from_the_first_moment_on(count: int, starting: int) -> None:
    workers = Leaseholders(count)
    for worker in range(starting):
        workers.live.add(worker)
        workers.tick(worker)
    for _ in range(3):
        for worker in range(starting):
            workers.tick(worker)
    held = workers.holdings().values()
    assert (sum(held), max(held) - min(held) <= 1) == (count, True)


def test_a_share_that_is_larger_stays_where_it_is() -> None:
    assert [fair_share(worker, {1: 1, 2: 2, 3: 0}, 4) for worker in (1, 2, 3)] == [1, 2, 1]
    assert [fair_share(worker, {1: 2, 2: 1, 3: 0}, 4) for worker in (1, 2, 3)] == [2, 1, 1]
