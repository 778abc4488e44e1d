"""What an idle daemon costs: processor time and queries.

Called by ``__main__``.  Nothing is appended.  Queries are counted by the server as the transactions of the daemon's
database, in which nobody else works: every statement of an idle daemon is a transaction of its own.  So are those of
autovacuum, which visits a new database in its first minute and is switched off meanwhile.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg

from bench.context import Context
from bench.daemon import running_daemon
from bench.report import Figure, at_most

DATABASE: Final = "idle"

# A session tells the server's statistics what it did at most once a second, and ten seconds late when it then sleeps.
SETTLING_SECONDS: Final = 13.0

_COUNT: Final = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s"


def measure(bench: Context) -> list[Figure]:
    """Leave a daemon alone, and see what it does."""
    dsn = bench.server.create_store(DATABASE)
    with (
        running_daemon(dsn, ["orders_by_event.py"], ["orders_by_event"]) as daemon,
        psycopg.connect(bench.server.dsn(), autocommit=True) as other,
        without_autovacuum(other),
    ):
        time.sleep(SETTLING_SECONDS)
        transactions, processor, began = count_transactions(other, DATABASE), daemon.cpu_seconds(), time.monotonic()
        time.sleep(bench.scale.idle_seconds)
        seconds = time.monotonic() - began
        share = 100 * (daemon.cpu_seconds() - processor) / seconds
        rate = (count_transactions(other, DATABASE) - transactions) / seconds
        memory = daemon.worker_megabytes()
    return [
        Figure("idle", "processor time, all processes", share, "% of a core", at_most(1)),
        Figure("idle", "queries", rate, "per second", at_most(5)),
        Figure("idle", "memory of the worker", memory, "MB"),
    ]


@contextmanager
def without_autovacuum(db: psycopg.Connection) -> Iterator[None]:
    """Switch autovacuum off meanwhile, for the whole server."""
    db.execute("ALTER SYSTEM SET autovacuum = off")
    db.execute("SELECT pg_reload_conf()")
    yield
    db.execute("ALTER SYSTEM RESET autovacuum")
    db.execute("SELECT pg_reload_conf()")


def count_transactions(db: psycopg.Connection, database: str) -> int:
    """Give how many transactions have ended in a database, as far as their sessions have told."""
    row = db.execute(_COUNT, (database,)).fetchone()
    return int(row[0]) if row else 0
