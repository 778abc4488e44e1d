"""The checkpoint: one row of ``projection_checkpoints``, moved by compare-and-set.

Called by the runner.  :func:`advance` is the last statement of every transaction that applies events, so the read
model and the checkpoint are committed together or not at all.  It moves the checkpoint only from where this runner
read it and only while the status is the one that this runner acts on.  From that follow three guarantees:

* a second runner, or one that was thought dead, finds the row moved and rolls back: nothing is applied twice;
* once ``SET status = 'paused'`` has committed, no later transaction of the projection commits (either ours held
  the row's lock and committed first, or it waits, looks at the row again, and finds it paused);
* after a failure of unknown outcome (the connection broke during COMMIT) the row itself says what happened.

When nothing was moved the statement raises, on the server, so nobody needs to look at its result before COMMIT: in a
pipeline both are on their way together, and the whole transaction is one round trip.

It relies on READ COMMITTED, which ``database`` sets, and on nobody else moving ``last_sequence_number`` forward.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal
from uuid import UUID

import psycopg
import psycopg.sql
from psycopg.pq import TransactionStatus

from projectiond import sql
from projectiond.errors import ConfigurationError, ConflictError, TransactionControlError
from projectiond.failure import printable
from projectiond.postgres.database import Connection

Status = Literal["running", "paused", "rebuilding"]

Commit = Callable[[], None]

# A reset empties tables under an exclusive lock.  It rather comes back later than make readers queue behind it.
RESET_LOCK_TIMEOUT: Literal["2s"] = "2s"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A projection's row as it was read.

    While the status is rebuilding, and after a pause in the middle of it: ``rebuild_mode`` says how (``None``: it has
    not begun), and ``target`` where the store ended when it began.  In place ``is_reset`` says that the tables have
    been emptied for it; beside the live tables ``rebuild_position`` and ``rebuild_error`` say how it stands.
    """

    name: str
    position: int
    status: Status
    error_message: str | None
    is_reset: bool
    target: int = 0
    rebuild_mode: Literal["beside", "in place"] | None = None
    rebuild_position: int = 0
    rebuild_error: str | None = None

    @property
    def is_rebuilt_beside(self) -> bool:
        """Whether it is being built anew beside its live tables, or is going to be."""
        return self.status == "rebuilding" and self.rebuild_mode != "in place"

    @property
    def is_rebuilt_in_place(self) -> bool:
        """Whether a rebuild fills the live tables."""
        return self.status == "rebuilding" and self.rebuild_mode == "in place"

    @property
    def is_about_to_be_reset(self) -> bool:
        """Whether the live tables are to be emptied, so that what they hold does not count any more."""
        return self.is_rebuilt_in_place and not self.is_reset


def create(db: Connection, name: str) -> bool:
    """Make the row with position 0 unless there is one, perhaps put there by hand with a start position.

    Returns:
        Whether it was made.
    """
    return db.execute(sql.checkpoint.CREATE_CHECKPOINT, {"name": name}).rowcount == 1


def find(db: Connection, name: str) -> Checkpoint | None:
    """Read the row, if there is one."""
    row = db.execute(sql.checkpoint.READ_CHECKPOINT, {"name": name}).fetchone()
    if row is None:
        return None
    return Checkpoint(name, *row)


def load(db: Connection, name: str) -> Checkpoint:
    """Read the row.

    Raises:
        ConfigurationError: The row was deleted; applying from 0 into tables that are not empty would corrupt them.
    """
    found = find(db, name)
    if found is None:
        raise ConfigurationError(
            f'the checkpoint row of "{name}" was deleted while the projection was running',
            hint=f'insert it again with its position, or run "projectiond rebuild {name}"',
        )
    return found


@contextmanager
def transaction(
    db: Connection, checkpoint: Checkpoint, *, is_pipelined: bool = False, is_durable: bool = True
) -> Iterator[Commit]:
    """Begin the transaction that :func:`advance` ends; it is committed with the block, or rolled back.

    Yields:
        What sends COMMIT already within the block, as its last statement, so that there is something else to do while
        the server is at it.

    Args:
        db: In autocommit mode.
        checkpoint: The row as this runner last read or wrote it.
        is_pipelined: Whether statements are sent without waiting for their results.  What fails, the compare-and-set
            included, is then raised at the end of the block at the latest.
        is_durable: Whether COMMIT waits for the server's disk, as the server is set.  If not, a crash of the server may
            take back the read model's change and the checkpoint's, never one of them: both are in one commit record.

    Raises:
        ConflictError: The row is not as this runner left it; nothing was committed.
        TransactionControlError: A handler has ended the transaction.
    """
    try:
        with _pipelined(db) if is_pipelined else _waited_for(db) as commit:
            db.execute(sql.checkpoint.OPEN_TRANSACTION if is_durable else sql.checkpoint.OPEN_ASYNCHRONOUS_TRANSACTION)
            yield commit
    except psycopg.DatabaseError as error:
        if error.sqlstate == sql.checkpoint.CHECKPOINT_MOVED:
            raise ConflictError(
                f'the checkpoint of "{checkpoint.name}" is no longer {checkpoint.status} at {checkpoint.position}, '
                "from where this runner applied events",
                hint="nothing was committed; the row is read again",
            ) from error
        if error.sqlstate == sql.checkpoint.TRANSACTION_ENDED:
            raise TransactionControlError(
                "a handler ended the transaction inside a statement, so a part of the batch is committed without its "
                "checkpoint",
                hint="take the COMMIT or ROLLBACK out of its SQL, then rebuild the projection",
            ) from error
        if error.sqlstate == sql.checkpoint.WRITTEN_OUTSIDE:
            raise ConfigurationError(
                f'"{checkpoint.name}" cannot be rebuilt beside its tables: it writes {error.diag.message_primary}, '
                "which is not one of those that are built anew",
                hint="name tables without their schema, list all that it writes in `tables`, and leave out what must "
                f'not happen twice while `self.is_rebuilding`; or "projectiond rebuild {checkpoint.name} --in-place"',
            ) from error
        raise


@contextmanager
def _waited_for(db: Connection) -> Iterator[Commit]:
    """Wait for each statement, COMMIT included, which is not sent before the end of the block."""
    with db.transaction():
        yield lambda: None


@contextmanager
def _pipelined(db: Connection) -> Iterator[Commit]:
    """Send a whole transaction without waiting once; psycopg's own way of beginning and ending it waits four times."""
    is_sent = False

    def commit() -> None:
        nonlocal is_sent
        if not is_sent:
            is_sent = True
            # Skipped by the server when anything before it has failed.
            db.execute(sql.checkpoint.COMMIT)
            db.send_off()

    try:
        with db.pipelined():
            db.execute(sql.checkpoint.BEGIN)
            yield commit
            commit()
    except BaseException:
        if db.info.transaction_status in {TransactionStatus.INTRANS, TransactionStatus.INERROR}:
            db.rollback()
        raise


def advance(db: Connection, checkpoint: Checkpoint, to: int, *, last_event_id: UUID | None, applied: int) -> Checkpoint:
    """Move the checkpoint, as the last statement inside :func:`transaction`.

    Args:
        db: Inside the transaction that applied the events.
        checkpoint: The row as this runner last read or wrote it.
        to: The new position: settled, and not below the last event applied.
        last_event_id: The last event applied, or ``None`` when none was.
        applied: How many events were applied.

    Returns:
        The row as it is once the transaction has committed.
    """
    parameters = {
        "name": checkpoint.name,
        "from": checkpoint.position,
        "to": to,
        "status": checkpoint.status,
        "last_event_id": last_event_id,
        "applied": applied,
    }
    # A handler may have set another one for the transaction, and another schema may have checkpoints as well.
    db.execute(sql.session.RESTORE_SEARCH_PATH, {"search_path": db.search_path})
    db.execute(sql.checkpoint.ADVANCE_CHECKPOINT, parameters)
    return replace(checkpoint, position=to, error_message=None)


def reset(db: Connection, checkpoint: Checkpoint, tables: tuple[str, ...], target: int) -> bool:
    """Begin a rebuild in place: empty the tables and set the position to 0, in one transaction.

    Returns:
        Whether it was done; not, when the row has been moved or its status changed meanwhile.

    Raises:
        ConfigurationError: The projection names no tables, so there is nothing that could be emptied.
    """
    name = checkpoint.name
    refuse_rebuild_without_tables(checkpoint, tables)
    with db.transaction():
        db.execute(sql.session.SET_LOCK_TIMEOUT, {"timeout": RESET_LOCK_TIMEOUT})
        if db.execute(sql.checkpoint.RESET_CHECKPOINT, {"name": name, "from": checkpoint.position}).fetchone() is None:
            return False
        # The row's lock and what the rebuild's row says together: of two runners, one resets.
        db.execute(psycopg.sql.SQL("TRUNCATE {} RESTART IDENTITY").format(_identifiers(tables)))
        db.execute(sql.checkpoint.CLEAR_DEAD_LETTERS, {"name": name})
        db.execute(sql.checkpoint.MARK_RESET, {"name": name, "target": target})
    return True


def refuse_rebuild_without_tables(checkpoint: Checkpoint, tables: tuple[str, ...]) -> None:
    """See that there is something that a rebuild could build anew.

    Raises:
        ConfigurationError: There is not.
    """
    if not tables:
        raise ConfigurationError(
            f'"{checkpoint.name}" cannot be rebuilt: it declares no tables, so nothing could be built anew',
            hint=f"set `tables = (...)` in the projection, or set the status of {checkpoint.name} back to running",
        )


def finish_rebuild(db: Connection, checkpoint: Checkpoint) -> bool:
    """Set a rebuild that has reached the head back to running; say whether the row was still as it was read."""
    done = db.execute(sql.checkpoint.FINISH_REBUILD, {"name": checkpoint.name, "from": checkpoint.position})
    return done.rowcount == 1


def pause_for_fault(db: Connection, checkpoint: Checkpoint, error: str) -> bool:
    """Pause the projection with its reason; say whether it was still where it was read and not paused already."""
    parameters = {"name": checkpoint.name, "from": checkpoint.position, "error": printable(error)}
    return db.execute(sql.checkpoint.PAUSE_FOR_FAULT, parameters).rowcount == 1


def note_trouble(db: Connection, name: str, error: str | None) -> None:
    """Write into the row what holds the projection back while it goes on trying, or that nothing does."""
    db.execute(sql.checkpoint.NOTE_TROUBLE, {"name": name, "error": error})


def _identifiers(tables: tuple[str, ...]) -> psycopg.sql.Composed:
    names = (psycopg.sql.Identifier(*table.split(".")) for table in tables)
    return psycopg.sql.SQL(", ").join(names)
