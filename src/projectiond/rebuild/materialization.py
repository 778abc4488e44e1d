"""Materialization: a read model as it was, in a schema of the user's choosing.

The projection's events up to a number are replayed in a space that bears the user's name, and its bookkeeping is taken
away at the end: what is left are the projection's tables, which belong to the user.  The live tables, the checkpoint
and the daemon do not notice.

A time becomes a number like this: the last one before the first event that was made after that time.  ``created_at`` is
when the writing transaction began, so later numbers may be a little older; they are left out as well, for a
read model is always that of a prefix of the history.

Called by the command ``materialize``.
"""

import time
from datetime import datetime
from typing import Final

from psycopg.sql import SQL, Identifier

from projectiond import sql
from projectiond.errors import ConfigurationError, WaitTimeoutError
from projectiond.postgres.database import Connection, fetch_row
from projectiond.rebuild import space as spaces
from projectiond.rebuild import statements
from projectiond.rebuild.aside import Aside
from projectiond.rebuild.tables import OWN_PREFIX
from projectiond.stream.highwater import HighWaterMark, describe_holders, read_store_end

# While a transaction that is still open may add events to what is asked for.
HELD_SECONDS: Final = 30.0
LOOK_SECONDS: Final = 0.05


def position_at(db: Connection, moment: datetime) -> int:
    """Give the sequence number up to which the history had been written at a time; 0 before the first event."""
    (first_after,) = fetch_row(db, statements.FIRST_AFTER, {"moment": moment})
    return int(fetch_row(db, sql.highwater.STORE_HEAD)[0]) if first_after is None else int(first_after) - 1


def _refuse_name(schema: str) -> None:
    """See that the schema's name is one for a user.

    Raises:
        ConfigurationError: It is the daemon's own, PostgreSQL's, or too long.
    """
    if schema.startswith((OWN_PREFIX, "pg_")):
        whose = "PostgreSQL" if schema.startswith("pg_") else "projectiond"
        raise ConfigurationError(f'the schema cannot be "{schema}": such names belong to {whose}', hint="name another")
    if not 0 < len(schema.encode()) <= spaces.LONGEST_IDENTIFIER:
        raise ConfigurationError(
            f'the schema cannot be "{schema}": a name has 1 to {spaces.LONGEST_IDENTIFIER} bytes', hint="name another"
        )


class Materialization(Aside):
    """Makes one read model as it was."""

    def run(self, schema: str, upto: int) -> None:
        """Make the tables in a schema that does not exist yet, or is empty.

        Raises:
            ConfigurationError: The schema is in use, or cannot be made; or the store does not go so far.
            ReplayStoppedError: An event cannot be applied.
            WaitTimeoutError: A transaction that is still open may yet add events to what is asked for.
        """
        _refuse_name(schema)
        with self._connect("materialize") as db:
            end = read_store_end(db)
            if upto > end:
                raise ConfigurationError(f"the event store ends at {end}, before {upto}", hint="ask for less")
            # Of numbers that are drawn and not yet to be seen nobody can say that they were there.
            upto = min(upto, int(fetch_row(db, sql.highwater.STORE_HEAD)[0]))
            busy = ConfigurationError(f'another session is at work in the schema "{schema}"', hint="name another")
            with self._alone_in(db, schema, busy):
                self._await(db, upto)
                spaces.make(db, self._definition, schema)
                try:
                    self._replay(schema, upto)
                    self._hand_over(db, schema)
                except BaseException:
                    if not db.closed:
                        spaces.drop(db, schema)
                    raise

    def _await(self, db: Connection, upto: int) -> None:
        """Wait until everything up to the number is settled."""
        mark = HighWaterMark()
        mark.reopen(db)
        deadline = time.monotonic() + HELD_SECONDS
        mark.look(db)
        while mark.settled < upto:
            if time.monotonic() > deadline:
                holders = ", ".join(map(str, describe_holders(db, mark.blockers)))
                raise WaitTimeoutError(
                    f"events up to {upto} may still be added: everything above {mark.settled} is held by {holders}",
                    hint="end that transaction, or ask for less",
                )
            time.sleep(LOOK_SECONDS)
            mark.look(db)

    def _replay(self, schema: str, upto: int) -> None:
        with self._new_replay(schema) as replay:
            self._advance(replay, upto)
        self._tell(upto, upto)

    @staticmethod
    def _hand_over(db: Connection, schema: str) -> None:
        with db.transaction():
            for statement in statements.DROP_BOOKKEEPING:
                db.execute(SQL(statement).format(space=Identifier(schema)))
