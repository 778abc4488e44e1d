"""The tables of a projection change places: the built ones are served, the old ones are kept aside.

The old tables go to a schema of their own, with a copy of the checkpoint that they belong to; see ``retired`` for the
way back.  Everything that can take long (rights, indexes, statistics) is done to the built tables where they are.
Then the live ones are locked, readers and all, and moved.  Whoever reads them just now is in the way, and behind our
wait for him every new reader would queue; so the wait is short, and it fails.  The caller tries again, from the
beginning of its transaction: one that waits for another of its locks would stay in the way for ever.
"""

from collections.abc import Sequence
from typing import Final, LiteralString

from psycopg import errors
from psycopg.sql import SQL, Identifier

from projectiond.postgres.database import Connection, fetch_row
from projectiond.rebuild import space as spaces
from projectiond.rebuild.carry import carry_settings, read_policies
from projectiond.rebuild.catalogue import Table, set_local, show
from projectiond.rebuild.dependents import refuse_swap
from projectiond.rebuild.exchange import Exchange, Thing, move, plan
from projectiond.rebuild.rights import carry_rights, carry_sequences
from projectiond.rebuild.tables import Pair, TableChange, TablesBusyError, lock_tables
from projectiond.rebuild.triggers import make_again

RETIRED_PREFIX: Final = "projectiond_retired_"

# For so long new readers may queue behind us.
READERS_TIMEOUT: Final = "50ms"

# Somebody may be looking at tables that were retired before, and are to go.
PREPARATION_TIMEOUT: Final = "2s"

# The names of what was moved, both ways: what is served now, and what is kept in this schema.
_MAKE: tuple[LiteralString, ...] = (
    "CREATE TABLE {retired}.projection_checkpoints (LIKE projection_checkpoints)",
    "CREATE TABLE {retired}.projection_dead_letters (LIKE projection_dead_letters)",
    "CREATE TABLE {retired}.projection_builds (LIKE projection_builds)",
    "CREATE TABLE {retired}.projectiond_places (catalogue text, name text, home text, is_served boolean)",
)
# Parameters: name.
_COPY: tuple[LiteralString, ...] = (
    """
    INSERT INTO {retired}.projection_checkpoints
    SELECT * FROM projection_checkpoints WHERE projection_name = %(name)s
    """,
    """
    INSERT INTO {retired}.projection_dead_letters
    SELECT * FROM projection_dead_letters WHERE projection_name = %(name)s
    """,
    """
    INSERT INTO {retired}.projection_builds
    SELECT * FROM projection_builds WHERE projection_name = %(name)s
    """,
)
# Parameters: catalogue, name, home, is_served.
_NOTE: LiteralString = """
INSERT INTO {retired}.projectiond_places (catalogue, name, home, is_served)
VALUES (%(catalogue)s, %(name)s, %(home)s, %(is_served)s)
"""


def retired_schema(name: str) -> str:
    """Give the schema that keeps the old tables of a projection."""
    return spaces.space_name(name, RETIRED_PREFIX)


def swap(db: Connection, name: str, pairs: Sequence[Pair]) -> tuple[TableChange, ...]:
    """Let the built tables take the place of the live ones.

    Args:
        db: Inside the caller's transaction, on the base search_path; what goes wrong leaves it as it was.
        name: The projection, whose checkpoint is still that of the live tables.
        pairs: Its tables.  Their space remains, for the caller to drop.

    Returns:
        All rows of the old tables as removed, and all of the new as added.

    Raises:
        TablesBusyError: Somebody reads the live tables; roll back, and try again in a moment.
        ConfigurationError: Something depends on the live tables, or a privilege is missing.
    """
    with db.transaction():
        before = show(db, "lock_timeout")
        set_local(db, "lock_timeout", PREPARATION_TIMEOUT)
        refuse_swap(db, name, pairs)
        exchange = plan(db, pairs)
        changes = tuple(_count(db, pair) for pair in pairs)
        carry_settings(db, pairs)
        carry_rights(db, exchange)
        carry_sequences(db, pairs)
        policies = read_policies(db, exchange)
        schema = retired_schema(name)
        _make(db, name, schema, exchange)
        lock_readers_out(db, [pair.live.identifier for pair in pairs if pair.live is not None])
        try:
            move(db, exchange.live, schema)
            move(db, exchange.built, exchange.home)
            make_again(db, exchange.triggers, exchange.home)
            for policy in policies:
                db.execute(policy.statement)
        except errors.LockNotAvailable as error:
            raise busy(exchange.live) from error
        set_local(db, "lock_timeout", before)
    return changes


def lock_readers_out(db: Connection, tables: Sequence[Identifier]) -> None:
    """Lock tables against everybody; what is done next must not wait for long either.

    Raises:
        TablesBusyError: Somebody uses them.
    """
    if tables:
        lock_tables(db, tables, "ACCESS EXCLUSIVE", READERS_TIMEOUT)
    set_local(db, "lock_timeout", READERS_TIMEOUT)


def busy(things: Sequence[Thing]) -> TablesBusyError:
    """Make the error that says who is in the way of what."""
    return TablesBusyError(
        f"{', '.join(thing.name for thing in things)}: another session has been in the way for {READERS_TIMEOUT}",
        hint="it is tried again; a long transaction that uses them can be found in pg_stat_activity",
    )


def note_places(db: Connection, schema: str, home: str, things: Sequence[Thing], *, is_served: bool) -> None:
    """Write down what is kept in the schema, or what is served instead."""
    for thing in things:
        db.execute(
            SQL(_NOTE).format(retired=Identifier(schema)),
            {"catalogue": thing.catalogue, "name": thing.name, "home": home, "is_served": is_served},
        )


def _make(db: Connection, name: str, schema: str, exchange: Exchange) -> None:
    """Make the schema of the old tables, instead of that of still older ones."""
    if fetch_row(db, "SELECT to_regnamespace(quote_ident(%(schema)s)) IS NOT NULL", {"schema": schema})[0]:
        spaces.drop(db, schema)
    retired = Identifier(schema)
    db.execute(SQL("CREATE SCHEMA IF NOT EXISTS {}").format(retired))
    for statement in _MAKE:
        db.execute(SQL(statement).format(retired=retired))
    for statement in _COPY:
        db.execute(SQL(statement).format(retired=retired), {"name": name})
    note_places(db, schema, exchange.home, exchange.live, is_served=False)
    note_places(db, schema, exchange.home, exchange.built, is_served=True)


def _count(db: Connection, pair: Pair) -> TableChange:
    total, removed = (0 if table is None else _count_rows(db, table) for table in (pair.built, pair.live))
    return TableChange(pair.declared, total, 0, total, removed)


def _count_rows(db: Connection, table: Table) -> int:
    row = db.execute(SQL("SELECT count(*) FROM {}").format(table.relation)).fetchone()
    return 0 if row is None else int(row[0])
