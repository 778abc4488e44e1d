"""What every kind of projection is for the applier, and how the author's code is called.

A kind gets a batch inside a transaction and changes the read model; beginning, committing, the checkpoint, failures
and retries are not its business.  The applier calls, for each batch::

    kind.load(db, batch)     ask what must be known first; results may be waited for
    …                        (the next batch is asked for here, so that the server reads it meanwhile)
    kind.apply(db, batch)    call the author's code, send the changes; nothing need be waited for

A batch may be applied again, as a whole or in smaller ones, after its transaction was rolled back: so a kind keeps
nothing from one batch to the next.
"""

from typing import Any, Protocol

import psycopg

from projectiond.errors import PoisonError, TransactionControlError
from projectiond.postgres.database import Connection
from projectiond.processes.recorder import Slot
from projectiond.stream.reader import Batch


class Kind(Protocol):
    """How one projection's events become changes."""

    @property
    def is_pipelined(self) -> bool:
        """Whether its statements may be sent without waiting for each."""

    @property
    def at_work(self) -> str:
        """What was called or executed last, for messages: "OrderSummary.placed"."""

    def check(self, db: Connection) -> None:
        """See that the database is as the projection needs it; the projection's schema has been applied.

        Raises:
            ConfigurationError: It is not; the message says what to do.
        """

    def load(self, db: Connection, batch: Batch) -> None:
        """Ask the database what :meth:`apply` has to know."""

    def apply(self, db: Connection, batch: Batch) -> None:
        """Change the read model."""


class AuthorCode:
    """Calls the author's code; remembers what is at work, and notes the event in hand in the flight recorder."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self.name = ""

    def take(self, name: str, sequence_number: int) -> None:
        """Say what is to be called next, and with which event in hand."""
        self.name = name
        self._slot.take(sequence_number)

    def call(self, function: Any, *arguments: Any) -> Any:  # noqa: ANN401 - any callable
        """Call it.

        Raises:
            Exception: Whatever the author's code raises; what would end the thread without a word is a PoisonError.
        """
        try:
            return function(*arguments)
        except psycopg.Rollback as error:
            raise TransactionControlError(
                f"{self.name} raised Rollback, but the transaction is the daemon's",
                hint="raise it inside a `with db.transaction()` of the handler's own, or raise an error",
            ) from error
        except Exception:
            raise
        except BaseException as error:
            # SystemExit in a thread would end the runner without a word.
            raise PoisonError(f"{self.name} raised {type(error).__name__}") from error

    def put_down(self) -> None:
        """Say that no event is in hand."""
        self._slot.put_down()
