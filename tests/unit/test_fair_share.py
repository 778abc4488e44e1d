"""Fair shares: whatever workers come and go, every lease finds one, and no more of them move than must."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from projectiond.lease import fair_share


class Leaseholders:
    """Workers that look at the locks and act on what they see, as `Worker._balance` does."""

    def __init__(self, count: int) -> None:
        self.holder: dict[int, int | None] = dict.fromkeys(range(count))
        self.live: set[int] = set()
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
        share = fair_share(worker, self.holdings(), len(self.holder))
        ours = [lease for lease, holder in self.holder.items() if holder == worker and lease not in self.leaving]
        self.leaving.update(ours[share:])
        self.moves += len(ours[share:])
        for lease, holder in self.holder.items():
            if holder is None and self.holdings()[worker] < share:
                self.holder[lease] = worker

    def kill(self, worker: int) -> None:
        self.live.discard(worker)
        for lease, holder in self.holder.items():
            if holder == worker:
                self.holder[lease] = None
                self.leaving.discard(lease)

    def settle(self) -> None:
        """Have all workers look a few times, in whatever order they have."""
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
    st.lists(st.tuples(st.sampled_from(["join", "kill", "tick"]), st.integers(0, 5)), max_size=40),
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


def test_a_share_that_is_larger_stays_where_it_is() -> None:
    assert [fair_share(worker, {1: 1, 2: 2, 3: 0}, 4) for worker in (1, 2, 3)] == [1, 2, 1]
    assert [fair_share(worker, {1: 2, 2: 1, 3: 0}, 4) for worker in (1, 2, 3)] == [2, 1, 1]
