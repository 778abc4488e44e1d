"""The flight recorder: what a worker wrote is read by another process, after its death too."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from projectiond.processes.recorder import MAX_SLOTS, Recorder, create_recorder_file


@pytest.fixture
def descriptor() -> Iterator[int]:
    descriptor = create_recorder_file()
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def worker(descriptor: int) -> Iterator[Recorder]:
    recorder = Recorder(descriptor)
    yield recorder
    recorder.close()


@pytest.fixture
def supervisor(descriptor: int) -> Iterator[Recorder]:
    recorder = Recorder(descriptor)
    yield recorder
    recorder.close()


def hands(recorder: Recorder) -> list[tuple[str, int]]:
    return [(item.projection, item.sequence_number) for item in recorder.read_in_hand()]


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="without Linux it is a temporary file")
def test_it_needs_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    os.close(create_recorder_file())


def test_a_fresh_recorder_tells_of_nothing(supervisor: Recorder) -> None:
    assert supervisor.read_heartbeat() == (0.0, False, False)
    assert hands(supervisor) == []


def test_an_event_is_in_hand_from_taken_to_put_down(worker: Recorder, supervisor: Recorder) -> None:
    slot = worker.slot(0, "orders")
    other = worker.slot(1, "sales")
    slot.take(7)
    other.take(9)
    assert hands(supervisor) == [("orders", 7), ("sales", 9)]
    slot.put_down()
    assert hands(supervisor) == [("sales", 9)]
    assert 0 <= supervisor.read_in_hand()[0].seconds < 60


def test_a_heartbeat_says_ready_and_refused_apart(worker: Recorder, supervisor: Recorder) -> None:
    worker.beat(is_ready=True)
    first, *flags = supervisor.read_heartbeat()
    assert flags == [True, False]
    worker.beat(is_ready=False, is_refused=True)
    second, *flags = supervisor.read_heartbeat()
    assert flags == [False, True]
    assert second >= first > 0


def test_the_longest_name_is_kept_whole(worker: Recorder, supervisor: Recorder) -> None:
    worker.slot(0, "\U0001f6d2" * 100).take(1)
    assert hands(supervisor) == [("\U0001f6d2" * 100, 1)]


def test_a_name_that_does_not_fit_is_cut(worker: Recorder, supervisor: Recorder) -> None:
    worker.slot(0, "é" * 400).take(1)
    ((name, _),) = hands(supervisor)
    assert name == "é" * 200


def test_a_projection_too_many_works_without_being_recorded(worker: Recorder, supervisor: Recorder) -> None:
    for index in range(MAX_SLOTS + 1):
        worker.slot(index, f"p{index}").take(1)
    assert len(hands(supervisor)) == MAX_SLOTS


def test_the_largest_sequence_number_fits(worker: Recorder, supervisor: Recorder) -> None:
    worker.slot(0, "orders").take(2**63 - 1)
    assert hands(supervisor) == [("orders", 2**63 - 1)]


@pytest.mark.faults
def test_what_a_process_wrote_outlives_its_sigkill(descriptor: int, supervisor: Recorder) -> None:
    script = (
        "import os, signal, sys\n"
        "from projectiond.processes.recorder import Recorder\n"
        f"recorder = Recorder({descriptor})\n"
        "recorder.slot(0, 'orders').take(7)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], pass_fds=(descriptor,), check=False)
    assert ended.returncode == -9
    assert hands(supervisor) == [("orders", 7)]
