"""The command ``status``: where every projection stands, and what holds it back."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Final

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from projectiond.cli.names import load_plugins
from projectiond.cli.output import Column, Grid, ago, is_terminal, tell
from projectiond.cli.target import Target, find_target
from projectiond.database import Connection
from projectiond.failure import printable
from projectiond.overview import Overview, ProjectionState, read_overview

REFRESH_SECONDS: Final = 1.0

_STYLES: Final = {"paused": "yellow", "rebuilding": "cyan"}


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(status)


def status(
    context: typer.Context,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again each second, until Ctrl-C.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="For machines: one JSON object (with --watch, a line each).")
    ] = False,
) -> None:
    """Show where every projection stands, and what holds it back.

    Lag counts sequence numbers between a projection's position and the store's head. Below the table: who holds the
    high-water mark, if an open transaction does, and how many workers are connected.

    Example: projectiond status --json | jq '.projections[] | select(.lag > 1000) | .name'

    Exit codes: 0 shown (whatever the projections' state is), 1 no database.
    """
    target = find_target(context.obj)
    deployed, notes = _deployed(target)
    with target.connect("status") as db:
        if watch:
            _watch(db, deployed, notes, as_json=as_json)
        elif as_json:
            tell(json.dumps(_as_json(read_overview(db, deployed), notes), indent=2))
        else:
            _show(read_overview(db, deployed), notes)


def _deployed(target: Target) -> tuple[set[str] | None, list[str]]:
    """Give the names that plugins define, and what to say of plugins that cannot be loaded."""
    registry = load_plugins(target.settings)
    names = {definition.name for definition in registry.definitions}
    count = len(registry.faults)
    if not count:
        return names, []
    return names or None, [f'{count} fault{"s" if count > 1 else ""} in the plugins here; see "projectiond check"']


def _watch(db: Connection, deployed: set[str] | None, notes: Sequence[str], *, as_json: bool) -> None:
    try:
        if is_terminal() and not as_json:
            with Live(console=Console(), auto_refresh=False, screen=True) as live:
                while True:
                    live.update(_picture(read_overview(db, deployed), notes), refresh=True)
                    time.sleep(REFRESH_SECONDS)
        while True:
            overview = read_overview(db, deployed)
            if as_json:
                tell(json.dumps(_as_json(overview, notes)))
            else:
                _show(overview, notes)
                tell("")
            time.sleep(REFRESH_SECONDS)
    except KeyboardInterrupt:
        return


def _show(overview: Overview, notes: Sequence[str]) -> None:
    if is_terminal():
        Console().print(_picture(overview, notes))
    else:
        tell(*_grid(overview).as_lines(), *_remarks(overview, notes))


def _picture(overview: Overview, notes: Sequence[str]) -> RenderableType:
    return Group(_grid(overview).as_table(), Text(""), *(Text(line) for line in _remarks(overview, notes)))


def _grid(overview: Overview) -> Grid:
    grid = Grid(
        [
            Column("PROJECTION"),
            Column("STATUS"),
            Column("POSITION", is_number=True),
            Column("LAG", is_number=True),
            Column("PROCESSED", is_number=True),
            Column("LAST"),
            Column("DEAD", is_number=True),
            Column("ERROR", is_wide=True),
        ]
    )
    for state in overview.projections:
        grid.add(
            state.name,
            _status_of(state),
            "-" if state.position is None else str(state.position),
            str(state.lag),
            "-" if state.events_processed is None else str(state.events_processed),
            ago(state.seconds_since_processed),
            str(state.dead_letters),
            state.error_message or "",
            style="red" if state.error_message else _STYLES.get(state.status or "", ""),
        )
    return grid


def _status_of(state: ProjectionState) -> str:
    if state.status is None:
        return "not begun"
    if state.status == "rebuilding" and state.rebuild_target is None:
        return "rebuilding (not begun)"
    return state.status


def _remarks(overview: Overview, notes: Sequence[str]) -> list[str]:
    workers = overview.live_workers
    lines = [
        f"the store's head is {overview.head}; "
        + (f"{workers} worker{'s' if workers != 1 else ''} at work" if workers else "no daemon is running"),
    ]
    if not overview.projections:
        lines.append('there are no projections; "projectiond new NAME" writes a first one')
    if overview.hold is not None:
        lines.append(f"the high-water mark is held at {overview.hold.position} by {'; '.join(overview.hold.holders)}")
    orphans = [state.name for state in overview.projections if state.is_deployed is False]
    if orphans:
        lines.append(f"no plugin here defines {', '.join(orphans)}")
    lines += [
        f"{state.name} has {state.dead_letters} dead letters; they are in the table projection_dead_letters"
        for state in overview.projections
        if state.dead_letters
    ]
    return [printable(line) for line in [*lines, *notes]]


def _as_json(overview: Overview, notes: Sequence[str]) -> dict[str, Any]:
    shape = asdict(overview)
    for projection in shape["projections"]:
        processed_at = projection["last_processed_at"]
        if isinstance(processed_at, datetime):
            projection["last_processed_at"] = processed_at.isoformat()
    return {**shape, "notes": list(notes)}
