"""The server's thread and its connections: bounded in number and time, without a database, and without secrets."""

import asyncio
import contextlib
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from urllib.parse import unquote

import pytest
from pydantic import SecretStr
from starlette.responses import StreamingResponse

from projectiond.errors import ConfigurationError
from projectiond.http import connections, page, stream
from projectiond.http.connections import MOST_HEAD_BYTES
from projectiond.http.crew import Crew
from projectiond.http.server import HttpServer
from projectiond.settings import Settings
from tests.support.http import free_port
from tests.support.waiting import eventually

PASSWORD = "p%C3%A4ss%25w%22o%5Cr%7Bd%7D%20hunter2"

WAIT = b"GET /api/v1/projections/a/wait?sequence=1&timeout=60 HTTP/1.1\r\nHost: x\r\n\r\n"

Answer = tuple[int, dict[str, str], bytes]


# The same password in the forms that libpq takes; nobody listens there.
ADDRESSES = (
    f"postgresql://app:{PASSWORD}@127.0.0.1:1/shop",
    f"postgresql://127.0.0.1:1/shop?user=app&password={PASSWORD}",
    f"host=127.0.0.1 port=1 dbname=shop user=app password='{unquote(PASSWORD).replace(chr(92), chr(92) * 2)}'",
)


def settings_of(dsn: str = ADDRESSES[0], **values: object) -> Settings:
    return Settings(database_url=SecretStr(dsn), **{"http_port": free_port(), **values})  # type: ignore[arg-type]


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[HttpServer]:
    server = HttpServer(settings_of(getattr(request, "param", ADDRESSES[0])))
    server.show(Crew(time.monotonic()))
    yield server
    server.stop()


def connect(server: HttpServer) -> socket.socket:
    host, _, port = server.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=5)


def read(client: socket.socket) -> Answer:
    """Read one answer, up to the end of the connection."""
    received = b""
    while part := client.recv(65_536):
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): text for name, _, text in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, body


def ask(server: HttpServer, head: str) -> Answer:
    with connect(server) as client:
        client.sendall(f"{head}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return read(client)


@pytest.mark.parametrize("server", ADDRESSES, ids=["url", "query", "keywords"], indirect=True)
def test_it_answers_while_the_database_is_away_and_says_so_without_the_password(server: HttpServer) -> None:
    status, _, _ = ask(server, "GET /healthz HTTP/1.1")
    assert status == 200
    paths = ["/readyz", "/metrics", "/api/v1/projections", "/api/v1/projections/a/wait?sequence=1&timeout=0"]
    for path in (*paths, "/dashboard/store", "/dashboard/projections/a/details"):
        _, headers, body = ask(server, f"GET {path} HTTP/1.1")
        assert not [secret for secret in (b"hunter2", b"w\\u0022o", b"w%22o") if secret in body]
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
    assert b"projectiond_database_up 0.0" in ask(server, "GET /metrics HTTP/1.1")[2]
    status, _, body = ask(server, "GET /api/v1/projections/a/wait?sequence=1&timeout=0 HTTP/1.1")
    assert status == 503
    assert b'database \\"shop\\" at 127.0.0.1:1' in body


def test_a_port_that_is_taken_is_refused_and_the_setting_named() -> None:
    settings = settings_of()
    first = HttpServer(settings)
    with pytest.raises(ConfigurationError) as refused:
        HttpServer(settings)
    assert str(refused.value) == (
        f"cannot serve HTTP on 127.0.0.1 port {settings.http_port}: another process, perhaps another daemon, listens "
        "there; set http_port (PROJECTIOND_HTTP_PORT) to a free port, or to 0 to serve no HTTP"
    )
    first.stop()
    HttpServer(settings).stop()


@pytest.mark.parametrize("host", ["no such host", "192.0.2.1"])
def test_an_address_of_no_use_is_refused_and_the_setting_named(host: str) -> None:
    with pytest.raises(ConfigurationError, match="set http_host and http_port"):
        HttpServer(settings_of(http_host=host))


@pytest.mark.parametrize(
    "sent",
    [b"GET / HTTP/1.1\r\nX: " + b"x" * MOST_HEAD_BYTES, b"GET /" + b"x" * MOST_HEAD_BYTES, b"what is this\r\n\r\n"],
    ids=["headers", "path", "no http"],
)
def test_what_is_too_large_or_no_http_is_refused_with_the_headers_of_every_answer(
    server: HttpServer, sent: bytes
) -> None:
    with connect(server) as client:
        client.sendall(sent)
        status, headers, _ = read(client)
    assert status == 400
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["connection"] == "close"


def test_a_body_is_not_waited_for(server: HttpServer) -> None:
    with connect(server) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200")


def test_more_connections_than_can_be_answered_are_refused(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 2)
    monkeypatch.setattr(server._waiters, "_admit", lambda _: None)
    with connect(server) as first, connect(server) as second:
        for client in (first, second):
            client.sendall(WAIT)
        eventually(lambda: len(being_answered(server)) == 2, 5, "they are not being answered")
        with connect(server) as third:
            status, headers, body = read(third)
        assert (status, body) == (503, b"too many connections")
        assert headers["x-frame-options"] == "DENY"
    eventually(lambda: is_answering(server), 5, "the places did not become free")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /healthz HTTP/1.1\r\nX: ",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n",
    ],
    ids=["nothing", "half a request", "one request", "a body without an end"],
)
def test_connections_that_do_nothing_make_room_for_a_probe(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 5)
    with contextlib.ExitStack() as idle:
        for _ in range(20):
            client = idle.enter_context(connect(server))
            client.sendall(sent)
            if sent.endswith(b"\r\n\r\n"):
                assert client.recv(100).startswith(b"HTTP/1.1 200")
        for _ in range(3):
            assert ask(server, "GET /healthz HTTP/1.1")[0] == 200
        assert server._server is not None
        assert len(server._server.server_state.connections) <= 5


def test_who_does_not_read_its_answer_makes_room_too(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 1)
    monkeypatch.setattr(page.Page, "_give", lambda *_: StreamingResponse(endless()))
    with connect(server) as client:
        client.sendall(b"GET /static/app.js HTTP/1.1\r\nHost: x\r\n\r\n")
        client.recv(1)
        eventually(lambda: is_answering(server), 5, "it did not make room")


def is_answering(server: HttpServer) -> bool:
    try:
        return ask(server, "GET /healthz HTTP/1.1")[0] == 200
    except ConnectionResetError:
        # Refused before it had asked.
        return False


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * 100_000
        await asyncio.sleep(0)


def being_answered(server: HttpServer) -> list[object]:
    assert server._server is not None
    return [one for one in server._server.server_state.connections if not one.is_idle]  # type: ignore[union-attr]


def test_a_request_that_does_not_end_is_cut_off(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.2)
    with connect(server) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\n")
        ended = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                while not ended.wait(0.02):
                    client.sendall(b"X: y\r\n")

        dripping = threading.Thread(target=drip)
        dripping.start()
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(100) == b""
        ended.set()
        dripping.join()


def test_an_answer_that_nobody_reads_is_cut_off(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(server._waiters, "_admit", lambda _: None)
    with connect(server) as client:
        client.sendall(WAIT)
        with contextlib.suppress(ConnectionResetError):
            client.recv(1_000)
            assert client.recv(100) == b""


def test_a_thread_that_has_ended_is_started_again(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    eventually(lambda: server._server is not None and server._server.started, 5, "it did not start")
    assert server._server is not None
    server._server.end()
    thread = server._thread
    assert thread is not None
    thread.join(5)
    server.show(Crew(time.monotonic()))
    assert server._thread is thread, "not at once"
    monkeypatch.setattr(server, "_start_at", 0.0)
    server.show(Crew(time.monotonic()))
    assert server._thread is not thread
    assert ask(server, "GET /healthz HTTP/1.1")[0] == 200


def test_a_server_without_its_judge_ends_and_begins_anew(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = server._health.judge

    async def fail() -> None:
        raise RuntimeError("no verdict")

    assert ask(server, "GET /healthz HTTP/1.1")[0] == 200
    monkeypatch.setattr(server._health, "judge", fail)
    thread = server._thread
    assert thread is not None
    thread.join(5)
    assert not thread.is_alive()
    monkeypatch.setattr(server._health, "judge", judge)
    monkeypatch.setattr(server, "_start_at", 0.0)
    server.show(Crew(time.monotonic()))
    assert ask(server, "GET /healthz HTTP/1.1")[0] == 200


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 2 + b"GET /nowhere HTTP/1.1\r\nHost: x\r\n", [200, 200, 404]),
        (b"BREW /healthz HTTP/1.1\r\nHost: x\r\n", [405]),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n", [404]),
        (b"GET http://elsewhere.example/ HTTP/1.1\r\nHost: x\r\n", [404]),
        (b"GET /static/../server.py HTTP/1.1\r\nHost: x\r\n", [404]),
        (b"GET /healthz HTTP/1.1\r\nHost: rebound.example\r\n", [421]),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: rebound.example\r\n", [400]),
        (b"GET /healthz HTTP/1.1\r\n", [400]),
        (b"GET /healthz HTTP/1.0\r\n", [200]),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n", [200]),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n", [405]),
    ],
)
def test_whatever_is_sent_is_answered_in_order_or_refused(server: HttpServer, sent: bytes, statuses: list[int]) -> None:
    with connect(server) as client:
        client.sendall(sent + b"Connection: close\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        received = b""
        while part := client.recv(65_536):
            received += part
    assert [int(status) for status in re.findall(rb"^HTTP/1.1 (\d+)", received, re.MULTILINE)] == statuses
    assert received.count(b"nosniff") == len(statuses)


def test_no_more_look_on_than_may_however_many_come_at_once(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MOST_VIEWERS", 2)
    sent = b"GET /dashboard/stream HTTP/1.1\r\nHost: x\r\n\r\n"
    with contextlib.ExitStack() as viewers:
        clients = [viewers.enter_context(connect(server)) for _ in range(8)]
        for client in clients:
            client.sendall(sent)
        statuses = [client.recv(12)[-3:] for client in clients]
        assert sorted(statuses) == [b"200"] * 2 + [b"503"] * 6
    # Their places are free again, however they went.
    eventually(lambda: ask(server, "HEAD /dashboard/stream HTTP/1.1")[0] == 200, 5, "the places did not become free")
