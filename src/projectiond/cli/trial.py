"""The command ``try``: a projection over real events, with everything taken back."""

import json
from dataclasses import asdict
from typing import Annotated, Any, Final

import typer

from projectiond import sql
from projectiond.cli.names import find_definition
from projectiond.cli.output import AsJson, Column, Grid, show, tell
from projectiond.cli.target import find_target, log_warnings, say
from projectiond.errors import ConfigurationError, ProjectiondError
from projectiond.plugins.definition import Definition
from projectiond.postgres.database import Connection, fetch_row
from projectiond.trial import Rows, Trial, run_trial

LAST: Final = 1000
MOST_ROWS: Final = 1000

# A value in a table is cut to so many characters.
MOST_CHARACTERS: Final = 40


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(name="try")(try_)


def try_(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A projection of the plugins; it need not be deployed.")],
    *,
    first: Annotated[int | None, typer.Option("--from", metavar="A", min=1, help="The first sequence number.")] = None,
    last: Annotated[int | None, typer.Option("--to", metavar="B", min=1, help="The last sequence number.")] = None,
    newest: Annotated[
        int | None,
        typer.Option("--last", metavar="N", min=1, help=f"Only the newest N sequence numbers [default: {LAST}]."),
    ] = None,
    rows: Annotated[
        int, typer.Option("--rows", metavar="N", min=0, max=MOST_ROWS, help="Show so many rows of each table.")
    ] = 5,
    as_json: AsJson = False,
) -> None:
    """Apply real events to a projection, show what comes of it, and take everything back.

    Its tables are made anew in a schema of their own, inside one transaction that is rolled back at the end: no table,
    no checkpoint and no other session notices. They are empty at first, so with --last or --from a handler does not
    find what earlier events would have left; --from 1 applies all. Shown are the rows, the time and the statements of
    each handler for each type of event, and the first event that fails.

    Example: projectiond try order_summary --last 5000 --rows 10

    Exit codes: 0 every event could be applied, 1 one could not, or the projection cannot run at all.
    """
    target = find_target(context.obj)
    log_warnings(target, context.obj)
    definition = find_definition(target.settings, name)
    with target.connect("try") as db:
        begin, end = _range(db, first, last, newest)
        trial = run_trial(db, definition, begin, end, most_samples=rows)
    if as_json:
        tell(json.dumps(asdict(trial), indent=2, default=str))
    else:
        _show(definition, trial)
    if trial.failure is not None:
        failed = trial.failure
        raise ProjectiondError(
            f'event {failed.sequence_number} ("{failed.event_type}", id {failed.event_id}) fails in {failed.handler}: '
            f"{failed.error}",
            hint=f"what precedes it could be applied; mend the handler and try again with --from {begin}",
        )


def _range(db: Connection, first: int | None, last: int | None, newest: int | None) -> tuple[int, int]:
    (head,) = fetch_row(db, sql.highwater.STORE_HEAD)
    if newest is not None and (first is not None or last is not None):
        raise typer.BadParameter("--last goes without --from and --to")
    end = min(last or head, head)
    if first is None:
        return max(1, end - (newest or (end if last is not None else LAST)) + 1), end
    if first > end:
        raise ConfigurationError(
            f"there is nothing from {first} to {last or head}: the store ends at {head}", hint="begin further down"
        )
    return first, end


def _show(definition: Definition, trial: Trial) -> None:
    rate = f", {trial.events / trial.seconds:,.0f} a second" if trial.seconds else ""
    tell(
        f"{definition.name} over sequence numbers {trial.first:,} to {trial.last:,}, on empty tables: {trial.events:,} "
        f"events in {_time(trial.seconds)}{rate}"
    )
    if trial.costs:
        tell("")
        show(_grid_of_costs(trial))
    for table in trial.tables:
        tell("", f"{table.table}: {table.total:,} row{'' if table.total == 1 else 's'}")
        if table.samples:
            show(_grid_of_rows(table))
    if trial.written_elsewhere:
        tell("")
        say(
            f"its handlers also write to {', '.join(trial.written_elsewhere)}; a rebuild beside the live tables would "
            "be refused: name tables without a schema, and hold back outside effects while self.is_rebuilding"
        )
    tell("", "nothing was kept")


def _grid_of_costs(trial: Trial) -> Grid:
    grid = Grid(
        [
            Column("HANDLER", is_wide=True),
            Column("EVENT TYPE", is_wide=True),
            Column("CALLS", is_number=True),
            Column("TIME", is_number=True),
            Column("EACH", is_number=True),
            Column("STATEMENTS", is_number=True),
        ]
    )
    for cost in trial.costs:
        grid.add(
            cost.handler,
            cost.event_type or "all",
            f"{cost.calls:,}",
            _time(cost.seconds),
            _time(cost.seconds / cost.calls),
            f"{cost.statements:,}",
        )
    return grid


def _grid_of_rows(table: Rows) -> Grid:
    grid = Grid([Column(name, is_wide=True) for name in table.columns])
    for row in table.samples:
        grid.add(*map(_cut, row))
    return grid


def _cut(value: Any) -> str:  # noqa: ANN401 - whatever the column holds
    text = "" if value is None else str(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"


def _time(seconds: float) -> str:
    """Say a time in three digits or so."""
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms")):
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"
