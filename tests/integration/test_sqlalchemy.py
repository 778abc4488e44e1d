"""The SQLAlchemy models beside schema.sql, and the events that are written through them."""

import asyncio
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Dialect, Engine, ForeignKey, MetaData, Table, event, func, insert, inspect, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from projectiond.errors import ConcurrencyError
from projectiond.postgres.inspection import inspect_schema
from projectiond.postgres.schema import apply_schema
from projectiond.sqlalchemy import (
    EventStoreBase,
    EventStoreMixin,
    EventStoreModel,
    ProjectionCheckpointMixin,
    ProjectionCheckpointModel,
    SnapshotMixin,
    SnapshotModel,
    include_object,
    translate_conflicts,
    translate_conflicts_async,
)
from tests.support.daemon import Daemon, journal
from tests.support.events import append, append_many
from tests.support.postgres import Database
from tests.support.queries import Connection
from tests.support.sqlalchemy_engines import ASYNC_DRIVERS, async_engine_of, engine_of

pytestmark = pytest.mark.integration

TABLES = ("event_store", "projection_checkpoints", "snapshots")

# Everything of these tables that the catalogues know, in PostgreSQL's own words.
CATALOGUE = """
    SELECT attrelid::regclass::text, attname::text, attnum::text, format_type(atttypid, atttypmod), attnotnull::text,
        pg_get_expr(adbin, adrelid), attidentity::text
    FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attrelid = ANY (%(tables)s::text[]::regclass[]) AND attnum > 0
    UNION ALL
    SELECT conrelid::regclass::text, conname::text, pg_get_constraintdef(oid), '', '', '', ''
    FROM pg_constraint WHERE conrelid = ANY (%(tables)s::text[]::regclass[])
    UNION ALL
    SELECT tablename::text, indexname::text, indexdef, '', '', '', ''
    FROM pg_indexes WHERE tablename = ANY (%(tables)s::text[])
    UNION ALL
    SELECT pg_get_serial_sequence('event_store', 'sequence_number'), seqtypid::regtype::text, seqstart::text,
        seqincrement::text, seqcache::text, seqcycle::text, ''
    FROM pg_sequence WHERE seqrelid = pg_get_serial_sequence('event_store', 'sequence_number')::regclass
    UNION ALL
    SELECT tgrelid::regclass::text, tgname::text, pg_get_triggerdef(oid), '', '', '', ''
    FROM pg_trigger WHERE tgrelid = ANY (%(tables)s::text[]::regclass[]) AND NOT tgisinternal
"""


class TeamBase(DeclarativeBase):
    """A team's own base class, with a naming convention that would rename everything."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(constraint_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )


class TeamEvent(EventStoreMixin, TeamBase):
    """The events among the team's own models."""


class TeamCheckpoint(ProjectionCheckpointMixin, TeamBase):
    """The checkpoints among the team's own models."""


class TeamSnapshot(SnapshotMixin, TeamBase):
    """The snapshots among the team's own models."""


class Order(TeamBase):
    """A table of the application."""

    __tablename__ = "orders"

    order_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    placed_by: Mapped[uuid.UUID] = mapped_column(ForeignKey(TeamEvent.event_id))


@pytest.fixture
def engine(database: Database) -> Iterator[Engine]:
    engine = engine_of(database)
    yield engine
    engine.dispose()


@pytest.fixture
def conn(database: Database) -> Connection:
    return database.connect()


def an_event(aggregate_id: uuid.UUID, version: int, **columns: Any) -> EventStoreModel:  # noqa: ANN401
    return EventStoreModel(
        **{
            "aggregate_id": aggregate_id,
            "aggregate_type": "Order",
            "event_type": "OrderPlaced",
            "event_data": {"version": version},
            "version": version,
            **columns,
        }
    )


def catalogue(conn: Connection) -> set[tuple[Any, ...]]:
    found = set(conn.execute(CATALOGUE, {"tables": list(TABLES)}).fetchall())
    assert len(found) > 30
    return found


def shapes(table: Table, dialect: Dialect) -> list[tuple[str, str, bool | None, bool]]:
    return [(c.name, c.type.compile(dialect), c.nullable, c.primary_key) for c in table.columns]


def is_trigger(row: tuple[Any, ...]) -> bool:
    return str(row[2]).startswith("CREATE TRIGGER")


# --- the models and schema.sql


@pytest.mark.parametrize("base", [EventStoreBase, TeamBase])
def test_tables_that_the_models_make_differ_from_those_of_init_in_nothing_but_triggers(
    base: type[DeclarativeBase], conn: Connection, empty_database: Database
) -> None:
    engine = engine_of(empty_database)
    base.metadata.create_all(engine)
    engine.dispose()
    by_init, by_models = catalogue(conn), catalogue(made := empty_database.connect())
    assert by_models == {row for row in by_init if not is_trigger(row)}
    apply_schema(made)
    assert catalogue(made) == by_init
    assert inspect_schema(made) == []
    assert append(made, "OrderPlaced") == 1


def test_create_all_changes_nothing_where_the_tables_are(engine: Engine, conn: Connection) -> None:
    before = catalogue(conn)
    EventStoreBase.metadata.create_all(engine)
    assert catalogue(conn) == before


def test_the_tables_may_be_in_a_schema_that_is_not_on_the_search_path(empty_database: Database) -> None:
    class Elsewhere(DeclarativeBase):
        metadata = MetaData(schema="Events")

    class ElsewhereEvent(EventStoreMixin, Elsewhere):
        pass

    conn = empty_database.connect()
    conn.execute('CREATE SCHEMA "Events"')
    engine = engine_of(empty_database)
    Elsewhere.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        placed = ElsewhereEvent(
            aggregate_id=uuid.uuid4(), aggregate_type="Order", event_type="OrderPlaced", event_data={}, version=1
        )
        session.add(placed)
        session.flush()
        assert placed.sequence_number == 1
        taken: dict[str, Any] = {
            "aggregate_id": placed.aggregate_id,
            "aggregate_type": "",
            "event_type": "",
            "event_data": {},
        }
    with Session(engine) as session:
        with pytest.raises(ConcurrencyError) as raised, translate_conflicts(session), session.begin():
            session.add(ElsewhereEvent(**taken, version=1))
        assert raised.value.actual_version == 1
    engine.dispose()
    conn.execute('SET search_path = "Events"')
    apply_schema(conn)
    assert inspect_schema(conn) == []


def test_what_sqlalchemy_reflects_is_what_the_models_say(engine: Engine) -> None:
    reflected = MetaData()
    reflected.reflect(engine, only=TABLES)
    for name in TABLES:
        model, found = EventStoreBase.metadata.tables[name], reflected.tables[name]
        assert shapes(model, engine.dialect) == shapes(found, engine.dialect)
        assert [c.server_default is None for c in model.columns] == [c.server_default is None for c in found.columns]
        assert {c.name for c in model.constraints if c.name} | {f"{name}_pkey"} == {c.name for c in found.constraints}
    (brin,) = [i for i in inspect(engine).get_indexes("event_store") if i["name"] == "idx_event_store_created"]
    assert brin["dialect_options"]["postgresql_using"] == "brin"


@pytest.mark.parametrize("base", [EventStoreBase, TeamBase])
def test_alembic_finds_no_difference_and_drops_nothing(base: type[DeclarativeBase], engine: Engine) -> None:
    def differences(**options: object) -> set[str]:
        with engine.connect() as connection:
            context = MigrationContext.configure(
                connection, opts={"compare_type": True, "compare_server_default": True, **options}
            )
            return {f"{found[0]} {found[1].name}" for found in compare_metadata(context, base.metadata)}

    own = {"add_table orders"} if base is TeamBase else set()
    beside = {
        "remove_index idx_dead_letters_to_retry",
        "remove_table projection_builds",
        "remove_table projection_dead_letters",
        "remove_table projection_rebuild_history",
        "remove_table projection_rebuilds",
        "remove_table projection_workers",
        "remove_table projectiond_high_water_mark",
    }
    assert differences() == own | beside
    assert differences(include_object=include_object) == own


def test_alembic_leaves_the_making_of_the_tables_to_init(empty_database: Database) -> None:
    engine = engine_of(empty_database)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": include_object})
        assert [found[1].name for found in compare_metadata(context, TeamBase.metadata)] == ["orders"]
    engine.dispose()


def test_without_sqlalchemy_the_module_says_what_to_install() -> None:
    code = "import sys; sys.modules['sqlalchemy'] = None; import projectiond.sqlalchemy"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: projectiond.sqlalchemy needs SQLAlchemy; run pip install 'projectiond[sqlalchemy]'"
    )


# --- what is written


def test_an_event_gets_its_number_time_and_metadata_from_the_database(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        placed = an_event(uuid.uuid4(), 1)
        session.add(placed)
        session.flush()
        assert placed.sequence_number == 1
        assert placed.created_at.tzinfo is not None
        assert placed.event_metadata == {}


def test_metadata_is_taken_under_both_names_and_none_is_none(engine: Engine, conn: Connection) -> None:
    with Session(engine) as session, session.begin():
        for placed in (
            an_event(uuid.uuid4(), 1, metadata={"user": "ann"}),
            an_event(uuid.uuid4(), 1, event_metadata={"user": "bob"}),
            an_event(uuid.uuid4(), 1, metadata=None),
            an_event(uuid.uuid4(), 1, event_metadata=None),
        ):
            session.add(placed)
    written = conn.execute("SELECT metadata FROM event_store ORDER BY sequence_number").fetchall()
    assert written == [({"user": "ann"},), ({"user": "bob"},), ({},), ({},)]
    with Session(engine) as session:
        found = session.scalars(select(EventStoreModel).where(EventStoreModel.event_metadata["user"].astext == "bob"))
        assert [each.sequence_number for each in found] == [2]


def test_events_are_numbered_in_the_order_in_which_they_were_added_by_few_statements(
    engine: Engine, conn: Connection
) -> None:
    aggregate_id = uuid.uuid4()
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *words: statements.append(words[2]))
    with Session(engine) as session, session.begin():
        for version in range(1, 1501):
            columns: dict[str, Any] = {"metadata": {"n": version}} if version % 3 else {}
            # Ids that sort the other way round than they are added.
            columns |= {"event_id": uuid.UUID(int=10_000 - version)} if version < 100 else {}
            session.add(an_event(aggregate_id, version, **columns))
    assert conn.execute("SELECT version FROM event_store ORDER BY sequence_number").fetchall() == [
        (version,) for version in range(1, 1501)
    ]
    assert len([statement for statement in statements if "INSERT" in statement]) <= 3


def test_no_statement_of_the_models_sends_a_number(engine: Engine, conn: Connection) -> None:
    conn.execute("REVOKE ALL ON event_store FROM PUBLIC")
    conn.execute("CREATE ROLE alchemist")
    try:
        # Whoever names the column needs the right to.
        conn.execute(
            "GRANT INSERT (event_id, aggregate_id, aggregate_type, event_type, event_data, metadata, version)"
            " ON event_store TO alchemist; GRANT SELECT ON event_store TO alchemist;"
            " GRANT USAGE ON SEQUENCE event_store_sequence_number_seq TO alchemist"
        )
        with Session(engine) as session, session.begin():
            session.connection().exec_driver_sql("SET LOCAL ROLE alchemist")
            session.add(an_event(uuid.uuid4(), 1))
            session.add_all([an_event(uuid.uuid4(), 1, sequence_number=None) for _ in range(3)])
            session.flush()
            session.execute(
                insert(EventStoreModel),
                [
                    {
                        "aggregate_id": uuid.uuid4(),
                        "aggregate_type": "Order",
                        "event_type": "OrderPlaced",
                        "event_data": {},
                        "version": 1,
                    }
                    for _ in range(2)
                ],
            )
        assert conn.execute("SELECT array_agg(sequence_number ORDER BY 1) FROM event_store").fetchone() == (
            [1, 2, 3, 4, 5, 6],
        )
    finally:
        conn.execute("DROP OWNED BY alchemist; DROP ROLE alchemist")


def test_missing_data_is_refused_and_not_stored_as_a_json_null(engine: Engine) -> None:
    with pytest.raises(IntegrityError, match="event_data"), Session(engine) as session, session.begin():
        session.add(an_event(uuid.uuid4(), 1, event_data=None))


def test_checkpoints_and_snapshots_can_be_read_and_written(engine: Engine) -> None:
    aggregate_id = uuid.uuid4()
    with Session(engine) as session, session.begin():
        session.add(ProjectionCheckpointModel(projection_name="orders"))
        session.add(SnapshotModel(aggregate_id=aggregate_id, aggregate_type="Order", version=7, state={"total": 3}))
    with Session(engine) as session:
        checkpoint = session.get_one(ProjectionCheckpointModel, "orders")
        assert (checkpoint.status, checkpoint.last_sequence_number, checkpoint.events_processed) == ("running", 0, 0)
        assert checkpoint.last_processed_at.tzinfo is not None
        snapshot = session.get_one(SnapshotModel, aggregate_id)
        assert (snapshot.version, snapshot.state) == (7, {"total": 3})
        assert abs(datetime.now(UTC) - snapshot.created_at).total_seconds() < 300


# --- to the projections


def test_events_reach_a_projection_with_the_rows_that_were_written_beside_them(
    database: Database, engine: Engine
) -> None:
    TeamBase.metadata.create_all(engine)
    with Daemon(database, journal()) as daemon:
        for outcome in ("commit", "rollback", "commit"):
            with Session(engine) as session:
                placed = TeamEvent(
                    aggregate_id=uuid.uuid4(),
                    aggregate_type="Order",
                    event_type="OrderPlaced",
                    event_data={},
                    version=1,
                )
                session.add(placed)
                session.flush()
                session.add(Order(order_id=placed.aggregate_id, placed_by=placed.event_id))
                number = placed.sequence_number
                getattr(session, outcome)()
        daemon.wait_until_at("journal", number)
        assert daemon.applied() == daemon.stored() == [1, 3]
    with Session(engine) as session:
        assert session.scalar(select(func.count()).select_from(Order)) == 2


@pytest.mark.parametrize("driver", ASYNC_DRIVERS)
def test_an_append_by_an_asynchronous_driver_wakes_a_sleeping_daemon(driver: str, database: Database) -> None:
    async def append_events() -> None:
        engine = async_engine_of(database, driver)
        async with AsyncSession(engine) as session, session.begin():
            session.add_all([an_event(aggregate_id, version, metadata={"by": driver}) for version in (1, 2)])
        async with AsyncSession(engine) as session:
            session.add(an_event(aggregate_id, 3))
            await session.flush()
            await session.rollback()
        async with AsyncSession(engine) as session, session.begin():
            session.add(an_event(aggregate_id, 3))
        await engine.dispose()

    aggregate_id = uuid.uuid4()
    # It never polls: what it finds it was woken for.
    with Daemon(database, journal()) as daemon:
        asyncio.run(append_events())
        daemon.wait_until_at("journal", 4)
        assert daemon.applied() == [1, 2, 4]


# --- conflicts


def test_a_version_that_another_writer_has_taken_is_a_concurrency_error(engine: Engine, conn: Connection) -> None:
    aggregate_id = uuid.uuid4()
    append_many(conn, 7, aggregate_id=aggregate_id)
    with Session(engine) as session:
        with pytest.raises(ConcurrencyError) as raised, translate_conflicts(session), session.begin():
            session.add_all([an_event(aggregate_id, version) for version in (6, 7, 8)])
        assert raised.value.aggregate_id == aggregate_id
        assert (raised.value.expected_version, raised.value.actual_version) == (5, 7)
        assert isinstance(raised.value.__cause__, IntegrityError)
        assert not session.in_transaction()
        # The same session goes on.
        with translate_conflicts(session), session.begin():
            session.add(an_event(aggregate_id, 8))
    assert conn.execute("SELECT max(version) FROM event_store").fetchone() == (8,)


def test_a_conflict_is_told_within_a_transaction_that_goes_on_after_it(engine: Engine, conn: Connection) -> None:
    aggregate_id = uuid.uuid4()
    append_many(conn, 2, aggregate_id=aggregate_id)
    with Session(engine) as session, session.begin():
        session.add(ProjectionCheckpointModel(projection_name="kept"))
        session.flush()
        with pytest.raises(ConcurrencyError) as raised, translate_conflicts(session), session.begin_nested():
            session.add(an_event(aggregate_id, 2))
        assert (raised.value.expected_version, raised.value.actual_version) == (1, 2)
        session.add(an_event(aggregate_id, 3))
    assert conn.execute("SELECT max(version) FROM event_store").fetchone() == (3,)
    assert conn.execute("SELECT projection_name FROM projection_checkpoints").fetchall() == [("kept",)]


@pytest.mark.parametrize("way", ["commit", "core"])
def test_a_conflict_is_told_where_the_transaction_has_not_been_ended(
    way: str, engine: Engine, conn: Connection
) -> None:
    aggregate_id = uuid.uuid4()
    append_many(conn, 3, aggregate_id=aggregate_id)
    columns = {"aggregate_type": "Order", "event_type": "Placed", "event_data": {}, "version": 1}
    with Session(engine) as session:
        if way == "commit":
            session.add(an_event(aggregate_id, 1))
            with pytest.raises(ConcurrencyError) as raised, translate_conflicts(session):
                session.commit()
        else:
            with pytest.raises(ConcurrencyError) as raised, translate_conflicts(session):
                session.execute(insert(EventStoreModel).values(aggregate_id=aggregate_id, **columns))
        assert (raised.value.expected_version, raised.value.actual_version) == (0, 3)
        session.rollback()
        session.add(an_event(aggregate_id, 4))
        session.commit()


def test_the_version_is_the_one_after_the_winner_whatever_the_transaction_saw(engine: Engine, conn: Connection) -> None:
    aggregate_id = uuid.uuid4()
    with Session(engine.execution_options(isolation_level="REPEATABLE READ")) as session:
        with pytest.raises(ConcurrencyError) as raised, translate_conflicts(session), session.begin():  # noqa: PT012
            assert session.scalar(select(func.count()).select_from(EventStoreModel)) == 0
            # The winner commits after our snapshot.
            append_many(conn, 2, aggregate_id=aggregate_id)
            session.add(an_event(aggregate_id, 1))
        assert (raised.value.expected_version, raised.value.actual_version) == (0, 2)


def test_other_violations_stay_what_they_are(engine: Engine, conn: Connection) -> None:
    aggregate_id, event_id = uuid.uuid4(), uuid.uuid4()
    append(conn, "OrderPlaced", aggregate_id=aggregate_id, event_id=event_id)
    wrong = {
        "event_store_pkey": [an_event(aggregate_id, 2, event_id=event_id)],
        "unique_sequence_number": [an_event(aggregate_id, 2, sequence_number=1)],
        # Nobody else has version 2: both are of this transaction.
        "unique_aggregate_version": [an_event(aggregate_id, 2), an_event(aggregate_id, 2)],
    }
    for constraint, events in wrong.items():
        with Session(engine) as session:
            with pytest.raises(IntegrityError, match=constraint), translate_conflicts(session), session.begin():
                session.add_all(events)
            assert not session.in_transaction()


def test_a_conflict_in_a_session_that_a_test_has_bound_to_its_connection_is_told(
    engine: Engine, conn: Connection
) -> None:
    aggregate_id = uuid.uuid4()
    with engine.connect() as connection, connection.begin() as outer:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            with translate_conflicts(session), session.begin():
                session.add_all([an_event(aggregate_id, 1), an_event(aggregate_id, 2)])
            with pytest.raises(ConcurrencyError) as raised, translate_conflicts(session), session.begin():
                session.add(an_event(aggregate_id, 1))
            assert (raised.value.expected_version, raised.value.actual_version) == (0, 2)
        outer.rollback()
    assert conn.execute("SELECT count(*) FROM event_store").fetchone() == (0,)


@pytest.mark.parametrize("driver", ASYNC_DRIVERS)
def test_an_asynchronous_conflict_is_told_too(driver: str, database: Database, conn: Connection) -> None:
    aggregate_id, event_id = uuid.uuid4(), uuid.uuid4()
    append_many(conn, 2, aggregate_id=aggregate_id)
    append(conn, "OrderPlaced", event_id=event_id)

    async def conflicts() -> None:
        engine = async_engine_of(database, driver)
        async with AsyncSession(engine) as session:
            for end in (session.flush, session.commit):
                session.add(an_event(aggregate_id, 2))
                with pytest.raises(ConcurrencyError) as raised:
                    async with translate_conflicts_async(session):
                        await end()
                assert raised.value.aggregate_id == aggregate_id
                assert (raised.value.expected_version, raised.value.actual_version) == (1, 2)
                await session.rollback()
            with pytest.raises(IntegrityError, match="event_store_pkey"):
                async with translate_conflicts_async(session), session.begin():
                    session.add(an_event(aggregate_id, 3, event_id=event_id))
        await engine.dispose()

    asyncio.run(conflicts())


def test_of_many_writers_of_one_version_one_wins_and_the_others_are_told(engine: Engine, conn: Connection) -> None:
    aggregate_id = uuid.uuid4()

    def write(version: int) -> ConcurrencyError | None:
        try:
            with Session(engine) as session, translate_conflicts(session), session.begin():
                session.add(an_event(aggregate_id, version))
        except ConcurrencyError as conflict:
            return conflict
        return None

    with ThreadPoolExecutor(4) as threads:
        for version in range(1, 11):
            lost = [conflict for conflict in threads.map(write, [version] * 4) if conflict]
            told = [(conflict.aggregate_id, conflict.expected_version, conflict.actual_version) for conflict in lost]
            assert told == [(aggregate_id, version - 1, version)] * 3
    assert conn.execute("SELECT count(*), max(version) FROM event_store").fetchone() == (10, 10)
