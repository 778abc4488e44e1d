"""The arithmetic of the measurements: ratios, percentiles, what counts as expected, progress, and the chart."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

import projectiond
from bench import chart, loans, markdown, profile, server_alone, writers
from bench.catchup_orders import ENTRANTS, GROUP
from bench.domain import DOMAINS
from bench.growth import Progress
from bench.race import HAND_WRITTEN, PSYCOPG, in_turn
from bench.report import Figure, at_least, at_most, median_figure, percentile, percentile_figures, ratios, to_json
from bench.tables import prefixed


def test_ratios_are_taken_round_by_round() -> None:
    assert ratios([6.0, 10.0], [2.0, 5.0]) == (3.0, 2.0)


def test_a_round_with_one_side_missing_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratios([6.0, 10.0], [2.0])


def test_one_odd_round_does_not_move_the_median() -> None:
    figure = median_figure("catch-up", "ours over theirs", "fold", [4.0, 100.0, 5.0], at_least(3))
    assert figure.value == 5.0
    assert figure.samples == (4.0, 100.0, 5.0)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.01, 1.0), (0.5, 50.0), (0.501, 51.0), (0.95, 95.0), (0.99, 99.0), (1.0, 100.0)]
)
def test_a_percentile_is_the_smallest_sample_that_covers_the_share(share: float, expected: float) -> None:
    samples = [float(number) for number in range(100, 0, -1)]
    assert percentile(samples, share) == expected


def test_the_percentile_of_one_sample_is_that_sample() -> None:
    assert percentile([7.0], 0.99) == 7.0


def test_there_is_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 0.5)


def test_percentile_figures_carry_the_samples_once() -> None:
    figures = percentile_figures("latency", "idle", "ms", [1.0, 2.0, 30.0], {99: at_most(20)})
    assert [figure.value for figure in figures] == [2.0, 30.0, 30.0]
    assert [len(figure.samples) for figure in figures] == [3, 0, 0]
    assert [figure.is_met for figure in figures] == [True, True, False]


@pytest.mark.parametrize(
    ("value", "is_enough", "is_little_enough"), [(2.9, False, True), (3.0, True, True), (3.1, True, False)]
)
def test_the_limit_itself_is_as_expected(value: float, is_enough: bool, is_little_enough: bool) -> None:  # noqa: FBT001 -- a table
    assert at_least(3).is_met_by(value) is is_enough
    assert at_most(3).is_met_by(value) is is_little_enough


def test_the_document_has_facts_figures_and_whether_they_are_met() -> None:
    figure = Figure("memory", "growth", 25.0, "MB", at_most(20), (25.0,))
    document = to_json({"machine": "a laptop"}, [figure])
    assert document["machine"] == "a laptop"
    assert document["figures"][0]["is_met"] is False
    assert document["figures"][0]["samples"] == (25.0,)


def test_everybody_is_first_once() -> None:
    names = ["a", "b", "c"]
    assert [in_turn(names, number) for number in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]


def test_writers_take_turns_there_and_back_and_those_without_a_goal_only_now_and_then() -> None:
    there = ["none", "bell", "watched"]
    assert writers.in_turn(1) == [*there, *there[::-1], *there, *there[::-1]]
    assert writers.in_turn(2) == writers.in_turn(1)
    assert writers.in_turn(3) == [*writers.in_turn(1), "projected", "notify"]


def test_a_prefix_comes_before_the_tables_and_nothing_else() -> None:
    statement = "UPDATE order_totals SET total_cents = 1 WHERE order_id = 2; TABLE customer_totals"
    assert prefixed(statement, "by_row") == (
        "UPDATE by_row_order_totals SET total_cents = 1 WHERE order_id = 2; TABLE by_row_customer_totals"
    )


def progress_of(*moments: tuple[float, int]) -> Progress:
    progress = Progress()
    for seconds, position in moments:
        progress.note(seconds, position)
    return progress


def test_progress_is_a_straight_line_between_two_readings() -> None:
    progress = progress_of((0.0, 0), (1.0, 100), (3.0, 300), (3.5, 300))
    assert progress.seconds_at(100) == 1.0
    assert progress.seconds_at(200) == 2.0
    assert progress.moments[-1] == (3.0, 300)


def test_progress_that_was_not_made_has_no_time() -> None:
    with pytest.raises(ValueError, match="400 was not reached"):
        progress_of((0.0, 0), (1.0, 300)).seconds_at(400)


def test_evenness_compares_the_last_tenth_with_the_first() -> None:
    steady = progress_of((0.0, 0), (10.0, 1000))
    slower_at_the_end = progress_of((0.0, 0), (9.0, 900), (11.0, 1000))
    assert steady.evenness() == pytest.approx(1.0)
    assert slower_at_the_end.evenness() == pytest.approx(0.5)


def test_no_placeholder_is_left_in_what_the_server_runs_alone() -> None:
    texts = server_alone.procedures()
    assert set(texts) == {"event", "batch", "row"}
    for text in texts.values():
        assert "%(" not in text
        assert "{" not in text


def test_the_server_alone_runs_the_statements_of_the_handlers() -> None:
    text = server_alone.procedures()["event"]
    assert "paid_cents = paid_cents + (event.event_data ->> 'amount_cents')::bigint" in text
    assert "stage.payer_customer_id::text[]" in server_alone.procedures()["batch"]


def test_real_events_are_where_a_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in loans.VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    file = tmp_path / "events.jsonl.gz"
    file.touch()
    monkeypatch.setenv("PROJECTIOND_TEST_EVENTS", str(file))
    assert loans.find_file() == file
    monkeypatch.setenv("PROJECTIOND_BENCH_EVENTS", str(tmp_path / "gone"))
    with pytest.raises(RuntimeError, match=r"PROJECTIOND_BENCH_EVENTS is .*gone, which is not there"):
        loans.find_file()


def test_without_real_events_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in loans.VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(loans, "BESIDE", tmp_path / "gone")
    assert loans.find_file() is None


def test_each_type_of_real_event_is_a_class_that_knows_it() -> None:
    registry = DOMAINS["loans"].registry
    assert {kind.event_type for kind in registry.values()} == set(registry) == set(loans.EVENT_TYPES)  # type: ignore[attr-defined]


def document(**rates: float) -> dict[str, Any]:
    """Make what a run of catch-up leaves, with speeds by name; the hand-written loop's is 4,000 events a second."""
    figures = [Figure(GROUP, HAND_WRITTEN, 4_000.0, "events/s")]
    for name, rate in {PSYCOPG: 8_000.0, **rates}.items():
        figures.append(Figure(GROUP, name, rate, "events/s"))
        figures.append(Figure(GROUP, f"{name} ÷ {HAND_WRITTEN}", rate / 4_000, "fold"))
    facts = {
        "machine": {"cores": "2", "processor": "<Some & Other>"},
        "versions": {"Python": "3.11.7"},
        "server": {"server_version": "18.6"},
        "measured": "2026-11-23",
    }
    return to_json(facts, figures)


KINDS = {entrant.label: 40_000.0 * place for place, entrant in enumerate(ENTRANTS.values(), 1)}


def test_the_chart_has_a_bar_for_each_with_its_share_of_the_longest() -> None:
    svg = ET.fromstring(chart.draw(document(**KINDS)))  # noqa: S314 - our own
    space = "{http://www.w3.org/2000/svg}"
    widths = [int(bar.attrib["width"]) for bar in svg.iter(f"{space}rect")]
    assert widths == [10, 20, 100, 200, 300, 400]
    words = ["".join(text.itertext()) for text in svg.iter(f"{space}text")]
    assert "hand-written loop" in words
    assert "SqlProjection" in words
    assert f"40{chart.TIMES}160,000/s" in words
    assert f"2.0{chart.TIMES}8,000/s" in words


def test_the_chart_says_in_words_what_it_shows_and_where_it_was_measured() -> None:
    text = chart.draw(document(**KINDS))
    assert "RowProjection: 30 times, 120,000 a second" in text
    assert "2026-11-23: 2 cores, &lt;Some &amp; Other&gt;, PostgreSQL 18.6, Python 3.11.7" in text
    assert "prefers-color-scheme: dark" in text


def test_without_figures_there_is_no_chart() -> None:
    with pytest.raises(ValueError, match="did not measure catch-up"):
        chart.draw({**document(), "figures": []})


def test_the_page_gets_a_table_for_each_group_with_goals_and_extremes() -> None:
    figures = [
        median_figure("idle", "processor", "%", [1.0, 3.0, 2.0], at_most(1)),
        Figure("idle", "memory", 55.7, "MB"),
        Figure("writers", "no trigger", 54_321.0, "appends/s"),
    ]
    assert markdown.tables(to_json({}, figures)) == (
        "**idle**\n\n"
        "| | median | lowest | highest | goal |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        "| processor | 2 % | 1 | 3 | ≤ 1 ✗ |\n"
        "| memory | 55.7 MB | | | |\n\n"
        "**writers**\n\n"
        "| | median | lowest | highest | goal |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        "| no trigger | 54,321 appends/s | | | |\n"
    )


def test_samples_are_told_apart_by_modules_that_exist() -> None:
    marks = [mark for _, marks in profile.SHARES for mark in marks if mark.startswith("projectiond/")]
    source = Path(projectiond.__file__).parents[1]
    assert [mark for mark in [profile.RUNNER, *marks] if not (source / mark).exists()] == []


def test_a_sample_belongs_to_the_innermost_work_that_has_a_name() -> None:
    runner = "thread (7): runner orders_by_row;Runner.run (projectiond/running/runner.py:1)"
    stacks = [
        f"{runner};EventReader.ask (projectiond/stream/reader.py:2);Cursor.execute (psycopg/cursor.py:3) 2",
        f"{runner};_Fold.handle (projectiond/kinds/row.py:4) 1",
        f"{runner};_Fold.handle (projectiond/kinds/row.py:4);OrdersByRow.paid (orders_by_row.py:5) 1",
        f"{runner};Runner._wait (projectiond/running/runner.py:6) 99",
        "thread (8);Watcher.run (projectiond/stream/watcher.py:7) 99",
    ]
    assert profile.share_out(stacks) == [
        ("asking for events, and making them of rows", 0.5),
        ("calling it", 0.25),
        ("the projection's own code", 0.25),
    ]
