"""The command ``stats``: how far the projections are, and what has been appended in the last days.

The answers of the three monitoring queries that people run by hand, each bounded: only the events of the days asked
for are counted, found by the index on ``created_at``, and never for longer than ``statement_timeout_seconds``.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Final

import typer
from psycopg import errors

from projectiond.cli.output import AsJson, Column, Grid, ago, show, tell
from projectiond.cli.target import Target, find_target
from projectiond.errors import ProjectiondError
from projectiond.operating.activity import Activity, Aggregate, Day, count_activity
from projectiond.operating.overview import Overview, ProjectionState, read_overview
from projectiond.postgres.database import Connection

MOST_DAYS: Final = 3660
MOST_AGGREGATES: Final = 1000


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(stats)


def stats(
    context: typer.Context,
    *,
    days: Annotated[
        int,
        typer.Option(
            "--days", metavar="N", min=1, max=MOST_DAYS, help="Count the events of today and the days before."
        ),
    ] = 7,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=MOST_AGGREGATES, help="Show so many aggregates.")
    ] = 10,
    as_json: AsJson = False,
) -> None:
    """Show each projection's lag, the events of each day, and the most active aggregates.

    Lag is counted as by status. Days are those of UTC. All events of these days are read, found by the index on
    created_at, so its cost grows with --days and not with the store; statement_timeout_seconds ends a count that takes
    too long.

    Example: projectiond stats --days 30 --limit 5

    Exit codes: 0 shown, 1 no database, or the count took too long.
    """
    target = find_target(context.obj)
    with target.connect("stats") as db:
        overview = read_overview(db, None)
        activity = _count(db, target, days, limit)
    if as_json:
        tell(json.dumps(_as_object(overview, days, activity), indent=2))
    else:
        _show(overview, days, activity)


def _count(db: Connection, target: Target, days: int, limit: int) -> Activity:
    try:
        return count_activity(db, days, limit)
    except errors.QueryCanceled as error:
        raise ProjectiondError(
            f"to count the events of {days} days took longer than"
            f" {target.settings.statement_timeout_seconds:g} s (statement_timeout_seconds)",
            hint="ask for fewer --days, or raise that setting",
        ) from error


def _as_object(overview: Overview, days: int, activity: Activity) -> dict[str, Any]:
    return {
        "head": overview.head,
        "days": days,
        "projections": [
            {
                "name": state.name,
                "status": state.status,
                "position": state.position,
                "lag": state.lag,
                "last_processed_at": state.last_processed_at and state.last_processed_at.isoformat(),
            }
            for state in overview.projections
        ],
        "events_per_day": [{**asdict(day), "day": day.day.isoformat()} for day in activity.per_day],
        "most_active_aggregates": [
            {**asdict(aggregate), "aggregate_id": str(aggregate.aggregate_id)} for aggregate in activity.most_active
        ],
    }


def _show(overview: Overview, days: int, activity: Activity) -> None:
    if overview.projections:
        show(_grid_of_projections(overview.projections))
    else:
        tell("no projection has begun")
    if not overview.head:
        tell("", "the store holds no event yet")
        return
    if not activity.most_active:
        tell("", f"no event in the last {days} days; the store's head is {overview.head}")
        return
    tell("")
    show(_grid_of_days(activity.per_day))
    tell("")
    show(_grid_of_aggregates(activity.most_active))


def _grid_of_projections(projections: Sequence[ProjectionState]) -> Grid:
    grid = Grid([Column("PROJECTION", is_wide=True), Column("LAG", is_number=True), Column("LAST"), Column("STATUS")])
    for state in projections:
        grid.add(state.name, str(state.lag), ago(state.seconds_since_processed), state.status or "")
    return grid


def _grid_of_days(per_day: Sequence[Day]) -> Grid:
    grid = Grid([Column("DAY (UTC)"), Column("EVENTS", is_number=True), Column("AGGREGATES", is_number=True)])
    for day in per_day:
        grid.add(day.day.isoformat(), str(day.events), str(day.aggregates))
    return grid


def _grid_of_aggregates(most_active: Sequence[Aggregate]) -> Grid:
    grid = Grid(
        [
            Column("AGGREGATE"),
            Column("TYPE", is_wide=True),
            Column("EVENTS", is_number=True),
            Column("VERSION", is_number=True),
        ]
    )
    for aggregate in most_active:
        grid.add(str(aggregate.aggregate_id), aggregate.aggregate_type, str(aggregate.events), str(aggregate.version))
    return grid
