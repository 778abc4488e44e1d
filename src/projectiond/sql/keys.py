"""What the statements agree on with the database and with each other: keys of advisory locks, names of channels."""

from typing import Final

# The advisory locks' keys are eight ASCII letters read as one big-endian integer: findable in pg_locks, and
# unlikely to be an application's own.  schema.sql holds the doorbell's key too; a test keeps the two equal.
DOORBELL_KEY: Final = int.from_bytes(b"projbell", "big")
WORKERS_KEY: Final = int.from_bytes(b"projwork", "big")
SCHEMA_KEY: Final = int.from_bytes(b"projddl!", "big")

DOORBELL_CHANNEL: Final = "projectiond_doorbell"
STATUS_CHANNEL: Final = "projectiond_status"
LEASES_CHANNEL: Final = "projectiond_leases"
