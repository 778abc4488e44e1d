"""Surroundings: what a runner is given by whoever runs it, a worker, a replay or a test."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from projectiond.event import Event
from projectiond.postgres.database import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a runner knows of the world outside its projection."""

    settled: Callable[[Connection], int]
    """Gives the high-water mark for a connection, -1 while it is unknown."""

    recent: Callable[[Connection, int, int, float], Sequence[Event] | None] = lambda *_: None
    """The newest events, shared by all runners of the worker: those of a range (its lower bound excluded) that were
    read since a time, or None. Asked after ``settled``."""

    turns: threading.Semaphore = field(default_factory=threading.Semaphore)
    """Bounds how many runners that are far behind hold a connection, so that those at the head get one."""

    on_arrival: Callable[[], None] = lambda: None
    """Called when there is nothing more to apply below the mark."""

    meet_tables: Callable[[Connection], bool] = lambda _: False
    """Called before the first event is applied with the status running, to see whether the tables were built by
    something else; says whether it has changed the row."""

    tidy_up: Callable[[Connection], None] = lambda _: None
    """Called, with a connection, when the row is read for the first time, and when a rebuild beside the live tables is
    over: what it may have left is to be dropped."""

    is_replay: bool = False
    """Whether tables are built that are not served yet; the author's code is told."""
