"""The text format: what Prometheus' own parser reads out of what is written."""

import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from projectiond.http.exposition import Exposition
from projectiond.http.families import FAMILIES

TIMES = "projection_batch_duration_seconds"


def samples(text: bytes) -> list[tuple[str, dict[str, str], float]]:
    return [
        (sample.name.removeprefix("projectiond_"), dict(sample.labels), sample.value)
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    ]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (True, "1.0"),
        (0, "0.0"),
        (41, "41.0"),
        (-0.25, "-0.25"),
        (2**62, "4.611686018427388e+18"),
        (1e-7, "1e-07"),
        (math.nan, "NaN"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
    ],
)
def test_numbers_are_written_as_prometheus_reads_them(number: float, text: str) -> None:
    exposition = Exposition()
    exposition.add("store_head_position", number)
    assert exposition.text().decode().splitlines()[-1] == f"projectiond_store_head_position {text}"
    ((_, _, read),) = samples(exposition.text())
    assert read == pytest.approx(float(number), nan_ok=True)


def test_the_lines_of_a_family_are_together_whatever_the_order_they_are_added_in() -> None:
    exposition = Exposition()
    for name in ("a", "b"):
        exposition.add("projection_lag_events", 1, name)
        exposition.add("projection_has_error", 0, name)
    assert [name for name, _, _ in samples(exposition.text())] == [
        "projection_lag_events",
        "projection_lag_events",
        "projection_has_error",
        "projection_has_error",
    ]


def test_what_is_not_known_is_declared_only() -> None:
    exposition = Exposition()
    exposition.add("store_head_position", None)
    assert samples(exposition.text()) == []
    assert exposition.text().count(b"# TYPE projectiond_store_head_position gauge\n") == 1


def test_labels_keep_what_they_are() -> None:
    exposition = Exposition()
    hostile = 'a"b\\c\nd{},='
    exposition.add("projection_status", 1, hostile, "running")
    assert samples(exposition.text()) == [("projection_status", {"projection": hostile, "status": "running"}, 1)]


def test_a_histogram_is_cumulated_and_its_last_bucket_has_no_bound() -> None:
    exposition = Exposition()
    exposition.add_histogram(TIMES, (0.5, 1, 10.0), (2, 0, 3, 1), 41.5, "orders")
    own = {"projection": "orders"}
    assert samples(exposition.text()) == [
        (f"{TIMES}_bucket", {**own, "le": "0.5"}, 2),
        (f"{TIMES}_bucket", {**own, "le": "1.0"}, 2),
        (f"{TIMES}_bucket", {**own, "le": "10.0"}, 5),
        (f"{TIMES}_bucket", {**own, "le": "+Inf"}, 6),
        (f"{TIMES}_count", own, 6),
        (f"{TIMES}_sum", own, 41.5),
    ]


def test_no_meaning_needs_an_escape() -> None:
    assert not [family.name for family in FAMILIES if {"\\", "\n"} & set(family.meaning)]
