"""The command ``demo``."""

import typer

from projectiond.errors import ConfigurationError


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(demo)


def demo() -> None:
    """Show it."""
    raise ConfigurationError("not yet")
