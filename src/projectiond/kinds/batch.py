"""``BatchProjection``: the author's ``apply`` gets all events of a batch at once.

Not in a pipeline, for there COPY is impossible and ``executemany`` gains nothing.
"""

from projectiond.errors import ConfigurationError
from projectiond.kinds.kind import AuthorCode
from projectiond.plugins.definition import Definition
from projectiond.postgres.database import Connection
from projectiond.projection import BatchProjection
from projectiond.stream.reader import Batch


class WholeBatch:
    """Calls the projection's ``apply``."""

    is_pipelined = False

    def __init__(self, definition: Definition, author: AuthorCode) -> None:
        if not isinstance(definition.projection, BatchProjection):
            raise ConfigurationError(f'"{definition.name}" is not a BatchProjection')
        self._projection = definition.projection
        self._author = author

    @property
    def at_work(self) -> str:
        """The method that was called last."""
        return self._author.name

    def check(self, db: Connection) -> None:
        """Nothing is known of what ``apply`` executes."""

    def load(self, db: Connection, batch: Batch) -> None:
        """Nothing: ``apply`` asks for itself."""

    def apply(self, db: Connection, batch: Batch) -> None:
        """Hand the events over; each for the first time, whatever an earlier attempt did to its data."""
        if batch.events:
            events = [event.pristine() for event in batch.events]
            self._author.take(f"{type(self._projection).__name__}.apply", batch.events[-1].sequence_number)
            self._author.call(self._projection.apply, events, db)
