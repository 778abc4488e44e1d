"""What a projection needs before its first event: its own tables, and a checkpoint that belongs to this store.

Called by the runner: :func:`enroll` when it first looks for the row, :func:`prepare` before its first event and after
each pause for a fault.  Both are idempotent.  The author's DDL is run each time in one transaction, under a lock that
keeps two workers from creating the same table at the same moment.

A projection does not begin at 0 on tables that hold rows already: they were filled by something whose position is not
known, and applying every event again would count it twice.  Nor does it go on in new tables that hide the ones it has
filled, as a role would make whose own schema comes first in the search_path, or in place of ones that were dropped:
they would lack all that came before.  Not even while a rebuild is in progress, for that may be called off.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import psycopg
import psycopg.sql

from projectiond import checkpoint as checkpoints
from projectiond import sql
from projectiond.builds.build import read_builds, record_build
from projectiond.checkpoint import Checkpoint
from projectiond.errors import ConfigurationError
from projectiond.failure import describe, is_transient
from projectiond.kinds import make_kind
from projectiond.kinds.kind import AuthorCode
from projectiond.plugins.definition import Definition
from projectiond.postgres.database import Connection, fetch_row
from projectiond.processes.recorder import nowhere
from projectiond.stream.highwater import read_store_end

# DDL waits for readers of the table, and everybody else waits behind the DDL.  Rather try again later.
LOCK_TIMEOUT: Final = "5s"


def enroll(db: Connection, definition: Definition) -> None:
    """Make the checkpoint row, unless there is one; paused, with its reason, when the tables hold rows already."""
    with db.transaction():
        if not checkpoints.create(db, definition.name):
            return
        filled = [table for table in definition.tables if _exists(db, table) and _has_rows(db, table)]
        if filled:
            name = definition.name
            reason = (
                f'"{name}" had no checkpoint, but its table {filled[0]} already holds rows; run "projectiond rebuild '
                f'{name}", or set last_sequence_number to the last event that they contain and the status to running'
            )
            checkpoints.pause_for_fault(db, checkpoints.load(db, name), reason)
            return
        record_build(db, definition, "enrolled")


def prepare(db: Connection, definition: Definition, check: Callable[[Connection], None]) -> None:
    """Apply the projection's schema, and see that its tables are as it needs them.

    Args:
        db: In autocommit mode, or in a transaction that the caller takes back.
        definition: What is to run.
        check: Of its kind.

    Raises:
        ConfigurationError: The schema is refused by PostgreSQL, or makes tables that hide those which hold the read
            model, or take their place; a table is missing, or not as the projection needs it.
    """
    with db.transaction():
        homes, absent = _homes(db, definition), missing_tables(db, definition)
        apply_schema(db, definition)
        _refuse_hidden(db, definition, homes)
        missing = missing_tables(db, definition)
        _refuse_remade(db, definition, [table for table in absent if table not in missing])
        if missing:
            raise ConfigurationError(
                f'"{definition.name}" declares tables that do not exist: {", ".join(missing)}',
                hint=f"create them in `schema` of {definition.source}, or by a migration",
            )
        check(db)


def try_out(db: Connection, definition: Definition) -> None:
    """Do what :func:`prepare` does, and take it back.

    Raises:
        ConfigurationError: As there.
    """
    with db.transaction(force_rollback=True):
        prepare(db, definition, make_kind(definition, AuthorCode(nowhere())).check)


def apply_schema(db: Connection, definition: Definition) -> None:
    """Run the author's DDL inside the caller's transaction.

    Raises:
        ConfigurationError: PostgreSQL refuses it; the message holds its reason.
    """
    if not definition.schema.strip():
        return
    db.execute(sql.session.SET_LOCK_TIMEOUT, {"timeout": LOCK_TIMEOUT})
    db.execute(sql.schema.LOCK_SCHEMA, {"key": sql.keys.SCHEMA_KEY})
    try:
        with db.guarded():
            db.execute(definition.schema.encode())
    except psycopg.Error as error:
        if is_transient(error):
            raise
        raise ConfigurationError(
            f'the schema of "{definition.name}" ({definition.source}) is refused: {describe(error)}',
            hint="mend it, then set the status to running",
        ) from error


def apply_schema_beside(db: Connection, definition: Definition) -> None:
    """Run the author's DDL where the tables are made once more, with their schema first in the search_path.

    What it would drop there is the live object of that name, so it may not.  Such a drop is known by its lock, which is
    held; what was dropped is known once it has been taken back.

    Raises:
        ConfigurationError: As of :func:`apply_schema`; or it drops something.
    """
    gone: Sequence[tuple[str, int]] = ()
    with db.transaction():
        apply_schema(db, definition)
        gone = db.execute(sql.schema.OBJECTS_DROPPED).fetchall()
        if gone:
            raise psycopg.Rollback
    if not gone:
        return
    parameters = {"classes": [catalogue for catalogue, _ in gone], "oids": [oid for _, oid in gone]}
    dropped = [str(row[0]) for row in db.execute(sql.schema.OBJECT_IDENTITIES, parameters)]
    if dropped:
        raise ConfigurationError(
            f'the tables of "{definition.name}" cannot be made a second time: its `schema` drops {", ".join(dropped)}',
            hint=f"in {definition.source} write CREATE ... IF NOT EXISTS or CREATE OR REPLACE, and leave drops to a "
            f'migration; or rebuild it in place with "projectiond rebuild {definition.name} --in-place"',
        )
    # It drops only what it has made itself.
    apply_schema(db, definition)


def refuse_beyond_end(db: Connection, checkpoint: Checkpoint) -> None:
    """See that the store has heard of everything that the checkpoint stands for.

    Raises:
        ConfigurationError: It lies beyond the largest number ever drawn: the store is not the one it was.
    """
    end = read_store_end(db)
    if checkpoint.position > end:
        raise ConfigurationError(
            f'the checkpoint of "{checkpoint.name}" is {checkpoint.position}, beyond the end of the event store at '
            f"{end}: the store was restored from a backup or truncated",
            hint=f'run "projectiond rebuild {checkpoint.name}", or set last_sequence_number to the last event that '
            "its tables hold and last_event_id to NULL, then set the status to running",
        )


def missing_tables(db: Connection, definition: Definition) -> list[str]:
    """Give the tables that the projection declares but that do not exist."""
    return [table for table in definition.tables if not _exists(db, table)]


def _refuse_hidden(db: Connection, definition: Definition, before: Mapping[str, str]) -> None:
    after = _homes(db, definition)
    hidden = [table for table, home in before.items() if after.get(table, home) != home]
    kept = checkpoints.find(db, definition.name) if hidden else None
    if kept is None or not kept.position:
        return
    table, role = hidden[0], psycopg.sql.Identifier(db.info.user).as_string(db)
    old, new = before[table], after[table]
    raise ConfigurationError(
        f'"{definition.name}" has filled {old}.{table}, and its `schema` would make an empty table of that name in '
        f"{new}, which comes first in the search_path of {role}: run ALTER TABLE {old}.{table} OWNER TO {role}, then "
        f"ALTER TABLE {old}.{table} SET SCHEMA {new}",
        hint="then set the status to running",
    )


def _refuse_remade(db: Connection, definition: Definition, remade: Sequence[str]) -> None:
    kept = checkpoints.find(db, definition.name) if remade else None
    if kept is None or not kept.position or kept.is_rebuilt_in_place or not _has_applied(db, definition.name):
        # At 0, where somebody may have set it who has dropped them, it begins anew.
        return
    build = read_builds(db).get(definition.name)
    if build is None or not build.difference_to(definition).is_schema_same:
        # A new version may have more tables; that it is another is said already.
        return
    if build.built_by in {"adopted", "accepted"} and len(remade) < len(definition.tables):
        # The tables of an older version, which may have had fewer.
        return
    hint = f'run "projectiond rebuild {definition.name}"; or put back what was there, then set the status to running'
    raise ConfigurationError(
        f'the read model of "{definition.name}" is gone: its `schema` would make {", ".join(remade)} anew and empty, '
        f"although events up to {kept.position} have been applied",
        hint="the rebuild that is in progress brings it back" if kept.is_rebuilt_beside else hint,
    )


def _has_applied(db: Connection, name: str) -> bool:
    """Say whether a projection has applied events itself, and does not just begin at a position set by hand."""
    return bool(fetch_row(db, sql.checkpoint.HAS_APPLIED, {"name": name})[0])


def _homes(db: Connection, definition: Definition) -> dict[str, str]:
    """Give the schema in which each table is found; those whose schema is named cannot be elsewhere."""
    tables = [psycopg.sql.Identifier(table).as_string(db) for table in definition.tables if "." not in table]
    return dict(db.execute(sql.schema.HOMES_OF_TABLES, {"tables": tables}).fetchall())


def _has_rows(db: Connection, table: str) -> bool:
    name = psycopg.sql.Identifier(*table.split("."))
    row = db.execute(psycopg.sql.SQL("SELECT EXISTS (SELECT FROM {})").format(name)).fetchone()
    return row is not None and bool(row[0])


def _exists(db: Connection, table: str) -> bool:
    name = psycopg.sql.Identifier(*table.split(".")).as_string(db)
    return bool(fetch_row(db, sql.schema.TABLE_EXISTS, {"table": name})[0])
