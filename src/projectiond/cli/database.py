"""The commands ``init`` and ``check``: bring a database up to what the daemon needs, and see whether all is well."""

from collections.abc import Sequence

import psycopg
import typer
from psycopg import errors

from projectiond import sql
from projectiond.cli.names import load_plugins
from projectiond.cli.output import tell
from projectiond.cli.target import Target, find_target
from projectiond.database import Connection, connect, fetch_row
from projectiond.definition import Definition
from projectiond.errors import ConfigurationError, DatabaseUnavailableError, ProjectiondError
from projectiond.failure import describe
from projectiond.highwater import read_store_end
from projectiond.inspection import inspect_schema
from projectiond.preparation import apply_schema as apply_projection_schema
from projectiond.preparation import missing_tables
from projectiond.schema import apply_schema


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(init)
    app.command()(check)


def init(context: typer.Context) -> None:
    """Make the database objects, or bring those that are there up to date.

    Applies schema.sql in one transaction: the event store and the checkpoints where they are missing, what older
    tables lack, and the daemon's own triggers and tables. Running it again changes nothing. It refuses, and changes
    nothing, where something cannot be mended. It needs a role that owns the tables or may create them; the daemon
    itself gets by with less.

    Example: DATABASE_URL=postgresql://owner@db/shop projectiond init

    Exit codes: 0 the database is as it should be, 1 it could not be brought there.
    """
    target = find_target(context.obj)
    # An upgrade may build an index over all events; schema.sql sets the time-outs that it needs itself.
    with connect(target.dsn, role="init", statement_timeout_seconds=0) as db:
        changes = apply_schema(db)
    tell(*changes)
    tell(f"{target} is up to date" + ("" if changes else ", there was nothing to do"))


def check(context: typer.Context) -> None:
    """Look at everything the daemon depends on, and name all that is wrong at once.

    Settings, the database and its schema, privileges, plugins (with file and line), each projection's own schema
    (tried in a transaction that is rolled back), and checkpoints that cannot be true. Nothing is changed. What is
    well goes to stdout, what is wrong to stderr.

    Example: projectiond check --config config/production.toml && systemctl restart projectiond

    Exit codes: 0 all is well, 1 faults were found, a line for each.
    """
    target = find_target(context.obj)
    tell("ok: settings")
    registry = load_plugins(target.settings)
    faults = [str(fault) for fault in registry.faults]
    if registry.definitions:
        tell(f"ok: projections {', '.join(definition.name for definition in registry.definitions)}")
    elif not faults:
        faults.append('there are no projections; "projectiond new NAME" writes a first one')
    try:
        with target.connect("check") as db:
            faults += _check_database(db, target, registry.definitions)
    except (ConfigurationError, DatabaseUnavailableError) as error:
        faults.append(str(error))
    if faults:
        raise ConfigurationError("\n".join(faults))
    tell("all is well")


def _check_database(db: Connection, target: Target, definitions: Sequence[Definition]) -> list[str]:
    tell(f"ok: {target}, PostgreSQL {db.info.server_version // 10000}.{db.info.server_version % 10000}")
    faults = inspect_schema(db, needs_doorbell=target.settings.wakeup == "notify")
    if faults:
        return faults  # what stands on it cannot be looked at
    tell("ok: schema and privileges")
    for definition in definitions:
        trouble = _try_schema(db, definition)
        faults += trouble
        if not trouble:
            tell(f"ok: schema of {definition.name}")
    return faults + _check_checkpoints(db, definitions)


def _try_schema(db: Connection, definition: Definition) -> list[str]:
    """Run a projection's DDL and take it back."""
    try:
        with db.transaction(force_rollback=True):
            apply_projection_schema(db, definition)
            missing = missing_tables(db, definition)
    except ProjectiondError as error:
        return [error.message]
    except errors.LockNotAvailable:
        return [f'the schema of "{definition.name}" could not be tried: other transactions keep its tables locked']
    except psycopg.Error as error:
        return [f'the schema of "{definition.name}" ({definition.source}) could not be tried: {describe(error)}']
    if missing:
        names = ", ".join(missing)
        return [f'"{definition.name}" declares tables that do not exist: {names}; create them in {definition.source}']
    return []


def _check_checkpoints(db: Connection, definitions: Sequence[Definition]) -> list[str]:
    end = read_store_end(db)
    deployed = {definition.name for definition in definitions}
    faults = []
    for name, position, status in db.execute(sql.READ_STATUSES):
        if position > end:
            faults.append(
                f'the checkpoint of "{name}" is {position}, beyond the end of the event store at {end}: the store was '
                f'restored from a backup or truncated; run "projectiond rebuild {name}"'
            )
        if name not in deployed:
            tell(f'note: checkpoint "{name}" ({status} at {position}) belongs to no projection that is deployed here')
    (largest,) = fetch_row(db, sql.STORE_HEAD)
    tell(f"ok: the event store ends at {largest}")
    return faults
