"""Statements of leases, and of the roster of workers that hold them."""

from typing import LiteralString

# Nothing that leases depend on waits for a lock.  What is done beside them, for people, is put off where somebody has
# a table locked, so that this worker can still take over from another.
CONFIGURE_LEASES: LiteralString = "SET lock_timeout = '1s'"

# Parameters: key.
TRY_LEASE: LiteralString = "SELECT pg_try_advisory_lock(%(key)s)"
RELEASE_LEASE: LiteralString = "SELECT pg_advisory_unlock(%(key)s)"
REGISTER_WORKER: LiteralString = "SELECT pg_advisory_lock_shared(%(key)s)"
DEREGISTER_WORKER: LiteralString = "SELECT pg_advisory_unlock_shared(%(key)s)"

# Parameters: key (the workers').  The rows of workers whose sessions hold it no longer.
FORGET_WORKERS: LiteralString = """
DELETE FROM projection_workers
WHERE session_pid NOT IN (
    SELECT pid
    FROM pg_locks
    WHERE locktype = 'advisory'
        AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND objsubid = 1
        AND (classid::bigint << 32) | objid::bigint = %(key)s
)
"""

# Parameters: host, process_id, number, version, projections (text[]).  In the place of whoever had this process's id.
ENTER_WORKER: LiteralString = """
INSERT INTO projection_workers AS known (session_pid, host, process_id, worker_number, version, projections)
VALUES (pg_backend_pid(), %(host)s, %(process_id)s, %(number)s, %(version)s, %(projections)s)
ON CONFLICT (session_pid) DO UPDATE
SET host = excluded.host,
    process_id = excluded.process_id,
    worker_number = excluded.worker_number,
    version = excluded.version,
    projections = excluded.projections,
    started_at = excluded.started_at,
    held_since = excluded.held_since
"""

# Parameters: projections (text[]).  What was among them before keeps its time.  Index: the primary key.
NOTE_HELD: LiteralString = """
UPDATE projection_workers
SET held_since = (
    SELECT coalesce(jsonb_object_agg(name, coalesce(held_since -> name, to_jsonb(now()))), '{}')
    FROM unnest(%(projections)s::text[]) AS name
)
WHERE session_pid = pg_backend_pid()
"""

# Parameters: key (the workers').  Rows: (session_pid, host, process_id, worker_number, version, projections,
# started_at, held_since) of each worker whose session holds it.
READ_ROSTER: LiteralString = """
SELECT
    session_pid,
    host,
    process_id,
    worker_number,
    version,
    projections,
    started_at,
    held_since
FROM projection_workers
WHERE session_pid IN (
    SELECT pid
    FROM pg_locks
    WHERE locktype = 'advisory'
        AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND objsubid = 1
        AND (classid::bigint << 32) | objid::bigint = %(key)s
)
ORDER BY host, process_id
"""

# Parameters: channel.
ANNOUNCE_LEASES: LiteralString = "SELECT pg_notify(%(channel)s, '')"

# Rows: (key, whether exclusive, the session's process, this session's process) of each advisory lock of this database
# with a key of 64 bits: every lease, every live worker, and what the application itself may hold.
READ_LEASES: LiteralString = """
SELECT
    (classid::bigint << 32) | objid::bigint,
    mode = 'ExclusiveLock',
    pid,
    pg_backend_pid()
FROM pg_locks
WHERE locktype = 'advisory'
    AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND objsubid = 1
"""

# Parameters: key.  Rows: one (count): sessions that hold the workers' lock in shared mode, this one included.
LIVE_WORKERS: LiteralString = """
SELECT count(*)
FROM pg_locks
WHERE locktype = 'advisory'
    AND mode = 'ShareLock'
    AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND objsubid = 1
    AND (classid::bigint << 32) | objid::bigint = %(key)s
"""
