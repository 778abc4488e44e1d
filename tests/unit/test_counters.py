"""The counters: what one process counted, another reads, whole also after a kill; and sums over workers."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from projectiond.processes.counters import Count, ProjectionNumbers, State, Timing, Wakeup
from projectiond.processes.recorder import MAX_SLOTS, Recorder, create_recorder_file


@pytest.fixture
def descriptor() -> Iterator[int]:
    descriptor = create_recorder_file()
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def ends(descriptor: int) -> Iterator[tuple[Recorder, Recorder]]:
    worker, supervisor = Recorder(descriptor), Recorder(descriptor)
    yield worker, supervisor
    worker.close()
    supervisor.close()


def test_what_a_runner_counts_is_read_by_its_projections_name(ends: tuple[Recorder, Recorder]) -> None:
    worker, supervisor = ends
    worker.slot(0, "orders")
    sales = worker.slot(1, "sales").counters
    sales.note_start()
    sales.note_commit(30, 0.02, (0.004, 0.006))
    sales.note_retry(is_database=False)
    sales.note(Count.POISON_EVENTS)
    sales.observe(Timing.LATENCY, 0.0021)
    sales.note_state(State.CAUGHT_UP, 41)
    assert list(supervisor.read_page().projections()) == ["orders", "sales"]
    numbers = supervisor.read_page().projections()["sales"]
    assert (numbers.state, numbers.position) == (State.CAUGHT_UP, 41)
    counts = {what.name: numbers.count(what) for what in Count if numbers.count(what)}
    assert counts == {
        "EVENTS": 30,
        "BATCHES": 2,
        "TRANSACTIONS": 1,
        "RETRIES": 1,
        "POISON_EVENTS": 1,
        "RUNNER_STARTS": 1,
    }
    assert sum(numbers.buckets(Timing.BATCH)) == 2
    assert numbers.sum_seconds(Timing.BATCH) == pytest.approx(0.01)
    assert numbers.buckets(Timing.LATENCY)[Timing.LATENCY.bounds.index(0.003)] == 1


@pytest.mark.parametrize("what", list(Timing))
def test_a_duration_lies_in_the_bucket_whose_bound_it_does_not_exceed(
    what: Timing, ends: tuple[Recorder, Recorder]
) -> None:
    worker, supervisor = ends
    counters = worker.slot(0, "orders").counters
    for bound in what.bounds:
        counters.observe(what, bound)
    counters.observe(what, 1e6)
    assert list(supervisor.read_page().projections()["orders"].buckets(what)) == [1] * (len(what.bounds) + 1)


def test_a_mark_that_moves_while_it_is_held_is_held_since_then(ends: tuple[Recorder, Recorder]) -> None:
    worker, supervisor = ends
    worker.worker.note_look(7, is_held=True, has_moved=True)
    first = supervisor.read_page().worker
    worker.worker.note_look(7, is_held=True, has_moved=False)
    second = supervisor.read_page().worker
    assert first.held_since == second.held_since is not None
    assert second.looked_at is not None
    worker.worker.note_look(8, is_held=False, has_moved=True)
    assert supervisor.read_page().worker.held_since is None
    worker.worker.note_lost()
    worker.worker.note_wakeup(Wakeup.BELL)
    third = supervisor.read_page().worker
    assert (third.mark, third.looked_at) == (8, None)
    assert third.wakeups == {Wakeup.BELL: 1, Wakeup.POLL: 0, Wakeup.MARK: 2}


def test_a_projection_without_a_slot_is_counted_nowhere(ends: tuple[Recorder, Recorder]) -> None:
    worker, supervisor = ends
    worker.slot(MAX_SLOTS, "one too many").counters.note_start()
    worker.slot(0, "orders")
    assert list(supervisor.read_page().projections()) == ["orders"]


def test_sums_keep_the_state_of_whoever_runs_the_projection(ends: tuple[Recorder, Recorder]) -> None:
    worker, supervisor = ends
    counters = worker.slot(0, "orders").counters
    counters.note_commit(5, 0.1, (0.1,))
    counters.note_state(State.WORKING, 9)
    lived = supervisor.read_page().projections()["orders"]
    total = ProjectionNumbers.none().plus(lived.ended()).plus(lived)
    assert (total.state, total.position, total.count(Count.EVENTS)) == (State.WORKING, 9, 10)
    assert lived.plus(ProjectionNumbers.none()).state is State.WORKING


@pytest.mark.faults
def test_a_worker_that_is_killed_leaves_consistent_numbers(descriptor: int) -> None:
    script = (
        "import os, signal, threading\n"
        "from projectiond.processes.recorder import Recorder\n"
        f"counters = Recorder({descriptor}).slot(0, 'orders').counters\n"
        "threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGKILL)).start()\n"
        "while True:\n"
        "    counters.note_commit(10, 0.002, (0.001, 0.001))\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], pass_fds=(descriptor,), check=False)
    assert ended.returncode == -9
    supervisor = Recorder(descriptor)
    numbers = supervisor.read_page().projections()["orders"]
    supervisor.close()
    transactions = numbers.count(Count.TRANSACTIONS)
    assert transactions > 0
    # At most the last one is counted by halves.
    assert numbers.count(Count.EVENTS) in {10 * transactions, 10 * transactions - 10}
    assert numbers.count(Count.BATCHES) in range(2 * transactions - 2, 2 * transactions + 1)
    assert sum(numbers.buckets(Timing.TRANSACTION)) in {transactions, transactions - 1}
