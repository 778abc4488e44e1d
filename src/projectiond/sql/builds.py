"""Statements about what built a projection's tables, and what it would take to build them again."""

from typing import LiteralString

# Parameters: name.  Rows: the last ten (started_at, finished_at, position, method, tables), the latest first.
READ_REBUILD_HISTORY: LiteralString = """
SELECT
    started_at,
    finished_at,
    position,
    method,
    tables
FROM projection_rebuild_history
WHERE projection_name = %(name)s
ORDER BY finished_at DESC
LIMIT 10
"""

# Parameters: name.  Rows: one (built_at, built_by, version, whether a daemon has met its tables with other code, events
# per second of its last catch-up), or none.
READ_BUILD_FACTS: LiteralString = """
SELECT
    built_at,
    built_by,
    version,
    met_digest IS NOT NULL AND met_digest <> digest,
    events_per_second
FROM projection_builds
WHERE projection_name = %(name)s
"""

# Rows: (projection_name, fingerprint, version, digest, previous_digest, built_at, built_by, events_per_second) of every
# projection whose tables' origin is known.
READ_BUILDS: LiteralString = """
SELECT projection_name, fingerprint, version, digest, previous_digest, built_at, built_by, events_per_second
FROM projection_builds
ORDER BY projection_name
"""

# Parameters: name.  Rows: as READ_BUILDS, one or none.  Locks: the row, so that only one worker acts on a change.
LOCK_BUILD: LiteralString = """
SELECT projection_name, fingerprint, version, digest, previous_digest, built_at, built_by, events_per_second
FROM projection_builds
WHERE projection_name = %(name)s
FOR UPDATE
"""

# Parameters: name, fingerprint (jsonb), version, digest, built_by, events_per_second (null: as before).
RECORD_BUILD: LiteralString = """
INSERT INTO projection_builds AS known
    (projection_name, fingerprint, version, digest, built_by, events_per_second)
VALUES (%(name)s, %(fingerprint)s, %(version)s, %(digest)s, %(built_by)s, %(events_per_second)s)
ON CONFLICT (projection_name) DO UPDATE
SET fingerprint = excluded.fingerprint,
    version = excluded.version,
    digest = excluded.digest,
    previous_digest = CASE WHEN known.digest = excluded.digest THEN known.previous_digest ELSE known.digest END,
    met_digest = NULL,
    built_at = now(),
    built_by = excluded.built_by,
    events_per_second = coalesce(excluded.events_per_second, known.events_per_second)
"""

# Parameters: name, digest (null: nothing is different any more).  Rows updated: 0 when it was met before.
MEET_CHANGE: LiteralString = """
UPDATE projection_builds
SET met_digest = %(digest)s
WHERE projection_name = %(name)s
    AND met_digest IS DISTINCT FROM %(digest)s
"""

# Parameters: name, version.
NAME_VERSION: LiteralString = """
UPDATE projection_builds
SET version = %(version)s
WHERE projection_name = %(name)s
"""

# Parameters: name, events_per_second.
NOTE_RATE: LiteralString = """
UPDATE projection_builds
SET events_per_second = %(events_per_second)s
WHERE projection_name = %(name)s
"""

# Parameters: event_types (text[], null: all).  Rows: one (plan as JSON), of which the estimated number of rows is read.
ESTIMATE_EVENTS: LiteralString = """
EXPLAIN (FORMAT JSON)
SELECT
FROM event_store
WHERE %(event_types)s::text[] IS NULL
    OR event_type = ANY (%(event_types)s)
"""

# Parameters: event_types (text[], null: all), most.  Rows: one (number of events, at most so many).
COUNT_EVENTS_TO_READ: LiteralString = """
SELECT count(*)
FROM (
    SELECT
    FROM event_store
    WHERE %(event_types)s::text[] IS NULL
        OR event_type = ANY (%(event_types)s)
    LIMIT %(most)s
) AS counted
"""

# Parameters: tables (text[], quoted names).  Rows: one (bytes on disk, indexes included, of those that exist).
SIZE_OF_TABLES: LiteralString = """
SELECT coalesce(sum(pg_total_relation_size(to_regclass(name))), 0)::bigint
FROM unnest(%(tables)s::text[]) AS asked (name)
"""
