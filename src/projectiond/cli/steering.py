"""The commands ``pause``, ``resume`` and ``rebuild``: an UPDATE of the status, with words.

All names are checked before any is changed, so a typing error changes nothing.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Annotated

import typer

from projectiond.cli import going_back
from projectiond.cli.names import find_names
from projectiond.cli.output import AsJson, tell
from projectiond.cli.target import Options, find_target, say
from projectiond.cli.waiting import watch_rebuilds
from projectiond.errors import ConfigurationError
from projectiond.operating import steering
from projectiond.operating.overview import count_live_workers
from projectiond.plugins.definition import Definition
from projectiond.postgres.database import Connection

Names = Annotated[list[str], typer.Argument(metavar="NAME", help="Names of projections.")]


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    for command in (pause, resume, rebuild):
        app.command()(command)


def pause(context: typer.Context, names: Names, *, as_json: AsJson = False) -> None:
    """Pause projections: once this returns, none of their batches commits any more.

    The events that arrive meanwhile wait in the store. A rebuild that has not begun yet is dropped by it; one that is
    in progress stops where it is, and "resume" goes on from there. The same in SQL:
    UPDATE projection_checkpoints SET status = 'paused' WHERE projection_name = '...';

    Example: projectiond pause order_summary

    Exit codes: 0 paused, 1 an unknown name (then nothing is changed) or no database.
    """
    target = find_target(context.obj)
    with target.connect("pause") as db:
        steered = {name: steering.pause(db, name) for name in find_names(db, target.settings, names)}
    if as_json:
        _tell_as_object(steered)
    else:
        tell(*(_sentence_of_pause(name, what) for name, what in steered.items()))


def resume(context: typer.Context, names: Names, *, as_json: AsJson = False) -> None:
    """Let paused projections go on where they stopped, also after an error.

    The error message is cleared, and the event that failed is tried again, by the code that the daemon loaded at its
    start: after a change of the handler restart the daemon first. The same in SQL:
    UPDATE projection_checkpoints SET status = 'running' WHERE projection_name = '...';

    Example: projectiond resume order_summary

    Exit codes: 0 running, 1 an unknown name (then nothing is changed) or no database.
    """
    target = find_target(context.obj)
    with target.connect("resume") as db:
        steered = {name: steering.resume(db, name) for name in find_names(db, target.settings, names)}
        if as_json:
            _tell_as_object(steered)
        else:
            for name, what in steered.items():
                _say_resumed(name, what)
        _warn_without_daemon(db)


def rebuild(  # noqa: PLR0913 - each is an option of the command
    context: typer.Context,
    names: Names,
    *,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Empty the tables and fill them again, in view of their readers.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Stay until the rebuild is done, and show how far it is.")
    ] = False,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Call a rebuild off; the live tables stay what they are.")
    ] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Serve the tables again that the last rebuild has replaced.")
    ] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Drop the tables that the last rebuild has replaced.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Rebuild projections: apply every event again, from the first.

    It happens beside the live tables, which are served and kept up to date meanwhile; in the end they become what the
    replay gave, in one transaction. One that is in progress begins afresh. A projection that was paused runs
    afterwards. "pause" holds it, "resume" lets it go on, --cancel calls it off. The same in SQL:
    UPDATE projection_checkpoints SET status = 'rebuilding' WHERE projection_name = '...';

    Where the new tables have taken the place of the old ones, these are kept aside: --rollback serves them again, with
    the position that they belong to, and --forget drops them.

    Example: projectiond rebuild order_summary --wait

    Exit codes: 0 asked for (with --wait: done), 1 an unknown name, a projection without tables, or the rebuild failed.
    """
    if cancel + rollback + forget + (wait or in_place) > 1:
        raise typer.BadParameter("--cancel, --rollback and --forget go with no other option")
    if as_json and (wait or rollback or forget):
        raise typer.BadParameter("--json does not go with --wait, --rollback and --forget")
    options: Options = context.obj
    target = find_target(options)
    with target.connect("rebuild") as db:
        found = find_names(db, target.settings, names)
        if cancel:
            _call_off(db, found, as_json=as_json)
        elif rollback:
            going_back.roll_back(db, found)
        elif forget:
            going_back.forget(db, found)
        else:
            _ask_for_rebuild(db, found, in_place=in_place, as_json=as_json)
            if wait:
                watch_rebuilds(db, list(found))
            elif not as_json:
                tell('see how far it is with "projectiond status"')


def _call_off(db: Connection, found: Iterable[str], *, as_json: bool) -> None:
    steered = {name: steering.call_off(db, name) for name in found}
    if as_json:
        _tell_as_object(steered)
    else:
        tell(*(_sentence_of_cancel(name, what) for name, what in steered.items()))


def _ask_for_rebuild(db: Connection, found: Mapping[str, Definition | None], *, in_place: bool, as_json: bool) -> None:
    faults = [
        f'"{name}" cannot be rebuilt: it declares no tables, so nothing could be built anew; set `tables = (...)` '
        f"in {definition.source}"
        for name, definition in found.items()
        if definition is not None and not definition.tables
    ]
    if faults:
        raise ConfigurationError("\n".join(faults))
    steered = {name: steering.rebuild(db, name, is_in_place=in_place) for name in found}
    if as_json:
        _tell_as_object(steered)
    else:
        tell(*(_sentence_of_rebuild(name, what, in_place=in_place) for name, what in steered.items()))
    for name, definition in found.items():
        if definition is None:
            say(f"no plugin here defines {name}: a daemon that has one will rebuild it")
    _warn_without_daemon(db)


def _tell_as_object(steered: Mapping[str, steering.Steered]) -> None:
    shapes = [
        {
            "name": name,
            "is_changed": what.is_changed,
            "position": what.position,
            "status_before": None if what.before is None else what.before.status,
        }
        for name, what in steered.items()
    ]
    tell(json.dumps({"projections": shapes}, indent=2))


def _sentence_of_rebuild(name: str, steered: steering.Steered, *, in_place: bool) -> str:
    again = "again " if steered.before is not None and steered.before.status == "rebuilding" else ""
    where = "in place" if in_place else "beside its live tables"
    return f"rebuilding {name} {again}{where}, from the first event; it was at {steered.position}"


def _sentence_of_pause(name: str, steered: steering.Steered) -> str:
    if not steered.is_changed:
        return f'{name} was paused already, at {steered.position}; go on with "projectiond resume {name}"'
    paused = f"paused {name} at {steered.position}"
    before = steered.before
    if before is None or before.status != "rebuilding":
        return f'{paused}; go on with "projectiond resume {name}"'
    if before.is_reset or before.rebuild_mode == "beside":
        where = f", which is at {before.rebuild_position}" if before.rebuild_mode == "beside" else ""
        return (
            f'{paused}, in the middle of its rebuild{where}; "projectiond resume {name}" goes on from there, '
            f'"projectiond rebuild {name}" begins afresh'
        )
    return f'{paused}; its rebuild had not begun and is dropped: ask for it again with "projectiond rebuild {name}"'


def _sentence_of_cancel(name: str, steered: steering.Steered) -> str:
    before = steered.before
    if steered.is_changed:
        return f"called off the rebuild of {name}; it runs on its live tables, at {steered.position}"
    if before is not None and before.rebuild_mode == "in place":
        return f"{name} is being rebuilt in place, and its tables were emptied for that: nothing is left to go back to"
    return f"{name} is not being rebuilt"


def _say_resumed(name: str, steered: steering.Steered) -> None:
    before = steered.before
    if steered.is_changed:
        error = before.error_message if before is not None else None
        rebuild = ""
        if before is not None and before.rebuild_mode == "beside":
            rebuild = f", and its rebuild, which goes on from {before.rebuild_position}"
        tell(f"resumed {name} at {steered.position}{rebuild}" + (f"; its error was: {error}" if error else ""))
        if error:
            say(f"a running daemon applies {name} with the code it was started with; restart it after a change of it")
    elif before is None:
        tell(f"{name} is not paused: it has no checkpoint yet, and begins when a daemon runs it")
    else:
        off = f'; "projectiond rebuild {name} --cancel" calls the rebuild off'
        more = off if before.status == "rebuilding" else ""
        tell(f"{name} is not paused: it is {before.status} at {steered.position}{more}")


def _warn_without_daemon(db: Connection) -> None:
    if count_live_workers(db) == 0:
        say('no daemon is running on this database; it takes effect when one does ("projectiond run")')
