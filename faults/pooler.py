"""PgBouncer in transaction mode, where the machine has one, between some of the writers and the server.

Made by ``__main__``; the writers connect through it, and ``of_server`` ends it.
"""

from contextlib import ExitStack
from typing import Final

import psycopg
from psycopg.rows import TupleRow

from faults.server import DATABASE, DisturbedServer
from tests.support.pgbouncer import find_binary, running_pgbouncer

# A server that is away is asked again soon; who waits for it is told, and not kept.
_SETTINGS: Final = {"server_login_retry": 1, "query_wait_timeout": 5}


def find_pooler(server: DisturbedServer) -> "Pooler | None":
    """Give one, started, if there is one."""
    if find_binary() is None:
        return None
    pooler = Pooler(server)
    pooler.start()
    return pooler


class Pooler:
    """A PgBouncer that is ended and started again."""

    def __init__(self, server: DisturbedServer) -> None:
        self._server = server
        self._running = ExitStack()
        self._dsn = ""

    def start(self) -> None:
        """Start it; the server is there."""
        bouncer = self._running.enter_context(running_pgbouncer(self._server, "transaction", **_SETTINGS))
        self._dsn = bouncer.dsn(DATABASE)

    def stop(self) -> None:
        """End it, and every connection through it."""
        self._running.close()

    def connect(self) -> psycopg.Connection[TupleRow]:
        """Open a connection of a writer; sessions are shared, so nothing is prepared."""
        return psycopg.connect(
            self._dsn, autocommit=True, prepare_threshold=None, application_name="faults/writer", connect_timeout=5
        )
