"""Statements of the doorbell: hear it, arm it, disarm it."""

from typing import LiteralString

LISTEN_DOORBELL: LiteralString = "LISTEN projectiond_doorbell"
LISTEN_STATUS: LiteralString = "LISTEN projectiond_status"
LISTEN_LEASES: LiteralString = "LISTEN projectiond_leases"

# Rows: one (armed).  Takes the exclusive session lock, or returns at once: it never waits, for an exclusive
# request in the queue would make every writer's try fail.
ARM_DOORBELL: LiteralString = "SELECT pg_try_advisory_lock(%(key)s)"

# Rows: one (the session's process) if another session holds the bell exclusively, else none.
DOORBELL_HOLDER: LiteralString = """
SELECT pid
FROM pg_locks
WHERE locktype = 'advisory'
    AND mode = 'ExclusiveLock'
    AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND objsubid = 1
    AND (classid::bigint << 32) | objid::bigint = %(key)s
    AND pid <> pg_backend_pid()
"""

# Rows: one.  Unlocks at once and notifies at its commit: in this order, for who hears it tries to arm.
DISARM_DOORBELL: LiteralString = "SELECT pg_advisory_unlock(%(key)s), pg_notify(%(channel)s, 'disarmed')"
