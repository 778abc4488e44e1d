"""A projection's limits: its own, else the settings'."""

from typing import Literal

import pytest

from projectiond.plugins.limits import Limits, resolve_limits
from projectiond.plugins.registry import define
from projectiond.settings import Settings
from tests.support.daemon import journal

SETTINGS = Settings(batch_size=7, checkpoint_every=3, max_attempts=5, on_error="skip", catchup_transaction_seconds=2)


def test_a_projection_without_limits_of_its_own_has_those_of_the_settings() -> None:
    assert resolve_limits(define(journal()), SETTINGS) == Limits(7, 3, 5, "skip", 2)


def test_a_projection_s_own_limits_win() -> None:
    own = journal(batch_size=70, checkpoint_every=30, max_attempts=50, on_error="pause")
    assert resolve_limits(define(own), SETTINGS) == Limits(70, 30, 50, "pause", 2)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("batch_size", 1),
        ("checkpoint_every", 1),
        ("max_attempts", 1),
        ("on_error", "pause"),
        ("synchronous_commit", "off"),
    ],
)
def test_each_limit_is_resolved_by_itself(option: str, value: int | Literal["pause", "off"]) -> None:
    own = journal()
    setattr(own, option, value)
    limits = resolve_limits(define(own), SETTINGS)
    expected = {"batch_size": 7, "checkpoint_every": 3, "max_attempts": 5, "on_error": "skip", option: value}
    assert {name: getattr(limits, name) for name in expected} == expected
