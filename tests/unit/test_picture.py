"""What the status command shows: how far a rebuild is, on terminals of any width, and of text that is up to no good."""

import io
from datetime import UTC, datetime

import pytest
from rich.cells import cell_len
from rich.console import Console

from projectiond.cli import picture
from projectiond.leases.roster import LiveWorker
from projectiond.operating.overview import Hold, Overview, ProjectionState, RebuildState, RunnerState
from tests.support.dashboard import HOSTILE
from tests.support.http import state_of

CHINESE = "\u9867\u5ba2\u6b8b\u9ad8"
ROCKET = "\U0001f680rocket"


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


# --- on a terminal, and in a pipe


def drawn(overview: Overview, width: int, height: int | None = None) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, no_color=True, legacy_windows=False)
    console.print(picture.picture(overview, [], width, height))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().replace("\x1b[1m", "").replace("\x1b[2m", "").replace("\x1b[0m", "").splitlines()
    assert all(line.isprintable() for line in lines)
    assert max(cell_len(line) for line in lines) <= width
    return [line.rstrip() for line in lines]


def trouble() -> Overview:
    since = datetime.now(UTC)
    return Overview(
        head=1_000_000,
        live_workers=1,
        hold=Hold(41, ['pid 812 (app "import", open 43 s)'], ["SELECT pg_terminate_backend(812)"]),
        projections=[
            state_of(CHINESE, lag=7, lag_seconds=170.0, runner=RunnerState("web-1", 81, 1, "1.0", since)),
            state_of("long_" + "x" * 95, position=999_999),
            state_of("stopped", status="paused", error_message=HOSTILE + "e" * 5000),
            state_of(HOSTILE, rebuild=rebuilt().rebuild, status="rebuilding"),
            state_of(ROCKET),
        ],
        roster=[LiveWorker(1, "web-1", 81, 1, "1.0", ["a"], since, {})],
    )


@pytest.mark.parametrize(
    ("width", "is_left_out"), [(60, "POSITION, PROCESSED, LAST, DEAD"), (80, "PROCESSED"), (120, ""), (200, "")]
)
def test_a_narrow_terminal_shows_every_projection_s_status_and_lag(width: int, is_left_out: str) -> None:
    lines = drawn(trouble(), width)
    text = " ".join(" ".join(lines).split())
    told = "STATUS", "LAG", "BEHIND", CHINESE, ROCKET, "running", "paused", "3 min", "pid 812", "for 0 s", "41 %"
    assert [word for word in told if word not in text] == []
    assert "SELECT pg_terminate_backend(812)" in text
    assert text.endswith(f"(too narrow for {is_left_out}: use a wider terminal, or --json)" if is_left_out else "s)")
    places = [cell_len(line[: line.index("running")]) for line in lines if "running" in line]
    assert places == [lines[0].index("STATUS")] * 3


def test_on_a_screen_that_does_not_scroll_what_needs_somebody_comes_first() -> None:
    lines = drawn(trouble(), 120, 24)
    title = next(index for index, line in enumerate(lines) if line.startswith("PROJECTION"))
    assert any("pid 812" in line for line in lines[:title])
    assert any(line.startswith("stopped: ") for line in lines[:title])
    assert lines[title + 1].startswith("stopped ")
    many = Overview(9, 1, None, [state_of(f"p{n}", error_message="bad") for n in range(9)])
    assert "and 6 more projections with errors, which the table has first" in drawn(many, 80, 24)


def test_in_a_pipe_columns_are_aligned_by_what_characters_take_on_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    picture.show_overview(trouble(), [])
    lines = capsys.readouterr().out.splitlines()
    assert all(line.isprintable() for line in lines)
    rows = [line for line in lines if "running" in line and not line.startswith("worker")]
    assert len({cell_len(line[: line.index("running")]) for line in rows}) == 1
    assert len(rows) == 3
    assert next(line for line in lines if line.startswith("stopped")).endswith("e" * 100)


def test_projections_that_stand_still_for_no_known_reason_are_named_with_who_knows_more() -> None:
    def told(hold: Hold | None = None, **more: object) -> list[str]:
        plain = {"lag": 3, "lag_seconds": 65.0, "seconds_since_processed": 300.0, **more}
        runner = RunnerState("web-1", 81, 1, "1.0", datetime.now(UTC))
        states = [state_of(f"p{n}", runner=runner, **plain) for n in range(7)]
        return [line for line in drawn(Overview(9, 1, hold, states), 200) if "nothing applied" in line]

    (line,) = told()
    assert line.startswith("p0, p1, p2, p3, p4 and 2 more: nothing applied for 1 min though events wait")
    assert line.endswith('ask "projectiond health" on web-1, and the log')
    assert told(error_message="retrying: a lock") == told(status="paused") == told(has_runner=False) == []
    assert told(seconds_since_processed=0.1) == told(lag_seconds=0.0) == told(Hold(41, ["pid 812"])) == []
