"""The commands ``init`` and ``check``: bring a database up to what the daemon needs, and see whether all is well."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import psycopg
import typer
from psycopg import errors

from projectiond import sql
from projectiond.builds.change import read_changes
from projectiond.cli.names import load_plugins
from projectiond.cli.output import tell
from projectiond.cli.target import Options, Target, find_target
from projectiond.errors import ConfigurationError, DatabaseUnavailableError, ProjectiondError
from projectiond.failure import describe, printable
from projectiond.plugins.definition import Definition
from projectiond.postgres.database import Connection, connect, fetch_row
from projectiond.postgres.inspection import inspect_schema
from projectiond.postgres.schema import apply_schema
from projectiond.rebuild.space import space_name
from projectiond.rebuild.statements import DESCRIBE_SCHEMA, MAY_CREATE_SCHEMA
from projectiond.running.preparation import try_out
from projectiond.stream.highwater import read_store_end
from projectiond.worker import RESERVED_CONNECTIONS


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
    target.refuse_pooler()
    # An upgrade may build an index over all events; schema.sql sets the time-outs that it needs itself.
    with connect(target.dsn, role="init", statement_timeout_seconds=0) as db:
        try:
            changes = apply_schema(db)
        except errors.InsufficientPrivilege as error:
            raise ConfigurationError(_sentence_of_privilege(db, error)) from error
    tell(*changes)
    tell(f"{target} is up to date" + ("" if changes else ", there was nothing to do"))


@dataclass(slots=True)
class _Findings:
    """What a check has found so far; what is well is told at once, unless machines want all of it at the end."""

    is_told: bool
    well: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def note_well(self, what: str) -> None:
        """Note what is as it should be."""
        self.well.append(what)
        if self.is_told:
            tell(f"ok: {what}")

    def note(self, sentence: str) -> None:
        """Note what is no fault, and yet may not be meant."""
        self.notes.append(sentence)
        if self.is_told:
            tell(f"note: {sentence}")


def check(
    context: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: one JSON object, faults included.")] = False,
) -> None:
    """Look at everything the daemon depends on, and name all that is wrong at once.

    Settings, the database and its schema, privileges, plugins (with file and line), each projection's own schema, the
    columns of a RowProjection and the statements of a SqlProjection (tried in a transaction that is rolled back), and
    checkpoints that cannot be true. Nothing is changed. What is well goes to stdout, what is wrong to stderr; with
    --json it is one object on stdout.

    Example: projectiond check --config config/production.toml && systemctl restart projectiond

    Exit codes: 0 all is well, 1 faults were found, a line for each.
    """
    findings = _Findings(is_told=not as_json)
    try:
        _check(context.obj, findings)
    except (ConfigurationError, DatabaseUnavailableError) as error:
        findings.faults += str(error).splitlines()
    if as_json:
        tell(json.dumps({"ok": findings.well, "notes": findings.notes, "faults": findings.faults}, indent=2))
        raise typer.Exit(1 if findings.faults else 0)
    if findings.faults:
        raise ConfigurationError("\n".join(findings.faults))
    tell("all is well")


def _check(options: Options, findings: _Findings) -> None:
    target = find_target(options)
    findings.note_well("settings")
    registry = load_plugins(target.settings)
    findings.faults += [str(fault) for fault in registry.faults]
    if registry.definitions:
        findings.note_well(f"projections {', '.join(definition.name for definition in registry.definitions)}")
    elif not findings.faults:
        findings.faults.append('there are no projections; "projectiond new NAME" writes a first one')
    with target.connect("check") as db:
        _check_database(db, target, registry.definitions, findings)


def _check_database(db: Connection, target: Target, definitions: Sequence[Definition], findings: _Findings) -> None:
    findings.note_well(f"{target}, PostgreSQL {db.info.server_version // 10000}.{db.info.server_version % 10000}")
    faults = inspect_schema(db, needs_doorbell=target.settings.wakeup == "notify")
    if faults:
        findings.faults += faults
        return  # what stands on it cannot be looked at
    findings.note_well("schema and privileges")
    for definition in definitions:
        trouble = _try_out(db, definition)
        findings.faults += trouble
        if not trouble:
            findings.note_well(f"schema of {definition.name}")
    _check_checkpoints(db, findings)
    for note in _notes(db, target, definitions):
        findings.note(note)


def _try_out(db: Connection, definition: Definition) -> list[str]:
    """Run a projection's DDL, let its kind look at the tables and statements, and take everything back."""
    try:
        try_out(db, definition)
    except ProjectiondError as error:
        if isinstance(error.__cause__, errors.InsufficientPrivilege):
            sentence = _sentence_of_privilege(db, error.__cause__)
            return [f'the schema of "{definition.name}" ({definition.source}) is refused: {sentence}']
        # A hint that speaks of the status says how a projection that has stopped goes on; here none has.
        said = error.message if "status" in error.hint else str(error)
        return [said if definition.source in said else f"{definition.source}: {said}"]
    except errors.LockNotAvailable:
        return [f'the schema of "{definition.name}" could not be tried: other transactions keep its tables locked']
    except psycopg.Error as error:
        return [f'the schema of "{definition.name}" ({definition.source}) could not be tried: {describe(error)}']
    return []


def _check_checkpoints(db: Connection, findings: _Findings) -> None:
    end = read_store_end(db)
    for name, position, _ in db.execute(sql.checkpoint.READ_STATUSES):
        if position > end:
            findings.faults.append(
                f'the checkpoint of "{name}" is {position}, beyond the end of the event store at {end}: the store was '
                f'restored from a backup or truncated; run "projectiond rebuild {name}"'
            )
    (largest,) = fetch_row(db, sql.highwater.STORE_HEAD)
    findings.note_well(f"the event store ends at {largest}")


def _sentence_of_privilege(db: Connection, error: psycopg.Error) -> str:
    """Say what is not allowed, and the GRANT that PostgreSQL 15 and later want from everybody but the owner."""
    said = printable(error.diag.message_primary or str(error))
    schema, role, may_create = fetch_row(db, sql.schema.MAY_CREATE)
    if may_create or schema is None:
        return f"{said}; use a role that owns what is to be changed"
    return f"{said}; run GRANT CREATE ON SCHEMA {schema} TO {role}"


def _notes(db: Connection, target: Target, definitions: Sequence[Definition]) -> Iterator[str]:
    """Say what is no fault, and yet may not be meant."""
    deployed = {definition.name for definition in definitions}
    rows = [f"{name} ({status} at {position})" for name, position, status in db.execute(sql.checkpoint.READ_STATUSES)]
    orphans = sorted(row for row in rows if row.rpartition(" (")[0] not in deployed)
    if orphans:
        yield (
            f"no projection that is deployed here has the checkpoint{'s' if len(orphans) > 1 else ''} "
            f"{printable(', '.join(orphans))}; delete a row from projection_checkpoints if its projection is gone for "
            "good"
        )
    for definition in definitions:
        types = {"event_types": list(definition.event_types or ())}
        unknown = ", ".join(f'"{name}"' for (name,) in db.execute(sql.schema.UNKNOWN_EVENT_TYPES, types))
        if unknown:
            yield f"{definition.name} handles {unknown}, of which the store holds no event yet; is it spelt so?"
    yield from read_changes(db, definitions)
    yield from _note_on_rebuilds(db, definitions)
    for_handlers = target.settings.pool_size - RESERVED_CONNECTIONS
    if len(definitions) > for_handlers * target.settings.workers:
        yield (
            f"{len(definitions)} projections share {for_handlers} connections of a worker (pool_size "
            f"{target.settings.pool_size}, less {RESERVED_CONNECTIONS}), so slow handlers delay other projections; "
            "raise pool_size or workers"
        )


def _note_on_rebuilds(db: Connection, definitions: Sequence[Definition]) -> Iterator[str]:
    """Say which projections could not be rebuilt beside their tables, for want of a schema to do it in."""
    may_create, database, role = fetch_row(db, MAY_CREATE_SCHEMA)
    if may_create:
        return
    without = []
    for definition in definitions:
        found = db.execute(DESCRIBE_SCHEMA, {"schema": space_name(definition.name)}).fetchone()
        if definition.tables and (found is None or not found[0]):
            without.append(definition.name)
    if without:
        yield (
            f"role {role} may not make the schemas in which {', '.join(without)} would be rebuilt beside the live "
            f"tables; run GRANT CREATE ON DATABASE {database} TO {role}, or rebuild in place"
        )
