"""The command ``status``: where every projection stands, and what holds it back."""

import json
import time
from typing import Annotated, Final

import psycopg
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from projectiond.builds.change import read_changes
from projectiond.cli.names import load_plugins
from projectiond.cli.output import is_terminal, tell
from projectiond.cli.picture import as_object, picture, show_overview
from projectiond.cli.target import Target, find_target
from projectiond.errors import ProjectiondError
from projectiond.failure import printable
from projectiond.operating.overview import Overview, read_overview
from projectiond.plugins.registry import Registry
from projectiond.postgres.database import Connection

# Below a second, the time that a look takes included: by then what was done elsewhere is to be seen.
REFRESH_SECONDS: Final = 0.8


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(status)


def status(
    context: typer.Context,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again about each second, until Ctrl-C.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="For machines: one JSON object (with --watch, a line each).")
    ] = False,
) -> None:
    """Show where every projection stands, and what holds it back.

    Lag counts sequence numbers between a projection's position and the store's head; behind is the age of the oldest
    event above its position. Beside the table: what fails, who holds the high-water mark, if an open transaction does,
    and which worker runs what, for how long.

    An outage of the database does not end --watch: it says so, and goes on when the database is back.

    Example: projectiond status --json | jq '.projections[] | select(.lag > 1000) | .name'

    Exit codes: 0 shown (whatever the projections' state is), 1 no database.
    """
    target = find_target(context.obj)
    registry = load_plugins(target.settings)
    if watch:
        _watch(_Watch(target, registry), as_json=as_json)
        return
    with target.connect("status") as db:
        overview, notes = _read(db, registry)
    if as_json:
        tell(json.dumps(as_object(overview, notes), indent=2))
    else:
        show_overview(overview, notes)


def _read(db: Connection, registry: Registry) -> tuple[Overview, list[str]]:
    """Read the overview, and what is to be said of the plugins here."""
    names = {definition.name for definition in registry.definitions}
    count = len(registry.faults)
    overview = read_overview(db, names or None if count else names)
    notes = [f'{count} fault{"s" if count > 1 else ""} in the plugins here; see "projectiond check"'] if count else []
    return overview, [*notes, *read_changes(db, registry.definitions)]


class _Watch:
    """Reads the overview again and again; once it has been read, an outage is part of the picture."""

    def __init__(self, target: Target, registry: Registry) -> None:
        self._target = target
        self._registry = registry
        self._db: Connection | None = target.connect("status")
        self._since = ""
        self.overview, self.notes = _read(self._db, registry)
        self.outage = ""

    def look(self) -> None:
        """Read it, or say since when that is not possible; the overview is then the last one."""
        try:
            self._db = self._db or self._target.connect("status")
            self.overview, self.notes = _read(self._db, self._registry)
        except (psycopg.Error, ProjectiondError) as error:
            self.close()
            self._since = self._since or time.strftime("%H:%M:%S")
            self.outage = printable(f"the database does not answer since {self._since} ({error})")
        else:
            self._since = self.outage = ""

    def close(self) -> None:
        """Let go of the connection."""
        if self._db is not None:
            self._db.close()
        self._db = None


def _watch(watch: _Watch, *, as_json: bool) -> None:
    try:
        if is_terminal() and not as_json:
            console = Console()
            with Live(console=console, auto_refresh=False, screen=True) as live:
                while True:
                    live.update(_drawn(watch, console), refresh=True)
                    time.sleep(REFRESH_SECONDS)
                    watch.look()
        while True:
            _tell(watch, as_json=as_json)
            time.sleep(REFRESH_SECONDS)
            watch.look()
    except KeyboardInterrupt:
        return
    finally:
        watch.close()


def _drawn(watch: _Watch, console: Console) -> RenderableType:
    drawn = picture(watch.overview, watch.notes, console.width, console.height)
    return Group(Text(watch.outage, style="red"), drawn) if watch.outage else drawn


def _tell(watch: _Watch, *, as_json: bool) -> None:
    if watch.outage:
        # Not the last overview: who reads lines would take it for the present one.
        tell(json.dumps({"error": watch.outage}) if as_json else watch.outage)
    elif as_json:
        tell(json.dumps(as_object(watch.overview, watch.notes)))
    else:
        show_overview(watch.overview, watch.notes)
        tell("")
