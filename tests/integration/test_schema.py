"""schema.sql on the databases that people have: empty, made by the starting DDL, made by an ORM, broken."""

import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from projectiond.errors import ConfigurationError
from projectiond.postgres import schema
from projectiond.postgres.inspection import inspect_schema
from projectiond.postgres.schema import apply_schema, schema_sql
from projectiond.sql.keys import DOORBELL_KEY
from tests.support.events import append, append_many
from tests.support.postgres import SCHEMA_FILE, Database, LocalServer, Server
from tests.support.queries import Connection, become_new_role, heard, value
from tests.support.starting_schema import (
    STARTING_DDL,
    Base,
    EventStoreModel,
    ProjectionCheckpointModel,
)

pytestmark = pytest.mark.integration

TABLES = (
    "event_store",
    "projection_checkpoints",
    "snapshots",
    "projection_dead_letters",
    "projection_rebuilds",
    "projection_builds",
    "projection_rebuild_history",
    "projection_workers",
    "projectiond_high_water_mark",
)

type_of_column = """
    SELECT format_type(atttypid, NULL), attnotnull, pg_get_expr(adbin, adrelid)
    FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attrelid = %s::regclass AND attname = %s
"""


@pytest.fixture
def conn(database: Database) -> Connection:
    """Connect to a database that has the schema."""
    return database.connect()


@pytest.fixture
def starting(empty_database: Database) -> Connection:
    """Connect to a database made by the starting DDL, with a few events and checkpoints in it."""
    conn = empty_database.connect()
    conn.execute(STARTING_DDL)
    append_many(conn, 20)
    conn.execute("INSERT INTO projection_checkpoints (projection_name, last_sequence_number) VALUES ('orders', 7)")
    return conn


@pytest.fixture
def made_by_orm(empty_database: Database) -> Connection:
    """Connect to a database made by SQLAlchemy from the starting models, with two streams written through it."""
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(empty_database.dsn))
    Base.metadata.create_all(engine)
    first, second = uuid.UUID(int=1), uuid.UUID(int=2)
    # The clock of the first stream's second writer was behind: its version 2 seems older than version 1.
    written = [(first, 1, 10), (second, 1, 11), (first, 2, 5), (second, 2, 12)]
    with Session(engine) as session:
        for aggregate_id, version, minute in reversed(written):
            session.add(
                EventStoreModel(
                    aggregate_id=aggregate_id,
                    aggregate_type="Order",
                    event_type="OrderPlaced",
                    event_data={"minute": minute},
                    version=version,
                    created_at=datetime(2024, 5, 1, 12, minute, tzinfo=UTC),
                )
            )
        session.add(ProjectionCheckpointModel(projection_name="orders"))
        session.commit()
    engine.dispose()
    conn = empty_database.connect()
    conn.execute("INSERT INTO projection_checkpoints (projection_name) VALUES ('written_by_hand')")
    return conn


def index_names(conn: Connection, table: str = "event_store") -> set[str]:
    return {name for (name,) in conn.execute("SELECT indexname FROM pg_indexes WHERE tablename = %s", (table,))}


# --- empty databases


def test_init_makes_everything_in_an_empty_database(empty_database: Database) -> None:
    conn = empty_database.connect()
    done = apply_schema(conn)
    assert [f"created table public.{table}" for table in TABLES] == done[: len(TABLES)]
    assert inspect_schema(conn) == []
    assert append(conn, "OrderPlaced") == 1
    assert append(conn, "OrderPlaced") == 2


def test_a_second_init_does_nothing_and_says_nothing(empty_database: Database) -> None:
    conn = empty_database.connect()
    apply_schema(conn)
    assert apply_schema(conn) == []


def test_several_inits_at_once_do_not_disturb_each_other(empty_database: Database) -> None:
    connections = [empty_database.connect() for _ in range(4)]
    with ThreadPoolExecutor(len(connections)) as threads:
        done = list(threads.map(apply_schema, connections))
    assert sorted(bool(lines) for lines in done) == [False, False, False, True]


def test_init_uses_the_schema_that_the_event_store_is_in(empty_database: Database) -> None:
    conn = empty_database.connect()
    conn.execute("CREATE SCHEMA app; CREATE SCHEMA events; SET search_path = events")
    conn.execute(STARTING_DDL)
    conn.execute("SET search_path = app, events")
    apply_schema(conn)
    assert inspect_schema(conn) == []
    schemas = conn.execute("SELECT DISTINCT schemaname FROM pg_tables WHERE tablename = ANY(%s)", (list(TABLES),))
    assert schemas.fetchall() == [("events",)]
    assert value(conn, "SHOW search_path") == "app, events"


def test_init_is_refused_where_the_search_path_names_no_schema(empty_database: Database) -> None:
    conn = empty_database.connect()
    conn.execute("SET search_path = nowhere")
    with pytest.raises(ConfigurationError, match=r"no schema of the search_path \(nowhere\) exists"):
        apply_schema(conn)


def test_psql_can_run_the_file_twice(empty_database: Database, server: Server) -> None:
    if not isinstance(server, LocalServer):
        pytest.skip("needs the psql beside the server's binaries")
    psql = [
        str(server.bin_directory / "psql"),
        "-X",
        "-v",
        "ON_ERROR_STOP=1",
        empty_database.dsn,
        "-f",
        str(SCHEMA_FILE),
    ]
    for _ in range(2):
        result = subprocess.run(psql, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
    assert inspect_schema(empty_database.connect()) == []


def test_the_shipped_file_is_the_one_at_the_top_level() -> None:
    assert schema_sql() == SCHEMA_FILE.read_text(encoding="utf-8")


def test_init_wants_a_connection_that_it_can_begin_a_transaction_on(empty_database: Database) -> None:
    with pytest.raises(ValueError, match="autocommit"):
        apply_schema(empty_database.connect(autocommit=False))


# --- the starting DDL


def test_init_upgrades_a_database_made_by_the_starting_ddl(starting: Connection) -> None:
    before = starting.execute("SELECT * FROM event_store ORDER BY sequence_number").fetchall()
    done = apply_schema(starting)
    assert "made event_store.sequence_number unique" in done
    assert "limited projection_checkpoints.status to running, paused and rebuilding" in done
    assert inspect_schema(starting) == []
    assert starting.execute("SELECT * FROM event_store ORDER BY sequence_number").fetchall() == before
    assert value(starting, "SELECT last_sequence_number FROM projection_checkpoints") == 7
    assert append(starting, "OrderPlaced") == 21
    assert apply_schema(starting) == []


def test_init_drops_the_indexes_that_repeat_a_constraint_and_says_so(
    starting: Connection,
) -> None:
    done = apply_schema(starting)
    dropped = {line.split(",")[0] for line in done if line.startswith("dropped")}
    assert dropped == {"dropped index idx_event_store_aggregate", "dropped index idx_event_store_sequence"}
    assert index_names(starting) == {
        "event_store_pkey",
        "unique_aggregate_version",
        "unique_sequence_number",
        "idx_event_store_type",
        "idx_event_store_created",
    }


def test_init_keeps_an_index_that_only_has_the_name_of_a_redundant_one(
    starting: Connection,
) -> None:
    starting.execute("DROP INDEX idx_event_store_aggregate")
    starting.execute("CREATE INDEX idx_event_store_aggregate ON event_store (aggregate_id, version DESC)")
    apply_schema(starting)
    assert "idx_event_store_aggregate" in index_names(starting)


def test_init_takes_a_unique_index_that_was_built_beforehand(starting: Connection) -> None:
    starting.execute("CREATE UNIQUE INDEX CONCURRENTLY my_own ON event_store (sequence_number)")
    assert "made event_store.sequence_number unique" not in apply_schema(starting)
    assert "unique_sequence_number" not in index_names(starting)
    assert inspect_schema(starting) == []


def test_init_gives_a_null_status_its_meaning(starting: Connection) -> None:
    starting.execute("UPDATE projection_checkpoints SET status = NULL")
    apply_schema(starting)
    assert value(starting, "SELECT status FROM projection_checkpoints") == "running"


def test_init_moves_a_sequence_that_is_behind_the_events(starting: Connection) -> None:
    starting.execute("SELECT setval('event_store_sequence_number_seq', 3)")
    assert "moved event_store_sequence_number_seq to 20, the largest sequence_number" in apply_schema(starting)
    assert append(starting, "OrderPlaced") == 21


def test_init_adopts_a_sequence_that_belongs_to_no_column(starting: Connection) -> None:
    starting.execute("ALTER SEQUENCE event_store_sequence_number_seq OWNED BY NONE")
    apply_schema(starting)
    assert inspect_schema(starting) == []


def test_init_accepts_an_identity_column(starting: Connection) -> None:
    starting.execute("DROP SEQUENCE event_store_sequence_number_seq CASCADE")
    starting.execute(
        "ALTER TABLE event_store ALTER COLUMN sequence_number ADD GENERATED BY DEFAULT AS IDENTITY (START WITH 100)"
    )
    apply_schema(starting)
    assert inspect_schema(starting) == []
    assert append(starting, "OrderPlaced") == 100


def test_init_accepts_a_partitioned_event_store(empty_database: Database) -> None:
    conn = empty_database.connect()
    conn.execute(
        """
        CREATE TABLE event_store (
            event_id UUID NOT NULL DEFAULT gen_random_uuid(),
            aggregate_id UUID NOT NULL,
            aggregate_type TEXT NOT NULL,
            event_type TEXT NOT NULL,
            event_data JSONB NOT NULL,
            metadata JSONB DEFAULT '{}',
            version INT NOT NULL,
            sequence_number BIGSERIAL NOT NULL,
            created_at TIMESTAMPTZ NOT NULL DEFAULT now()
        ) PARTITION BY RANGE (created_at);
        CREATE TABLE event_store_all PARTITION OF event_store DEFAULT;
        """
    )
    apply_schema(conn)
    assert inspect_schema(conn) == []
    assert apply_schema(conn) == []
    conn.execute("LISTEN projectiond_doorbell")
    empty_database.connect().execute("SELECT pg_advisory_lock(%s)", (DOORBELL_KEY,))
    append(conn, "OrderPlaced")
    assert heard(conn, "projectiond_doorbell") == [""]


# --- made by an ORM


def test_init_numbers_the_events_of_an_orm_in_order_of_time_and_version(
    made_by_orm: Connection,
) -> None:
    assert value(made_by_orm, "SELECT count(*) FROM event_store WHERE sequence_number IS NULL") == 4
    done = apply_schema(made_by_orm)
    assert "numbered 4 events that had no sequence_number, from 1 in order of created_at" in done
    rows = made_by_orm.execute(
        "SELECT sequence_number, aggregate_id, version FROM event_store ORDER BY sequence_number"
    ).fetchall()
    first, second = uuid.UUID(int=1), uuid.UUID(int=2)
    assert rows == [(1, first, 1), (2, first, 2), (3, second, 1), (4, second, 2)]


def test_init_numbers_what_has_no_number_behind_what_has(made_by_orm: Connection) -> None:
    made_by_orm.execute(
        "UPDATE event_store SET sequence_number = 50 WHERE version = 2 AND aggregate_id = %s",
        (uuid.UUID(int=2),),
    )
    apply_schema(made_by_orm)
    assert sorted(made_by_orm.execute("SELECT sequence_number FROM event_store")) == [
        (50,),
        (51,),
        (52,),
        (53,),
    ]
    assert append(made_by_orm, "OrderPlaced") == 54


def test_init_completes_the_tables_of_an_orm(made_by_orm: Connection) -> None:
    apply_schema(made_by_orm)
    assert inspect_schema(made_by_orm) == []
    assert append(made_by_orm, "OrderPlaced") == 5
    made_by_orm.execute(
        "INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version)"
        " VALUES (gen_random_uuid(), 'Order', 'OrderPlaced', '{}', 1)"
    )
    created = value(made_by_orm, "SELECT created_at FROM event_store WHERE sequence_number = 1")
    assert created == datetime(2024, 5, 1, 12, 10, tzinfo=UTC)
    rows = made_by_orm.execute(
        "SELECT last_sequence_number, events_processed, status FROM projection_checkpoints"
    ).fetchall()
    assert rows == [(0, 0, "running")] * 2
    for column, default in (
        ("event_id", "gen_random_uuid()"),
        ("metadata", "'{}'::jsonb"),
        ("created_at", "now()"),
    ):
        assert made_by_orm.execute(type_of_column, ("event_store", column)).fetchone()[2] == default  # type: ignore[index]
    assert "idx_aggregate_version" not in index_names(made_by_orm)
    assert {"ix_event_store_aggregate_id", "ix_event_store_event_type"} <= index_names(made_by_orm)
    assert apply_schema(made_by_orm) == []


def test_writers_of_an_orm_with_few_rights_can_append_after_init(made_by_orm: Connection) -> None:
    owner = become_new_role(made_by_orm)
    made_by_orm.execute("RESET ROLE")
    writer = become_new_role(made_by_orm)
    made_by_orm.execute("RESET ROLE")
    made_by_orm.execute(sql.SQL("ALTER TABLE event_store OWNER TO {}").format(owner))
    made_by_orm.execute(sql.SQL("GRANT SELECT, INSERT ON event_store TO {}").format(writer))
    apply_schema(made_by_orm)
    made_by_orm.execute(sql.SQL("SET ROLE {}").format(writer))
    assert append(made_by_orm, "OrderPlaced") == 5


def test_inspection_of_a_database_made_by_an_orm_asks_for_init(made_by_orm: Connection) -> None:
    faults = inspect_schema(made_by_orm)
    assert len(faults) > 5
    assert all(fault.endswith('run "projectiond init"') for fault in faults)


def test_the_models_still_write_after_init(made_by_orm: Connection, empty_database: Database) -> None:
    # SQLAlchemy sends an explicit NULL for a column whose default it does not know.
    apply_schema(made_by_orm)
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(empty_database.dsn))
    event = EventStoreModel(
        aggregate_id=uuid.uuid4(), aggregate_type="Order", event_type="OrderPlaced", event_data={}, version=1
    )
    with Session(engine) as session:
        session.add(event)
        session.commit()
        assert event.sequence_number == 5
    engine.dispose()
    assert append(made_by_orm, "OrderPlaced") == 6


# --- refusals

REFUSALS: dict[str, tuple[LiteralString, str, str]] = {
    "duplicate sequence numbers": (
        "UPDATE event_store SET sequence_number = 5 WHERE sequence_number IN (6, 7)",
        "event_store has duplicate sequence numbers: 5 (3 times)",
        "give these events distinct numbers",
    ),
    "a sequence that caches": (
        "ALTER SEQUENCE event_store_sequence_number_seq CACHE 10",
        "event_store_sequence_number_seq has CACHE 10",
        "run ALTER SEQUENCE event_store_sequence_number_seq CACHE 1,",
    ),
    "a sequence that cycles": (
        "ALTER SEQUENCE event_store_sequence_number_seq CYCLE",
        "event_store_sequence_number_seq counts downwards or cycles",
        "NO CYCLE",
    ),
    "a sequence that counts downwards": (
        "ALTER SEQUENCE event_store_sequence_number_seq INCREMENT BY -1 MINVALUE -1000",
        "event_store_sequence_number_seq counts downwards or cycles",
        "INCREMENT BY 1",
    ),
    "a default without a sequence": (
        "ALTER TABLE event_store ALTER COLUMN sequence_number SET DEFAULT 7",
        "the default of event_store.sequence_number names no sequence: 7",
        "set it to nextval",
    ),
    "an unknown status": (
        "UPDATE projection_checkpoints SET status = 'pausd'",
        "projections have a status that means nothing: orders is 'pausd'",
        "running, paused or rebuilding",
    ),
    "an unlogged table": (
        "ALTER TABLE event_store SET UNLOGGED",
        "event_store is an unlogged or temporary table",
        "SET LOGGED",
    ),
    "a view": (
        "ALTER TABLE event_store RENAME TO events; CREATE VIEW event_store AS SELECT * FROM events",
        "event_store is not a table",
        "name the table that events are inserted into event_store",
    ),
    "a missing column": (
        "ALTER TABLE event_store RENAME COLUMN aggregate_type TO kind",
        "columns are missing: event_store.aggregate_type",
        "add or rename them",
    ),
    "event data that is no JSON": (
        "ALTER TABLE event_store ALTER COLUMN event_data TYPE text",
        "event_store.event_data is text",
        "ALTER COLUMN ... TYPE",
    ),
    "one version twice": (
        """
        ALTER TABLE event_store DROP CONSTRAINT unique_aggregate_version;
        UPDATE event_store SET version = 1 WHERE version = 2;
        """,
        "event_store has two events of one aggregate with the same version",
        "renumber the stream",
    ),
    "an event without a time": (
        """
        ALTER TABLE event_store ALTER COLUMN created_at DROP NOT NULL;
        UPDATE event_store SET created_at = NULL WHERE version < 4;
        """,
        "3 events have no created_at",
        "fill event_store.created_at in these rows",
    ),
}


def test_a_rebuild_that_an_older_version_has_begun_goes_on_in_place(database: Database) -> None:
    conn = database.connect()
    conn.execute("DROP TABLE projection_rebuilds")
    conn.execute(
        "CREATE TABLE projection_rebuilds (projection_name VARCHAR(100) PRIMARY KEY,"
        " started_at TIMESTAMPTZ NOT NULL DEFAULT NOW(), target_sequence_number BIGINT NOT NULL)"
    )
    conn.execute("INSERT INTO projection_rebuilds VALUES ('orders', now(), 9)")
    assert apply_schema(conn) == ["added columns to projection_rebuilds"]
    assert apply_schema(conn) == []
    conn.execute("INSERT INTO projection_rebuilds (projection_name) VALUES ('sales')")
    rows = conn.execute(
        "SELECT mode, is_begun, target_sequence_number FROM projection_rebuilds ORDER BY projection_name"
    )
    assert rows.fetchall() == [("in place", True, 9), ("beside", False, 0)]


@pytest.mark.parametrize("fault", REFUSALS)
def test_init_refuses_and_changes_nothing(starting: Connection, fault: str) -> None:
    statement, message, hint = REFUSALS[fault]
    starting.execute(statement)
    with pytest.raises(ConfigurationError) as refused:
        apply_schema(starting)
    assert message in refused.value.message
    assert hint in refused.value.hint
    assert value(starting, "SELECT to_regclass('projection_rebuilds')") is None
    assert value(starting, "SELECT count(*) FROM pg_constraint WHERE conname = 'projection_status_known'") == 0


def test_init_does_not_queue_the_writers_behind_a_long_transaction(
    starting: Connection, empty_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty = schema_sql().replace("lock_timeout = '5s'", "lock_timeout = '50ms'")
    assert hasty != schema_sql()
    monkeypatch.setattr(schema, "schema_sql", lambda: hasty)
    append(empty_database.connect(autocommit=False), "OrderPlaced")
    with pytest.raises(ConfigurationError, match="kept the tables locked"):
        apply_schema(starting)
    append(starting, "OrderPlaced")


# --- the second run


def test_a_second_init_waits_for_no_writer_and_rewrites_nothing(
    starting: Connection, empty_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_schema(starting)
    hasty = schema_sql().replace("lock_timeout = '5s'", "lock_timeout = '50ms'")
    monkeypatch.setattr(schema, "schema_sql", lambda: hasty)
    before = value(starting, "SELECT pg_relation_filenode('event_store')")
    # An open append conflicts with every lock that would stop another one.
    append(empty_database.connect(autocommit=False), "OrderPlaced")
    assert apply_schema(starting) == []
    assert value(starting, "SELECT pg_relation_filenode('event_store')") == before


def test_a_second_init_does_not_read_the_events(starting: Connection) -> None:
    append_many(starting, 5000)
    apply_schema(starting)
    starting.execute("VACUUM ANALYZE event_store")
    scans: LiteralString = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'event_store'"
    starting.execute("SELECT pg_stat_force_next_flush()")
    before = value(starting, scans)
    apply_schema(starting)
    starting.execute("SELECT pg_stat_force_next_flush()")
    assert value(starting, scans) == before


def test_init_does_not_rewrite_a_store_with_naive_timestamps(made_by_orm: Connection) -> None:
    before = value(made_by_orm, "SELECT pg_relation_filenode('event_store')")
    assert "changed event_store.created_at to timestamptz, its values taken as UTC" in apply_schema(made_by_orm)
    assert value(made_by_orm, "SELECT pg_relation_filenode('event_store')") == before


def test_init_makes_a_trigger_anew_that_was_dropped_or_disabled(conn: Connection) -> None:
    conn.execute("DROP TRIGGER projectiond_status_changed ON projection_checkpoints")
    conn.execute("ALTER TABLE event_store DISABLE TRIGGER projectiond_ring_doorbell")
    assert apply_schema(conn) == [
        "enabled trigger projectiond_ring_doorbell on event_store",
        "created trigger projectiond_status_changed on projection_checkpoints",
    ]
    assert inspect_schema(conn) == []


def test_init_replaces_a_trigger_of_another_version(conn: Connection) -> None:
    conn.execute("COMMENT ON TRIGGER projectiond_ring_doorbell ON event_store IS 'projectiond doorbell, version 0'")
    assert apply_schema(conn) == ["created trigger projectiond_ring_doorbell on event_store"]
