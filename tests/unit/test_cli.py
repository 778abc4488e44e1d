"""The command line's parts that need no database: arguments, sentences, tables, the shop of the demo."""

import json
import uuid
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from projectiond.cli import application as cli
from projectiond.cli.output import Column, Grid, ago
from projectiond.demo.shop import Order, Shop
from projectiond.errors import ConfigurationError, ProjectiondError, WaitTimeoutError


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "--config", "a.toml"], ["--config", "a.toml", "run"]),
        (["status", "--json", "--config=a.toml", "--debug"], ["--config=a.toml", "--debug", "status", "--json"]),
        (["pause", "--debug", "a", "b"], ["--debug", "pause", "a", "b"]),
        (["pause", "--", "--debug"], ["pause", "--", "--debug"]),
        (["run", "--config"], ["--config", "run"]),
        ([], []),
    ],
    ids=str,
)
def test_global_options_are_moved_in_front_of_the_command(words: list[str], expected: list[str]) -> None:
    assert cli._globals_first(words) == expected


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ConfigurationError("it is wrong", hint="mend it"), "it is wrong; mend it"),
        (errors.UndefinedTable('relation "x" does not exist'), 'run "projectiond init"'),
        (errors.InsufficientPrivilege("permission denied for table x"), 'run "projectiond check" with this role'),
        (psycopg.OperationalError("server closed the connection"), "the database does not answer any more: server"),
        (errors.QueryCanceled("canceling statement due to statement timeout"), "the database gave up: canceling"),
        (errors.SyntaxError("near x"), "the database refused: near x"),
        (PermissionError(13, "Permission denied", "a.toml"), "Permission denied: a.toml"),
        (KeyError("x"), "an error of projectiond itself: KeyError: 'x'; run it again with --debug"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_error_becomes_a_sentence(error: Exception, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._report(error, is_debug=False) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("projectiond: ")
    assert sentence in line


def test_each_of_several_faults_gets_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._report(ProjectiondError("one\ntwo"), is_debug=False) == 1
    assert capsys.readouterr().err == "projectiond: one\nprojectiond: two\n"


def test_a_time_out_has_an_exit_code_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._report(WaitTimeoutError("too late"), is_debug=False) == 3
    assert capsys.readouterr().err == "projectiond: too late\n"


def test_a_traceback_is_shown_to_those_who_ask(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._report(KeyError("x"), is_debug=True) == 1
    assert "KeyError: 'x'\nprojectiond: an error" in capsys.readouterr().err


def test_an_interrupt_is_a_fault_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    assert cli.main(["--config", "run", "status"]) == 1
    assert capsys.readouterr().err == "projectiond: interrupted\n"


@pytest.mark.parametrize("words", [["run"], ["run", "--debug"], ["--config", "x.toml", "run"]])
def test_a_daemon_that_is_interrupted_before_it_has_begun_is_stopped_in_order(
    monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """Else a service that is stopped while it looks at the database counts as failed."""

    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    assert cli.main(words) == 0


def test_a_check_tells_machines_of_settings_that_are_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text("workers = -1")
    assert cli.main(["check", "--config", str(file), "--json"]) == 1
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert (found["ok"], told.err) == ([], "")
    assert "workers" in found["faults"][0]
    assert cli.main(["check", "--config", str(file)]) == 1
    assert capsys.readouterr().err == "".join(f"projectiond: {fault}\n" for fault in found["faults"])


def test_a_grid_becomes_aligned_lines_of_printable_text() -> None:
    grid = Grid([Column("NAME"), Column("LAG", is_number=True), Column("ERROR")])
    grid.add("a", "12345", "")
    grid.add("long_name", "7", "bad\x1b[2J\nnews")
    assert grid.as_lines() == [
        "NAME         LAG  ERROR",
        "a          12345",
        "long_name      7  bad\\x1b[2J news",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "never"),
        (-1, "0 s ago"),
        (59.6, "60 s ago"),
        (600, "10 min ago"),
        (7200, "2 h ago"),
        (200_000, "2 d ago"),
    ],
)
def test_times_are_told_as_people_tell_them(seconds: float | None, text: str) -> None:
    assert ago(seconds) == text


def test_the_shop_tells_a_true_story_of_each_order() -> None:
    shop = Shop(seed=1)
    seen: dict[uuid.UUID, list[str]] = {}
    due: dict[uuid.UUID, int] = {}
    for _ in range(2_000):
        order, facts = shop.next_step()
        assert isinstance(order, Order)
        for fact in facts:
            told = seen.setdefault(order.order_id, [])
            assert (fact.event_type == "OrderPlaced") == (told == [])
            assert not {"OrderShipped", "OrderCancelled"} & set(told)
            told.append(fact.event_type)
            amount = fact.data.get("quantity", 0) * fact.data.get("unit_price_cents", 0)
            sign = -1 if fact.event_type == "ItemRemoved" else 1
            due[order.order_id] = due.get(order.order_id, 0) + sign * amount
            if fact.event_type == "OrderPaid":
                assert fact.data["amount_cents"] == due[order.order_id] > 0
            if fact.event_type == "OrderShipped":
                assert "OrderPaid" in told
    kinds = {kind for told in seen.values() for kind in told}
    assert kinds == {"OrderPlaced", "ItemAdded", "ItemRemoved", "OrderPaid", "OrderShipped", "OrderCancelled"}
