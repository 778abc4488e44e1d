"""The command ``catchup``: the daemon in this process, until everything that is there has been applied.

The supervisor asks a few times a second whether it is over.  All of it happens in the main thread, for the supervisor
takes its signals there.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import psycopg
import typer

from projectiond import checkpoint as checkpoints
from projectiond import logs, sql
from projectiond.checkpoint import Checkpoint
from projectiond.cli.daemon import check_database
from projectiond.cli.names import load_plugins
from projectiond.cli.output import tell
from projectiond.cli.progress import Progress
from projectiond.cli.target import Options, Target, find_target, say
from projectiond.cli.waiting import has_stopped, stopped_sentence
from projectiond.errors import ConfigurationError, DatabaseUnavailableError, ProjectiondError
from projectiond.operating.overview import read_head
from projectiond.postgres.database import Connection
from projectiond.supervisor import Supervisor
from projectiond.waiting.arrival import Arrival
from projectiond.waiting.lateness import paused_sentence


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(catchup)


def catchup(
    context: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: one JSON object at the end.")] = False,
) -> None:
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
        # A rebuild that had stopped is tried again.
        db.execute(sql.steering.FORGET_REBUILD_ERRORS, {"names": names})
    _send_log_to_stderr()
    pursuit = _Pursuit(target, names, upto, as_json=as_json)
    level: Literal["debug", "warning"] = "debug" if options.is_debug else "warning"
    # Without HTTP: it may run beside the daemon, whose port that is.
    settings = target.settings.model_copy(update={"log_level": level, "http_port": 0})
    logs.configure_logging(settings.log_format, settings.log_level, stream=sys.stderr)
    with pursuit.progress:
        code = Supervisor(settings, until=pursuit.is_over).run()
    pursuit.conclude()
    if registry.faults:
        raise ConfigurationError("some plugins could not be loaded, so their projections are not caught up")
    raise typer.Exit(code)


class _Pursuit:
    """What catchup waits for: every projection at the target, or paused."""

    def __init__(self, target: Target, names: Sequence[str], upto: int, *, as_json: bool) -> None:
        self._as_json = as_json
        self.progress = Progress(is_aside=as_json)
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
        failures: list[str] = []
        told: list[str] = []
        for name, now in self._rows.items():
            if now is not None and has_stopped(now):
                failures.append(stopped_sentence(now))
            elif now is not None and now.status == "paused":
                if now.error_message:
                    failures.append(paused_sentence(name, now))
                else:
                    told.append(f"left out {name}: an operator has paused it at {now.position}")
            elif now is not None and self._is_over:
                told.append(f"{name} is at {now.position}: it has everything up to {self._upto}")
        tell(*([json.dumps(self._as_object(), indent=2)] if self._as_json else told))
        if not self._is_over:
            failures.append("ended before everything was applied; run it again, it goes on where it stopped")
        if failures:
            raise ProjectiondError("\n".join(failures))

    def _as_object(self) -> Mapping[str, object]:
        rows = [
            {"name": name, "position": now.position, "status": now.status, "error_message": now.error_message}
            for name, now in self._rows.items()
            if now is not None
        ]
        return {"upto": self._upto, "is_over": self._is_over, "projections": rows}

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
                or has_stopped(now)
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
