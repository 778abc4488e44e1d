"""The command ``plan``: what a deployment would rebuild, why, and what it takes."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Final

import typer

from projectiond.builds.build import record_build
from projectiond.builds.plan import Planned, Rebuild, read_plan
from projectiond.cli.names import load_plugins
from projectiond.cli.output import AsJson, Column, Grid, show, tell
from projectiond.cli.target import find_target, say
from projectiond.errors import ConfigurationError
from projectiond.plugins.definition import Definition
from projectiond.plugins.fingerprint import Difference
from projectiond.postgres.database import Connection
from projectiond.settings_faults import sentence_of_unknown

REBUILD_NEEDED: Final = 1

Names = Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Names of projections; all when left out.")]


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(plan)


def plan(
    context: typer.Context,
    names: Names = None,
    *,
    as_json: AsJson = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="For CI: exit with 1 when a projection is to be rebuilt.")
    ] = False,
    accept: Annotated[
        bool, typer.Option("--accept", help="Take the tables of the named projections as built by what is here.")
    ] = False,
) -> None:
    """Show which projections are not what built their tables, and what a rebuild takes.

    It compares the code, the schema and the options of the plugins here with those that are written down in
    projection_builds. The time is that of the projection's last catch-up; events beyond 100,000 are estimated. While
    new tables are filled beside the live ones, both take space. Nothing is changed, except by --accept: for a change
    that alters no row.

    Example: projectiond plan --exit-code || projectiond rebuild order_summary --wait

    Exit codes: 0 shown, 1 no database or an unknown name; with --exit-code also 1 when something is to be rebuilt.
    """
    target = find_target(context.obj)
    registry = load_plugins(target.settings)
    definitions = _chosen(registry.definitions, names or [])
    if accept and not names:
        raise ConfigurationError("--accept takes the names of the projections whose tables are to be accepted")
    with target.connect("plan") as db:
        if accept:
            _accept(db, definitions)
            return
        planned = read_plan(db, definitions)
    notes = list(_notes(planned))
    if registry.faults:
        count = len(registry.faults)
        notes.append(f'{count} fault{"s" if count > 1 else ""} in the plugins here; see "projectiond check"')
    changed = [projection for projection in planned if projection.rebuild is not None]
    if as_json:
        tell(json.dumps({"projections": [_as_object(projection) for projection in planned], "notes": notes}, indent=2))
    else:
        _show(planned, changed, notes)
    if exit_code and changed:
        raise typer.Exit(REBUILD_NEEDED)


def _chosen(definitions: Sequence[Definition], names: Sequence[str]) -> list[Definition]:
    by_name = {definition.name: definition for definition in definitions}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        known = sorted(by_name)
        raise ConfigurationError("\n".join(sentence_of_unknown("projection", name, known=known) for name in unknown))
    return [by_name[name] for name in names] if names else list(definitions)


def _accept(db: Connection, definitions: Sequence[Definition]) -> None:
    for definition, planned in zip(definitions, read_plan(db, definitions, is_weighed=False), strict=True):
        if planned.state == "new":
            say(f"{definition.name} has no tables to accept yet: a daemon builds them when it starts")
        elif planned.state == "as built":
            tell(f"{definition.name} is what built its tables already")
        else:
            record_build(db, definition, "accepted")
            tell(f"accepted the tables of {definition.name} as they are")


def _show(planned: Sequence[Planned], changed: Sequence[Planned], notes: Sequence[str]) -> None:
    if changed:
        show(_grid(changed))
        tell("")
    of = f"{len(planned)} projection{'s' if len(planned) != 1 else ''}"
    if changed:
        names = " ".join(projection.name for projection in changed)
        tell(
            f'{len(changed)} of {of} changed since the tables were built: run "projectiond rebuild {names}"; '
            f'where a change alters no row, "projectiond plan NAME --accept"'
        )
    else:
        tell(f"nothing is to be rebuilt: {of} looked at")
    tell(*(f"note: {note}" for note in notes))


def _grid(changed: Sequence[Planned]) -> Grid:
    grid = Grid(
        [
            Column("PROJECTION"),
            Column("EVENTS", is_number=True),
            Column("TIME", is_number=True),
            Column("DISK", is_number=True),
            Column("ENDS BY"),
            Column("CHANGED", is_wide=True),
        ]
    )
    for projection in changed:
        rebuild = projection.rebuild
        if rebuild is not None:
            grid.add(
                projection.name,
                f"about {rebuild.events}" if rebuild.is_estimate else str(rebuild.events),
                _duration(rebuild.seconds),
                f"{_size(rebuild.bytes)} + {_size(rebuild.bytes)}",
                rebuild.finish,
                _changed(rebuild),
            )
    return grid


def _changed(rebuild: Rebuild) -> str:
    return str(Difference(rebuild.changed, rebuild.is_schema_same))


def _notes(planned: Sequence[Planned]) -> Sequence[str]:
    notes = []
    if new := [projection.name for projection in planned if projection.state == "new"]:
        notes.append(f"new, and built from the first event when a daemon starts: {', '.join(new)}")
    if unknown := [projection.name for projection in planned if projection.state == "unknown"]:
        notes.append(
            f"nobody wrote down what built the tables of {', '.join(unknown)}: a daemon takes them for those of the "
            "code that it starts with"
        )
    if adopted := [projection.name for projection in planned if projection.built_by == "adopted"]:
        notes.append(f"found as they were, so what built them before that is not known: {', '.join(adopted)}")
    if unseen := [projection.name for projection in planned if not projection.is_source_known]:
        notes.append(f'without source a change of the handlers is not seen: {", ".join(unseen)}; set version = "1"')
    return notes


def _as_object(projection: Planned) -> dict[str, Any]:
    built_at = projection.built_at
    return {**asdict(projection), "built_at": None if built_at is None else built_at.isoformat()}


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{max(seconds / unit, 1):.0f} {name}"
    return f"{seconds / 86_400:.0f} d"


def _size(count: int) -> str:
    for limit, unit, name in ((1 << 20, 1 << 10, "kB"), (1 << 30, 1 << 20, "MB")):
        if count < limit:
            return f"{count / unit:.0f} {name}"
    return f"{count / (1 << 30):.1f} GB"
