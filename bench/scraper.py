"""``python -m bench.scraper``: scrape a daemon of this machine, at a fixed rate, when told to.

Started by ``scrapes`` in a process of its own, which monitoring is too.  Each line of its input is a port, which is
scraped from then on, or empty: nobody is.  When that ends, it writes a line of JSON, see :class:`Scraped`.

Half of the scrapes ask for ``/metrics``, half for the API's list of projections.  Half of each keep their connection;
the others open a new one for every scrape, as Prometheus has to, whose interval is longer than a server keeps a
connection.  It takes the answers with as little work as can be, for whoever reads them does that elsewhere.
"""

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from typing import Final

RATE: Final = 100.0
"""Scrapes a second, in all."""

PATHS: Final = ("/metrics", "/api/v1/projections")

HOST: Final = "127.0.0.1"
ANSWER_SECONDS: Final = 10.0

_END_OF_HEAD: Final = b"\r\n\r\n"
_CHUNK: Final = 1 << 18


@dataclass(slots=True)
class Scraped:
    """What came of it."""

    seconds: float = 0.0
    processor_seconds: float = 0.0
    """Of this process."""
    refused: int = 0
    """Answers other than 200."""
    milliseconds: dict[str, list[float]] = field(default_factory=lambda: {path: [] for path in PATHS})
    """By path, from before connecting or asking to the answer's last byte."""

    @property
    def count(self) -> int:
        """Give the number of scrapes."""
        return sum(map(len, self.milliseconds.values()))


class Client:
    """One who scrapes a path."""

    def __init__(self, port: int, path: str, *, keeps_connection: bool) -> None:
        self._port = port
        self._keeps_connection = keeps_connection
        self._connection: socket.socket | None = None
        self._buffer = bytearray(_CHUNK)
        # As Prometheus asks.
        lines = [f"GET {path} HTTP/1.1", f"Host: {HOST}:{port}", "Accept: */*", "Accept-Encoding: gzip"]
        lines += [] if keeps_connection else ["Connection: close"]
        self._request = "\r\n".join(lines).encode() + _END_OF_HEAD

    def fetch(self) -> tuple[int, bytes]:
        """Scrape once; give the status and the whole answer."""
        try:
            return self._fetch()
        except OSError:
            # A connection that was kept has been closed meanwhile.
            if self._connection is None:
                raise
            self.close()
            return self._fetch()

    def close(self) -> None:
        """End its connection."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _fetch(self) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = socket.create_connection((HOST, self._port), ANSWER_SECONDS)
        self._connection.sendall(self._request)
        answer = bytearray()
        length = None
        while length is None or len(answer) < length:
            size = self._connection.recv_into(self._buffer)
            if not size:
                raise ConnectionError("the connection ended before the answer")
            answer += memoryview(self._buffer)[:size]
            if length is None:
                length = length_of(answer)
        if not self._keeps_connection:
            self.close()
        return int(answer[9:12]), bytes(answer)


def length_of(answer: bytes | bytearray) -> int | None:
    """Give the length of an answer from its head, the head included; None while the head is not complete.

    Raises:
        ValueError: The head does not say it.
    """
    end = answer.find(_END_OF_HEAD)
    if end < 0:
        return None
    for line in answer[:end].split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return end + len(_END_OF_HEAD) + int(value)
    raise ValueError(f"an answer without a length: {bytes(answer[:end]).decode(errors='replace')}")


def scrape(port: int, ending: threading.Event) -> Scraped:
    """Scrape until it is to end."""
    scraped = Scraped()
    clients = [(path, Client(port, path, keeps_connection=keeps)) for path in PATHS for keeps in (True, False)]
    threads = [
        threading.Thread(target=_keep_scraping, args=(scraped, ending, path, client, number, len(clients)))
        for number, (path, client) in enumerate(clients)
    ]
    began, processor = time.monotonic(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _, client in clients:
        client.close()
    scraped.seconds, scraped.processor_seconds = time.monotonic() - began, time.process_time() - processor
    return scraped


def _keep_scraping(
    scraped: Scraped, ending: threading.Event, path: str, client: Client, number: int, clients: int
) -> None:
    interval = clients / RATE
    # Spread over the interval, as many who scrape are.
    due_at = time.monotonic() + interval * number / clients
    while not ending.wait(max(0.0, due_at - time.monotonic())):
        began = time.monotonic()
        status, _ = client.fetch()
        scraped.milliseconds[path].append((time.monotonic() - began) * 1000)
        scraped.refused += status != HTTPStatus.OK
        # What could not be asked in time is made up for.
        due_at += interval


def _scrape_as_told() -> None:
    with ThreadPoolExecutor(1) as pool:
        scraping: tuple[threading.Event, Future[Scraped]] | None = None
        for line in _lines():
            if scraping is not None:
                scraping[0].set()
                print(json.dumps(asdict(scraping[1].result())), flush=True)
                scraping = None
            if line:
                ending = threading.Event()
                scraping = ending, pool.submit(scrape, int(line), ending)


def _lines() -> Iterator[str]:
    for line in sys.stdin:
        yield line.strip()
    yield ""


if __name__ == "__main__":
    _scrape_as_told()
