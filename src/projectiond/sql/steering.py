"""Statements by which people steer a projection: its status, and what a status asks for."""

from typing import LiteralString

# Parameters: name.  The wish for a rebuild in place, in one transaction with the status.  There may be a row: a builder
# that could not begin writes down why.
ASK_IN_PLACE: LiteralString = """
INSERT INTO projection_rebuilds (projection_name, mode)
VALUES (%(name)s, 'in place')
ON CONFLICT (projection_name) DO UPDATE
SET id = excluded.id,
    started_at = excluded.started_at,
    target_sequence_number = excluded.target_sequence_number,
    mode = excluded.mode,
    is_begun = excluded.is_begun,
    position_sequence_number = excluded.position_sequence_number,
    is_paused = excluded.is_paused,
    error_message = excluded.error_message
"""

# Parameters: names (text[]).
FORGET_REBUILD_ERRORS: LiteralString = """
UPDATE projection_rebuilds
SET error_message = NULL
WHERE projection_name = ANY(%(names)s)
    AND error_message IS NOT NULL
"""

# Parameters: name, status.  Rows: one (last_sequence_number), or none when there is no row or it has that status
# already.  The status trigger does the rest.
SET_STATUS: LiteralString = """
UPDATE projection_checkpoints
SET status = %(status)s
WHERE projection_name = %(name)s
    AND status <> %(status)s
RETURNING last_sequence_number
"""

# Parameters: name.  Rows: none that matter.  Locks the row, so that what is read of it next is true until COMMIT.
LOCK_CHECKPOINT: LiteralString = """
SELECT
FROM projection_checkpoints
WHERE projection_name = %(name)s
FOR UPDATE
"""

# Parameters: name, status.  For a projection that no daemon has begun; a row that is there already stays.
INSERT_STATUS: LiteralString = """
INSERT INTO projection_checkpoints (projection_name, status)
VALUES (%(name)s, %(status)s)
ON CONFLICT (projection_name) DO NOTHING
"""
