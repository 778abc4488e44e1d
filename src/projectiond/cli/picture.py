"""The overview, shown: a table with remarks for people, an object for machines.

Called by ``status``.  What is remarked below the table is everything that needs somebody, with what to do about it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.text import Text

from projectiond.cli.output import Column, Grid, ago, is_terminal, sentence_of_left_out, tell
from projectiond.failure import printable
from projectiond.leases.roster import LiveWorker, differences
from projectiond.operating.overview import Hold, Overview, ProjectionState
from projectiond.operating.overview import as_object as shape_of

# Of what a worker runs so many are named, and of an error on a terminal so much is shown; --json has all.
MOST_RUN: Final = 5
MOST_OF_ERROR: Final = 400

# Where nothing scrolls there has to be room for the table.
MOST_ERRORS: Final = 3

# What waits and has moved nothing for so long stands still: a step takes as long where a handler or a lock does.
STANDING_SECONDS: Final = 10.0

_STYLES: Final = {"paused": "yellow", "rebuilding": "cyan"}


def show_overview(overview: Overview, notes: Sequence[str]) -> None:
    """Print it."""
    if is_terminal():
        console = Console()
        console.print(picture(overview, notes, console.width))
    else:
        grid = _grid(overview.projections, [Column("ERROR", is_wide=True)])
        tell(*grid.as_lines(), *_remarks(overview, notes), *_remarks_on_workers(overview))


def picture(overview: Overview, notes: Sequence[str], width: int, height: int | None = None) -> RenderableType:
    """Give it for rich: the table, and below it errors, remarks, and who is at work.

    Args:
        overview: What to show.
        notes: Remarks on the plugins.
        width: Of the terminal.
        height: Of a screen that does not scroll: what needs somebody comes first then, for the rest may be cut off.
    """
    troubled = [state for state in overview.projections if _error_of(state)]
    errors = [Text(_line_on_error(state), style="red") for state in troubled]
    if height is not None and (more := len(errors) - MOST_ERRORS) > 0:
        errors[MOST_ERRORS:] = [
            Text(f"and {more} more projections with errors, which the table has first", style="red")
        ]
    others = [state for state in overview.projections if not _error_of(state)]
    table, left_out = _grid(overview.projections if height is None else [*troubled, *others]).as_table(width)
    remarks = [Text(line) for line in _remarks(overview, notes)]
    below = [Text(line) for line in _remarks_on_workers(overview)]
    if left_out:
        below.append(Text(sentence_of_left_out(left_out), style="dim"))
    if height is None:
        return Group(table, Text(""), *errors, *remarks, *below)
    return Group(*remarks, *errors, Text(""), table, Text(""), *below)


def as_object(overview: Overview, notes: Sequence[str]) -> dict[str, Any]:
    """Give it for JSON."""
    return {**shape_of(overview), "notes": list(notes)}


def _grid(projections: Sequence[ProjectionState], more: Sequence[Column] = ()) -> Grid:
    """Make the table; a column more has the errors, which on a terminal are lines of their own."""
    grid = Grid(
        [
            Column("PROJECTION", is_wide=True),
            Column("STATUS", is_wide=True),
            Column("POSITION", is_number=True, rank=2),
            Column("LAG", is_number=True),
            Column("BEHIND", is_number=True),
            Column("PROCESSED", is_number=True, rank=4),
            Column("LAST", rank=3),
            Column("DEAD", is_number=True, rank=1),
            *more,
        ]
    )
    for state in projections:
        grid.add(
            state.name,
            _status_of(state),
            "-" if state.position is None else str(state.position),
            str(state.lag),
            "-" if state.lag_seconds is None else _duration(state.lag_seconds),
            "-" if state.events_processed is None else str(state.events_processed),
            ago(state.seconds_since_processed),
            str(state.dead_letters),
            *[_error_of(state) for _ in more],
            style="red" if _error_of(state) else _STYLES.get(state.status or "", ""),
        )
    return grid


def _status_of(state: ProjectionState) -> str:
    if state.status is None:
        return "not begun"
    rebuild = state.rebuild
    if state.status == "rebuilding" and rebuild is None:
        return "rebuilding (not begun)"
    if rebuild is None:
        return state.status
    told = f"{state.status}, {'rebuild' if rebuild.is_paused else ''}".rstrip(", ")
    left = "" if rebuild.seconds_left is None else f", {_duration(rebuild.seconds_left)} left"
    return f"{told} {100 * rebuild.share:.0f} %{left}"


def _error_of(state: ProjectionState) -> str:
    rebuild_error = state.rebuild.error_message if state.rebuild is not None else None
    errors = [state.error_message, f"rebuild: {rebuild_error}" if rebuild_error else None]
    return "; ".join(error for error in errors if error)


def _line_on_error(state: ProjectionState) -> str:
    line = printable(f"{state.name}: {_error_of(state)}")
    return line if len(line) <= MOST_OF_ERROR else f"{line[:MOST_OF_ERROR]} … (--json has all of it)"


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _remarks(overview: Overview, notes: Sequence[str]) -> list[str]:
    workers = overview.live_workers
    lines = [
        f"the store's head is {overview.head}; "
        + (f"{workers} worker{'s' if workers != 1 else ''} at work" if workers else "no daemon is running"),
    ]
    if not overview.projections:
        lines.append('there are no projections; "projectiond new NAME" writes a first one')
    lines += differences(overview.roster)
    if overview.hold is not None:
        lines += _remarks_on_hold(overview.hold)
    lines += _remarks_on_standing(overview)
    alone = [state.name for state in overview.projections if not state.has_runner and state.is_deployed is not False]
    if workers and alone:
        lines.append(
            f"nobody runs {', '.join(alone)}: no daemon at work has the plugin, or it has only just been started"
        )
    orphans = [state.name for state in overview.projections if state.is_deployed is False]
    if orphans:
        lines.append(f"no plugin here defines {', '.join(orphans)}")
    lines += [
        f'{state.name} has {state.dead_letters} dead letters; see "projectiond dead-letters list {state.name}"'
        for state in overview.projections
        if state.dead_letters
    ]
    return [printable(line) for line in [*lines, *notes]]


def _remarks_on_standing(overview: Overview) -> list[str]:
    """Name what has something to apply and does not, for no reason that the database knows."""
    if overview.hold is not None:
        return []
    standing = {
        state: seconds
        for state in overview.projections
        if (seconds := min(state.lag_seconds or 0.0, state.seconds_since_processed or 0.0)) > STANDING_SECONDS
        and (state.status, state.has_runner, not state.error_message) == ("running", True, True)
    }
    if not standing:
        return []
    hosts = sorted({state.runner.host for state in standing if state.runner is not None})
    names, where = _some([state.name for state in standing]), _some(hosts) or "its host"
    told = f"{names}: nothing applied for {_duration(max(standing.values()))} though events wait"
    return [f'{told}, and the database does not know why; ask "projectiond health" on {where}, and the log']


def _some(names: Sequence[str]) -> str:
    more = len(names) - MOST_RUN
    return ", ".join(names[:MOST_RUN]) + (f" and {more} more" if more > 0 else "")


def _remarks_on_workers(overview: Overview) -> list[str]:
    return [printable(_remark_on_worker(worker, overview.projections)) for worker in overview.roster]


def _remark_on_worker(worker: LiveWorker, projections: Sequence[ProjectionState]) -> str:
    now = datetime.now(UTC)
    runs = [
        f"{state.name} (for {_duration((now - state.runner.since).total_seconds())})"
        for state in projections
        if state.runner is not None
        and state.runner.since is not None
        and state.runner.process_id == worker.process_id
        and state.runner.host == worker.host
    ]
    return f"{worker}, runs {_some(runs) or 'nothing'}"


def _remarks_on_hold(hold: Hold) -> list[str]:
    lines = [f"the high-water mark is held at {hold.position} by {'; '.join(hold.holders)}"]
    if hold.remedies:
        lines.append(f"nothing is lost while it waits; what would end a transaction: {'; '.join(hold.remedies)}")
    return lines
