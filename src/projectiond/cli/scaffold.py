"""The command ``new``: a first projection from a template."""

import re
from importlib import resources
from typing import Annotated, Final

import typer

from projectiond.cli.output import tell
from projectiond.cli.target import Options
from projectiond.errors import ConfigurationError
from projectiond.options import MAX_NAME
from projectiond.settings import load_settings

# A name that is also a file's, a table's and (in camel case) a class's.
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")

# PostgreSQL cuts longer names of tables.
_LONGEST_TABLE: Final = 63


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(new)


def new(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name, like order_summary.")],
) -> None:
    """Write a projection from a template, ready to be changed into yours.

    The file goes into the first directory of the setting `projections`. Nothing that is there is overwritten.

    Example: projectiond new invoice_totals

    Exit codes: 0 written, 1 the name cannot be used or the file is there already.
    """
    options: Options = context.obj
    _check_name(name)
    directory = load_settings(options.config_file).projections[0]
    path = directory / f"{name}.py"
    template = (resources.files("projectiond.cli") / "template.txt").read_text(encoding="utf-8")
    words = "".join(part.capitalize() for part in name.split("_"))
    text = template.replace("{{name}}", name).replace("{{class}}", words)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigurationError(f"{path} is there already", hint="choose another name, or change that file") from error
    tell(
        f"wrote {path}",
        "next: change its event type and its table, then look at it with",
        "  projectiond check",
        "  projectiond run",
    )


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f'"{name}" is no name for a projection',
            hint="take lower case letters, digits and underscores, beginning with a letter, like order_summary",
        )
    if len(name) > min(MAX_NAME, _LONGEST_TABLE):
        raise ConfigurationError(
            f'"{name[:40]}…" has {len(name)} characters', hint=f"take at most {min(MAX_NAME, _LONGEST_TABLE)}"
        )
