"""The harness of faults by itself: its plans, its network, and the table in the documentation."""

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.catalogue import all_kinds
from faults.expected import Verdict
from faults.proxy import Proxy
from faults.report import Report, tell_failure
from faults.rounds import Outcome, Plan, plan_round
from faults.scene import Daemon

KINDS = list(all_kinds().values())
DOCUMENT = Path(__file__).parents[2] / "docs" / "faults.md"
ROW = re.compile(r"^\| `(?P<name>[\w-]+)` \| (?P<told>.+) \| (?P<bound>\d+) s \| (?P<because>.+) \|$", re.MULTILINE)


def test_the_documentation_has_every_kind_with_its_bound() -> None:
    documented = {
        row["name"]: (row["told"], row["bound"], row["because"]) for row in ROW.finditer(DOCUMENT.read_text())
    }
    assert documented == {kind.name: (kind.told, f"{kind.bound_seconds:g}", kind.because) for kind in KINDS}


def test_a_round_is_the_same_whenever_it_is_planned() -> None:
    assert plan_round(7, 40, KINDS) == plan_round(7, 40, KINDS)
    assert [str(plan_round(7, number, KINDS)) for number in range(9)] != [
        str(plan_round(8, number, KINDS)) for number in range(9)
    ]


def test_every_kind_has_its_turn_before_any_has_another() -> None:
    for deck in range(3):
        numbers = range(deck * len(KINDS), (deck + 1) * len(KINDS))
        assert {plan_round(3, number, KINDS).faults[0][0].name for number in numbers} == set(all_kinds())


def test_faults_that_would_undo_each_other_are_not_done_at_once() -> None:
    for number in range(200):
        touched = [kind.touches for kind, _, _ in plan_round(3, number, KINDS).faults]
        assert len(set(touched)) == len(touched)


def test_a_failure_names_the_fault_and_how_to_have_it_again() -> None:
    plan = Plan(4, ((all_kinds()["worker-killed"], 0.0, 1.0),))
    outcome = Outcome(plan, 9.0, Verdict(10, 1, 0, ()), ["audit: 1 events were lost"])
    told = tell_failure(outcome, 1.0, "make faults ARGS='--seed 3'", ["  1.0 s  SIGKILL to worker 4"])
    assert "round 4 (worker-killed)" in told
    assert "audit: 1 events were lost" in told
    assert "up to date after 9.0 s; 5 s are allowed" in told
    assert "SIGKILL to worker 4" in told
    assert told.endswith("again: make faults ARGS='--seed 3'")


def test_the_last_line_sums_everything_up() -> None:
    plan = Plan(4, ((all_kinds()["worker-killed"], 0.0, 1.0),))
    report = Report(3, "18", {"network-cut": "no network"}, 1.0, [Outcome(plan, 2.0, Verdict(10, 0, 0, ()))])
    assert report.line() == (
        "seed 3 on PostgreSQL 18: 1 faults in 1 rounds; 10 events, 0 lost, 0 repeated; longest stall 2.0 s of 5 s "
        "(worker-killed, round 4); 0 late; worker-killed 1 (≤ 2.0 s); left out: network-cut (no network)"
    )
    assert not report.failures()
    report.outcomes.append(Outcome(plan, 5.1, Verdict(10, 0, 0, ())))
    assert report.failures() == report.outcomes[1:]


@pytest.fixture
def line() -> Iterator[tuple[Proxy, socket.socket]]:
    """Give a network, and a connection through it to somebody who repeats what he hears."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def repeat() -> None:
            connection, _ = listener.accept()
            with connection:
                while data := connection.recv(1000):
                    connection.sendall(data)

        thread = threading.Thread(target=repeat)
        thread.start()
        proxy = Proxy(listener.getsockname()[1])
        stack.callback(thread.join, 10)
        stack.callback(proxy.close)
        caller = stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port), timeout=5))
        yield proxy, caller


def _hears(caller: socket.socket, seconds: float) -> bytes:
    caller.settimeout(seconds)
    try:
        return caller.recv(1000)
    except TimeoutError:
        return b""


def test_a_network_that_is_cut_loses_what_is_sent_and_tells_nobody(line: tuple[Proxy, socket.socket]) -> None:
    proxy, caller = line
    caller.sendall(b"before")
    assert _hears(caller, 5) == b"before"
    proxy.cut()
    caller.sendall(b"lost")
    assert _hears(caller, 0.2) == b""
    unheard = caller.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)
    # tcpi_unacked, the 7th number of four bytes: not even the kernel at the other end has answered.
    assert int.from_bytes(unheard[24:28], "little") > 0
    with pytest.raises(TimeoutError):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=0.2)
    proxy.mend()
    assert _hears(caller, 5) == b"lost"


def test_a_slow_network_delivers_late(line: tuple[Proxy, socket.socket]) -> None:
    proxy, caller = line
    proxy.slow_down(0.3)
    caller.sendall(b"late")
    assert _hears(caller, 0.2) == b""
    assert _hears(caller, 5) == b"late"


def test_a_daemons_last_words_are_its_own_and_not_those_of_orphans_that_write_to_the_same_log(tmp_path: Path) -> None:
    daemon = Daemon(1, tmp_path / "daemon", {})
    assert daemon.last_words() == "without a word"
    daemon.log_file.write_text('projectiond: cannot connect\n{"worker": 2, "event": "highwater.released"}\n')
    assert daemon.last_words() == "projectiond: cannot connect"
    daemon.log_file.write_text('{"event": "daemon.started"}\n')
    assert daemon.last_words() == '{"event": "daemon.started"}'
