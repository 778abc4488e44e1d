"""The triggers of schema.sql: the doorbell that appending rings, and what a change of status sets off."""

from typing import LiteralString

import psycopg
import pytest
from psycopg import sql as pg

from projectiond import sql
from tests.support.events import append, append_many
from tests.support.postgres import Database
from tests.support.queries import Connection, become_new_role, heard, value
from tests.support.starting_schema import MONITORING_QUERIES

pytestmark = pytest.mark.integration


@pytest.fixture
def conn(database: Database) -> Connection:
    """Connect to a database that has the schema."""
    return database.connect()


# --- the doorbell


def test_appending_rings_only_while_somebody_sleeps(conn: Connection, database: Database) -> None:
    sleeper = database.connect()
    conn.execute("LISTEN projectiond_doorbell")
    append(conn, "OrderPlaced")
    assert heard(conn, "projectiond_doorbell") == []
    sleeper.execute("SELECT pg_advisory_lock(%s)", (sql.keys.DOORBELL_KEY,))
    append(conn, "OrderPlaced")
    assert heard(conn, "projectiond_doorbell") == [""]
    sleeper.execute("SELECT pg_advisory_unlock(%s)", (sql.keys.DOORBELL_KEY,))
    append(conn, "OrderPlaced")
    assert heard(conn, "projectiond_doorbell") == []


def test_the_bell_cannot_be_armed_while_a_writer_is_in_flight_that_did_not_ring(
    conn: Connection, database: Database
) -> None:
    writer = database.connect(autocommit=False)
    append(writer, "OrderPlaced")
    assert value(conn, "SELECT pg_try_advisory_lock(%s)", sql.keys.DOORBELL_KEY) is False
    writer.commit()
    assert value(conn, "SELECT pg_try_advisory_lock(%s)", sql.keys.DOORBELL_KEY) is True


def test_the_triggers_work_with_any_search_path(conn: Connection, database: Database) -> None:
    database.connect().execute("SELECT pg_advisory_lock(%s)", (sql.keys.DOORBELL_KEY,))
    listener = database.connect()
    listener.execute("LISTEN projectiond_doorbell; LISTEN projectiond_status")
    conn.execute("SET search_path = ''")
    conn.execute(
        "INSERT INTO public.event_store (aggregate_id, aggregate_type, event_type, event_data, version)"
        " VALUES (gen_random_uuid(), 'Order', 'OrderPlaced', '{}', 1)"
    )
    conn.execute("INSERT INTO public.projection_checkpoints (projection_name, status) VALUES ('orders', 'rebuilding')")
    conn.execute("UPDATE public.projection_checkpoints SET status = 'running'")
    assert heard(listener, "projectiond_status") == ["", "orders", "orders"]


def test_a_transaction_for_two_phase_commit_can_turn_the_bell_off(conn: Connection, database: Database) -> None:
    database.connect().execute("SELECT pg_advisory_lock(%s)", (sql.keys.DOORBELL_KEY,))
    conn.execute("BEGIN")
    append(conn, "OrderPlaced")
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        conn.execute("PREPARE TRANSACTION 'loud'")
    conn.execute("SET projectiond.doorbell = off; BEGIN")
    append(conn, "OrderPlaced")
    conn.execute("PREPARE TRANSACTION 'silent'")
    conn.execute("COMMIT PREPARED 'silent'")
    assert value(conn, "SELECT count(*) FROM event_store") == 1


# --- the status column


@pytest.fixture
def checkpoint(conn: Connection) -> Connection:
    """Connect to a database with projections in the middle of rebuilds in place, one of them paused by an error."""
    conn.execute(
        "INSERT INTO projection_checkpoints (projection_name, status, error_message)"
        " VALUES ('orders', 'paused', 'event 7 is bad'), ('sales', 'rebuilding', NULL)"
    )
    conn.execute(
        "INSERT INTO projection_rebuilds (projection_name, mode, is_begun)"
        " VALUES ('orders', 'in place', true), ('sales', 'in place', true)"
    )
    conn.execute("LISTEN projectiond_status")
    return conn


def test_a_changed_status_is_announced_with_the_projection_name(checkpoint: Connection) -> None:
    checkpoint.execute("UPDATE projection_checkpoints SET status = 'paused'")
    assert heard(checkpoint, "projectiond_status") == ["sales"]
    checkpoint.execute("INSERT INTO projection_checkpoints (projection_name) VALUES ('new')")
    assert heard(checkpoint, "projectiond_status") == ["new"]


def test_a_checkpoint_that_moves_announces_nothing(checkpoint: Connection) -> None:
    checkpoint.execute("UPDATE projection_checkpoints SET last_sequence_number = 5")
    assert heard(checkpoint, "projectiond_status") == []


def test_running_clears_the_error_and_the_rebuild_of_that_projection_only(
    checkpoint: Connection,
) -> None:
    checkpoint.execute("UPDATE projection_checkpoints SET status = 'running' WHERE projection_name = 'orders'")
    rows = checkpoint.execute("SELECT error_message FROM projection_checkpoints WHERE projection_name = 'orders'")
    assert rows.fetchall() == [(None,)]
    assert checkpoint.execute("SELECT projection_name FROM projection_rebuilds").fetchall() == [("sales",)]


def test_pausing_keeps_the_error_and_the_rebuild(checkpoint: Connection) -> None:
    checkpoint.execute("UPDATE projection_checkpoints SET error_message = 'slow' WHERE projection_name = 'sales'")
    checkpoint.execute("UPDATE projection_checkpoints SET status = 'paused'")
    message = "SELECT error_message FROM projection_checkpoints WHERE projection_name = 'sales'"
    assert value(checkpoint, message) == "slow"
    assert value(checkpoint, "SELECT count(*) FROM projection_rebuilds") == 2


def test_a_rebuild_in_place_after_a_pause_begins_afresh_and_keeps_the_error(checkpoint: Connection) -> None:
    checkpoint.execute("UPDATE projection_checkpoints SET status = 'rebuilding' WHERE projection_name = 'orders'")
    message = "SELECT error_message FROM projection_checkpoints WHERE projection_name = 'orders'"
    assert value(checkpoint, message) == "event 7 is bad"
    begun = checkpoint.execute("SELECT projection_name, is_begun FROM projection_rebuilds ORDER BY 1").fetchall()
    assert begun == [("orders", False), ("sales", True)]


def test_a_rebuild_beside_the_live_tables_is_paused_with_them_and_goes_on_with_them(checkpoint: Connection) -> None:
    checkpoint.execute("UPDATE projection_rebuilds SET mode = 'beside'")
    of_sales = "SELECT is_begun, is_paused FROM projection_rebuilds WHERE projection_name = 'sales'"
    for status, is_paused in (("paused", True), ("rebuilding", False)):
        checkpoint.execute("UPDATE projection_checkpoints SET status = %s WHERE projection_name = 'sales'", (status,))
        assert checkpoint.execute(of_sales.encode()).fetchall() == [(True, is_paused)]


def test_creating_a_checkpoint_that_exists_leaves_its_rebuild_alone(
    checkpoint: Connection,
) -> None:
    checkpoint.execute(sql.checkpoint.CREATE_CHECKPOINT, {"name": "sales"})
    assert value(checkpoint, "SELECT count(*) FROM projection_rebuilds") == 2


def test_an_operator_needs_no_right_but_to_update_checkpoints(checkpoint: Connection) -> None:
    role = become_new_role(checkpoint)
    checkpoint.execute("RESET ROLE")
    checkpoint.execute(pg.SQL("GRANT SELECT, UPDATE ON projection_checkpoints TO {}").format(role))
    checkpoint.execute(pg.SQL("SET ROLE {}").format(role))
    checkpoint.execute("UPDATE projection_checkpoints SET status = 'running' WHERE projection_name = 'orders'")
    checkpoint.execute("RESET ROLE")
    assert checkpoint.execute("SELECT projection_name FROM projection_rebuilds").fetchall() == [("sales",)]


@pytest.mark.parametrize("status", ["'pause'", "'Running'", "''", "NULL"])
def test_a_status_that_means_nothing_is_refused(checkpoint: Connection, status: LiteralString) -> None:
    with pytest.raises(psycopg.IntegrityError, match="status"):
        checkpoint.execute("UPDATE projection_checkpoints SET status = " + status)


def test_the_monitoring_queries_run(checkpoint: Connection) -> None:
    append_many(checkpoint, 3)
    lag, per_day, busiest = (checkpoint.execute(query).fetchall() for query in MONITORING_QUERIES)
    assert {(row[0], row[1]) for row in lag} == {("orders", 3), ("sales", 3)}
    assert [row[1:] for row in per_day] == [(3, 1)]
    assert busiest[0][1:] == ("Counter", 3)


def test_nobody_else_can_borrow_the_rights_of_the_status_function(checkpoint: Connection) -> None:
    """It runs as its owner; on a table and schema of a stranger's own it would run the stranger's code as its owner."""
    role = become_new_role(checkpoint)
    checkpoint.execute("RESET ROLE")
    checkpoint.execute(pg.SQL("CREATE SCHEMA trap AUTHORIZATION {}").format(role))
    checkpoint.execute(pg.SQL("SET ROLE {}").format(role))
    checkpoint.execute("CREATE TABLE trap.lure (projection_name text, status text, error_message text)")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        checkpoint.execute(
            "CREATE TRIGGER lure BEFORE UPDATE ON trap.lure FOR EACH ROW "
            "EXECUTE FUNCTION public.projectiond_status_changed()"
        )
    checkpoint.execute("RESET ROLE")
    definition = value(checkpoint, "SELECT pg_get_functiondef('projectiond_status_changed'::regproc)")
    assert "DELETE FROM public.projection_rebuilds" in definition
