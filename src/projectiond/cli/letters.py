"""The commands ``dead-letters list|show|retry|discard``: what became of events that a projection has passed over.

``retry`` asks the daemon and stays until it has answered for each letter; what trying again means is said in its help.
"""

import json
import time
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Final

import typer

from projectiond import checkpoint as checkpoints
from projectiond.cli.names import find_names
from projectiond.cli.output import AsJson, Column, Grid, printable_lines, show, tell
from projectiond.cli.target import find_target, say
from projectiond.errors import ConfigurationError, ProjectiondError, WaitTimeoutError
from projectiond.operating import dead_letters
from projectiond.operating.dead_letters import DeadLetter
from projectiond.operating.overview import count_live_workers
from projectiond.postgres.database import Connection

MOST_LISTED: Final = 100_000
LOOK_SECONDS: Final = 0.1

# All of it, for programs.
UNCUT: Final = 2**31 - 1

Name = Annotated[str, typer.Argument(metavar="NAME", help="A projection's name.")]
Numbers = Annotated[
    list[int] | None, typer.Argument(metavar="SEQUENCE", min=1, help="Sequence numbers of events, as list shows them.")
]
All = Annotated[bool, typer.Option("--all", help="All letters of the projection.")]

group = typer.Typer(no_args_is_help=True, help="Show, retry or discard events that a projection could not apply.")


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(group, name="dead-letters")


@group.command("list")
def list_letters(
    context: typer.Context,
    name: Name,
    *,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=MOST_LISTED, help="Show the first N of them.")
    ] = 100,
    as_json: AsJson = False,
) -> None:
    """List a projection's dead letters, in the order of their events.

    Example: projectiond dead-letters list order_summary

    Exit codes: 0 shown, 1 an unknown name or no database.
    """
    target = find_target(context.obj)
    with target.connect("dead-letters") as db:
        find_names(db, target.settings, [name])
        found = dead_letters.read_letters(db, name, most=limit + 1)
    letters, has_more = found[:limit], len(found) > limit
    if as_json:
        shape = {"projection": name, "letters": [_as_object(letter) for letter in letters], "has_more": has_more}
        tell(json.dumps(shape, indent=2))
        return
    if not letters:
        tell(f"{name} has no dead letters")
        return
    show(_grid(letters))
    if has_more:
        tell("", f"there are more; --limit {limit * 10} shows up to so many")


@group.command("show")
def show_letter(
    context: typer.Context,
    name: Name,
    sequence: Annotated[int, typer.Argument(metavar="SEQUENCE", min=1, help="Sequence number of the event.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: one JSON object, the data uncut.")] = False,
) -> None:
    """Show a dead letter with the event's data.

    Example: projectiond dead-letters show order_summary 41207

    Exit codes: 0 shown, 1 there is no such letter, or no database.
    """
    target = find_target(context.obj)
    with target.connect("dead-letters") as db:
        find_names(db, target.settings, [name])
        most = UNCUT if as_json else dead_letters.MOST_CHARACTERS
        found = dead_letters.read_letters(db, name, [sequence], most=1)
        data = dead_letters.read_data(db, name, sequence, most=most)
    if not found or data is None:
        raise _missing(name, [sequence])
    if as_json:
        tell(json.dumps({**_as_object(found[0]), "event_data": json.loads(data.text)}, indent=2))
        return
    letter = found[0]
    tell(f"event {letter.sequence_number}, {letter.state}, tried {letter.attempts} times")
    grid = Grid([Column(""), Column("", is_wide=True)])
    grid.add("type", letter.event_type)
    grid.add("event", str(letter.event_id))
    grid.add("aggregate", str(letter.aggregate_id))
    grid.add("handler", letter.handler)
    grid.add("error", letter.error)
    grid.add("failed", letter.failed_at.isoformat(timespec="seconds"))
    show(grid)
    tell("", *printable_lines(_pretty(data)))
    if data.is_cut:
        tell("", f"… the first {len(data.text):,} of {data.length:,} characters; --json shows all of them")


@group.command("retry")
def retry_letters(
    context: typer.Context,
    name: Name,
    sequences: Numbers = None,
    *,
    every: All = False,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", min=0, max=86_400, help="Wait for the outcome; 0: only ask.")
    ] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Have the daemon apply dead letters again, each once.

    The handlers that the daemon was started with are called with the event as it is in the store now. The read model's
    change and the letter's removal are one transaction; if it fails, nothing changes but the letter's error.

    It is out of order: later events were applied already. That is right for handlers that insert or add up, and wrong
    for one that sets what a later event has set since. When in doubt, rebuild: that applies everything in order.

    Example: projectiond dead-letters retry order_summary 41207

    Exit codes: 0 applied (with --timeout 0: asked for), 1 a letter failed again, there is none, or no database, 3 not
    in time.
    """
    numbers = _chosen(sequences, every=every)
    target = find_target(context.obj)
    with target.connect("dead-letters") as db:
        find_names(db, target.settings, [name])
        asked = dead_letters.ask_for_retry(db, name, numbers)
        if not asked:
            raise _missing(name, numbers)
        _say_missing(name, numbers, asked)
        row = checkpoints.find(db, name)
        if count_live_workers(db) == 0:
            say('no daemon is running on this database; the letters are tried when one does ("projectiond run")')
        elif row is not None and row.status == "paused":
            say(f'{name} is paused; the letters are tried when it goes on ("projectiond resume {name}")')
        elif timeout > 0:
            _await_outcome(db, name, asked, timeout, as_json=as_json)
            return
    if as_json:
        _tell_outcome(name, asked, [], [])
    else:
        tell(f"asked for {_count(asked)} to be tried again")


@group.command("discard")
def discard_letters(
    context: typer.Context, name: Name, sequences: Numbers = None, *, every: All = False, as_json: AsJson = False
) -> None:
    """Delete dead letters: the projection goes without these events.

    The events stay in the store, and a rebuild meets them again.

    Example: projectiond dead-letters discard order_summary 41207

    Exit codes: 0 discarded, 1 there is no such letter, or no database.
    """
    numbers = _chosen(sequences, every=every)
    target = find_target(context.obj)
    with target.connect("dead-letters") as db:
        find_names(db, target.settings, [name])
        gone = dead_letters.discard(db, name, numbers)
    if not gone:
        raise _missing(name, numbers)
    _say_missing(name, numbers, gone)
    if as_json:
        tell(json.dumps({"projection": name, "discarded": list(gone)}, indent=2))
    else:
        tell(f"discarded {_count(gone)} of {name}")


def _chosen(sequences: Sequence[int] | None, *, every: bool) -> Sequence[int] | None:
    if every == bool(sequences):
        raise typer.BadParameter("name sequence numbers, or say --all")
    return sequences or None


def _await_outcome(db: Connection, name: str, asked: Sequence[int], timeout_seconds: float, *, as_json: bool) -> None:
    deadline = time.monotonic() + timeout_seconds
    while True:
        left = dead_letters.read_letters(db, name, asked, most=len(asked))
        if all(letter.state == "kept" for letter in left):
            break
        if time.monotonic() > deadline:
            waiting = [letter.sequence_number for letter in left if letter.state != "kept"]
            raise WaitTimeoutError(
                f"{_count(waiting)} of {name} have not been tried within {timeout_seconds:g} s",
                hint=f'see "projectiond dead-letters list {name}" and "projectiond status"',
            )
        time.sleep(LOOK_SECONDS)
    kept = {letter.sequence_number for letter in left}
    applied = [number for number in asked if number not in kept]
    if as_json:
        _tell_outcome(name, asked, applied, left)
    elif applied:
        tell(f"applied {_count(applied)} to {name}")
    if left:
        raise ProjectiondError(
            "\n".join(f"event {letter.sequence_number} failed again: {letter.error}" for letter in left)
        )


def _tell_outcome(name: str, asked: Sequence[int], applied: Sequence[int], failed: Sequence[DeadLetter]) -> None:
    shape = {
        "projection": name,
        "asked": list(asked),
        "applied": list(applied),
        "failed": [{"sequence_number": letter.sequence_number, "error": letter.error} for letter in failed],
    }
    tell(json.dumps(shape, indent=2))


def _missing(name: str, numbers: Collection[int] | None) -> ConfigurationError:
    what = "dead letters" if numbers is None else f"dead letter of event {', '.join(map(str, numbers))}"
    return ConfigurationError(f"{name} has no {what}", hint=f'see "projectiond dead-letters list {name}"')


def _say_missing(name: str, numbers: Sequence[int] | None, found: Collection[int]) -> None:
    if missing := [number for number in numbers or () if number not in found]:
        say(f"{name} has no dead letter of event {', '.join(map(str, missing))}")


def _count(numbers: Sequence[int]) -> str:
    return f"the letter of event {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} letters"


def _grid(letters: Sequence[DeadLetter]) -> Grid:
    grid = Grid(
        [
            Column("EVENT", is_number=True),
            Column("TYPE", is_wide=True),
            Column("TRIED", is_number=True, rank=2),
            Column("FAILED", rank=3),
            Column("STATE", is_wide=True),
            Column("HANDLER", rank=1),
            Column("ERROR", is_wide=True),
        ]
    )
    for letter in letters:
        grid.add(
            str(letter.sequence_number),
            letter.event_type,
            str(letter.attempts),
            letter.failed_at.isoformat(timespec="seconds"),
            letter.state,
            letter.handler,
            letter.error,
        )
    return grid


def _as_object(letter: DeadLetter) -> dict[str, Any]:
    return {
        "sequence_number": letter.sequence_number,
        "event_id": str(letter.event_id),
        "event_type": letter.event_type,
        "aggregate_id": str(letter.aggregate_id),
        "handler": letter.handler,
        "error": letter.error,
        "attempts": letter.attempts,
        "failed_at": letter.failed_at.isoformat(),
        "state": letter.state,
    }


def _pretty(data: dead_letters.Data) -> str:
    """Indent it, if it is whole."""
    if data.is_cut:
        return data.text
    try:
        return json.dumps(json.loads(data.text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return data.text
