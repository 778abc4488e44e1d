"""The commands ``wait`` and ``catchup``, and the watching of ``rebuild --wait``.

All three follow projections until they have arrived somewhere, and show how far they are: a bar on a terminal, a
line now and then elsewhere.
"""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal

import psycopg
import typer

from projectiond import checkpoint as checkpoints
from projectiond import logs
from projectiond.arrival import Arrival
from projectiond.checkpoint import Checkpoint
from projectiond.cli.daemon import check_database
from projectiond.cli.names import find_names, load_plugins
from projectiond.cli.output import tell
from projectiond.cli.progress import Progress
from projectiond.cli.target import Options, Target, find_target, say
from projectiond.database import Connection
from projectiond.errors import ConfigurationError, DatabaseUnavailableError, ProjectiondError, WaitTimeoutError
from projectiond.overview import count_live_workers, read_head
from projectiond.supervisor import Supervisor

# How often the rows are read; a person sees no difference, and the database feels none.
LOOK_SECONDS: Final = 0.1


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(wait)
    app.command()(catchup)


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
) -> None:
    """Wait until a projection has everything up to a sequence number.

    For deployments and tests: append, then wait, then read the read model. A number that was rolled back counts as
    reached once everything below it is. A number beyond the store's end is waited for.

    Example: projectiond wait order_summary --timeout 30

    Exit codes: 0 it is there, 1 the projection is paused or unknown, 3 the time was over before.
    """
    target = find_target(context.obj)
    with target.connect("wait") as db:
        find_names(db, target.settings, [name])
        upto = read_head(db) if sequence is None else sequence
        _warn_without_daemon(db)
        checkpoint = _follow(db, name, Arrival(upto), timeout_seconds=timeout)
    tell(f"{name} is at {checkpoint.position}: it has everything up to {upto}")


def catchup(context: typer.Context) -> None:
    """Apply everything to the current end of the store, then exit.

    For cron jobs, migrations and CI: runs the daemon in this process until every projection has the events that
    were there at the start. Projections that an operator has paused are left out. It may run beside a daemon; then
    that one does the work, and this one waits for it. The log goes to stderr, warnings and errors only.

    Example: projectiond catchup --config config/production.toml

    Exit codes: 0 everything is applied, 1 a projection is paused by an error, or nothing can be run.
    """
    options: Options = context.obj
    target = find_target(options)
    check_database(target)
    registry = load_plugins(target.settings)
    for fault in registry.faults:
        say(str(fault))
    if not registry.definitions:
        raise ConfigurationError("no projection can be run", hint='"projectiond new NAME" writes a first one')
    names = [definition.name for definition in registry.definitions]
    with target.connect("catchup") as db:
        upto = read_head(db)
    _send_log_to_stderr()
    pursuit = _Pursuit(target, names, upto)
    level: Literal["debug", "warning"] = "debug" if options.is_debug else "warning"
    settings = target.settings.model_copy(update={"log_level": level})
    logs.configure_logging(settings.log_format, settings.log_level, stream=sys.stderr)
    with pursuit.progress:
        code = Supervisor(settings, until=pursuit.is_over).run()
    pursuit.conclude()
    if registry.faults:
        raise ConfigurationError("some plugins could not be loaded, so their projections are not caught up")
    raise typer.Exit(code)


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
                    failures.append(_paused(name, now))
                elif now.status == "rebuilding":
                    progress.show(name, now.position if now.is_reset else 0, target)
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


def _follow(db: Connection, name: str, arrival: Arrival, *, timeout_seconds: float | None) -> Checkpoint:
    """Stay until a projection has arrived; give its row."""
    began = time.monotonic()
    target = arrival.sequence_number
    with Progress() as progress:
        while True:
            now = checkpoints.find(db, name)
            if now is not None and _has_arrived(db, now, arrival):
                return now
            if now is not None and now.status == "paused":
                raise ProjectiondError(_paused(name, now))
            position = 0 if now is None else now.position
            progress.show(name, position, target)
            progress.tick(target)
            if timeout_seconds is not None and time.monotonic() - began >= timeout_seconds:
                raise WaitTimeoutError(
                    f'after {timeout_seconds:g} s "{name}" is at {position}, {target - position} behind {target}',
                    hint='see "projectiond status" for what holds it back',
                )
            time.sleep(LOOK_SECONDS)


def _has_arrived(db: Connection, now: Checkpoint, arrival: Arrival) -> bool:
    is_about_to_be_reset = now.status == "rebuilding" and not now.is_reset
    return not is_about_to_be_reset and arrival.is_reached(db, now.position)


def _paused(name: str, now: Checkpoint | None) -> str:
    if now is None:
        return f'the checkpoint row of "{name}" is gone; see "projectiond status"'
    if now.error_message:
        return f'"{name}" is paused at {now.position}: {now.error_message} ("projectiond resume {name}")'
    return f'"{name}" is paused at {now.position}; "projectiond resume {name}" lets it go on'


def _warn_without_daemon(db: Connection) -> None:
    if count_live_workers(db) == 0:
        say('no daemon is running on this database, so nothing will move; start one with "projectiond run"')


class _Pursuit:
    """What catchup waits for: every projection at the target, or paused."""

    def __init__(self, target: Target, names: Sequence[str], upto: int) -> None:
        self.progress = Progress()
        self._target = target
        self._arrivals = {name: Arrival(upto) for name in names}
        self._upto = upto
        self._db: Connection | None = None
        self._rows: Mapping[str, Checkpoint | None] = {}
        self._is_over = False

    def is_over(self) -> bool:
        """Look at the rows; called by the supervisor a few times a second."""
        try:
            self._is_over = self._look()
        except (psycopg.OperationalError, DatabaseUnavailableError):
            # The workers say what is wrong, and wait for the database too.
            self.close()
        return self._is_over

    def close(self) -> None:
        """Let go of the connection."""
        if self._db is not None:
            self._db.close()
        self._db = None

    def conclude(self) -> None:
        """Say what came of it.

        Raises:
            ProjectiondError: Something is not caught up.
        """
        self.close()
        failures = []
        for name, now in self._rows.items():
            if now is not None and now.status == "paused":
                if now.error_message:
                    failures.append(_paused(name, now))
                else:
                    tell(f"left out {name}: an operator has paused it at {now.position}")
            elif now is not None and self._is_over:
                tell(f"{name} is at {now.position}: it has everything up to {self._upto}")
        if not self._is_over:
            failures.append("ended before everything was applied; run it again, it goes on where it stopped")
        if failures:
            raise ProjectiondError("\n".join(failures))

    def _look(self) -> bool:
        db = self._db = self._db or self._target.connect("catchup")
        self._rows = {name: checkpoints.find(db, name) for name in self._arrivals}
        for name, now in self._rows.items():
            self.progress.show(name, 0 if now is None else now.position, self._upto)
        self.progress.tick(self._upto)
        return all(
            now is not None
            and (
                now.status == "paused"
                or (now.status == "running" and self._arrivals[name].is_reached(db, now.position))
            )
            for name, now in self._rows.items()
        )


def _send_log_to_stderr() -> None:
    """Let workers, which inherit descriptor 1, write to stderr; what we print goes to stdout as before."""
    sys.stdout.flush()
    ours = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.stdout = os.fdopen(ours, "w", buffering=1)
