"""What an idle daemon costs: processor time and queries.

Called by ``__main__``.  Nothing is appended.  Queries are counted by the server as the transactions of the daemon's
database, in which nobody else works: every statement of an idle daemon is a transaction of its own.  So are those of
autovacuum, which visits a new database in its first minute and is switched off meanwhile.
"""

import time
from typing import Final

import psycopg

from bench.context import Context
from bench.daemon import running_daemon
from bench.report import Figure, at_most

DATABASE: Final = "idle"

# A session tells the server's statistics what it did at most once a second, and ten seconds late when it then sleeps.
_SETTLING_SECONDS: Final = 13.0

_COUNT: Final = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s"


def measure(bench: Context) -> list[Figure]:
    """Leave a daemon alone, and see what it does."""
    dsn = bench.server.create_store(DATABASE)
    with (
        running_daemon(dsn, ["orders_by_event.py"], ["orders_by_event"]) as daemon,
        psycopg.connect(bench.server.dsn(), autocommit=True) as other,
    ):
        other.execute("ALTER SYSTEM SET autovacuum = off")
        other.execute("SELECT pg_reload_conf()")
        time.sleep(_SETTLING_SECONDS)
        transactions, processor, began = _count(other), daemon.cpu_seconds(), time.monotonic()
        time.sleep(bench.scale.idle_seconds)
        seconds = time.monotonic() - began
        share = 100 * (daemon.cpu_seconds() - processor) / seconds
        rate = (_count(other) - transactions) / seconds
        memory = daemon.worker_megabytes()
        other.execute("ALTER SYSTEM RESET autovacuum")
        other.execute("SELECT pg_reload_conf()")
    return [
        Figure("idle", "processor time, all processes", share, "% of a core", at_most(1)),
        Figure("idle", "queries", rate, "per second", at_most(5)),
        Figure("idle", "memory of the worker", memory, "MB"),
    ]


def _count(db: psycopg.Connection) -> int:
    row = db.execute(_COUNT, (DATABASE,)).fetchone()
    return int(row[0]) if row else 0
