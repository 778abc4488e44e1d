"""The supervisor's decisions about a worker, without a process."""

import os
import random
import signal
import time
from types import SimpleNamespace

import pytest
from pydantic import SecretStr

from projectiond.processes.recorder import InHand, Page, Recorder, create_recorder_file
from projectiond.settings import Settings
from projectiond.supervisor import HEALTHY_SECONDS, LONGEST_RESTART_SECONDS, SILENT_SECONDS, Post, Supervisor


class FakeChild:
    """A worker as the supervisor sees it."""

    def __init__(self, *, silent_seconds: float = 0.0, in_hand: tuple[InHand, ...] = ()) -> None:
        self.number = 1
        self.pid = 1
        self.started_at = 0.0
        self.silent_seconds = silent_seconds
        self.is_killed = False
        self.is_ready = False
        self._in_hand = in_hand

    def in_hand(self) -> tuple[InHand, ...]:
        return self._in_hand

    def page(self) -> Page:
        descriptor = create_recorder_file()
        try:
            return Recorder(descriptor).read_page()
        finally:
            os.close(descriptor)

    def kill(self) -> None:
        self.is_killed = True

    def close(self) -> None:
        assert self.is_killed


def check(child: FakeChild, *, handler_timeout_seconds: float = 5.0) -> Supervisor:
    supervisor = Supervisor(Settings(handler_timeout_seconds=handler_timeout_seconds))
    supervisor._check(Post(1, child), child)  # type: ignore[arg-type]
    return supervisor


def test_a_worker_at_work_is_left_alone() -> None:
    child = FakeChild(silent_seconds=SILENT_SECONDS - 1, in_hand=(InHand("orders", 7, 4.9),))
    check(child)
    assert not child.is_killed


def test_a_worker_whose_handler_hangs_is_killed_and_the_event_suspected() -> None:
    child = FakeChild(in_hand=(InHand("orders", 7, 5.1), InHand("sales", 9, 0.1)))
    supervisor = check(child)
    assert child.is_killed
    assert supervisor._suspicion.careful_upto == {"orders": 7}


def test_a_worker_that_is_mute_is_killed_and_nobody_suspected() -> None:
    child = FakeChild(silent_seconds=SILENT_SECONDS + 1)
    supervisor = check(child)
    assert child.is_killed
    assert not supervisor._suspicion.careful_upto


def test_a_long_time_limit_for_handlers_is_a_long_patience_with_the_worker() -> None:
    child = FakeChild(silent_seconds=SILENT_SECONDS + 1)
    check(child, handler_timeout_seconds=SILENT_SECONDS + 10)
    assert not child.is_killed


def test_a_worker_has_more_patience_from_its_supervisor_the_more_hosts_there_are_to_connect_to() -> None:
    child = FakeChild(silent_seconds=SILENT_SECONDS + 1)
    settings = Settings(database_url=SecretStr("postgresql://db-1,db-2,db-3/shop?target_session_attrs=read-write"))
    Supervisor(settings)._check(Post(1, child), child)  # type: ignore[arg-type]
    assert not child.is_killed


def pause_after(post: Post, lived_seconds: float) -> float:
    """Have a worker of a post die; give the seconds until the next is started."""
    child = FakeChild()
    child.kill()
    child.started_at = time.monotonic() - lived_seconds
    Supervisor(Settings())._vacate(post, child, "signal SIGKILL")  # type: ignore[arg-type]
    return post.start_at - time.monotonic()


def test_workers_that_die_of_their_start_are_replaced_after_pauses_that_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda _, most: most)
    post = Post(1)
    pauses = [round(pause_after(post, 1.0)) for _ in range(7)]
    assert pauses == [1, 2, 4, 8, 16, LONGEST_RESTART_SECONDS, LONGEST_RESTART_SECONDS]


def test_one_that_had_worked_for_a_while_is_replaced_soon_however_many_have_died_before() -> None:
    assert pause_after(Post(1, failures=7), HEALTHY_SECONDS + 1) <= 1


def test_only_signals_that_ask_for_the_end_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # The second is what CPython gives after SIGCONT: whatever lay there.
    caught = [signal.SIGCHLD, -567952416, None, signal.SIGTERM]
    monkeypatch.setattr(signal, "sigtimedwait", lambda *_: caught[0] and SimpleNamespace(si_signo=caught.pop(0)))
    monkeypatch.setattr(Supervisor, "_tend", lambda _self: caught[0] is None and caught.pop(0))
    assert Supervisor(Settings(http_port=0, workers=1)).run() == 0
    assert caught == []


def test_signals_are_blocked_only_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    supervisor = Supervisor(Settings(http_port=0), until=lambda: True)
    monkeypatch.setattr(Supervisor, "_drain", lambda _self: 0)
    assert supervisor.run() == 0
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
