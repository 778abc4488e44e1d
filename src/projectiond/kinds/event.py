"""``Projection``: one event after the other goes to its handlers, whose statements need not be waited for.

Nothing is loaded beforehand: what a handler wants to know it asks itself.
"""

from projectiond.kinds.kind import AuthorCode
from projectiond.plugins.definition import Definition
from projectiond.postgres.database import Connection
from projectiond.stream.reader import Batch


class EventByEvent:
    """Calls the handlers of each event."""

    is_pipelined = True

    def __init__(self, definition: Definition, author: AuthorCode) -> None:
        self._definition = definition
        self._author = author

    @property
    def at_work(self) -> str:
        """The handler that was called last."""
        return self._author.name

    def check(self, db: Connection) -> None:
        """Nothing is known of what the handlers execute."""

    def load(self, db: Connection, batch: Batch) -> None:
        """Nothing: handlers ask for themselves."""

    def apply(self, db: Connection, batch: Batch) -> None:
        """Call each event's handlers in order."""
        for event in batch.events:
            for handler in self._definition.handlers_for(event.event_type):
                self._author.take(handler.name, event.sequence_number)
                self._author.call(handler.function, handler.event_for(event), db)
