"""The errors of projectiond: one root, and below it one class for each thing that has to happen next.

Raised by every module; caught in the few places that decide: the runner (retry, pause, skip or stop),
the supervisor (restart or give up), the command line (one sentence on stderr, exit code) and, for those of the
event store, the application that appends. A message is lower case and holds the values; the hint is the next step,
one sentence. Neither may hold a secret.

    ProjectiondError
    ├── ConfigurationError          fix it and start again
    │   └── EventRegistryError      … it is the registration of an event type
    ├── ConflictError               another runner is at work; look at the checkpoint again
    ├── PoisonError                 look at this event
    │   ├── EventDataError          … its data does not fit its model
    │   ├── UnreadableEventError    … its row cannot be read
    │   └── TransactionControlError … its handler tried to end the transaction
    ├── DatabaseUnavailableError    wait, then try again
    ├── AppendRefusedError          nothing was written; mend the call
    │   ├── ConcurrencyError        … load the aggregate again and decide anew
    │   └── EventIdTakenError       … give each event an id of its own
    ├── AttemptFailedError          wait, then try this event again
    ├── ReplayStoppedError          look at what it names; the live projection goes on meanwhile
    ├── ProjectionPausedError       mend what paused the projection, then set it running
    └── WaitTimeoutError            wait longer, or find out what holds the projection back
"""

from uuid import UUID


class ProjectiondError(Exception):
    """Anything that projectiond refuses or cannot do; show its text to the operator.

    Args:
        message: what is wrong, lower case, with the values.
        hint: what to do next, one sentence; empty when the message says it.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Exception's own way of pickling passes args alone, and would drop the hint between processes.
        return (_restore, (type(self), self.message, self.hint))


class ConfigurationError(ProjectiondError):
    """Settings, schema, plugins or privileges are wrong: fix what the message names, then start again."""


class EventRegistryError(ConfigurationError):
    """An event type is unknown, registered twice, or a step between two of its schema versions is missing."""


class ConflictError(ProjectiondError):
    """The checkpoint or a lease is not as this runner left it: roll back and read the row again."""


class PoisonError(ProjectiondError):
    """One event cannot be applied: mend its handler or its data, then set the status back to running."""


class EventDataError(PoisonError):
    """The data of an event does not fit the handler's model: mend the model, or skip the event."""


class UnreadableEventError(PoisonError):
    """A column of an event holds what Python has no value for: mend the row, or skip the event."""

    def __init__(self, message: str, *, sequence_number: int, event_type: str, event_id: UUID) -> None:
        super().__init__(message, hint="mend its row in event_store, or let on_error skip it")
        self.sequence_number = sequence_number
        self.event_type = event_type
        self.event_id = event_id

    def __reduce__(self) -> tuple[object, ...]:
        return (PoisonError, (self.message,))


class TransactionControlError(PoisonError):
    """A handler tried to commit or roll back: take that call out, the daemon ends the transaction."""


class DatabaseUnavailableError(ProjectiondError):
    """The database does not answer for now: wait and try again, nothing has been lost."""


class AppendRefusedError(ProjectiondError):
    """Events were not appended, and nothing was written: mend what the message names."""


class ConcurrencyError(AppendRefusedError):
    """The aggregate is not at the expected version: load it again, decide anew, and append what then follows.

    Args:
        aggregate_id: whose events were to be appended.
        expected_version: the version that they were to follow; None when any would have done.
        actual_version: the version that the aggregate is at. None when the caller's own transaction cannot see it: its
            snapshot (REPEATABLE READ, SERIALIZABLE) is older than the event that was there first.
    """

    def __init__(self, aggregate_id: UUID, expected_version: int | None, actual_version: int | None) -> None:
        expected = "any version" if expected_version is None else f"version {expected_version}"
        if actual_version is None:
            message = f"aggregate {aggregate_id} has moved on from {expected} since this transaction's snapshot"
            hint = "roll back, begin a new transaction, load the aggregate again and decide anew"
        else:
            message = f"aggregate {aggregate_id} is at version {actual_version}, where {expected} was expected"
            hint = "load it again and decide anew"
        super().__init__(message, hint=hint)
        self.aggregate_id = aggregate_id
        self.expected_version = expected_version
        self.actual_version = actual_version

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.aggregate_id, self.expected_version, self.actual_version))


class EventIdTakenError(AppendRefusedError):
    """An event's id is another event's in the store, or only some of these events are there: give new ones new ids."""


class AttemptFailedError(ProjectiondError):
    """A handler failed on an event that has attempts left: nothing to do yet, it is tried again in a moment."""


class ReplayStoppedError(ProjectiondError):
    """A projection cannot be built anew as it is: mend what the message names; the live tables are as they were."""


class ProjectionPausedError(ProjectiondError):
    """The projection is paused, so waiting for it is of no use: mend what paused it, then set it running."""


class WaitTimeoutError(ProjectiondError):
    """The projection was not caught up in time: wait longer, or ask its status what holds it back."""


def _restore(cls: type[ProjectiondError], message: str, hint: str) -> ProjectiondError:
    return cls(message, hint=hint)
