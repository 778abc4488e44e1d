"""The commands ``verify`` and ``materialize``: what the history gives, beside what is served."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from projectiond.cli.names import find_definition
from projectiond.cli.output import AsJson, tell
from projectiond.cli.progress import Progress
from projectiond.cli.target import find_target, log_warnings
from projectiond.errors import ProjectiondError
from projectiond.failure import printable
from projectiond.plugins.limits import resolve_limits
from projectiond.rebuild.compare import RowDifference, TableDifference
from projectiond.rebuild.materialization import Materialization, position_at
from projectiond.rebuild.verification import Verification, Verified

MOST_SAMPLES = 1000


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(verify)
    app.command()(materialize)


def verify(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A projection of the plugins that has run.")],
    *,
    samples: Annotated[
        int, typer.Option("--samples", metavar="N", min=0, max=MOST_SAMPLES, help="Show so many rows that differ.")
    ] = 5,
    fix: Annotated[bool, typer.Option("--fix", help="Make the live rows that differ what the history gives.")] = False,
    as_json: AsJson = False,
) -> None:
    """Replay a projection's whole history beside it, and say how the live read model differs.

    Finds rows that were edited by hand, events that were lost, and handlers that depend on more than their events (the
    clock, random()). The live projection goes on meanwhile; it stands still for a moment, a second at most, while both
    are brought to the same event. Nothing is changed, unless --fix merges the rows that differ in one transaction.

    Example: projectiond verify order_summary --samples 20

    Exit codes: 0 the read model is what its history gives (with --fix: is now), 1 it differs, or could not be verified.
    """
    target = find_target(context.obj)
    log_warnings(target, context.obj)
    definition = find_definition(target.settings, name)
    with Progress(is_aside=as_json) as progress:
        verified = Verification(
            target.dsn,
            definition,
            resolve_limits(definition, target.settings),
            statement_timeout_seconds=target.settings.statement_timeout_seconds,
            tell=lambda position, upto: _show_progress(progress, name, position, upto),
        ).run(most_samples=samples, is_fixing=fix)
    if as_json:
        tell(json.dumps({"projection": name, "is_equal": verified.is_equal, **asdict(verified)}, indent=2))
    else:
        tell(*_lines(name, verified))
    if not verified.is_equal and not verified.is_fixed:
        raise ProjectiondError(
            f'the read model of "{name}" is not what its history gives',
            hint=f'"projectiond verify {name} --fix" makes it so; when it differs again after that, a handler depends '
            "on more than its events",
        )


def materialize(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A projection of the plugins.")],
    *,
    schema: Annotated[str, typer.Option("--schema", metavar="S", help="Where: a schema that is not there yet.")],
    upto: Annotated[
        int | None, typer.Option("--upto", metavar="SEQUENCE", min=1, help="As of this sequence number.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIMESTAMP", help="As of this time, as in 2026-03-31T12:00+02:00; else UTC."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a read model as it was, in a schema of its own.

    The projection's tables are made in the schema, and its events are applied to them up to the sequence number, or up
    to the first event that was written after the time. The live tables are not touched, and what is made is yours: drop
    it with DROP SCHEMA ... CASCADE. Handlers see is_rebuilding.

    Example: projectiond materialize order_summary --schema orders_in_march --at 2026-03-31T23:59:59Z

    Exit codes: 0 it is there, 1 it could not be made, 3 a transaction that is still open may yet add to that history.
    """
    if (upto is None) == (at is None):
        raise typer.BadParameter("give one of --upto and --at")
    moment = None if at is None else _moment(at)
    target = find_target(context.obj)
    log_warnings(target, context.obj)
    definition = find_definition(target.settings, name)
    if moment is not None:
        with target.connect("materialize") as db:
            upto = position_at(db, moment)
    assert upto is not None  # noqa: S101 - one of the two was given
    with Progress(is_aside=as_json) as progress:
        Materialization(
            target.dsn,
            definition,
            resolve_limits(definition, target.settings),
            statement_timeout_seconds=target.settings.statement_timeout_seconds,
            tell=lambda position, end: _show_progress(progress, name, position, end),
        ).run(schema, upto)
    if as_json:
        at = None if moment is None else moment.isoformat()
        made = {"projection": name, "schema": schema, "upto": upto, "at": at, "tables": list(definition.tables)}
        tell(json.dumps(made, indent=2))
        return
    when = "" if moment is None else f", the last event up to {moment.isoformat()}"
    tell(f'{name} as of sequence number {upto:,}{when}: in the schema "{printable(schema)}"')
    tell(*(f"  {printable(schema)}.{table}" for table in definition.tables))


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f'"{text}" is no time; write it as in 2026-03-31T12:00:00+02:00') from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _show_progress(progress: Progress, name: str, position: int, target: int) -> None:
    progress.show(name, position, target)
    progress.tick(target)


def _lines(name: str, verified: Verified) -> Iterator[str]:
    position = f"at sequence number {verified.position:,}"
    if verified.is_equal:
        rows = ", ".join(f"{table.change.table} {table.change.total:,}" for table in verified.tables)
        yield f"{name} is what its history gives {position} (rows: {rows})"
        return
    yield f"{name} {'was' if verified.is_fixed else 'is'} not what its history gives {position}"
    for table in verified.tables:
        yield from _lines_of_table(table)
    if verified.is_fixed:
        yield "now it is"


def _lines_of_table(table: TableDifference) -> Iterator[str]:
    change = table.change
    yield (
        f"  {change.table}: {change.changed:,} of {change.total:,} rows differ, {change.added:,} are missing, "
        f"{change.removed:,} are too many"
    )
    yield from (f"    {_line_of_row(row)}" for row in table.samples)


def _line_of_row(row: RowDifference) -> str:
    key = ", ".join(f"{name} {value}" for name, value in row.key)
    match row.kind:
        case "changed":
            values = ", ".join(f"{c.name} is {c.old}, should be {c.new}" for c in row.columns)
        case "added":
            values = "is missing: " + ", ".join(f"{c.name} {c.new}" for c in row.columns)
        case _:
            values = "should not be there: " + ", ".join(f"{c.name} {c.old}" for c in row.columns)
    return f"{key}: {values}" if key else values
