"""The build: what a projection's tables were made by, one row of `projection_builds`.

It is recorded in the transaction that makes it true: with the checkpoint row of a projection that begins on empty
tables, and with the end of a rebuild. Tables whose origin nobody wrote down, made before there were such rows, are
taken to be of the code that is found first: *adopted*.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

from psycopg.types.json import Jsonb

from projectiond import sql
from projectiond.plugins.definition import Definition
from projectiond.plugins.fingerprint import Difference, Fingerprint, compare
from projectiond.postgres.database import Connection

BuiltBy: TypeAlias = Literal["enrolled", "rebuilt", "adopted", "accepted"]


@dataclass(frozen=True, slots=True)
class Build:
    """A row."""

    name: str
    fingerprint: Fingerprint | None
    """None when another version of projectiond wrote it, in a form that cannot be compared."""
    digest: str
    previous_digest: str | None
    """Of what built the tables before that."""
    built_at: datetime
    built_by: str
    events_per_second: float | None
    """How fast events were applied when a catch-up was last measured."""

    def difference_to(self, definition: Definition) -> Difference:
        """Say in what the projection differs from what built its tables; in nothing, when that cannot be known."""
        return Difference() if self.fingerprint is None else compare(self.fingerprint, definition.fingerprint)


def read_builds(db: Connection) -> dict[str, Build]:
    """Read all builds, by the projection's name."""
    return {build.name: build for build in map(_build, db.execute(sql.builds.READ_BUILDS))}


def lock_build(db: Connection, name: str) -> Build | None:
    """Read one and lock it until the end of the caller's transaction."""
    row = db.execute(sql.builds.LOCK_BUILD, {"name": name}).fetchone()
    return None if row is None else _build(row)


def record_build(
    db: Connection, definition: Definition, built_by: BuiltBy = "rebuilt", *, events_per_second: float | None = None
) -> None:
    """Write down that the tables are those that this definition makes, in the caller's transaction.

    Args:
        db: In the transaction that makes it true.
        definition: What has built the tables.
        built_by: How.
        events_per_second: How fast, where that was measured.
    """
    parameters = {
        "name": definition.name,
        "fingerprint": Jsonb(definition.fingerprint.as_object()),
        "version": definition.fingerprint.version,
        "digest": definition.fingerprint.digest,
        "built_by": built_by,
        "events_per_second": events_per_second,
    }
    db.execute(sql.builds.RECORD_BUILD, parameters)


def note_rate(db: Connection, name: str, events_per_second: float) -> None:
    """Write down how fast events were applied, for whoever asks how long a rebuild will take."""
    db.execute(sql.builds.NOTE_RATE, {"name": name, "events_per_second": events_per_second})


def _build(row: tuple[Any, ...]) -> Build:
    name, fingerprint, version, digest, previous_digest, built_at, built_by, events_per_second = row
    return Build(
        name=name,
        fingerprint=Fingerprint.from_object(fingerprint, version),
        digest=digest,
        previous_digest=previous_digest,
        built_at=built_at,
        built_by=built_by,
        events_per_second=events_per_second,
    )
