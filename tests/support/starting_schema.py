"""The widely used event store set-up that `projectiond init` has to upgrade: its DDL, and its ORM models.

Both are as people have them in their databases, faults included. Only what keeps them from running at all is
mended: the partial index that PostgreSQL refuses, and the attribute `metadata`, a name that SQLAlchemy reserves.
"""

import uuid
from datetime import UTC, datetime
from typing import LiteralString

from sqlalchemy import BigInteger, Column, DateTime, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB, UUID
from sqlalchemy.orm import DeclarativeBase

STARTING_DDL: LiteralString = """
CREATE TABLE event_store (
    event_id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregate_id UUID NOT NULL,
    aggregate_type VARCHAR(100) NOT NULL,
    event_type VARCHAR(100) NOT NULL,
    event_data JSONB NOT NULL,
    metadata JSONB DEFAULT '{}',
    version INT NOT NULL,
    sequence_number BIGSERIAL NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    CONSTRAINT unique_aggregate_version UNIQUE (aggregate_id, version)
);
CREATE INDEX idx_event_store_aggregate ON event_store (aggregate_id, version);
CREATE INDEX idx_event_store_type ON event_store (event_type);
CREATE INDEX idx_event_store_sequence ON event_store (sequence_number);
CREATE INDEX idx_event_store_created ON event_store (created_at);

CREATE TABLE projection_checkpoints (
    projection_name VARCHAR(100) PRIMARY KEY,
    last_sequence_number BIGINT NOT NULL DEFAULT 0,
    last_event_id UUID,
    last_processed_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    events_processed BIGINT NOT NULL DEFAULT 0,
    status VARCHAR(20) DEFAULT 'running',
    error_message TEXT
);

CREATE TABLE snapshots (
    aggregate_id UUID PRIMARY KEY,
    aggregate_type VARCHAR(100) NOT NULL,
    version INT NOT NULL,
    state JSONB NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT NOW()
);
CREATE INDEX idx_snapshots_type ON snapshots (aggregate_type);
"""

MONITORING_QUERIES: tuple[LiteralString, ...] = (
    """
    SELECT
        p.projection_name,
        (SELECT MAX(sequence_number) FROM event_store) - p.last_sequence_number AS lag,
        p.last_processed_at,
        p.status
    FROM projection_checkpoints p
    """,
    """
    SELECT
        DATE(created_at) AS day,
        COUNT(*) AS event_count,
        COUNT(DISTINCT aggregate_id) AS unique_aggregates
    FROM event_store
    WHERE created_at > NOW() - INTERVAL '7 days'
    GROUP BY DATE(created_at)
    ORDER BY day DESC
    """,
    """
    SELECT
        aggregate_id,
        aggregate_type,
        COUNT(*) AS event_count
    FROM event_store
    GROUP BY aggregate_id, aggregate_type
    ORDER BY event_count DESC
    LIMIT 10
    """,
)


class Base(DeclarativeBase):
    """What the models have in common."""


class EventStoreModel(Base):
    __tablename__ = "event_store"

    event_id = Column(UUID(as_uuid=True), primary_key=True, default=uuid.uuid4)
    aggregate_id = Column(UUID(as_uuid=True), nullable=False, index=True)
    aggregate_type = Column(String(100), nullable=False)
    event_type = Column(String(100), nullable=False, index=True)
    event_data = Column(JSONB, nullable=False)
    event_metadata = Column("metadata", JSONB, default={})
    version = Column(Integer, nullable=False)
    sequence_number = Column(BigInteger, autoincrement=True)
    created_at = Column(DateTime, default=lambda: datetime.now(UTC))

    __table_args__ = (
        UniqueConstraint("aggregate_id", "version", name="unique_aggregate_version"),
        Index("idx_aggregate_version", "aggregate_id", "version"),
    )


class ProjectionCheckpointModel(Base):
    __tablename__ = "projection_checkpoints"

    projection_name = Column(String(100), primary_key=True)
    last_sequence_number = Column(BigInteger, default=0)
    last_event_id = Column(UUID(as_uuid=True))
    last_processed_at = Column(DateTime, default=lambda: datetime.now(UTC))
    events_processed = Column(BigInteger, default=0)
    status = Column(String(20), default="running")
    error_message = Column(Text)


class SnapshotModel(Base):
    __tablename__ = "snapshots"

    aggregate_id = Column(UUID(as_uuid=True), primary_key=True)
    aggregate_type = Column(String(100), nullable=False)
    version = Column(Integer, nullable=False)
    state = Column(JSONB, nullable=False)
    created_at = Column(DateTime, default=lambda: datetime.now(UTC))
