"""The tables that a swap has taken out of service: the way back to them, and their end.

They are kept in a schema of their own, with copies of the checkpoint and dead letters that belong to them, and of what
they were built by.  Going back is the same swap once more: what is served now is kept instead, with its checkpoint, so
that going back twice is going forward again.  The daemon then applies to the old tables what has happened since.

The names of both sides were written down by the swap, for whatever else is in the schemas by now is none of ours.
"""

from dataclasses import dataclass
from typing import Final, LiteralString

from psycopg import errors
from psycopg.sql import SQL, Identifier

from projectiond import sql
from projectiond.errors import ConfigurationError
from projectiond.postgres.database import Connection, fetch_row
from projectiond.rebuild import space as spaces
from projectiond.rebuild.catalogue import set_local, show
from projectiond.rebuild.dependents import find_dependents, refuse_dependents, refuse_without_rights
from projectiond.rebuild.exchange import Exchange, Thing, find_things, move
from projectiond.rebuild.rights import carry_rights
from projectiond.rebuild.swap import PREPARATION_TIMEOUT, busy, lock_readers_out, retired_schema
from projectiond.rebuild.tables import WRITERS_TIMEOUT, lock_tables

# Where things are for the moment in which both sides are on their way.
MOVING_PREFIX: Final = "projectiond_moving_"

# Parameters: schema.  Rows: one (whether it keeps tables of ours).
_IS_RETIRED: LiteralString = """
SELECT EXISTS (
    SELECT
    FROM pg_class
    JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = %(schema)s
        AND relname = 'projectiond_places'
)
"""

# Parameters: name.  Rows: one (position of what is served, its status, position of what is kept), or none.
_POSITIONS: LiteralString = """
SELECT live.last_sequence_number, live.status, kept.last_sequence_number
FROM projection_checkpoints AS live
JOIN {retired}.projection_checkpoints AS kept USING (projection_name)
WHERE live.projection_name = %(name)s
FOR UPDATE OF live
"""

# Parameters: name.  Both see the rows as they were before the statement.
_EXCHANGE_CHECKPOINTS: LiteralString = """
WITH served AS (
    UPDATE projection_checkpoints AS live
    SET last_sequence_number = kept.last_sequence_number,
        last_event_id = kept.last_event_id,
        last_processed_at = now(),
        events_processed = kept.events_processed,
        status = 'running',
        error_message = NULL
    FROM {retired}.projection_checkpoints AS kept
    WHERE live.projection_name = %(name)s
        AND kept.projection_name = live.projection_name
)
UPDATE {retired}.projection_checkpoints AS kept
SET last_sequence_number = live.last_sequence_number,
    last_event_id = live.last_event_id,
    events_processed = live.events_processed
FROM projection_checkpoints AS live
WHERE live.projection_name = %(name)s
    AND kept.projection_name = live.projection_name
"""

# Parameters: name.  Whoever went back has the last word: a daemon with the code that built the other tables does not
# rebuild, or pause, upon that difference by itself.
_NOTE_MET: LiteralString = """
UPDATE projection_builds AS served
SET met_digest = kept.digest
FROM {retired}.projection_builds AS kept
WHERE served.projection_name = %(name)s
    AND kept.projection_name = served.projection_name
    AND kept.digest <> served.digest
"""

# What else belongs to the tables: events that could not be applied to them, and what they were built by.
_BELONGINGS: Final = ("projection_dead_letters", "projection_builds")
_EXCHANGE_BELONGINGS: tuple[LiteralString, ...] = (
    # An upgrade may have added columns since.
    "CREATE TABLE {retired}.projectiond_moving (LIKE {table} INCLUDING DEFAULTS)",
    "INSERT INTO {retired}.projectiond_moving SELECT * FROM {retired}.{table}",
    "DROP TABLE {retired}.{table}",
    "CREATE TABLE {retired}.{table} (LIKE {table})",
    "INSERT INTO {retired}.{table} SELECT * FROM {table} WHERE projection_name = {name}",
    "DELETE FROM {table} WHERE projection_name = {name}",
    "INSERT INTO {table} SELECT * FROM {retired}.projectiond_moving",
    "DROP TABLE {retired}.projectiond_moving",
)


@dataclass(frozen=True, slots=True)
class GoneBack:
    """From where to where a projection has gone."""

    left: int
    """The position of the tables that are kept now."""
    position: int
    """That of the tables that are served now."""
    tables: tuple[str, ...]


def roll_back(db: Connection, name: str) -> GoneBack:
    """Serve the tables again that the last swap has retired.

    Args:
        db: Inside the caller's transaction; what goes wrong leaves it as it was.
        name: The projection.

    Raises:
        TablesBusyError: The tables are in use; roll back, and try again in a moment.
        ConfigurationError: There is nothing to go back to, or something is in the way.
    """
    with db.transaction():
        before = show(db, "lock_timeout")
        set_local(db, "lock_timeout", PREPARATION_TIMEOUT)
        exchange = _read(db, name)
        refuse_without_rights(db, exchange)
        refuse_dependents(name, find_dependents(db, exchange))
        tables = [thing for thing in exchange.live if thing.is_table]
        names = [Identifier(exchange.home, thing.name) for thing in tables]
        # As in a finish: the tables before the row.
        lock_tables(db, names, "SHARE ROW EXCLUSIVE", WRITERS_TIMEOUT)
        left, position = _lock_row(db, name, exchange.space)
        carry_rights(db, exchange)
        lock_readers_out(db, names)
        try:
            _exchange(db, name, exchange)
        except errors.LockNotAvailable as error:
            raise busy(tables) from error
        set_local(db, "lock_timeout", before)
        # Its runner sleeps at the head, and has a long way to go now.
        db.execute("SELECT pg_notify(%s, %s)", [sql.keys.STATUS_CHANNEL, name])
    return GoneBack(left, position, tuple(thing.name for thing in exchange.built if thing.is_table))


def forget(db: Connection, name: str) -> bool:
    """Drop the tables that were retired; say whether there were any.

    Raises:
        ConfigurationError: Something else depends on them.
    """
    schema = retired_schema(name)
    if not fetch_row(db, _IS_RETIRED, {"schema": schema})[0]:
        return False
    spaces.drop(db, schema)
    return True


def _read(db: Connection, name: str) -> Exchange:
    schema = retired_schema(name)
    if not fetch_row(db, _IS_RETIRED, {"schema": schema})[0]:
        raise ConfigurationError(
            f'"{name}" has no retired tables to go back to',
            hint="they are kept when a rebuild lets tables change places, until --forget; a merge keeps none",
        )
    places = db.execute(
        SQL("SELECT catalogue, name, home, is_served FROM {}.projectiond_places").format(Identifier(schema))
    ).fetchall()
    home = str(places[0][2])
    served = {(catalogue, thing) for catalogue, thing, _, is_served in places if is_served}
    kept = {(catalogue, thing) for catalogue, thing, _, is_served in places if not is_served}
    return Exchange(schema, home, _find(db, schema, kept, home), _find(db, home, served, schema))


def _find(db: Connection, schema: str, wanted: set[tuple[str, str]], beside: str) -> tuple[Thing, ...]:
    found = tuple(thing for thing in find_things(db, schema, beside=beside) if (thing.catalogue, thing.name) in wanted)
    missing = wanted - {(thing.catalogue, thing.name) for thing in found}
    if missing:
        raise ConfigurationError(
            f"{', '.join(sorted(name for _, name in missing))} cannot be found in {schema} any more",
            hint="without it there is no way back: drop the retired tables with --forget, and rebuild",
        )
    return found


def _lock_row(db: Connection, name: str, schema: str) -> tuple[int, int]:
    row = db.execute(SQL(_POSITIONS).format(retired=Identifier(schema)), {"name": name}).fetchone()
    if row is None:
        raise ConfigurationError(
            f'"{name}" has no checkpoint, or none was kept with its retired tables',
            hint=f'run "projectiond rebuild {name}"',
        )
    left, status, position = row
    if status == "rebuilding":
        raise ConfigurationError(
            f'"{name}" is being rebuilt',
            hint=f'wait until it is done, or call it off with "projectiond rebuild {name} --cancel"',
        )
    return left, position


def _exchange(db: Connection, name: str, exchange: Exchange) -> None:
    schema, moving = Identifier(exchange.space), spaces.space_name(name, MOVING_PREFIX)
    db.execute(SQL("CREATE SCHEMA {}").format(Identifier(moving)))
    move(db, exchange.live, moving)
    move(db, exchange.built, exchange.home)
    move(db, exchange.live, exchange.space)
    db.execute(SQL("DROP SCHEMA {}").format(Identifier(moving)))
    db.execute(SQL("UPDATE {}.projectiond_places SET is_served = NOT is_served").format(schema))
    for table in map(Identifier, _BELONGINGS):
        for statement in _EXCHANGE_BELONGINGS:
            db.execute(SQL(statement).format(retired=schema, table=table, name=name))
    db.execute(SQL(_EXCHANGE_CHECKPOINTS).format(retired=schema), {"name": name})
    db.execute(SQL(_NOTE_MET).format(retired=schema), {"name": name})
