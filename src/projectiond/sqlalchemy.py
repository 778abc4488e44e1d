"""The tables of the event store as SQLAlchemy models, for applications that write events in sessions of their own.

    session.add(EventStoreModel(aggregate_id=..., event_type=..., event_data={...}, metadata={...}, version=1, ...))

An event that is added in the transaction of the application's own rows is committed or rolled back with them, and
reaches the projections; nothing else is needed, whichever driver the engine has.  A team whose models share a base
class of its own makes its models from the mixins:

    class EventStoreModel(EventStoreMixin, Base): ...

The models say what schema.sql says, and leave to the database what it alone can do: ``sequence_number`` is never
sent, since the daemon relies on a number being drawn while its INSERT holds the lock.  ``projectiond init`` makes the
tables.  ``create_all`` passes over tables that are there; where it makes them itself, ``init`` adds the triggers.

Who wins when two writers append the same version is decided by a constraint, and SQLAlchemy reports that as an
IntegrityError; `translate_conflicts` makes it the ConcurrencyError that callers expect.
"""

import re
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Any, Final

from projectiond.errors import ConcurrencyError

try:
    from sqlalchemy import (
        BigInteger,
        CheckConstraint,
        Connection,
        DateTime,
        Index,
        Integer,
        Sequence,
        String,
        Table,
        Text,
        UniqueConstraint,
        column,
        func,
        select,
        table,
        text,
    )
    from sqlalchemy.dialects.postgresql import JSONB, UUID
    from sqlalchemy.exc import IntegrityError
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import DeclarativeBase, Mapped, Session, declared_attr, mapped_column
    from sqlalchemy.schema import FetchedValue, conv
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "projectiond.sqlalchemy needs SQLAlchemy; run pip install 'projectiond[sqlalchemy]'"
    ) from error

# What "projectiond init" makes beside the tables of the models.
_FURTHER_TABLES: Final = frozenset(
    {
        "projection_builds",
        "projection_dead_letters",
        "projection_rebuild_history",
        "projection_rebuilds",
        "projection_workers",
        "projectiond_high_water_mark",
    }
)

# The one that BIGSERIAL makes in schema.sql.
_SEQUENCE: Final = "event_store_sequence_number_seq"

# What PostgreSQL says of the key that is taken, in every language: the columns' names and the values.
_TAKEN_VERSION: Final = re.compile(r"\(aggregate_id, version\)=\((?P<aggregate_id>[0-9a-f-]{36}), (?P<version>\d+)\)")

# None is SQL's NULL, not JSON's null: the daemon reads the one as {}, and event_data refuses it.
_JSON: Final = JSONB(none_as_null=True)


def _draw_numbers(store: Table, connection: Connection, **_: object) -> None:
    """Do for a new table what BIGSERIAL does in schema.sql; SQLAlchemy has no word for it outside a primary key."""
    names = connection.dialect.identifier_preparer
    name, sequence = names.format_table(store), names.format_sequence(Sequence(_SEQUENCE, schema=store.schema))
    connection.execute(text(f"CREATE SEQUENCE {sequence} OWNED BY {name}.sequence_number"))
    connection.execute(text(f"ALTER TABLE {name} ALTER COLUMN sequence_number SET DEFAULT nextval('{sequence}')"))


class EventStoreMixin:
    """The columns of ``event_store``: all events of all aggregates.  Rows are only ever added.

    The column ``metadata`` is the attribute ``event_metadata``, because declarative classes keep the name for
    themselves; the constructor takes both names.
    """

    __tablename__ = "event_store"

    # Made here, though the database can: SQLAlchemy then knows the rows that come back of one INSERT for many events.
    event_id: Mapped[uuid.UUID] = mapped_column(
        UUID(as_uuid=True),
        primary_key=True,
        default=uuid.uuid4,
        server_default=text("gen_random_uuid()"),
        insert_sentinel=True,
    )
    aggregate_id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True))
    aggregate_type: Mapped[str] = mapped_column(String(100))
    event_type: Mapped[str] = mapped_column(String(100))
    event_data: Mapped[dict[str, Any]] = mapped_column(_JSON)
    event_metadata: Mapped[dict[str, Any] | None] = mapped_column("metadata", _JSON, server_default=text("'{}'"))
    version: Mapped[int] = mapped_column(Integer)
    sequence_number: Mapped[int] = mapped_column(BigInteger, FetchedValue())
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))

    @declared_attr.directive
    def __table_args__(cls) -> Any:  # noqa: ANN401, N805 - SQLAlchemy's own signature
        return (
            # conv: the names that are in the database, whatever naming convention the base class has.
            UniqueConstraint("aggregate_id", "version", name=conv("unique_aggregate_version")),
            UniqueConstraint("sequence_number", name=conv("unique_sequence_number")),
            Index(conv("idx_event_store_type"), "event_type", "sequence_number"),
            Index(conv("idx_event_store_created"), "created_at", postgresql_using="brin"),
            {"listeners": [("after_create", _draw_numbers)]},
        )

    def __init__(self, *, metadata: Mapping[str, Any] | None = None, **columns: Any) -> None:  # noqa: ANN401
        """Make an event that is not stored yet.

        Args:
            metadata: of the event; the same as event_metadata.  None is {}.
            columns: the other columns by name; at least aggregate_id, aggregate_type, event_type, event_data, version.
        """
        # Never left to the database's default: only events with the same columns are inserted in one statement.
        columns["event_metadata"] = columns.get("event_metadata") or {} if metadata is None else metadata
        super().__init__(**columns)


class ProjectionCheckpointMixin:
    """The columns of ``projection_checkpoints``: how far each projection is, and the operator's lever, ``status``."""

    __tablename__ = "projection_checkpoints"

    projection_name: Mapped[str] = mapped_column(String(100), primary_key=True)
    last_sequence_number: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    last_event_id: Mapped[uuid.UUID | None] = mapped_column(UUID(as_uuid=True))
    last_processed_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))
    events_processed: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    status: Mapped[str] = mapped_column(String(20), server_default=text("'running'"))
    error_message: Mapped[str | None] = mapped_column(Text)

    @declared_attr.directive
    def __table_args__(cls) -> Any:  # noqa: ANN401, N805 - SQLAlchemy's own signature
        return (CheckConstraint("status IN ('running', 'paused', 'rebuilding')", name=conv("projection_status_known")),)


class SnapshotMixin:
    """The columns of ``snapshots``: the latest snapshot of each aggregate."""

    __tablename__ = "snapshots"

    aggregate_id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True), primary_key=True)
    aggregate_type: Mapped[str] = mapped_column(String(100))
    version: Mapped[int] = mapped_column(Integer)
    state: Mapped[dict[str, Any]] = mapped_column(_JSON)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))

    @declared_attr.directive
    def __table_args__(cls) -> Any:  # noqa: ANN401, N805 - SQLAlchemy's own signature
        return (Index(conv("idx_snapshots_type"), "aggregate_type"),)


class EventStoreBase(DeclarativeBase):
    """The base class of the models below, for teams that do not need them among their own."""


class EventStoreModel(EventStoreMixin, EventStoreBase):
    """An event."""


class ProjectionCheckpointModel(ProjectionCheckpointMixin, EventStoreBase):
    """How far a projection is."""


class SnapshotModel(SnapshotMixin, EventStoreBase):
    """The latest snapshot of an aggregate."""


def include_object(_thing: object, name: str | None, kind: str, *_: object) -> bool:
    """Have Alembic's autogenerate pass over the tables that ``projectiond init`` makes.

    For ``context.configure(include_object=include_object)`` in ``env.py``.
    """
    is_ours = kind == "table" and (name in EventStoreBase.metadata.tables or name in _FURTHER_TABLES)
    return not is_ours


@contextmanager
def translate_conflicts(session: Session) -> Iterator[None]:
    """Raise ConcurrencyError where the database says that a version is taken.

    It stands around the transaction::

        with translate_conflicts(session), session.begin():
            session.add(EventStoreModel(...))

    Raises:
        ConcurrencyError: Another transaction has committed this version of the aggregate.  It holds the version that
            the aggregate has by now, read when the transaction had ended.
        IntegrityError: Any other; also two events of this transaction with one version.
    """
    try:
        yield
    except IntegrityError as error:
        conflict = _conflict(session, error)
        if conflict is None:
            raise
        raise conflict from error


@asynccontextmanager
async def translate_conflicts_async(session: AsyncSession) -> AsyncIterator[None]:
    """Do as `translate_conflicts` does.

    It stands around the transaction::

        async with translate_conflicts_async(session), session.begin():
            session.add(EventStoreModel(...))

    Raises:
        ConcurrencyError: As there.
        IntegrityError: As there.
    """
    try:
        yield
    except IntegrityError as error:
        conflict = await session.run_sync(_conflict, error)
        if conflict is None:
            raise
        raise conflict from error


def _conflict(session: Session, error: IntegrityError) -> ConcurrencyError | None:
    """Say which writers met, unless the error is another one."""
    schema_name, table_name, detail = _report(error)
    taken = _TAKEN_VERSION.search(detail or "")
    if taken is None or not table_name:
        return None
    aggregate_id, version = uuid.UUID(taken["aggregate_id"]), int(taken["version"])
    store = table(table_name, column("aggregate_id", UUID), column("version", Integer), schema=schema_name)
    last_version = select(func.max(store.c.version)).where(store.c.aggregate_id == aggregate_id)
    with _asking(session) as asked:
        actual_version = asked.scalar(last_version) or 0
    if actual_version < version:
        # Nobody else has it: the transaction itself wrote the version twice.
        return None
    return ConcurrencyError(aggregate_id, expected_version=version - 1, actual_version=actual_version)


def _report(error: IntegrityError) -> tuple[str | None, str | None, str | None]:
    """Give schema, table and detail of the server's report, from psycopg (2 or 3) or asyncpg."""
    report = getattr(error.orig, "diag", None)
    if report is not None:
        return report.schema_name, report.table_name, report.message_detail
    report = getattr(error.orig, "__cause__", None)
    return getattr(report, "schema_name", None), getattr(report, "table_name", None), getattr(report, "detail", None)


@contextmanager
def _asking(session: Session) -> Iterator[Session]:
    """Give a session that can be asked: this one if its transaction has ended, else one beside it."""
    if session.in_transaction():
        # A transaction that has failed answers nothing, and to roll it back is not for us.
        with Session(session.get_bind().engine) as beside:
            yield beside
    else:
        with session.begin():
            yield session
