"""Statements of the checkpoint: the transaction that applies events, how it moves the row, what stops it."""

from typing import Final, LiteralString

# Parameters: name.  Rows: one (last_sequence_number, status, error_message, whether the tables have been emptied for a
# rebuild in place, the rebuild's target or 0, its mode, its position, its error), or none when there is no row.
READ_CHECKPOINT: LiteralString = """
SELECT
    kept.last_sequence_number,
    kept.status,
    kept.error_message,
    coalesce(rebuild.mode = 'in place' AND rebuild.is_begun, false),
    coalesce(rebuild.target_sequence_number, 0),
    rebuild.mode,
    coalesce(rebuild.position_sequence_number, 0),
    rebuild.error_message
FROM projection_checkpoints AS kept
LEFT JOIN projection_rebuilds AS rebuild USING (projection_name)
WHERE kept.projection_name = %(name)s
"""

# Parameters: name.  Rows: one (whether it has applied events; a position may have been set by hand).
HAS_APPLIED: LiteralString = """
SELECT events_processed > 0
FROM projection_checkpoints
WHERE projection_name = %(name)s
"""

# Parameters: name.  A row that is there already is left as it is: it may hold a start position set by hand.
CREATE_CHECKPOINT: LiteralString = """
INSERT INTO projection_checkpoints (projection_name)
VALUES (%(name)s)
ON CONFLICT (projection_name) DO NOTHING
"""

# A transaction that is sent through a pipeline.
BEGIN: LiteralString = "BEGIN"
COMMIT: LiteralString = "COMMIT"

# The first statement of every transaction that applies events.  The setting is local: when a handler has ended the
# transaction, by whatever trick, it is gone, and the compare-and-set below fails.
OPEN_TRANSACTION: LiteralString = "SELECT set_config('projectiond.transaction', 'open', true)"

# The same for one whose COMMIT does not wait for the disk, at no cost of its own.
OPEN_ASYNCHRONOUS_TRANSACTION: LiteralString = """
SELECT
    set_config('projectiond.transaction', 'open', true),
    set_config('synchronous_commit', 'off', true)
"""

# Parameters: name, from, to, status, last_event_id (may be null), applied.  The compare-and-set that ends every
# transaction.  When it finds no row the function raises, so that COMMIT can be sent along without waiting: SQLSTATE
# CHECKPOINT_MOVED when somebody else moved the checkpoint or changed the status, TRANSACTION_ENDED when a handler did
# away with the transaction.
# Locks: the row, until the COMMIT that follows at once.  Index: the primary key.
CHECKPOINT_MOVED: Final = "PJ002"
TRANSACTION_ENDED: Final = "PJ003"
# What a replay raises over a transaction that has written outside of its space; the message has the tables.
WRITTEN_OUTSIDE: Final = "PJ008"
ADVANCE_CHECKPOINT: LiteralString = """
WITH moved AS (
    UPDATE projection_checkpoints
    SET last_sequence_number = %(to)s,
        last_event_id = coalesce(%(last_event_id)s, last_event_id),
        last_processed_at = now(),
        events_processed = events_processed + %(applied)s,
        error_message = NULL
    WHERE projection_name = %(name)s
        AND last_sequence_number = %(from)s
        AND status = %(status)s
        AND current_setting('projectiond.transaction', true) = 'open'
    RETURNING last_sequence_number
)
SELECT projectiond_require_moved(count(*) = 1)
FROM moved
"""

# Parameters: name, event_types (text[], null for all).  Rows: one (sequence number, type and id of the event there, id
# of the one that was applied last), when the event at the checkpoint's number would have been applied, is another than
# last_event_id, and that one is not in the store; else none.  Index: three primary keys, the unique one on
# sequence_number.
OTHER_EVENT_AT_CHECKPOINT: LiteralString = """
SELECT
    found.sequence_number,
    found.event_type,
    found.event_id,
    kept.last_event_id
FROM projection_checkpoints AS kept
JOIN event_store AS found ON found.sequence_number = kept.last_sequence_number
WHERE kept.projection_name = %(name)s
    AND found.event_id <> kept.last_event_id
    AND (%(event_types)s::text[] IS NULL OR found.event_type = ANY(%(event_types)s::text[]))
    AND NOT EXISTS (
        SELECT
        FROM event_store AS applied
        WHERE applied.event_id = kept.last_event_id
    )
    AND NOT EXISTS (
        SELECT
        FROM projection_dead_letters AS letter
        WHERE letter.projection_name = kept.projection_name
            AND letter.sequence_number = found.sequence_number
    )
"""

# Parameters: name, from, error.  Rows updated: 0 when the projection moved on or was paused meanwhile.
PAUSE_FOR_FAULT: LiteralString = """
UPDATE projection_checkpoints
SET status = 'paused',
    error_message = %(error)s
WHERE projection_name = %(name)s
    AND last_sequence_number = %(from)s
    AND status <> 'paused'
"""

# Rows: (projection_name, last_sequence_number, status) of every projection: the backstop for a lost notification.
READ_STATUSES: LiteralString = """
SELECT projection_name, last_sequence_number, status
FROM projection_checkpoints
"""

# Parameters: name, error.  Says what holds a projection back that goes on trying.
NOTE_TROUBLE: LiteralString = """
UPDATE projection_checkpoints
SET error_message = %(error)s
WHERE projection_name = %(name)s
    AND status <> 'paused'
"""

# Parameters: name, from.  Rows: one, or none when the row has moved, its status is another now, or the tables have
# been emptied already.  It comes first in the reset's transaction: the row's lock keeps another runner from committing
# before the tables are empty.
RESET_CHECKPOINT: LiteralString = """
UPDATE projection_checkpoints
SET last_sequence_number = 0,
    last_event_id = NULL,
    last_processed_at = now(),
    events_processed = 0,
    error_message = NULL
WHERE projection_name = %(name)s
    AND last_sequence_number = %(from)s
    AND status = 'rebuilding'
    AND EXISTS (
        SELECT
        FROM projection_rebuilds
        WHERE projection_name = %(name)s
            AND mode = 'in place'
            AND NOT is_begun
    )
RETURNING last_sequence_number
"""

# Parameters: name.  What the old history could not apply is tried again by the new one.
CLEAR_DEAD_LETTERS: LiteralString = """
DELETE FROM projection_dead_letters
WHERE projection_name = %(name)s
"""

# Parameters: name, target.  The row says that the reset has been done: a restart then goes on.
MARK_RESET: LiteralString = """
UPDATE projection_rebuilds
SET started_at = now(),
    target_sequence_number = %(target)s,
    is_begun = true
WHERE projection_name = %(name)s
"""

# Parameters: name, from.  The status trigger removes the rebuild's row.  If that does not say that it has begun,
# another rebuild has been asked for meanwhile, and its reset is still to come.
FINISH_REBUILD: LiteralString = """
UPDATE projection_checkpoints
SET status = 'running'
WHERE projection_name = %(name)s
    AND last_sequence_number = %(from)s
    AND status = 'rebuilding'
    AND EXISTS (SELECT FROM projection_rebuilds WHERE projection_name = %(name)s AND mode = 'in place' AND is_begun)
"""
