"""The floor of latency: the barest process that keeps a read model of new orders up to date.

    python -m bench.bare_listener ADDRESS

Started by ``latency``, on a database of its own.  It is one thread and one connection, by libpq alone; at each
notification it asks for the next event, and sends row, checkpoint and a durable COMMIT in one pipeline, all prepared.
It does nothing of what makes a daemon: it reads past events that are in flight, checks nothing and survives nothing.
Nobody can be much faster who waits for a notification, asks what is new, and commits.
"""

import select
import sys
from typing import Final

import psycopg
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn

from bench import orders
from bench.tables import prefixed
from projectiond import sql

PREFIX: Final = "by_bare"

_PREPARED: Final = {
    b"read": b"SELECT sequence_number, aggregate_id, event_data->>'customer_id', event_data->>'currency'"
    b" FROM event_store WHERE sequence_number > $1 ORDER BY sequence_number LIMIT 1",
    b"begin": b"BEGIN",
    b"place": prefixed(
        "INSERT INTO order_totals (order_id, customer_id, currency, status) VALUES ($1, $2, $3, 'placed')", PREFIX
    ).encode(),
    b"advance": b"UPDATE projection_checkpoints SET last_sequence_number = $1, last_processed_at = now()"
    b" WHERE projection_name = 'bare'",
    b"commit": b"COMMIT",
}


def main(address: str) -> None:
    """Listen until the end of standard input."""
    with psycopg.connect(address, autocommit=True) as db:
        db.execute(prefixed(orders.READ_MODEL, PREFIX))
        db.execute("INSERT INTO projection_checkpoints (projection_name) VALUES ('bare')")
        # As the daemon does when it is about to sleep: from now on writers notify.
        db.execute("SELECT pg_advisory_lock(%s)", (sql.keys.DOORBELL_KEY,))
        db.execute(sql.doorbell.LISTEN_DOORBELL)
        link = db.pgconn
        for name, statement in _PREPARED.items():
            _expect(link.prepare(name, statement).status, ExecStatus.COMMAND_OK, link)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        _listen(link)


def _listen(link: PGconn) -> None:
    position = 0
    waiting = select.poll()
    waiting.register(link.socket, select.POLLIN)
    waiting.register(sys.stdin.fileno(), select.POLLIN)
    while all(descriptor == link.socket for descriptor, _ in waiting.poll()):
        link.consume_input()
        while link.notifies() is not None:
            pass
        while (number := _apply_next(link, position)) is not None:
            position = number


def _apply_next(link: PGconn, position: int) -> int | None:
    found = link.exec_prepared(b"read", [str(position).encode()])
    _expect(found.status, ExecStatus.TUPLES_OK, link)
    if not found.ntuples:
        return None
    number, *values = (found.get_value(0, column) for column in range(4))
    link.enter_pipeline_mode()
    link.send_query_prepared(b"begin", None)
    link.send_query_prepared(b"place", values)
    link.send_query_prepared(b"advance", [number])
    link.send_query_prepared(b"commit", None)
    link.pipeline_sync()
    while (result := link.get_result()) is None or result.status != ExecStatus.PIPELINE_SYNC:
        if result is not None:
            _expect(result.status, ExecStatus.COMMAND_OK, link)
    link.exit_pipeline_mode()
    return int(number or 0)


def _expect(status: int, expected: ExecStatus, link: PGconn) -> None:
    if status != expected:
        raise RuntimeError(link.error_message.decode())


if __name__ == "__main__":
    main(sys.argv[1])
