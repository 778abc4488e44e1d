"""Redelivery: the event of a dead letter is tried once more, long after its turn.

Called by the runner between two of its transactions, when somebody has asked for it (``dead_letters``).  Why it is
right, and how far:

* **It is out of order**, which nothing can mend: later events were applied already, and the handler meets a read model
  that knows of them.  That suits a handler that inserts or adds up, not one that sets what a later event has set
  since.  Only a person can tell, so nothing is ever tried again by itself; a rebuild applies everything in order.
* **At most once.**  The read model's change, the compare-and-set of the checkpoint (from its position to the same one)
  and the letter's removal are one transaction.  A pause that has committed, a rebuild that has ended, another runner,
  somebody who discards the letter: each takes away what this transaction needs, and then nothing of it is committed.
* **Nobody waits for the handler.**  The projection's row is locked by the compare-and-set, after the handler; the
  letter after the row, which is the order of a rebuild's end too, so they cannot block each other for ever.
* **One attempt for one request.**  That it has begun is committed before the handler is called.  So a handler that ends
  or hangs the process is not called again by the next worker, and one that always fails does not hold back what is new:
  between two letters there is a pass for new events.  Each request is answered: the letter goes, or has a new error, or
  says that it was begun and never ended.
* Only what lies at or below the position.  An event above it is applied when its turn comes, which would be twice.
"""

import threading
from typing import Any

from projectiond import logs, sql
from projectiond.checkpoint import Checkpoint
from projectiond.errors import ConflictError, PoisonError
from projectiond.failure import describe
from projectiond.postgres.database import Connection
from projectiond.running.applier import Applier

log = logs.get_logger()


class Redelivery:
    """Tries dead letters of one projection again."""

    def __init__(self, applier: Applier) -> None:
        self._applier = applier
        # Set by another thread; cleared here before the letters are read, so that a request is never overlooked.
        self._is_asked = threading.Event()

    @property
    def is_asked(self) -> bool:
        """Whether there may be something to try."""
        return self._is_asked.is_set()

    def ask(self) -> None:
        """Say that there may be something to try.  From any thread."""
        self._is_asked.set()

    def deliver_next(self, db: Connection, checkpoint: Checkpoint) -> Checkpoint | None:
        """Try the first letter that is to be tried again; give the row as it is then, ``None`` when there was none.

        Raises:
            ConflictError: The row is not as this runner left it; the letter is tried when it has been read again.
        """
        self._is_asked.clear()
        found = db.execute(sql.dead_letters.BEGIN_RETRY, {"name": checkpoint.name}).fetchone()
        if found is None:
            return None
        self._is_asked.set()
        number, begun_at = found
        attempt = {"name": checkpoint.name, "sequence_number": number, "begun_at": begun_at}
        try:
            return self._deliver(db, checkpoint, attempt)
        except ConflictError:
            db.execute(sql.dead_letters.PUT_OFF_RETRY, attempt)
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this letter's, unless the database is away
            # If that is what it is, this raises too; the letter then says that it was begun and has not ended.
            self._fail(db, attempt, error)
            return checkpoint

    def _deliver(self, db: Connection, checkpoint: Checkpoint, attempt: dict[str, Any]) -> Checkpoint:
        number = attempt["sequence_number"]
        if number > checkpoint.position:
            raise PoisonError(
                f"event {number} lies above the position {checkpoint.position}: its turn is still to come"
            )

        def conclude() -> None:
            if db.execute(sql.dead_letters.END_RETRY, attempt).rowcount == 0:
                raise PoisonError(f"the letter of event {number} was discarded, or asked for again, meanwhile")

        after = self._applier.apply_alone(db, checkpoint, number, conclude)
        log.info(logs.LETTER_APPLIED, projection=checkpoint.name, sequence_number=number)
        return after

    def _fail(self, db: Connection, attempt: dict[str, Any], error: Exception) -> None:
        handler, text = self._applier.at_work, describe(error)
        db.execute(sql.dead_letters.FAIL_RETRY, {**attempt, "handler": handler, "error": text})
        log.warning(
            logs.LETTER_FAILED,
            projection=attempt["name"],
            sequence_number=attempt["sequence_number"],
            handler=handler,
            error=text,
        )
