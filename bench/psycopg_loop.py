"""The same loop by plain psycopg, without SQLAlchemy and asyncio: what a careful team writes.

Run by ``bench.race`` as ``python -m bench.psycopg_loop DSN DOMAIN``: applies what is there and prints its seconds.
One connection, a hundred events read at a time, one transaction for every hundred events with their checkpoint in it.
psycopg prepares statements that come again.
"""

import sys
import time
from typing import Any, Final, LiteralString

import psycopg
from psycopg.rows import dict_row

from bench.domain import DOMAINS, Domain
from bench.orders import CHECKPOINT_EVERY

NAME: Final = "psycopg_loop"

_READ_CHECKPOINT: LiteralString = """
SELECT last_sequence_number
FROM projection_checkpoints
WHERE projection_name = %(name)s
"""

_READ_EVENTS: LiteralString = """
SELECT event_id, aggregate_id, event_type, event_data, version, sequence_number{}
FROM event_store
WHERE sequence_number > %(after)s
ORDER BY sequence_number
LIMIT %(batch_size)s
"""

_MOVE_CHECKPOINT: LiteralString = """
UPDATE projection_checkpoints
SET last_sequence_number = %(to)s, last_event_id = %(event_id)s, last_processed_at = now(),
    events_processed = events_processed + %(applied)s
WHERE projection_name = %(name)s
"""


def project(db: psycopg.Connection[dict[str, Any]], domain: Domain) -> None:
    """Apply everything above the checkpoint."""
    found = db.execute(_READ_CHECKPOINT, {"name": NAME}).fetchone()
    position = found["last_sequence_number"] if found else 0
    # Nobody reads a column that nobody needs.
    read_events = _READ_EVENTS.format(", created_at" if domain.needs_time else "")
    while rows := db.execute(read_events, {"after": position, "batch_size": CHECKPOINT_EVERY}).fetchall():
        for row in rows:
            event_class, data = domain.registry[row.pop("event_type")], row.pop("event_data")
            event = event_class(**row, **data)
            for statement, parameters in domain.statements_of(event):
                db.execute(statement, parameters)
        position = rows[-1]["sequence_number"]
        moved = {"name": NAME, "to": position, "event_id": rows[-1]["event_id"], "applied": len(rows)}
        db.execute(_MOVE_CHECKPOINT, moved)
        db.commit()


def main(dsn: str, domain: Domain) -> None:
    """Connect, then measure."""
    with psycopg.connect(dsn, row_factory=dict_row) as db:
        db.execute("SELECT 1")
        db.rollback()
        began = time.perf_counter()
        project(db, domain)
        print(time.perf_counter() - began)


if __name__ == "__main__":
    main(sys.argv[1], DOMAINS[sys.argv[2]])
