"""The scraper and its stand-in: whole answers, over connections that are kept and over new ones, when told to."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from bench import __main__ as bench
from bench.scraper import HOST, PATHS, Client, Scraped, length_of, scrape
from bench.stand_in import Answering

ANSWERS = {
    path: f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n{'x' * size}".encode()
    for path, size in zip(PATHS, (500_000, 3), strict=True)
}


@pytest.fixture
def answers() -> dict[str, bytes]:
    return dict(ANSWERS)


@pytest.fixture
def port(answers: dict[str, bytes]) -> Iterator[int]:
    """Run a stand-in in a thread."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(lambda: Answering(answers), HOST, 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield server.sockets[0].getsockname()[1]
    loop.call_soon_threadsafe(server.close)
    # A turn later, when connections have ended.
    loop.call_soon_threadsafe(loop.call_later, 0.05, loop.stop)
    thread.join()
    loop.close()


def test_the_length_of_an_answer_is_known_with_its_head() -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 12\r\n\r\n"
    assert length_of(answer[:-1]) is None
    assert length_of(answer) == length_of(answer + b"twelve bytes") == len(answer) + 12


def test_an_answer_that_does_not_say_its_length_is_refused() -> None:
    with pytest.raises(ValueError, match="without a length: HTTP"):
        length_of(b"HTTP/1.1 200 OK\r\n\r\n")


@pytest.mark.parametrize("keeps_connection", [True, False])
def test_whole_answers_are_taken_one_after_the_other(port: int, *, keeps_connection: bool) -> None:
    for path in PATHS:
        client = Client(port, path, keeps_connection=keeps_connection)
        assert [client.fetch() for _ in range(3)] == [(200, ANSWERS[path])] * 3
        client.close()


def test_both_paths_are_scraped_at_a_rate_and_what_is_refused_is_counted(port: int, answers: dict[str, bytes]) -> None:
    answers[PATHS[1]] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    ending = threading.Event()
    threading.Timer(0.3, ending.set).start()
    scraped = scrape(port, ending)
    assert scraped.refused == len(scraped.milliseconds[PATHS[1]]) > 0
    assert scraped.count == scraped.refused + len(scraped.milliseconds[PATHS[0]])
    # No more than the rate, and one of each of the four clients at once.
    assert scraped.count <= 100 * scraped.seconds + 4


def test_the_scraper_does_as_it_is_told(port: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "bench.scraper"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        output, _ = process.communicate(f"{port}\n\n", timeout=30)
    (line,) = output.splitlines()
    assert not Scraped(**json.loads(line)).refused


def test_scrapes_are_measured_only_when_asked_for() -> None:
    assert "scrapes" in bench.WHEN_ASKED
    assert not bench.WHEN_ASKED.keys() & bench.MEASUREMENTS.keys()
    assert bench.parse(["--only", "scrapes"]).only == ["scrapes"]
    assert bench.parse([]).only is None
