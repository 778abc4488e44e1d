"""The command ``events``: the newest events of the types that a projection handles."""

import json
from typing import Annotated, Any, Final

import typer

from projectiond import sql
from projectiond.cli.names import find_definition
from projectiond.cli.output import AsJson, Column, Grid, show, tell
from projectiond.cli.target import find_target

MOST_EVENTS: Final = 1000

# In a table; programs get more.
MOST_SHOWN: Final = 120
MOST_CHARACTERS: Final = 20_000


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(events)


def events(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A projection's name.")],
    *,
    last: Annotated[
        int, typer.Option("--last", metavar="N", min=1, max=MOST_EVENTS, help="Show the newest N of them.")
    ] = 10,
    as_json: AsJson = False,
) -> None:
    """Show the newest events of the types that a projection handles.

    The newest come last. Data is cut to 120 characters, with --json to 20,000; its whole length is said beside it.
    They may not be applied yet: status says where the projection stands.

    Example: projectiond events order_summary --last 3

    Exit codes: 0 shown, 1 an unknown name or no database.
    """
    target = find_target(context.obj)
    definition = find_definition(target.settings, name)
    types = definition.event_types
    parameters = {"last": last, "most": MOST_CHARACTERS if as_json else MOST_SHOWN}
    with target.connect("events") as db:
        if types is None:
            rows = db.execute(sql.events.NEWEST_OF_ALL_EVENTS, parameters).fetchall()
        else:
            rows = db.execute(sql.events.NEWEST_EVENTS, {**parameters, "event_types": list(types)}).fetchall()
    rows.reverse()
    if as_json:
        tell(json.dumps({"projection": name, "events": [_as_object(row) for row in rows]}, indent=2))
    elif rows:
        show(_grid(rows))
    else:
        tell(f"the store holds no event that {name} handles")


def _grid(rows: list[tuple[Any, ...]]) -> Grid:
    grid = Grid(
        [
            Column("EVENT", is_number=True),
            Column("TYPE", is_wide=True),
            Column("CREATED", rank=1),
            Column("AGGREGATE", rank=2),
            Column("VERSION", is_number=True, rank=3),
            Column("DATA", is_wide=True),
        ]
    )
    for number, _, aggregate_id, _, event_type, version, created_at, text, length in rows:
        more = f" … ({length:,} characters)" if length > len(text) else ""
        created = created_at.isoformat(timespec="seconds")
        grid.add(str(number), event_type, created, str(aggregate_id), str(version), f"{text}{more}")
    return grid


def _as_object(row: tuple[Any, ...]) -> dict[str, Any]:
    number, event_id, aggregate_id, aggregate_type, event_type, version, created_at, text, length = row
    is_cut = length > len(text)
    return {
        "sequence_number": number,
        "event_id": str(event_id),
        "aggregate_id": str(aggregate_id),
        "aggregate_type": aggregate_type,
        "event_type": event_type,
        "version": version,
        "created_at": created_at.isoformat(),
        # What is cut is no JSON any more.
        **({"event_data_begins": text, "event_data_length": length} if is_cut else {"event_data": json.loads(text)}),
    }
