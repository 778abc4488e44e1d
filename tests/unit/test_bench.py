"""The arithmetic of the measurements: ratios, percentiles, and what counts as expected."""

import pytest

from bench.report import Figure, at_least, at_most, median_figure, percentile, percentile_figures, ratios, to_json


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
