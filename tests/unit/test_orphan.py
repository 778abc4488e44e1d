"""Processes that have to end by themselves, for their supervisor may be gone."""

import io
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from projectiond import worker
from projectiond.processes import orphan
from projectiond.rebuild import process


class Ending:
    """What a worker or a builder is told, and what is done to its process, in order."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def drain(self) -> None:
        self.told.append("drain")

    stop = drain


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Ending:
    ending = Ending()
    monkeypatch.setattr(time, "sleep", ending.told.append)
    monkeypatch.setattr(os, "_exit", ending.told.append)
    return ending


@pytest.mark.parametrize("obey", [worker._obey, process._obey])
@pytest.mark.parametrize("heard", ["drain\n", ""])
def test_it_drains_and_ends_itself_when_that_takes_too_long(
    ending: Ending, monkeypatch: pytest.MonkeyPatch, obey: Callable[[Any, float], None], heard: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(heard))
    obey(ending, 20.0)
    assert ending.told == ["drain", 20.0 + orphan.GRACE_SECONDS, orphan.EXIT_HUNG]
