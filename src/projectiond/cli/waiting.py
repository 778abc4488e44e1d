"""The command ``wait``, and the watching of ``rebuild --wait``.

Both follow projections until they have arrived somewhere, and show how far they are.
"""

import json
import time
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from projectiond import checkpoint as checkpoints
from projectiond.checkpoint import Checkpoint
from projectiond.cli.names import find_names
from projectiond.cli.output import AsJson, tell
from projectiond.cli.progress import Progress
from projectiond.cli.target import find_target, say
from projectiond.errors import ProjectiondError
from projectiond.failure import printable
from projectiond.operating.overview import count_live_workers, read_head, read_hold
from projectiond.postgres.database import Connection
from projectiond.rebuild.marker import RETRYING
from projectiond.waiting.arrival import Arrival, Question
from projectiond.waiting.lateness import paused_sentence
from projectiond.waiting.wait import watch

# How often the rows are read; a person sees no difference, and the database feels none.
LOOK_SECONDS: Final = 0.05


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(wait)


def wait(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the projection.")],
    sequence: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="The sequence number to wait for; else the largest there is now."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0, metavar="S", help="Give up after so many seconds; else never.")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Wait until a projection has everything up to a sequence number.

    For deployments and tests: append, then wait, then read the read model. A number that was rolled back counts as
    reached once everything below it is. A number beyond the store's end is waited for. Where the output is no
    terminal, a line every 5 seconds says how far it is (with --json on stderr); who holds the high-water mark is said,
    too.

    Example: projectiond wait order_summary --timeout 30

    Exit codes: 0 it is there, 1 the projection is paused or unknown, 3 the time was over before.
    """
    target = find_target(context.obj)
    with target.connect("wait") as db:
        find_names(db, target.settings, [name])
        upto = read_head(db) if sequence is None else sequence
        _warn_without_daemon(db)
        checkpoint = _follow(db, name, Arrival(upto), timeout_seconds=timeout, progress=Progress(is_aside=as_json))
    if as_json:
        tell(json.dumps({"projection": name, "position": checkpoint.position, "upto": upto}))
    else:
        tell(f"{name} is at {checkpoint.position}: it has everything up to {upto}")


def watch_rebuilds(db: Connection, names: Sequence[str]) -> None:
    """Stay until all rebuilds are done.

    Raises:
        ProjectiondError: A projection was paused meanwhile; the message has its error.
    """
    left = set(names)
    failures: list[str] = []
    with Progress() as progress:
        while left:
            target = read_head(db)
            for name in sorted(left):
                now = checkpoints.find(db, name)
                if now is None or now.status == "paused":
                    failures.append(paused_sentence(name, now))
                elif has_stopped(now):
                    failures.append(stopped_sentence(now))
                elif now.status == "rebuilding":
                    progress.show(name, _rebuilt_upto(now), target)
                    continue
                else:
                    progress.show(name, target, target)
                    tell(f"rebuilt {name}; it is running at {now.position}")
                left.discard(name)
            progress.tick(target)
            if left:
                time.sleep(LOOK_SECONDS)
    if failures:
        raise ProjectiondError("\n".join(failures))


def has_stopped(now: Checkpoint) -> bool:
    """Say whether a rebuild beside the live tables cannot go on; what it only waits for will pass."""
    return now.is_rebuilt_beside and bool(now.rebuild_error) and not str(now.rebuild_error).startswith(RETRYING)


def stopped_sentence(now: Checkpoint) -> str:
    """Say what keeps a rebuild from going on, and what becomes of it."""
    return (
        f'the rebuild of "{now.name}" has stopped at {now.rebuild_position}: {now.rebuild_error} (it is tried again '
        "after a minute, and the live tables are kept up to date; setting the status to running calls it off)"
    )


def _rebuilt_upto(now: Checkpoint) -> int:
    if now.is_rebuilt_beside:
        return now.rebuild_position
    return now.position if now.is_reset else 0


def _follow(
    db: Connection, name: str, arrival: Arrival, *, timeout_seconds: float | None, progress: Progress
) -> Checkpoint:
    """Stay until a projection has arrived; give its row."""
    told_hold = ""
    # The name is known to a plugin at least: its row may be yet to come.
    steps = watch(name, arrival, timeout_seconds, is_known=True)
    step = next(steps)
    with progress:
        while not isinstance(step, Checkpoint):
            if isinstance(step, Question):
                step = steps.send(db.execute(step.statement, step.parameters).fetchall())
                continue
            progress.show(name, step.position, arrival.sequence_number)
            progress.tick(arrival.sequence_number)
            told_hold = _tell_hold(db, step.position, told_hold) if progress.is_due() else told_hold
            time.sleep(step.seconds)
            step = next(steps)
    return step


def _tell_hold(db: Connection, position: int, told: str) -> str:
    """Say who holds the mark, unless that has been said."""
    sentence = _sentence_of_hold(db, position)
    if sentence and sentence != told:
        say(sentence)
    return sentence


def _sentence_of_hold(db: Connection, position: int) -> str:
    hold = read_hold(db, after=position)
    if hold is None:
        return ""
    who = "; ".join(hold.holders)
    return printable(f'the high-water mark is held at {hold.position} by {who}; see "projectiond status"')


def _warn_without_daemon(db: Connection) -> None:
    if count_live_workers(db) == 0:
        say('no daemon is running on this database, so nothing will move; start one with "projectiond run"')
