"""The foreman: which projection is built next, and when one that failed is tried again."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from projectiond import foreman as module
from projectiond.foreman import FAILED_SECONDS, Foreman
from projectiond.processes.recorder import InHand
from projectiond.settings import Settings


class Builder:
    """Stands for the process of a builder."""

    started: list[str] = []  # noqa: RUF012 -- emptied by the fixture

    def __init__(self, _number: int, _briefing: object, *, module: str, subject: str) -> None:
        del module
        self.started.append(subject)
        self.code: int | None = None
        self.silent_seconds = 0.0
        self.hand: Sequence[InHand] = ()
        self.is_killed = False

    def exit_code(self) -> int | None:
        return self.code

    def in_hand(self) -> Sequence[InHand]:
        return self.hand

    def kill(self) -> None:
        self.is_killed = True

    def close(self) -> None:
        pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(seconds=1000.0)
    Builder.started.clear()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    monkeypatch.setattr(module, "Child", Builder)
    return now


def foreman() -> Any:  # noqa: ANN401 -- its builder is ours
    return Foreman(Settings(database_url=SecretStr("postgresql://nowhere.invalid/x")))


def test_one_builder_works_at_a_time_and_the_others_queue(clock: SimpleNamespace) -> None:
    chief = foreman()
    chief.tend({"b": 1, "a": 1})
    chief.tend({"b": 1, "a": 1})
    assert Builder.started == ["a"]
    assert chief.name == "a"
    (builder,) = chief.children
    builder.code = 0
    clock.seconds += 0.2
    for _ in range(2):
        chief.tend({"b": 1})
    assert Builder.started == ["a", "b"]


def test_a_rebuild_that_failed_is_tried_again_after_a_minute_and_keeps_nobody_waiting(clock: SimpleNamespace) -> None:
    chief = foreman()
    for _ in range(3):
        chief.tend({"a": 1, "b": 1})
        for builder in chief.children:
            builder.code = 1
        chief.tend({"a": 1, "b": 1})
    assert Builder.started == ["a", "b"]
    clock.seconds += FAILED_SECONDS + 1
    chief.tend({"a": 1, "b": 1})
    assert Builder.started == ["a", "b", "a"]


@pytest.mark.parametrize("code", [1, 2, -9])
def test_a_rebuild_that_is_asked_for_anew_begins_at_once(clock: SimpleNamespace, code: int) -> None:
    del clock
    chief = foreman()
    chief.tend({"a": 1})
    chief.children[0].code = code
    for _ in range(3):
        chief.tend({"a": 1})
    assert Builder.started == ["a"]
    # In one transaction with the end of the request before, or after a pause.
    chief.tend({"a": 2})
    assert Builder.started == ["a", "a"]
    chief.children[0].code = code
    for wanted in ({"a": 2}, {}, {"a": 2}):
        chief.tend(wanted)
    assert Builder.started == ["a", "a", "a"]


def test_a_builder_in_which_a_handler_hangs_or_that_is_mute_is_killed(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(Foreman, "_note", lambda _self, name, item, reason: told.append(f"{name}: {reason}, {item}"))
    chief = foreman()
    chief.tend({"a": 1})
    (hanging,) = chief.children
    hanging.hand = [InHand("a", 7, 61.0)]
    chief.tend({"a": 1})
    assert hanging.is_killed
    assert told == [f"a: retrying: its handler had not returned after 60 s, {hanging.hand[0]}"]
    clock.seconds += 2
    chief.tend({"a": 1})
    (mute,) = chief.children
    mute.silent_seconds = 61.0
    chief.tend({"a": 1})
    assert mute.is_killed
    assert told[1:] == ["a: retrying: its builder was mute for 61 s, None"]
    # Each is followed by another, later each time.
    clock.seconds += 1.5
    chief.tend({"a": 1})
    assert chief.children == []
    clock.seconds += 1
    chief.tend({"a": 1})
    assert len(chief.children) == 1
