"""docs/http.md lists what the code has: metrics, paths, fields, statuses and limits."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from projectiond.http import connections, readings, vigil, waiters
from projectiond.http.families import FAMILIES
from projectiond.http.routes import _STATUS_OF, API
from projectiond.operating.overview import Hold
from projectiond.settings import Settings
from projectiond.waiting.wait import DEFAULT_TIMEOUT_SECONDS
from tests.support.http import FakeReadings, Site, reading_of, state_of

PAGE = (Path(__file__).parents[2] / "docs" / "http.md").read_text(encoding="utf-8")


def fields_of(shape: object) -> Iterator[str]:
    """Give the names of all fields, those of objects within objects too."""
    if isinstance(shape, dict):
        for name, value in shape.items():
            yield name
            yield from fields_of(value)
    elif isinstance(shape, list):
        for value in shape:
            yield from fields_of(value)


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `(projectiond_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", PAGE, re.MULTILINE)
    assert rows == [
        (family.name, family.type, ", ".join(f"`{label}`" for label in family.labels), family.meaning)
        for family in FAMILIES
    ]


def test_every_metric_that_is_named_exists() -> None:
    assert set(re.findall(r"projectiond_[a-z_]+", PAGE)) <= {
        *(family.name for family in FAMILIES),
        "projectiond_wait_for",
    }


def test_every_path_is_in_the_table() -> None:
    site = Site()
    endpoints = site.ask("/").json()["endpoints"]
    in_table = re.findall(r"^\| `(/[^`]*)` \|", PAGE, re.MULTILINE)
    assert [path.replace("{name}", "NAME") for path in endpoints] == [path for path in in_table if path != "/"]
    assert f"is `{API.rpartition('/')[2]}`" in PAGE


def test_every_field_is_described() -> None:
    reading = reading_of(state_of())
    assert reading.overview is not None
    overview = replace(reading.overview, hold=Hold(41, ["pid 7"], []))
    site = Site(readings=FakeReadings(replace(reading, overview=overview)))
    site.vigil.found = [vigil.Fault("projection", "orders", 1, "it stands", 130.0)]
    answers: list[dict[str, Any]] = [
        site.ask(path).json()
        for path in (f"{API}/projections", f"{API}/projections/orders/wait?sequence=1", "/healthz", "/readyz")
    ]
    described = set(re.findall(r"`(\w+)`", PAGE)) | set(re.findall(r'"(\w+)":', PAGE))
    assert {name for answer in answers for name in fields_of(answer)} <= described


def test_the_statuses_and_limits_are_those_of_the_code() -> None:
    statuses = {int(status) for status in re.findall(r"^\| (\d{3}) \|", PAGE, re.MULTILINE)}
    assert statuses == {200, 400, *(status for _, status in _STATUS_OF)}
    for sentence in (
        f"`127.0.0.1:{Settings().http_port}`",
        f"for {vigil.MUTE_SECONDS:g} seconds: it is stopped",
        f"for {vigil.STUCK_SECONDS:g} seconds",
        f"`stall_seconds` ({Settings().stall_seconds:g})",
        f"within the last {readings.RECOVERY_SECONDS:g} seconds",
        f"at most {readings.PATIENCE_SECONDS:g} seconds",
        f"to {waiters.MOST_SECONDS:g}, and {DEFAULT_TIMEOUT_SECONDS:g} when left out",
        f"or {waiters.MOST_WAITERS} requests wait already",
        f"At most {connections.MOST_CONNECTIONS} connections, of which {waiters.MOST_WAITERS} may wait",
        f"{connections.REQUEST_SECONDS:g} seconds for a request to arrive, {connections.ANSWER_SECONDS:g} for its",
        f"{connections.MOST_HEAD_BYTES // 1024} KB of headers",
    ):
        assert sentence in PAGE


def test_the_limits_fit_together() -> None:
    assert waiters.MOST_WAITERS < connections.MOST_CONNECTIONS
    assert waiters.MOST_SECONDS + waiters.GRACE_SECONDS < connections.ANSWER_SECONDS
