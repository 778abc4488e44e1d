"""Answers that are given again: for how long, for whom compressed, and when they have to be written anew."""

import gzip
from dataclasses import replace

import pytest
from starlette.requests import Request
from starlette.responses import Response

from projectiond.http import routes
from projectiond.http.kept import Kept, takes_gzip
from tests.support.http import Site, crew_of, page_of, reading_of, state_of

API = "/api/v1/projections"


class Clock:
    """A time of the test's own."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("projectiond.http.kept.time", clock)
    return clock


class Answer:
    """A kept answer that counts how often it was written."""

    def __init__(self) -> None:
        self.kept = Kept(1.0, "text/plain")
        self.written = 0

    def ask(self, version: object = "one", accepted: str = "") -> Response:
        headers = [(b"accept-encoding", accepted.encode())] if accepted else []
        request = Request({"type": "http", "headers": headers})
        return self.kept.answer(request, version, self._write)

    def _write(self) -> bytes:
        self.written += 1
        return f"text {self.written}".encode()


def test_it_is_written_once_for_all_who_ask_within_its_time(clock: Clock) -> None:
    answer = Answer()
    assert [answer.ask().body for _ in range(3)] == [b"text 1"] * 3
    clock.now += 0.99
    assert answer.ask().body == b"text 1"
    clock.now += 0.02
    assert answer.ask().body == b"text 2"


@pytest.mark.usefixtures("clock")
def test_another_version_is_written_at_once_whoever_asks_and_how() -> None:
    answer = Answer()
    assert gzip.decompress(bytes(answer.ask("one", "gzip").body)) == b"text 1"
    assert gzip.decompress(bytes(answer.ask("two", "gzip").body)) == b"text 2"
    assert answer.ask("two").body == b"text 2"
    assert answer.ask("one").body == b"text 3"


@pytest.mark.usefixtures("clock")
def test_it_is_compressed_once_and_only_for_those_who_take_that(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Answer()
    plain, compressed = answer.ask(), answer.ask(accepted="gzip")
    assert "content-encoding" not in plain.headers
    assert compressed.headers["content-encoding"] == "gzip"
    assert plain.headers["vary"] == compressed.headers["vary"] == "Accept-Encoding"
    assert gzip.decompress(bytes(compressed.body)) == plain.body
    monkeypatch.setattr("gzip.compress", lambda *_, **__: pytest.fail("compressed again"))
    assert answer.ask(accepted="gzip").body == compressed.body
    assert answer.written == 1


@pytest.mark.parametrize(
    ("accepted", "takes"),
    [
        ("gzip", True),
        ("gzip, deflate, br", True),
        ("br;q=1.0, GZIP;q=0.5", True),
        ("gzip;q=0.001", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("deflate, gzip; q=0.0", False),
        ("not-gzip", False),
    ],
)
def test_who_takes_gzip_says_so(accepted: str, *, takes: bool) -> None:
    assert takes_gzip(accepted) is takes


@pytest.mark.parametrize("path", ["/metrics", API])
def test_scrapes_of_the_same_moment_get_the_same_bytes_and_later_ones_what_is_new(clock: Clock, path: str) -> None:
    site = Site()
    before = site.ask(path).content
    site.crew = crew_of(page_of("orders", "sales"))
    assert site.ask(path).content == before
    clock.now += routes.KEPT_SECONDS
    assert site.ask(path).content != before


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("path", ["/metrics", API])
def test_a_new_reading_and_a_database_that_goes_away_are_told_at_once(path: str) -> None:
    site = Site()
    texts = [site.ask(path).text]
    site.readings.reading = reading_of(state_of(position=42), read_at=1.0)
    texts.append(site.ask(path).text)
    site.readings.reading = replace(site.readings.reading, error="it does not answer")
    texts.append(site.ask(path).text)
    assert len(set(texts)) == len(texts)


def test_what_says_whether_the_daemon_is_well_is_never_kept() -> None:
    site = Site()
    assert (site.ask("/healthz").status_code, site.ask("/readyz").status_code) == (200, 200)
    site.crew = crew_of(page_of("orders"), is_draining=True)
    assert site.ask("/healthz").json()["status"] == "draining"
    assert site.ask("/readyz").status_code == 503
