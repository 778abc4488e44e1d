"""The demo's picture: its columns stand still, and its words can be copied."""

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from projectiond.cli.demo import own_command
from projectiond.cli.output import is_terminal
from projectiond.demo.show import footing
from projectiond.demo.view import Picture, draw
from projectiond.operating.overview import Overview, ProjectionState

TITLES = ("customer", "status", "items", "total", "position", "lag", "events applied", "day", "orders", "revenue")


def drawn(width: int, *, number: int, customer: str) -> list[str]:
    """Return the lines of a picture with this number and this customer wherever there is one."""
    state = ProjectionState(
        "order_summary", "running", number, number, number, None, None, None, None, 0, has_runner=True, is_deployed=None
    )
    picture = Picture(
        overview=Overview(number, 1, None, [state]),
        orders=[(customer, "paid", 1, number, "08:00:00")],
        days=[("2026-01-01", number % 1000, 1, 1, number)],
        activities=[(customer, "paid", "08:00:00")],
        latency_p50=None,
        latency_p99=None,
    )
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(draw(picture, "heading", footing("projectiond"), width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 100, 140])
def test_columns_stand_still_while_their_contents_change(width: int) -> None:
    pictures = [
        drawn(width, number=7, customer="Bo"),
        drawn(width, number=1_234_567, customer="Maximiliane Andersson-Dubois"),
    ]
    places = [
        {title: [line.find(title) for line in picture if title in line] for title in TITLES} for picture in pictures
    ]
    assert places[0] == places[1]
    assert all(len(line) <= width for picture in pictures for line in picture)
    assert any("1,234,567" in line for line in pictures[1])


@pytest.mark.parametrize(
    ("called", "words"),
    [
        (".venv/bin/projectiond", ".venv/bin/projectiond"),
        ("{here}/.venv/bin/projectiond", ".venv/bin/projectiond"),
        ("/opt/some where/projectiond", "'/opt/some where/projectiond'"),
        ("/lib/projectiond/__main__.py", "{python} -m projectiond"),
    ],
)
def test_commands_are_shown_as_they_can_be_typed(
    called: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    monkeypatch.setattr(sys, "argv", [called.format(here=tmp_path)])
    assert own_command() == words.format(python=sys.executable)
    assert f'"{own_command()} pause order_summary"' in footing(own_command())


def test_a_command_on_the_path_needs_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "projectiond"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(script)])
    assert own_command() == "projectiond"


def test_a_dumb_terminal_is_not_drawn_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert is_terminal()
    monkeypatch.setenv("TERM", "dumb")
    assert not is_terminal()
