"""What systemd hears from us, read from a socket of our own."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from projectiond import systemd


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        server.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        yield server


@pytest.fixture
def no_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)


def test_each_call_sends_its_assignment(listener: socket.socket) -> None:
    assert systemd.notify_ready()
    assert listener.recv(1000) == b"READY=1"
    assert systemd.notify_watchdog()
    assert listener.recv(1000) == b"WATCHDOG=1"
    assert systemd.notify_stopping()
    assert listener.recv(1000) == b"STOPPING=1"
    assert systemd.notify_status("4 projections, lag 0 événements")
    assert listener.recv(1000).decode() == "STATUS=4 projections, lag 0 événements"


def test_a_status_cannot_smuggle_in_another_assignment(listener: socket.socket) -> None:
    assert systemd.notify_status("held\nMAINPID=1\n")
    assert listener.recv(1000) == b"STATUS=held MAINPID=1"


def test_a_long_status_is_cut(listener: socket.socket) -> None:
    assert systemd.notify_status("x" * 100_000)
    assert listener.recv(200_000) == b"STATUS=" + b"x" * systemd.MAX_STATUS_LENGTH


def test_a_lone_surrogate_in_a_status_is_no_error(listener: socket.socket) -> None:
    assert systemd.notify_status("type \ud800")
    assert listener.recv(1000) == b"STATUS=type ?"


def test_an_abstract_socket_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"projectiond-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind("\0" + name)
        server.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        assert systemd.notify_ready()
        assert server.recv(1000) == b"READY=1"


@pytest.mark.parametrize("path", ["", "vsock:2:1234", "/nowhere/at/all"])
def test_a_socket_that_cannot_be_reached_is_no_error(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    assert not systemd.notify_ready()


def test_outside_systemd_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not systemd.notify_ready()


@pytest.mark.usefixtures("no_watchdog")
class TestWatchdogInterval:
    def test_is_half_of_what_the_unit_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WATCHDOG_USEC", "30000000")
        assert systemd.watchdog_interval_seconds() == 15.0
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        assert systemd.watchdog_interval_seconds() == 15.0

    def test_is_none_without_a_watchdog(self) -> None:
        assert systemd.watchdog_interval_seconds() is None

    def test_is_none_for_another_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WATCHDOG_USEC", "30000000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))
        assert systemd.watchdog_interval_seconds() is None

    @pytest.mark.parametrize("value", ["", "soon", "0", "-5"])
    def test_is_none_for_nonsense(self, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WATCHDOG_USEC", value)
        assert systemd.watchdog_interval_seconds() is None
