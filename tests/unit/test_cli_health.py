"""`projectiond health`: what it asks, and what it makes of the answer."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from projectiond.cli.application import main
from projectiond.http.vigil import Fault
from tests.support.http import FakeReadings, Site, free_port, reading_of


@dataclass
class Listener:
    """Answers every request with the same."""

    port: int
    status: int = 200
    body: bytes = b""
    paths: list[str] = field(default_factory=list)

    def answer(self, site: Site) -> None:
        response = site.ask("/healthz")
        self.status, self.body = response.status_code, response.content


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers.paths.append(self.path)
            self.send_response(answers.status)
            self.end_headers()
            self.wfile.write(answers.body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        answers = Listener(server.server_port)
        monkeypatch.setenv("PROJECTIOND_HTTP_PORT", str(server.server_port))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield answers
        server.shutdown()
        thread.join()


def test_a_daemon_that_is_well_is_healthy(listener: Listener, capsys: pytest.CaptureFixture[str]) -> None:
    listener.answer(Site())
    assert main(["health"]) == 0
    assert capsys.readouterr().out == "ok\n"
    assert listener.paths == ["/healthz"]


def test_a_database_that_is_away_is_no_fault_of_the_daemon(
    listener: Listener, capsys: pytest.CaptureFixture[str]
) -> None:
    site = Site(readings=FakeReadings(reading_of(error="the server does not answer")))
    site.vigil.found = [Fault("projection", "orders", 1, "it stands", 130.0)]
    listener.answer(site)
    assert main(["health"]) == 0
    assert capsys.readouterr().out == "ok: the server does not answer\n"


def test_what_does_not_advance_is_named(listener: Listener, capsys: pytest.CaptureFixture[str]) -> None:
    site = Site()
    site.vigil.found = [
        Fault("projection", "or\x1bders", 1, "it stands at 41", 130.2),
        Fault("worker", "2", 2, "it gives no sign of life", 12.0),
        Fault("supervisor", "", None, "its loop does not turn", 31.0),
    ]
    listener.answer(site)
    assert main(["health"]) == 1
    assert capsys.readouterr().err == (
        "projectiond: or\\x1bders: it stands at 41 (130 s), worker 2: it gives no sign of life (12 s), "
        "supervisor: its loop does not turn (31 s); its log says more\n"
    )


@pytest.mark.parametrize("body", [b"hello", b"[]", b'{"status": 1}', b"\xff"])
def test_another_server_is_told_apart(body: bytes, listener: Listener, capsys: pytest.CaptureFixture[str]) -> None:
    listener.body = body
    assert main(["health"]) == 1
    assert "is no projectiond; look at http_host and http_port" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 -- it is asked, not listened on
def test_nobody_is_a_fault(host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    monkeypatch.setenv("PROJECTIOND_HTTP_HOST", host)
    monkeypatch.setenv("PROJECTIOND_HTTP_PORT", str(port))
    assert main(["health"]) == 1
    assert f"no daemon answers at 127.0.0.1 port {port}: " in capsys.readouterr().err


def test_a_daemon_without_http_cannot_be_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROJECTIOND_HTTP_PORT", "0")
    assert main(["health"]) == 1
    assert "http_port is 0, so there is nobody to ask" in capsys.readouterr().err
