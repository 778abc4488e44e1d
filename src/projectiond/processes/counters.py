"""Counters: what a worker has done and where it stands, in memory that the supervisor reads.

Written by a worker's runners, its watcher and its main thread; read by the supervisor for metrics and health.  They are
part of the flight recorder's memory (``recorder``), so they are there when the worker is stopped or was killed, and
nobody has to ask it.

Each number has one writer at a time and needs no lock: it is eight bytes at an address that is a multiple of eight,
stored in one piece.  Numbers are written one after the other, so a reader, and whoever reads after
SIGKILL, may see a transaction counted and its duration not yet.  A histogram's count is therefore never stored: it is
the sum of its buckets.  A transaction is counted after its COMMIT, so a kill in between leaves it uncounted; what is
counted has happened.

They begin at 0 with each worker process; the supervisor adds up those of its workers, dead and alive.
"""

import enum
import mmap
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

# Upper bounds of the buckets, in seconds; the last bucket, without a bound, follows.
DURATION_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
LATENCY_BOUNDS: Final = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
)  # fmt: skip

# Native, not standard: only so is a number stored in one piece.
_NUMBER: Final = struct.Struct("@q")
_BYTES: Final = _NUMBER.size
_NANOSECONDS: Final = 1_000_000_000

_Memory = mmap.mmap | bytearray


class State(enum.IntEnum):
    """What a projection's runner is doing; the number is what is stored."""

    ELSEWHERE = 0
    """It has no runner in this worker."""
    WORKING = 1
    CAUGHT_UP = 2
    PAUSED = 3
    RETRYING = 4
    """Something transient that is not the database's absence."""
    WAITING_FOR_DATABASE = 5
    FAILING = 6
    """It is to be paused for a fault, and not even that can be written."""
    QUEUED = 7
    """It is far behind and waits for its turn among others that are."""


class Count(enum.IntEnum):
    """What is counted for a projection: names and places."""

    EVENTS = 2
    BATCHES = 3
    TRANSACTIONS = 4
    RETRIES = 5
    CONFLICTS = 6
    POISON_EVENTS = 7
    DEAD_LETTERS = 8
    RUNNER_STARTS = 9


class Timing(enum.IntEnum):
    """The histograms of a projection: where the buckets begin; the sum stands with the counts."""

    TRANSACTION = 16
    BATCH = 32
    LATENCY = 48

    @property
    def bounds(self) -> tuple[float, ...]:
        """The buckets' upper bounds in seconds."""
        return LATENCY_BOUNDS if self is Timing.LATENCY else DURATION_BOUNDS

    @property
    def _sum(self) -> int:
        return 9 + self.value // 16


_STATE: Final = 0
_POSITION: Final = 1
_WANTS_BUILDER: Final = 13
PROJECTION_NUMBERS: Final = 64
PROJECTION_BYTES: Final = PROJECTION_NUMBERS * _BYTES

_BUCKETS: Final = len(DURATION_BOUNDS) + 1


class Wakeup(enum.IntEnum):
    """Why a watcher that slept looked again, and that its mark moved: places in the worker's block."""

    BELL = 4
    POLL = 5
    MARK = 6


_SLOTS: Final = 0
_MARK: Final = 1
_HELD_SINCE: Final = 2
_LOOKED_AT: Final = 3
_LEASES: Final = 8
_POOL_SIZE: Final = 9
_POOL_IN_USE: Final = 10
_POOL_WAITING: Final = 11
WORKER_NUMBERS: Final = 16
WORKER_BYTES: Final = WORKER_NUMBERS * _BYTES


class _Block:
    """Numbers of one writer; it knows what it has written and never reads."""

    def __init__(self, memory: _Memory, offset: int, count: int) -> None:
        self._memory = memory
        self._offset = offset
        self._numbers = [0] * count

    def _set(self, place: int, number: int) -> None:
        if self._numbers[place] != number:
            self._numbers[place] = number
            _NUMBER.pack_into(self._memory, self._offset + place * _BYTES, number)

    def _add(self, place: int, number: int = 1) -> None:
        self._set(place, self._numbers[place] + number)


class ProjectionCounters(_Block):
    """A projection's numbers, as its runner writes them."""

    def __init__(self, memory: _Memory, offset: int) -> None:
        super().__init__(memory, offset, PROJECTION_NUMBERS)
        self._requests = 0

    def note_start(self) -> None:
        """A runner begins."""
        self._add(Count.RUNNER_STARTS)
        self._set(_STATE, State.WORKING)

    def note_end(self) -> None:
        """The runner has ended."""
        self._set(_STATE, State.ELSEWHERE)
        self._set(_WANTS_BUILDER, 0)

    def note_rebuild(self, *, is_wanted: bool, is_new: bool) -> None:
        """Say whether it is to be built anew beside its live tables, and whether nobody has begun that yet."""
        self._requests += is_wanted and is_new
        self._set(_WANTS_BUILDER, max(1, self._requests) if is_wanted else 0)

    def note_state(self, state: State, position: int | None) -> None:
        """Say where it is after a step that went well, and what it does now."""
        if position is not None:
            self._set(_POSITION, position)
        self._set(_STATE, state)

    def note_retry(self, *, is_database: bool) -> None:
        """A step failed and will be tried again; ``is_database``: for want of a connection."""
        self._add(Count.RETRIES)
        self._set(_STATE, State.WAITING_FOR_DATABASE if is_database else State.RETRYING)

    def note_commit(self, events: int, seconds: float, batch_seconds: Iterable[float]) -> None:
        """A transaction with so many events has been committed."""
        self._add(Count.TRANSACTIONS)
        self._add(Count.EVENTS, events)
        self.observe(Timing.TRANSACTION, seconds)
        for batch in batch_seconds:
            self._add(Count.BATCHES)
            self.observe(Timing.BATCH, batch)

    def note(self, what: Count) -> None:
        """Count one more."""
        self._add(what)

    def observe(self, what: Timing, seconds: float) -> None:
        """Put a duration into its bucket."""
        place = next((i for i, bound in enumerate(what.bounds) if seconds <= bound), len(what.bounds))
        self._add(what._sum, int(seconds * _NANOSECONDS))  # noqa: SLF001 - our own, in this module
        self._add(what + place)


def wants_builder(memory: _Memory, offset: int) -> int:
    """Give the number of the request, if the projection whose block begins there is to be built anew, else 0.

    The number tells a request from the one before; a builder that began late may meet two numbers of one request.
    """
    return int(_NUMBER.unpack_from(memory, offset + _WANTS_BUILDER * _BYTES)[0])


class WorkerCounters(_Block):
    """A worker's own numbers.

    The watcher writes those of the mark and the wake-ups, the main thread those of the leases and the pool.
    """

    def __init__(self, memory: _Memory, offset: int) -> None:
        super().__init__(memory, offset, WORKER_NUMBERS)

    def note_slots(self, count: int) -> None:
        """So many projections have a place in the recorder."""
        self._set(_SLOTS, max(count, self._numbers[_SLOTS]))

    def note_look(self, mark: int, *, is_held: bool, has_moved: bool) -> None:
        """The watcher has looked, and this is the mark."""
        now = time.monotonic_ns()
        if has_moved:
            self._add(Wakeup.MARK)
        if has_moved or is_held != bool(self._numbers[_HELD_SINCE]):
            self._set(_HELD_SINCE, now if is_held else 0)
        self._set(_MARK, mark)
        self._set(_LOOKED_AT, now)

    def note_lost(self) -> None:
        """The watcher has no connection, so there is no mark."""
        self._set(_LOOKED_AT, 0)
        self._set(_HELD_SINCE, 0)

    def note_wakeup(self, why: Wakeup) -> None:
        """The watcher slept, and looks again."""
        self._add(why)

    def note_holdings(self, leases: int, pool: dict[str, int]) -> None:
        """So many leases are held, and this is how the pool stands (``ConnectionPool.get_stats``)."""
        size = pool.get("pool_size", 0)
        self._set(_LEASES, leases)
        self._set(_POOL_SIZE, size)
        self._set(_POOL_IN_USE, size - pool.get("pool_available", 0))
        self._set(_POOL_WAITING, pool.get("requests_waiting", 0))


@dataclass(frozen=True, slots=True)
class ProjectionNumbers:
    """A projection's numbers as they were read, or added up."""

    state: State
    position: int
    numbers: Sequence[int]

    @classmethod
    def none(cls) -> Self:
        """Give those of a projection that nothing has been done for."""
        return cls(State.ELSEWHERE, 0, (0,) * PROJECTION_NUMBERS)

    @classmethod
    def unpack(cls, block: bytes) -> Self:
        """Read a block."""
        numbers = struct.unpack(f"@{PROJECTION_NUMBERS}q", block)
        return cls(State(numbers[_STATE]), numbers[_POSITION], numbers)

    def plus(self, other: Self) -> Self:
        """Add the counts; state and position are those of the one that runs."""
        current = self if other.state is State.ELSEWHERE else other
        added = [mine + theirs for mine, theirs in zip(self.numbers, other.numbers, strict=True)]
        return type(self)(current.state, current.position, added)

    def ended(self) -> Self:
        """Give what remains of a worker that has ended: the counts."""
        return type(self)(State.ELSEWHERE, self.position, self.numbers)

    def count(self, what: Count) -> int:
        """Give a count."""
        return self.numbers[what]

    def buckets(self, what: Timing) -> Sequence[int]:
        """Give how many durations lie in each bucket, not cumulated."""
        return self.numbers[what : what + _BUCKETS]

    def sum_seconds(self, what: Timing) -> float:
        """Give the sum of the durations."""
        return self.numbers[what._sum] / _NANOSECONDS  # noqa: SLF001 - our own, in this module


@dataclass(frozen=True, slots=True)
class WorkerNumbers:
    """A worker's own numbers as they were read; times are CLOCK_MONOTONIC in seconds."""

    slots: int
    mark: int
    held_since: float | None
    looked_at: float | None
    """When the watcher last looked; ``None`` while it has no connection, and no mark."""
    wakeups: dict[Wakeup, int]
    leases: int
    pool_size: int
    pool_in_use: int
    pool_waiting: int

    @classmethod
    def unpack(cls, block: bytes) -> Self:
        """Read the block."""
        numbers = struct.unpack(f"@{WORKER_NUMBERS}q", block)
        return cls(
            slots=numbers[_SLOTS],
            mark=numbers[_MARK],
            held_since=numbers[_HELD_SINCE] / _NANOSECONDS or None,
            looked_at=numbers[_LOOKED_AT] / _NANOSECONDS or None,
            wakeups={why: numbers[why] for why in Wakeup},
            leases=numbers[_LEASES],
            pool_size=numbers[_POOL_SIZE],
            pool_in_use=numbers[_POOL_IN_USE],
            pool_waiting=numbers[_POOL_WAITING],
        )
