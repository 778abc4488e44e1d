"""The command ``grants``: the SQL that makes a role for the daemon, for whoever owns the database to read and run."""

from typing import Annotated

import typer

from projectiond.cli.target import find_target
from projectiond.postgres.privileges import grants as grants_sql


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(grants)


def grants(
    context: typer.Context,
    role: Annotated[str, typer.Argument(metavar="ROLE", help="The daemon's role; the SQL makes it if there is none.")],
    schema: Annotated[
        str, typer.Option(metavar="S", help="The schema of its own for the read models; else named like the role.")
    ] = "",
) -> None:
    """Print the SQL that gives a role what the daemon needs, and nothing else.

    It reads events and keeps its own tables; its read models live in a schema that belongs to it; and it may make the
    schemas in which rebuilds work. It can neither append events nor change them, nor read any other table. Nothing is
    changed by this command: a superuser, or the owner, runs what it prints. "init" comes before it.

    Example: projectiond grants projectiond | psql --no-psqlrc --set ON_ERROR_STOP=1 shop

    Exit codes: 0 printed, 1 the event store is not there, or the schema is somebody else's.
    """
    target = find_target(context.obj)
    with target.connect("grants") as db:
        print(grants_sql(db, role, schema), end="")  # noqa: T201 - it is the command's result
