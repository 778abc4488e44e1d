"""Health: what should advance and does not is named, and nothing else; by a clock of the test's own."""

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from projectiond.http.crew import Crew, Member
from projectiond.http.vigil import MUTE_SECONDS, STUCK_SECONDS, Fault, Vigil
from projectiond.processes.counters import State
from projectiond.processes.recorder import Page, Recorder, create_recorder_file

STALL_SECONDS = 120.0
POLL_SECONDS = 1.0


class Scene:
    """One worker with one projection, and a supervisor that looks at it once a second."""

    def __init__(self) -> None:
        descriptor = create_recorder_file()
        self._recorder = Recorder(descriptor)
        os.close(descriptor)
        self._counters = self._recorder.slot(0, "orders").counters
        self._recorder.beat(is_ready=True)
        self._vigil = Vigil(stall_seconds=STALL_SECONDS, poll_interval_seconds=POLL_SECONDS)
        self.now = 1_000.0
        self.mark = 0
        self.position = 0
        self.state = State.CAUGHT_UP
        self.is_mute = False
        self.is_looking = True
        self.has_connection = True
        self.is_draining = False
        self.idle_since: float | None = None
        self._beaten_at = self._looked_at = self.now

    def close(self) -> None:
        self._recorder.close()

    def page(self) -> Page:
        self._counters.note_state(self.state, self.position)
        page = self._recorder.read_page()
        looked_at = self._looked_at if self.has_connection else None
        return replace(
            page, beaten_at=self._beaten_at, worker=replace(page.worker, mark=self.mark, looked_at=looked_at)
        )

    def crew(self) -> Crew:
        is_away = self.idle_since is not None
        member = Member(1, None if is_away else 7, None if is_away else self.page(), 0.0, self.idle_since)
        return Crew(self.now, (member,), {}, self.is_draining)

    def pass_time(self, seconds: float) -> list[Fault]:
        """Let time pass; give the faults in the end."""
        for _ in range(int(seconds)):
            self.now += 1
            if not self.is_mute:
                self._beaten_at = self.now
            if self.is_looking:
                self._looked_at = self.now
            self._vigil.observe(self.crew(), self.now)
        return list(self._vigil.faults(self.crew(), self.now))


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.close()


def test_an_idle_system_is_healthy_for_ever(scene: Scene) -> None:
    scene.mark = scene.position = 41
    for _ in range(60):
        assert scene.pass_time(60) == []


def test_a_projection_that_lags_but_gets_on_is_healthy(scene: Scene) -> None:
    scene.state = State.WORKING
    for _ in range(60):
        scene.mark += 1_000
        scene.position += 1
        assert scene.pass_time(60) == []


@pytest.mark.parametrize("state", [State.WORKING, State.CAUGHT_UP, State.RETRYING, State.FAILING])
def test_a_projection_behind_the_mark_without_progress_is_named(scene: Scene, state: State) -> None:
    scene.mark, scene.position, scene.state = 50, 41, state
    assert scene.pass_time(STALL_SECONDS) == []
    (fault,) = scene.pass_time(2)
    assert (fault.kind, fault.name, fault.worker) == ("projection", "orders", 1)
    assert fault.reason == "it stands at 41, and there is more to apply"
    assert STALL_SECONDS < fault.seconds < STALL_SECONDS + 3
    scene.position = 42
    assert scene.pass_time(1) == []


@pytest.mark.parametrize("state", [State.PAUSED, State.WAITING_FOR_DATABASE, State.ELSEWHERE, State.QUEUED])
def test_who_is_paused_or_waits_for_the_database_or_others_or_runs_elsewhere_is_excused(
    scene: Scene, state: State
) -> None:
    scene.mark, scene.position, scene.state = 50, 41, state
    assert scene.pass_time(3_600) == []


def test_after_an_excuse_the_time_is_counted_from_its_end(scene: Scene) -> None:
    scene.mark, scene.position, scene.state = 50, 41, State.WAITING_FOR_DATABASE
    scene.pass_time(3_600)
    scene.state = State.WORKING
    assert scene.pass_time(STALL_SECONDS) == []
    assert scene.pass_time(2) != []


def test_a_writer_that_holds_the_mark_is_nobodys_fault(scene: Scene) -> None:
    # The head is at 900 by now; nothing of it is settled.
    scene.mark = scene.position = 41
    assert scene.pass_time(3_600) == []


def test_without_a_mark_nothing_is_known_to_be_behind(scene: Scene) -> None:
    scene.mark, scene.position, scene.has_connection = 50, 41, False
    assert scene.pass_time(3_600) == []


def test_a_worker_that_is_stopped_shows_after_some_seconds(scene: Scene) -> None:
    scene.is_mute = scene.is_looking = True
    assert scene.pass_time(MUTE_SECONDS) == []
    (fault,) = scene.pass_time(1)
    assert (fault.kind, fault.name) == ("worker", "1")
    assert "no sign of life" in fault.reason
    scene.is_mute = False
    assert scene.pass_time(1) == []


def test_a_watcher_that_does_not_look_is_named(scene: Scene) -> None:
    scene.is_looking = False
    assert scene.pass_time(STALL_SECONDS + POLL_SECONDS) == []
    (fault,) = scene.pass_time(1)
    assert "watcher" in fault.reason


def test_a_place_without_a_worker_is_named_after_a_while_and_says_how_the_last_one_ended(scene: Scene) -> None:
    scene.idle_since = scene.now
    assert scene.pass_time(STALL_SECONDS) == []
    (fault,) = scene.pass_time(1)
    assert fault.reason == "no worker has been at work in its place"
    crew = replace(scene.crew(), members=(replace(scene.crew().members[0], last_end="signal SIGKILL"),))
    (fault,) = scene._vigil.faults(crew, scene.now)
    assert fault.reason == "no worker has been at work in its place; the last ended with signal SIGKILL"


def test_a_supervisor_whose_loop_does_not_turn_is_named_and_not_excused(scene: Scene) -> None:
    crew = scene.crew()
    assert list(scene._vigil.faults(replace(crew, members=()), scene.now + STUCK_SECONDS)) == []
    (fault,) = scene._vigil.faults(replace(crew, members=()), scene.now + STUCK_SECONDS + 1)
    assert fault.kind == "supervisor"
    assert not fault.is_excusable


def test_nothing_has_to_advance_while_the_daemon_drains(scene: Scene) -> None:
    scene.mark, scene.position, scene.is_mute, scene.is_draining = 50, 41, True, True
    assert scene.pass_time(3_600) == []


def test_a_projection_that_is_gone_is_forgotten(scene: Scene) -> None:
    scene.mark, scene.position = 50, 41
    assert len(scene.pass_time(STALL_SECONDS + 2)) == 1
    scene._vigil.observe(Crew(scene.now), scene.now)
    assert list(scene._vigil.faults(Crew(scene.now), scene.now)) == []
