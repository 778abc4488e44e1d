"""The tables of a projection, twice: the live ones, and those that a replay built in a space.

Called by whatever ends a rebuild.  A :class:`Pair` is one declared table; the live one is found by the
search path, the built one by its name in the space.

:func:`hold_writers` comes first of all, before the lock on the projection's checkpoint row.  A live runner under load
is at any moment inside a batch, with its locks on the tables, and takes the row last.  Who takes the row first
and then wants the tables waits for a transaction that waits for the row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, LiteralString, TypeVar

from psycopg import errors, sql

from projectiond.errors import ConfigurationError, DatabaseUnavailableError
from projectiond.postgres.database import Connection
from projectiond.rebuild.catalogue import Table, read_table, set_local, show

# Only writers of these tables queue behind us meanwhile: the live runner.  Longer than deadlock_timeout (1 s), after
# which an autovacuum that is in the way is cancelled by the server.
WRITERS_TIMEOUT: Final = "3s"

# Not of the projection: the tables of bookkeeping in a space, and whatever else the daemon puts there.
BOOKKEEPING: Final = ("projection_checkpoints", "projection_rebuilds", "projection_dead_letters")
OWN_PREFIX: Final = "projectiond_"

Result = TypeVar("Result")


class TablesBusyError(DatabaseUnavailableError):
    """Other sessions use the tables: let go of everything, and try again in a moment."""


@dataclass(frozen=True, slots=True)
class TableChange:
    """What has become, or would become, of one live table."""

    table: str
    total: int
    """Rows afterwards."""

    changed: int
    added: int
    removed: int

    kept: int = 0
    """Rows that a trigger of the live table keeps other than the replay has them."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One table of a projection: as it is declared, as it is served, as the replay built it."""

    declared: str
    live: Table | None
    built: Table


# Parameters: table (text, quoted where need be).  Rows: one (schema), or none when the search path finds no such thing.
_HOME: LiteralString = """
SELECT namespace.nspname::text
FROM pg_class AS class
JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
WHERE class.oid = to_regclass(%(table)s)
"""


def pair_tables(db: Connection, declared: Sequence[str], space: str) -> tuple[Pair, ...]:
    """Find each declared table twice: by the search path, and in the space.

    Args:
        db: On the search path of the live tables.
        declared: As the projection names them.
        space: The schema of the built ones.

    Raises:
        ConfigurationError: A table is not in the space, or one of the two is no table.
    """
    # What is read is read under settings of the transaction.
    with db.transaction():
        return tuple(_pair(db, name, space) for name in declared)


def _pair(db: Connection, name: str, space: str) -> Pair:
    relation = name.rpartition(".")[2]
    home = _find_schema(db, name)
    built = read_table(db, space, relation, beside=home)
    if built is None:
        raise ConfigurationError(
            f'"{name}" is declared in `tables`, but the projection\'s `schema` did not make it in {space}',
            hint="let `schema` create it, by its plain name without a schema's",
        )
    live = None if home is None else read_table(db, home, relation)
    if live is None and home is not None:
        raise ConfigurationError(
            f"{home}.{relation} is not a table, so the rebuilt one cannot take its place",
            hint="drop it, or rebuild with --in-place",
        )
    return Pair(name, live, built)


def hold_writers(db: Connection, pairs: Sequence[Pair]) -> None:
    """Keep everybody else from writing the live tables until the transaction ends; readers do not notice.

    Raises:
        TablesBusyError: Somebody has been writing them for long.
    """
    lives = [pair.live.identifier for pair in pairs if pair.live is not None]
    if lives:
        lock_tables(db, lives, "SHARE ROW EXCLUSIVE", WRITERS_TIMEOUT)


def lock_tables(db: Connection, tables: Sequence[sql.Identifier], mode: LiteralString, timeout: str) -> None:
    """Lock tables in a savepoint, in the order of their names.

    Raises:
        TablesBusyError: Not to be had within the time; the transaction is as it was.
    """
    names = sql.SQL(", ").join(sorted(tables, key=repr))
    before = show(db, "lock_timeout")
    try:
        with db.transaction():
            set_local(db, "lock_timeout", timeout)
            db.execute(sql.SQL("LOCK TABLE {} IN {} MODE").format(names, sql.SQL(mode)))
            set_local(db, "lock_timeout", before)
    except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
        raise TablesBusyError(
            f"{names.as_string(db)}: another session has been in the way for {timeout}",
            hint="it is tried again; a long transaction that uses them can be found in pg_stat_activity",
        ) from error


def with_settings(db: Connection, settings: dict[str, str], action: Callable[[], Result]) -> Result:
    """Do something under other settings, which only an error, that ends the transaction, leaves behind."""
    before = {name: show(db, name) for name in settings}
    for name, value in settings.items():
        set_local(db, name, value)
    result = action()
    for name, value in before.items():
        set_local(db, name, value)
    return result


def _find_schema(db: Connection, declared: str) -> str | None:
    quoted = sql.Identifier(*declared.split(".")).as_string(db)
    row = db.execute(_HOME, {"table": quoted}).fetchone()
    return None if row is None else str(row[0])
