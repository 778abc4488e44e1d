"""Statements of dead letters: keep one, try it again, discard it, show them."""

from typing import LiteralString

# Parameters: name, sequence_number, handler, error, attempts.  The event is copied by the server, byte for byte.
KEEP_DEAD_LETTER: LiteralString = """
INSERT INTO projection_dead_letters
    (projection_name, sequence_number, event_id, event_type, aggregate_id, event_data, handler, error, attempts,
     failed_at)
SELECT
    %(name)s, sequence_number, event_id, event_type, aggregate_id, event_data, %(handler)s, %(error)s, %(attempts)s,
    now()
FROM event_store
WHERE sequence_number = %(sequence_number)s
ON CONFLICT (projection_name, sequence_number) DO UPDATE
SET handler = excluded.handler,
    error = excluded.error,
    attempts = excluded.attempts,
    failed_at = excluded.failed_at
"""

# Rows: (projection_name) of each that has letters to be tried again.  Index: the partial one for it.
READ_RETRIES: LiteralString = """
SELECT DISTINCT projection_name
FROM projection_dead_letters
WHERE retry_requested_at IS NOT NULL
    AND retry_begun_at IS NULL
"""

# Parameters: name.  Rows: one (sequence_number, retry_begun_at), or none when no retry is asked for.  retry_begun_at
# then names this attempt: whoever asks again, or discards the letter, takes it away.
BEGIN_RETRY: LiteralString = """
UPDATE projection_dead_letters
SET retry_begun_at = clock_timestamp(),
    attempts = attempts + 1
WHERE projection_name = %(name)s
    AND sequence_number = (
        SELECT sequence_number
        FROM projection_dead_letters
        WHERE projection_name = %(name)s
            AND retry_requested_at IS NOT NULL
            AND retry_begun_at IS NULL
        ORDER BY sequence_number
        LIMIT 1
    )
    AND retry_requested_at IS NOT NULL
    AND retry_begun_at IS NULL
RETURNING sequence_number, retry_begun_at
"""

# Parameters: name, sequence_number, begun_at.  Rows deleted: 0 when the letter is not this attempt's any more.
END_RETRY: LiteralString = """
DELETE FROM projection_dead_letters
WHERE projection_name = %(name)s
    AND sequence_number = %(sequence_number)s
    AND retry_begun_at = %(begun_at)s
"""

# Parameters: name, sequence_number, begun_at, handler, error.
FAIL_RETRY: LiteralString = """
UPDATE projection_dead_letters
SET retry_requested_at = NULL,
    retry_begun_at = NULL,
    handler = %(handler)s,
    error = %(error)s,
    failed_at = clock_timestamp()
WHERE projection_name = %(name)s
    AND sequence_number = %(sequence_number)s
    AND retry_begun_at = %(begun_at)s
"""

# Parameters: name, sequence_number, begun_at.  It was no attempt: the projection was paused, or moved, meanwhile.
PUT_OFF_RETRY: LiteralString = """
UPDATE projection_dead_letters
SET retry_begun_at = NULL,
    attempts = attempts - 1
WHERE projection_name = %(name)s
    AND sequence_number = %(sequence_number)s
    AND retry_begun_at = %(begun_at)s
"""

# Parameters: name, numbers (bigint[], null for all).  Rows: (sequence_number) of each that is there.
ASK_FOR_RETRY: LiteralString = """
UPDATE projection_dead_letters
SET retry_requested_at = clock_timestamp(),
    retry_begun_at = NULL
WHERE projection_name = %(name)s
    AND (%(numbers)s::bigint[] IS NULL OR sequence_number = ANY (%(numbers)s))
RETURNING sequence_number
"""

# Parameters: name, numbers (bigint[], null for all).  Rows: (sequence_number) of each that was there.
DISCARD_DEAD_LETTERS: LiteralString = """
DELETE FROM projection_dead_letters
WHERE projection_name = %(name)s
    AND (%(numbers)s::bigint[] IS NULL OR sequence_number = ANY (%(numbers)s))
RETURNING sequence_number
"""

# Parameters: name, numbers (bigint[], null for all), most.  Rows: (sequence_number, event_id, event_type, aggregate_id,
# handler, error, attempts, failed_at, retry_requested_at, retry_begun_at) of the first ones.  Index: the primary key.
READ_DEAD_LETTERS: LiteralString = """
SELECT
    sequence_number,
    event_id,
    event_type,
    aggregate_id,
    handler,
    error,
    attempts,
    failed_at,
    retry_requested_at,
    retry_begun_at
FROM projection_dead_letters
WHERE projection_name = %(name)s
    AND (%(numbers)s::bigint[] IS NULL OR sequence_number = ANY (%(numbers)s))
ORDER BY sequence_number
LIMIT %(most)s
"""

# Parameters: name, sequence_number, most.  Rows: one (the event's JSON cut to so many characters, its true length), or
# none.
READ_LETTER_DATA: LiteralString = """
SELECT
    left(event_data::text, %(most)s),
    length(event_data::text)
FROM projection_dead_letters
WHERE projection_name = %(name)s
    AND sequence_number = %(sequence_number)s
"""
