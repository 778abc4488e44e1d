"""The command ``new``: a first projection from a template, of each kind one, and its test.

All templates keep the same table from the same event, so that they can be compared, and so that one test, and the event
that the command tells people to append, do for every kind.
"""

import enum
import keyword
import os
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Final

import typer

from projectiond.cli.output import tell
from projectiond.cli.target import Options
from projectiond.errors import ConfigurationError
from projectiond.plugins.fault import shown
from projectiond.plugins.options import MAX_NAME, STORE_TABLES
from projectiond.settings import load_settings


class Kind(enum.StrEnum):
    """The kinds, as they are named on the command line; each has a template of that name."""

    EVENT = "event"
    BATCH = "batch"
    ROW = "row"
    SQL = "sql"


# A name that is also a file's, a table's and (in camel case) a class's.
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")

# PostgreSQL cuts longer names of tables.
_LONGEST_TABLE: Final = 63

# What PostgreSQL does not take as a table's name without quotes, in any version from 14 on: the reserved words of
# its manual, appendix C "SQL Key Words".
_RESERVED: Final = """
all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate collation
column concurrently constraint create cross current_catalog current_date current_role current_schema current_time
current_timestamp current_user default deferrable desc distinct do else end except false fetch for foreign freeze
from full grant group having ilike in initially inner intersect into is isnull join lateral leading left like
limit localtime localtimestamp natural not notnull null offset on only or order outer overlaps placing primary
references returning right select session_user similar some symmetric system_user table tablesample then to
trailing true union unique user using variadic verbose when where window with
"""
_SQL_WORDS: Final = frozenset(_RESERVED.split())

# Where tests are, beside whatever the projections are in.
_TESTS: Final = Path("tests")

# What to do with the file that has been written.
_NEXT: Final = {
    Kind.EVENT: "change its event type, its table and its statement",
    Kind.BATCH: "change its event types, its table and its method `apply`",
    Kind.ROW: "change its event type, and its table together with the class of its rows",
    Kind.SQL: "change its event types, its table and its statement",
}


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(new)


def new(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name, like order_summary.")],
    *,
    kind: Annotated[
        Kind,
        typer.Option(
            "--kind",
            help=(
                "event: a method for each kind of event, which executes statements. "
                "batch: one method that gets many events at once. "
                "row: a method for each kind of event, which changes one row in memory. "
                "sql: a statement over many events, which never leave the server."
            ),
        ),
    ] = Kind.EVENT,
) -> None:
    """Write a projection from a template, ready to be changed into yours, and its test.

    The projection goes into the first directory of the setting `projections`, its test into `tests`. Nothing that is
    there is overwritten.

    Example: projectiond new invoice_totals --kind row

    Exit codes: 0 written, 1 the name cannot be used or a file is there already, 2 there is no such kind.
    """
    options: Options = context.obj
    _check_name(name, kind)
    path = load_settings(options.config_file).projections[0] / f"{name}.py"
    test = _TESTS / f"test_{name}.py"
    _write({path: read_template(kind, name), test: read_test_template(name, Path(shown(path)))})
    tell(
        f"wrote {path} and {test}",
        f"next: {_NEXT[kind]}, then try it with",
        f"  pytest {test}",
        "  projectiond check",
        "  projectiond run",
        "and append an event, for example, by any SQL client:",
        "  INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version)",
        """  VALUES (gen_random_uuid(), 'thing', 'SomethingHappened', '{"label": "the first"}', 1);""",
    )


def read_template(kind: Kind, name: str) -> str:
    """Give the text of a new projection of this kind and name."""
    class_name = "".join(part.capitalize() for part in name.split("_"))
    return _read(f"{kind}.txt").replace("{{name}}", name).replace("{{class}}", class_name)


def read_test_template(name: str, plugin: Path) -> str:
    """Give the text of its test; the plugin's path is as a test names it."""
    return _read("test.txt").replace("{{name}}", name).replace("{{plugin}}", plugin.as_posix())


def _read(template: str) -> str:
    return (resources.files("projectiond.cli") / "templates" / template).read_text(encoding="utf-8")


def _write(texts: Mapping[Path, str]) -> None:
    """Write all files or none.

    Raises:
        ConfigurationError: One is there already, or cannot be written.
    """
    for path in texts:
        if os.path.lexists(path):
            raise ConfigurationError(f"{path} is there already", hint="choose another name, or change that file")
    written: list[Path] = []
    for path, text in texts.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                written.append(path)
                file.write(text)
        except OSError as error:
            for half in written:
                half.unlink(missing_ok=True)
            raise ConfigurationError(
                f"{path} cannot be written: {error.strerror} ({error.filename})",
                hint="see to its directory, then try again",
            ) from error


def _check_name(name: str, kind: Kind) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f'"{name}" is no name for a projection',
            hint="take lower case letters, digits and underscores, beginning with a letter, like order_summary",
        )
    if keyword.iskeyword(name) or name in _SQL_WORDS:
        language = "SQL" if name in _SQL_WORDS else "Python"
        raise ConfigurationError(
            f'"{name}" is a word of {language} itself, so neither its table nor its file could be used without care',
            hint=f"say what it holds, like {name}_summary",
        )
    if name in STORE_TABLES or (name == "events" and kind is Kind.SQL):
        raise ConfigurationError(
            f'"{name}" is the name of something of projectiond, and the projection\'s table would be called so too',
            hint=f"say what it holds, like {name}_summary",
        )
    if len(name) > min(MAX_NAME, _LONGEST_TABLE):
        raise ConfigurationError(
            f'"{name[:40]}…" has {len(name)} characters', hint=f"take at most {min(MAX_NAME, _LONGEST_TABLE)}"
        )
