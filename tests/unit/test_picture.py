"""What the status command says of a projection that is being rebuilt."""

import pytest

from projectiond.cli import picture
from projectiond.overview import ProjectionState, RebuildState
from tests.support.http import state_of


def rebuilt(status: str = "rebuilding", error: str | None = None, **of_rebuild: object) -> ProjectionState:
    plain = {"mode": "beside", "position": 41, "share": 0.41, "seconds_left": 170.0, "is_paused": False}
    rebuild = RebuildState(**{**plain, "error_message": None, **of_rebuild})  # type: ignore[arg-type]
    return state_of("orders", status=status, error_message=error, rebuild=rebuild)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (state_of("orders", status="rebuilding"), "rebuilding (not begun)"),
        (rebuilt(), "rebuilding 41 %, 3 min left"),
        (rebuilt(seconds_left=7300.0), "rebuilding 41 %, 2 h left"),
        (rebuilt(seconds_left=None), "rebuilding 41 %"),
        (rebuilt("paused", is_paused=True, seconds_left=None), "paused, rebuild 41 %"),
    ],
)
def test_the_status_says_how_far_the_rebuild_is(state: ProjectionState, told: str) -> None:
    assert picture._status_of(state) == told


def test_the_error_says_whether_it_is_the_rebuilds() -> None:
    assert picture._error_of(rebuilt(error_message="event 7 is bad")) == "rebuild: event 7 is bad"
    assert picture._error_of(rebuilt(error="no such column", error_message="bad")) == "no such column; rebuild: bad"
