"""The command in this process, with what it prints; for what needs no process of its own."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from projectiond.cli.application import main
from projectiond.settings import PREFIX


@dataclass(frozen=True)
class Shown:
    """What a command came to."""

    code: int
    out: str
    err: str


class Command:
    """The command, or one of its commands."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *words: str) -> None:
        self._capsys = capsys
        self._words = words

    def __call__(self, *words: str) -> Shown:
        code = main([*self._words, *words])
        shown = self._capsys.readouterr()
        return Shown(code, shown.out, shown.err)

    def as_object(self, *words: str) -> dict[str, Any]:
        """Run it with --json, see that it succeeds, and give its object."""
        shown = self("--json", *words)
        assert (shown.code, shown.err) == (0, "")
        found: dict[str, Any] = json.loads(shown.out)
        return found


def enter(directory: Path, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have commands work in a directory and on a database; the test run's own variables are no settings."""
    monkeypatch.chdir(directory)
    for name in os.environ:
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DATABASE_URL", dsn)
