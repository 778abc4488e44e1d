"""Every statement that the daemon runs on its own behalf, each a named constant, in a module for each subject.

Called by the modules of the data path; nothing here runs anything.  Beside each statement stands what it takes,
what it gives, which locks it holds and which index serves it, so that whoever reads a slow-query log can find
its place here.  Parameters are psycopg's named ones.  Table names are resolved by the session's ``search_path``.

Used as ``sql.checkpoint.READ_CHECKPOINT``.
"""

from projectiond.sql import (
    arrival,
    builds,
    checkpoint,
    dead_letters,
    doorbell,
    events,
    highwater,
    keys,
    leases,
    overview,
    relation,
    rows,
    schema,
    session,
    steering,
    trial,
)

__all__ = [
    "arrival",
    "builds",
    "checkpoint",
    "dead_letters",
    "doorbell",
    "events",
    "highwater",
    "keys",
    "leases",
    "overview",
    "relation",
    "rows",
    "schema",
    "session",
    "steering",
    "trial",
]
