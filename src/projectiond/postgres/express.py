"""The express: ordinary statements leave for the server a few at a time, and nobody waits for their results.

Made by ``connection`` for the length of a ``with db.pipelined()``, inside psycopg's own pipeline.  That one talks to
the socket for each statement, two polls and a write; this, its cursors and its conversions together are more than the
server needs to execute a statement.  So what a handler does for every event goes to libpq from here, by what psycopg
publishes of it (``psycopg.pq.PGconn``), and everything else goes psycopg's way, on the same connection.

Only one of the two has statements under way at a time, for whoever asks libpq for a result gets the next one::

    at rest ──send──▶ under way ──settle: a Sync, everything has its result──▶ at rest
       ▲                                                                          │
       └──────────────── psycopg's pipeline, synced ◀── Connection.wait ◀─────────┘

``Connection.wait``, through which psycopg does all its talking, first settles the express; and the express first syncs
psycopg's pipeline when libpq is not idle.  So statements are executed in the order in which they were called.

It talks to the server when ``STATEMENTS_AHEAD`` wait in libpq's buffer, few enough that the server works meanwhile;
when they weigh ``BYTES_AHEAD``, so that large parameters are not collected in memory; and when the last talk was
``SECONDS_AHEAD`` ago: a slow handler's statements leave one by one.  Talking never waits for results, but takes those
that have come.  While what is to be sent does not fit the socket it receives, for the server may be waiting for that.

The first error of the server is raised by the talk that meets it, by :meth:`Express.settle` at the latest; the server
skips all that follows until a Sync.  ``has_failed`` stays true then.
"""

from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg.abc import Buffer, PQGen
from psycopg.errors import PipelineAborted, error_from_result
from psycopg.pq import ConnStatus, ExecStatus, Format, TransactionStatus
from psycopg.waiting import Wait

from projectiond import sql
from projectiond.postgres.statements import LONGEST_KEPT, Plans

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

# Where psycopg was read: it talks to the server through ``Connection.wait`` alone, and after a sync of its pipeline has
# nothing under way.  With any other its own pipeline carries everything, as it does with ``is_express = False``.
_READ_IN: Final = ("3.2.", "3.3.")
IS_KNOWN: Final = psycopg.__version__.startswith(_READ_IN)

STATEMENTS_AHEAD: Final = 16
BYTES_AHEAD: Final = 64 * 1024
SECONDS_AHEAD: Final = 0.001

CarryOut = Callable[[PQGen[None]], None]
"""Does the waiting of an exchange with the server."""


class Answer:
    """Takes a statement's result when it comes."""

    __slots__ = ("is_lost", "result")

    def __init__(self) -> None:
        self.result: PGresult | None = None
        # Whether none will come: whoever waited for it might, much later, meet what others have under way.
        self.is_lost = False

    def take(self, result: "PGresult") -> None:
        """Called once, unless the statement fails or is skipped."""
        self.result = result


class Tally(Answer):
    """Adds up what several executions of a statement come to."""

    __slots__ = ("command_status", "count")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.command_status: bytes | None = None

    def take(self, result: "PGresult") -> None:
        """Called for each execution."""
        self.count += result.command_tuples or 0
        self.command_status = result.command_status


class Express:
    """The statements that we have sent ourselves on one connection."""

    def __init__(self, link: "PGconn", wait: CarryOut, plans: Plans) -> None:
        """Make one.

        Args:
            link: In pipeline mode.  The caller has it to itself during each call.
            wait: psycopg's ``Connection.wait``.
            plans: What has been prepared on this connection.
        """
        self._link = link
        self._wait = wait
        self._plans = plans
        self.has_failed = False
        # Of what was sent, who takes its result; None where nobody does.
        self._takers: deque[Answer | None] = deque()
        # libpq gives each statement's result, and then None; a Sync's comes without.
        self._is_amid = False
        self._is_to_sync = False
        self._statements = 0
        self._bytes = 0
        self._talked_at = 0.0
        self._error: psycopg.Error | None = None

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is under way, so that libpq's results are psycopg's."""
        return not self._is_to_sync and not self._takers

    @property
    def is_theirs(self) -> bool:
        """Whether psycopg has statements under way."""
        return self.is_at_rest and self._link.transaction_status == TransactionStatus.ACTIVE

    def send(
        self,
        text: bytes,
        values: Sequence[Buffer | None] | None,
        types: Sequence[int],
        formats: Sequence[Format] | None,
        result_format: Format,
        answer: Answer,
        threshold: int | None,
    ) -> None:
        """Send a statement.

        Args:
            text: With libpq's placeholders.
            values: Its parameters.
            types: Theirs.
            formats: Theirs.
            result_format: Of its rows.
            answer: Takes its result.
            threshold: How often it comes before it is prepared; never, when ``None``.

        Raises:
            psycopg.Error: Of this statement or of one before.
        """
        link = self._link
        self._is_to_sync = True
        try:
            name = self._name(text, types, threshold) if threshold is not None and len(text) <= LONGEST_KEPT else None
            if name is not None:
                link.send_query_prepared(name, values, param_formats=formats, result_format=result_format)
            else:
                link.send_query_params(
                    text, values, param_types=types, param_formats=formats, result_format=result_format
                )
        except psycopg.Error:
            # It did not even leave: too many parameters, or the connection is gone.
            self.has_failed = True
            self._plans.forget()
            raise
        self._takers.append(answer)
        self._statements += 1
        if values is not None:
            for value in values:
                if value is not None:
                    self._bytes += len(value)
        if (
            self._statements >= STATEMENTS_AHEAD
            or self._bytes >= BYTES_AHEAD
            or monotonic() - self._talked_at >= SECONDS_AHEAD
        ):
            self._exchange(is_to_the_end=False)

    def settle(self) -> None:
        """Wait until every statement has its result.

        Raises:
            psycopg.Error: One has failed.
        """
        self._sync()
        if self._takers:
            self._exchange(is_to_the_end=True)

    def send_off(self) -> None:
        """Send everything, and have the results sent without being asked for again.

        Raises:
            psycopg.Error: One has failed.
        """
        self._sync()
        self._exchange(is_to_the_end=False)

    def _sync(self) -> None:
        if self._is_to_sync:
            self._link.pipeline_sync()
            self._takers.append(None)
            self._is_to_sync = False

    def _name(self, text: bytes, types: Sequence[int], threshold: int) -> bytes | None:
        plan = self._plans.find((text, types))
        if plan.name is None:
            if plan.uses >= threshold:
                self._discard_what_is_left()
                self._link.send_prepare(self._plans.name(plan), text, param_types=types)
                self._takers.append(None)
            plan.uses += 1
            if (gone := self._plans.evict()) is not None:
                self._command(sql.session.DEALLOCATE % gone)
        return plan.name

    def _discard_what_is_left(self) -> None:
        if self._plans.has_left_some:
            self._command(sql.session.DISCARD_PLANS)
            self._plans.has_left_some = False

    def _command(self, text: bytes) -> None:
        self._link.send_query_params(text, None)
        self._takers.append(None)

    # --- talking

    def _exchange(self, *, is_to_the_end: bool) -> None:
        """Send what waits, and take what has come, or everything."""
        try:
            if not self._go_on(is_to_the_end=is_to_the_end):
                self._wait(self._going_on(is_to_the_end=is_to_the_end))
        except psycopg.OperationalError as error:
            self._note_end(error)
        self._statements = self._bytes = 0
        self._talked_at = monotonic()
        if self._error is not None:
            first, self._error = self._error, None
            raise first

    def _going_on(self, *, is_to_the_end: bool) -> PQGen[None]:
        while not self._go_on(is_to_the_end=is_to_the_end):
            yield self._wanted

    def _go_on(self, *, is_to_the_end: bool) -> bool:
        """Do what can be done without waiting; say whether that was all."""
        is_unsent = self._link.flush()
        self._wanted = Wait.RW if is_unsent else Wait.R
        self._link.consume_input()
        self._take_results()
        return not is_unsent and not (is_to_the_end and self._takers)

    def _take_results(self) -> None:
        link = self._link
        while not link.is_busy():
            result = link.get_result()
            if result is None:
                if not self._is_amid:
                    break
                self._is_amid = False
                continue
            if not self._takers:
                # Whose the results are is not known any more.
                self.has_failed = True
                raise psycopg.InternalError("a result came that nobody has asked for")
            taker = self._takers.popleft()
            status = result.status
            if status == ExecStatus.PIPELINE_SYNC:
                continue
            self._is_amid = True
            if status not in _SUCCEEDED:
                self._note(result)
                if taker is not None:
                    taker.is_lost = True
            elif taker is not None:
                taker.take(result)

    def _note(self, result: "PGresult") -> None:
        self.has_failed = True
        self._plans.forget()
        if self._error is None:
            is_skipped = result.status == ExecStatus.PIPELINE_ABORTED
            error = PipelineAborted("pipeline aborted") if is_skipped else error_from_result(result)
            if self._link.status == ConnStatus.BAD and not isinstance(error, psycopg.OperationalError):
                # The server has no name for an error that it could not send.
                error = psycopg.OperationalError(str(error))
            self._error = error

    def _note_end(self, error: psycopg.OperationalError) -> None:
        """Note that the server is gone; its last word, if it could say one, tells more than that."""
        self.has_failed = True
        if self._link.status == ConnStatus.BAD:
            while self._takers and not self._link.is_busy() and self._error is None:
                if (result := self._link.get_result()) is not None and result.status not in _SUCCEEDED:
                    self._note(result)
                elif result is None and not self._is_amid:
                    break
            for taker in self._takers:
                if taker is not None:
                    taker.is_lost = True
            self._takers.clear()
            self._is_to_sync = False
        self._error = self._error or error


_SUCCEEDED: Final = frozenset({ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK, ExecStatus.EMPTY_QUERY})
