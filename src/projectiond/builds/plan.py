"""The plan: which projections a deployment finds with tables that something else has built, and what a rebuild takes.

Called by the command ``plan``.  It reads and changes nothing.  How many events a projection reads is counted up to
MOST_COUNTED and estimated by PostgreSQL's planner beyond, so that a plan costs about the same for every store.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal

import psycopg.sql

from projectiond import sql
from projectiond.builds.build import Build, read_builds
from projectiond.plugins.definition import Definition
from projectiond.postgres.database import Connection, fetch_row

# Counting so many takes some tens of milliseconds.
MOST_COUNTED: Final = 100_000


@dataclass(frozen=True, slots=True)
class Rebuild:
    """What it would take."""

    changed: tuple[str, ...]
    """What is not as it was when the tables were built, one sentence each."""
    is_schema_same: bool
    events: int
    """That it reads, of those that are in the store now."""
    is_estimate: bool
    seconds: float | None
    """At the rate of its last catch-up; None while none was measured."""
    bytes: int
    """That its tables and their indexes take now; as much again while new ones are filled beside them."""
    finish: Literal["merge", "merge or swap"]
    """Whether only the rows that differ are changed, or the tables may change places: if columns or key differ."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One projection."""

    name: str
    state: Literal["as built", "changed", "new", "unknown"]
    """A new one is built when a daemon starts; of an unknown one nobody wrote down what built its tables."""
    built_at: datetime | None
    built_by: str | None
    version: str | None
    is_source_known: bool
    """Whether a change of its handlers would be seen."""
    rebuild: Rebuild | None = None
    """Of a changed one."""


def read_plan(db: Connection, definitions: Iterable[Definition], *, is_weighed: bool = True) -> list[Planned]:
    """Compare each definition with what built its tables.

    Args:
        db: In autocommit mode.
        definitions: What is deployed here.
        is_weighed: Whether to say also what a rebuild would take.
    """
    builds = read_builds(db)
    begun = {str(name) for name, _, _ in db.execute(sql.checkpoint.READ_STATUSES)}
    planned = []
    for definition in definitions:
        one = _compare(definition, builds.get(definition.name), is_begun=definition.name in begun)
        if is_weighed and one.state == "changed":
            one = replace(one, rebuild=_weigh(db, definition, builds[definition.name]))
        planned.append(one)
    return planned


def _compare(definition: Definition, build: Build | None, *, is_begun: bool) -> Planned:
    fingerprint = definition.fingerprint
    state: Literal["as built", "changed", "new", "unknown"] = "as built"
    if not is_begun:
        state = "new"
    elif build is None or build.fingerprint is None:
        state = "unknown"
    elif build.difference_to(definition):
        state = "changed"
    return Planned(
        name=definition.name,
        state=state,
        built_at=None if build is None else build.built_at,
        built_by=None if build is None else build.built_by,
        version=fingerprint.version,
        is_source_known=fingerprint.code is not None or fingerprint.version is not None,
    )


def _weigh(db: Connection, definition: Definition, build: Build) -> Rebuild:
    difference = build.difference_to(definition)
    events, is_estimate = _count_events(db, definition)
    rate = build.events_per_second
    names = [psycopg.sql.Identifier(*table.split(".")).as_string(db) for table in definition.tables]
    (size,) = fetch_row(db, sql.builds.SIZE_OF_TABLES, {"tables": names})
    return Rebuild(
        changed=difference.parts,
        is_schema_same=difference.is_schema_same,
        events=events,
        is_estimate=is_estimate,
        seconds=events / rate if rate else None,
        bytes=size,
        finish="merge" if difference.is_schema_same else "merge or swap",
    )


def _count_events(db: Connection, definition: Definition) -> tuple[int, bool]:
    """Return how many events it reads, and whether that is an estimate."""
    types = None if definition.event_types is None else list(definition.event_types)
    (plan,) = fetch_row(db, sql.builds.ESTIMATE_EVENTS, {"event_types": types})
    estimate = _rows(plan)
    if estimate <= MOST_COUNTED:
        (count,) = fetch_row(db, sql.builds.COUNT_EVENTS_TO_READ, {"event_types": types, "most": MOST_COUNTED + 1})
        if count <= MOST_COUNTED:
            return count, False
    return max(estimate, MOST_COUNTED), True


def _rows(plan: Any) -> int:  # noqa: ANN401 - what EXPLAIN gives as JSON
    return int(plan[0]["Plan"]["Plan Rows"])
