"""The command ``run``: the daemon itself.

Looks at everything that can be wrong before it starts, and names all of it at once.  A faulty plugin does not keep
the others from running: it is logged, and its projection is missing.
"""

import typer

from projectiond import logs
from projectiond.cli.target import Options, Target, find_target
from projectiond.errors import ConfigurationError
from projectiond.postgres.inspection import inspect_schema
from projectiond.supervisor import Supervisor

log = logs.get_logger()


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(run)


def run(context: typer.Context) -> None:
    """Run the daemon: keep all projections up to date until it is told to stop.

    Checks settings, database and schema first, and says all that is wrong with them. Then it starts its workers, and
    survives whatever happens to the database from then on. SIGTERM or Ctrl-C ends it in order: transactions in hand
    are finished, for up to drain_seconds; a second signal ends it at once.

    Several daemons may run on one database, on one machine or on many: they share the projections out.

    Example: DATABASE_URL=postgresql://app@db/shop projectiond run --config config/production.toml

    Exit codes: 0 stopped in order, 1 it could not start or had to kill a worker.
    """
    options: Options = context.obj
    target = find_target(options)
    check_database(target)
    level = "debug" if options.is_debug else target.settings.log_level
    settings = target.settings.model_copy(update={"log_level": level})
    logs.configure_logging(settings.log_format, settings.log_level)
    log.info(logs.DATABASE_CHECKED, database=str(target))
    raise typer.Exit(Supervisor(settings).run())


def check_database(target: Target) -> None:
    """Refuse a database on which the daemon could not do its work.

    Raises:
        ConfigurationError: A sentence for each fault.
    """
    with target.connect("check") as db:
        faults = inspect_schema(db, needs_doorbell=target.settings.wakeup == "notify")
    if faults:
        raise ConfigurationError("\n".join(faults))
