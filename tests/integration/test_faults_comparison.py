"""What the harness of faults compares: it has to see what it looks for."""

import runpy
from typing import Any

import pytest

from faults.expected import READ_MODELS, compare
from faults.scene import PLUGINS
from tests.support.events import append
from tests.support.postgres import Database
from tests.support.queries import Connection

pytestmark = [pytest.mark.integration, pytest.mark.any_server]

TYPES = ("Opened", "Counted", "Moved", "Counted", "Closed")


@pytest.fixture
def up_to_date(database: Database) -> Connection:
    """Make a store and read models that are what they have to be, without a daemon."""
    conn = database.connect()
    for number, event_type in enumerate(TYPES, 1):
        append(conn, event_type, {"amount": number})
    classes: dict[str, Any] = runpy.run_path(str(PLUGINS / "tallies.py"))
    for found in classes.values():
        if isinstance(found, type) and found.__module__ == "<run_path>" and hasattr(found, "schema"):
            conn.execute(found.schema.encode())
    for name, model in READ_MODELS.items():
        columns = "(sequence_number)" if name == "audit" else ""
        conn.execute(f"INSERT INTO {name} {columns} {model.expected}".encode())
        conn.execute(
            "INSERT INTO projection_checkpoints (projection_name, last_sequence_number, events_processed) "
            "VALUES (%s, 5, (SELECT count(*) FROM event_store WHERE event_type = ANY(%s)))",
            (name, list(model.event_types)),
        )
    assert compare(conn, 5).differences == ()
    return conn


@pytest.mark.parametrize(
    ("statement", "lost", "repeated", "difference"),
    [
        ("DELETE FROM audit WHERE sequence_number = 3", 1, 0, "audit: 1 events were lost"),
        ("INSERT INTO audit (sequence_number) VALUES (5)", 0, 1, "audit: 1 events were applied more than once"),
        (
            "UPDATE audit SET place = place + 100 WHERE sequence_number = 3",
            0,
            0,
            "audit: 1 events were applied after a later one",
        ),
        ("UPDATE tally_by_row SET events = events + 1 WHERE amount = 1", 0, 0, "tally_by_row: 1 rows should not be"),
        ("DELETE FROM types_by_sql WHERE event_type = 'Moved'", 0, 0, "types_by_sql: 0 rows should not be there, 1"),
        (
            "UPDATE projection_checkpoints SET events_processed = 9 WHERE projection_name = 'newest'",
            0,
            7,
            "newest: events_processed is 9, and there are 2",
        ),
        (
            "UPDATE projection_checkpoints SET last_sequence_number = 4 WHERE projection_name = 'newest'",
            0,
            0,
            "newest: is running at 4 of 5",
        ),
    ],
)
def test_what_is_not_as_the_store_says_is_named(
    up_to_date: Connection, statement: str, lost: int, repeated: int, difference: str
) -> None:
    up_to_date.execute(statement.encode())
    verdict = compare(up_to_date, 5)
    assert (verdict.events, verdict.lost, verdict.repeated) == (5, lost, repeated)
    assert any(found.startswith(difference) for found in verdict.differences), verdict.differences
