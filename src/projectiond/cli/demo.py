"""The command ``demo``."""

import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from projectiond.cli.output import is_terminal, tell
from projectiond.demo.show import Stage, run_demo


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(demo)


def demo(
    seconds: Annotated[
        float | None, typer.Option(min=0, metavar="N", help="End by itself after so many seconds; else by Ctrl-C.")
    ] = None,
    rate: Annotated[float, typer.Option(min=0.1, max=1000, metavar="R", help="Orders per second.")] = 2.0,
) -> None:
    """Show the daemon at work: a small shop whose orders arrive live, and three read models of them.

    Starts an embedded PostgreSQL under .projectiond/ (whatever database_url says), the daemon with the sample
    projections, and a stream of orders; shows what the read models hold, how far behind they are, and how soon
    after its commit an event is to be read. Other commands that are run in the same directory act on it.

    Example: projectiond demo --rate 20

    Exit codes: 0 ended by --seconds or Ctrl-C, 1 something did not start.
    """
    stage = Stage(tell, is_terminal=is_terminal(), command=own_command())
    run_demo(stage, seconds=seconds, orders_per_second=rate)


def own_command() -> str:
    """Give what a shell in this directory would run as projectiond."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{_shortened(Path(sys.executable))} -m projectiond"
    on_path = shutil.which(called.name)
    if on_path is not None and Path(on_path).resolve() == called.resolve():
        return called.name
    return _shortened(called)


def _shortened(path: Path) -> str:
    path = Path.cwd() / path
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return shlex.quote(str(shown))
