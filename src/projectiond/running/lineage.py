"""Lineage: is the store still the one that a checkpoint was taken from?

A checkpoint and its events are usually in one database, and what a failover or a backup takes back of one it takes back
of the other.  They part when somebody restores ``event_store`` alone, copies checkpoints into another database, or
empties the store.  Then numbers are drawn a second time, for other events, and a checkpoint that is not beyond the end
(``preparation``) looks right while everything below it is another's.

So the row's ``last_event_id`` is compared, when a runner begins and after each fault, with the event at the
checkpoint's number.  Another event there proves another history only if the projection would have applied it (it
handles the type, and has not set it aside), and if the one that it applied last is nowhere in the store: a position
may be set by hand, events of other types lie above the last one applied, and old events may be deleted.

What this cannot see: that the event at the number is of a type that the projection does not handle.  A store that was
replaced shows in those projections where it is, which is reason enough to look at the others.
"""

from projectiond import sql
from projectiond.checkpoint import Checkpoint
from projectiond.errors import ConfigurationError
from projectiond.plugins.definition import Definition
from projectiond.postgres.database import Connection


def refuse_other_history(db: Connection, checkpoint: Checkpoint, definition: Definition) -> None:
    """See that the event at the checkpoint is the one that was applied there.

    Raises:
        ConfigurationError: It is another one, and the one that was applied is gone.
    """
    types = None if definition.event_types is None else list(definition.event_types)
    found = db.execute(
        sql.checkpoint.OTHER_EVENT_AT_CHECKPOINT, {"name": checkpoint.name, "event_types": types}
    ).fetchone()
    if found is None:
        return
    position, event_type, event_id, last_event_id = found
    raise ConfigurationError(
        f'the event store is another than the one that "{checkpoint.name}" was projected from: at {position} it has '
        f"{event_type} {event_id}, where {last_event_id} was applied, which it does not have at all",
        hint=f'run "projectiond rebuild {checkpoint.name}", and think of doing so for all projections; or set '
        "last_sequence_number to the last event that its tables hold and last_event_id to NULL, then the status to "
        "running",
    )
