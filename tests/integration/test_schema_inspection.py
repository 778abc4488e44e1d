"""What `projectiond check` says of a database: every fault, each with what to do about it."""

from typing import LiteralString

import pytest
from psycopg import sql as pg

from projectiond.postgres.inspection import inspect_schema
from tests.support.postgres import Database
from tests.support.queries import Connection, become_new_role

pytestmark = pytest.mark.integration


@pytest.fixture
def conn(database: Database) -> Connection:
    """Connect to a database that has the schema."""
    return database.connect()


FAULTS: list[tuple[LiteralString, str]] = [
    (
        "DROP TABLE projection_dead_letters",
        "table projection_dead_letters is not in the search_path",
    ),
    (
        "DROP TABLE event_store",
        "table event_store is not in the search_path",
    ),
    (
        "ALTER TABLE event_store SET UNLOGGED",
        "event_store loses its events when the server crashes",
    ),
    (
        "ALTER TABLE event_store RENAME COLUMN metadata TO meta",
        "column event_store.metadata is missing",
    ),
    (
        "DROP TRIGGER projectiond_ring_doorbell ON event_store",
        "trigger projectiond_ring_doorbell on event_store is missing",
    ),
    (
        "ALTER TABLE event_store DISABLE TRIGGER projectiond_ring_doorbell",
        "projectiond_ring_doorbell on event_store is disabled",
    ),
    (
        "DROP TRIGGER projectiond_status_changed ON projection_checkpoints",
        "trigger projectiond_status_changed on projection_c",
    ),
    (
        """
        SELECT nextval('event_store_sequence_number_seq');
        INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version, sequence_number)
        VALUES (gen_random_uuid(), 'Order', 'Stray', '{}', 1, 1000)
        """,
        "event_store has number 1000, but its sequence has drawn 1 at most",
    ),
    (
        "DROP FUNCTION projectiond_require_moved",
        "function projectiond_require_moved is not in the search_path",
    ),
    (
        "DROP FUNCTION projectiond_wait_for",
        "function projectiond_wait_for is not in the search_path",
    ),
    (
        "ALTER TABLE event_store ALTER COLUMN sequence_number DROP DEFAULT",
        "event_store.sequence_number has no default",
    ),
    (
        "ALTER SEQUENCE event_store_sequence_number_seq OWNED BY NONE",
        "sequence_number has no sequence of its own",
    ),
    (
        "ALTER SEQUENCE event_store_sequence_number_seq CACHE 32",
        "event_store_sequence_number_seq has CACHE 32",
    ),
    (
        "ALTER SEQUENCE event_store_sequence_number_seq CYCLE",
        "event_store_sequence_number_seq counts downwards or cycles",
    ),
    (
        "ALTER TABLE event_store ALTER COLUMN sequence_number DROP NOT NULL",
        "event_store.sequence_number may be NULL",
    ),
    (
        """
        ALTER TABLE event_store DROP CONSTRAINT unique_sequence_number;
        CREATE INDEX plain ON event_store (sequence_number);
        """,
        "event_store.sequence_number is not unique",
    ),
    (
        "ALTER TABLE event_store ALTER COLUMN created_at TYPE timestamp",
        "event_store.created_at has no time zone",
    ),
    (
        "ALTER TABLE projection_checkpoints DROP CONSTRAINT projection_status_known",
        "status takes any value",
    ),
    (
        "ALTER TABLE projection_checkpoints ALTER COLUMN status DROP NOT NULL",
        "status takes any value",
    ),
]


@pytest.mark.parametrize(("statement", "expected"), FAULTS)
def test_inspection_names_the_fault_and_what_to_do(conn: Connection, statement: LiteralString, expected: str) -> None:
    conn.execute(statement)
    (fault,) = inspect_schema(conn)
    assert expected in fault
    assert ": " in fault


def test_inspection_names_all_faults_at_once(conn: Connection) -> None:
    for statement in (
        "DROP TABLE projection_dead_letters",
        "ALTER SEQUENCE event_store_sequence_number_seq CACHE 32 CYCLE",
    ):
        conn.execute(statement)
    assert len(inspect_schema(conn)) == 3


def test_a_daemon_that_polls_needs_no_doorbell(conn: Connection) -> None:
    conn.execute("DROP TRIGGER projectiond_ring_doorbell ON event_store")
    assert inspect_schema(conn, needs_doorbell=False) == []


def test_inspection_names_the_privileges_that_the_role_lacks(conn: Connection) -> None:
    role = become_new_role(conn)
    name = role.as_string(conn).strip('"')
    faults = inspect_schema(conn)
    assert f"role {name} lacks SELECT on event_store: run GRANT SELECT ON event_store TO {name}" in faults
    assert len(faults) == 9
    # Each fault says what to run; doing just that mends them all.
    conn.execute("RESET ROLE")
    for fault in faults:
        conn.execute(fault.partition(": run ")[2])
    conn.execute(pg.SQL("SET ROLE {}").format(role))
    assert inspect_schema(conn) == []
