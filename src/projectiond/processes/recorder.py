"""The flight recorder: what each runner of a worker had in hand, readable after the worker's death.

A handler may hang, exit the process or crash the interpreter.  To say afterwards which projection it was, and at
which event, the worker writes it into memory that the supervisor shares: a file without a name, mapped by both.  A
write costs some hundred nanoseconds and no system call, and it survives SIGKILL.

Beside it lie the worker's ``counters``, which the supervisor takes along as a :class:`Page`.

The worker is the only writer, the supervisor the only reader.  A number may be read while it is being written; the
supervisor acts only on what has stood for seconds, or after the writer has ended, so that does not matter.

Times are CLOCK_MONOTONIC, which all processes of a machine share.
"""

import mmap
import os
import struct
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from projectiond.processes.counters import (
    PROJECTION_BYTES,
    WORKER_BYTES,
    ProjectionCounters,
    ProjectionNumbers,
    WorkerCounters,
    WorkerNumbers,
    wants_builder,
)

# More projections than this on one worker find no slot, and a crash of theirs is not attributed.
MAX_SLOTS: Final = 1024
_NAME_BYTES: Final = 400  # 100 characters, as projection_name allows, of 4 bytes each

_HEADER: Final = struct.Struct("=d??6x")  # heartbeat, is_ready, is_refused
_SLOT: Final = struct.Struct(f"=qd{_NAME_BYTES}s")  # sequence number in hand (0: none), since, name
_IN_HAND: Final = struct.Struct("=qd")
_WORKER_AT: Final = _HEADER.size + MAX_SLOTS * _SLOT.size
_COUNTERS_AT: Final = _WORKER_AT + WORKER_BYTES
_SIZE: Final = _COUNTERS_AT + MAX_SLOTS * PROJECTION_BYTES


@dataclass(frozen=True, slots=True)
class InHand:
    """The event that a runner gave to a handler which has not returned."""

    projection: str
    sequence_number: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Page:
    """A worker's numbers at one moment: copied at once, read when somebody wants them."""

    beaten_at: float
    """When its main thread last gave a sign of life; 0.0: not yet."""
    is_ready: bool
    worker: WorkerNumbers
    _slots: bytes
    _counters: bytes

    def projections(self) -> Mapping[str, ProjectionNumbers]:
        """Give the numbers of each projection that the worker can run."""
        blocks = (self._counters[at : at + PROJECTION_BYTES] for at in range(0, len(self._counters), PROJECTION_BYTES))
        return {
            name.rstrip(b"\0").decode(errors="replace"): ProjectionNumbers.unpack(block)
            for (_, _, name), block in zip(_SLOT.iter_unpack(self._slots), blocks, strict=True)
        }


def create_recorder_file() -> int:
    """Make the shared file; the descriptor is to be passed to the worker.

    It must have room for all of itself: writing to mapped memory for which the disk has none ends the process (SIGBUS).
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("projectiond-recorder")
        os.truncate(descriptor, _SIZE)
        return descriptor
    with tempfile.TemporaryFile(prefix="projectiond-recorder-", buffering=0) as file:
        file.write(bytes(_SIZE))
        return os.dup(file.fileno())


class Recorder:
    """One end of the shared memory."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _SIZE)
        self.worker = WorkerCounters(self._memory, _WORKER_AT)

    def close(self) -> None:
        """Unmap it."""
        self._memory.close()

    # --- the worker's side

    def slot(self, index: int, projection: str) -> "Slot":
        """Name a slot and give it to a runner."""
        if index < MAX_SLOTS:
            offset = _HEADER.size + index * _SLOT.size
            _SLOT.pack_into(self._memory, offset, 0, 0.0, projection.encode()[:_NAME_BYTES])
            self.worker.note_slots(index + 1)
            counters = ProjectionCounters(self._memory, _COUNTERS_AT + index * PROJECTION_BYTES)
            return Slot(self._memory, offset, counters)
        return nowhere()

    def beat(self, *, is_ready: bool, is_refused: bool = False) -> None:
        """Say that the worker's main thread is alive; and whether it works, or cannot for want of configuration."""
        _HEADER.pack_into(self._memory, 0, time.monotonic(), is_ready, is_refused)

    # --- the supervisor's side

    def read_heartbeat(self) -> tuple[float, bool, bool]:
        """Give the time of the last beat (0.0: none yet), whether the worker is ready, and whether it refused."""
        beaten_at, is_ready, is_refused = _HEADER.unpack_from(self._memory, 0)
        return float(beaten_at), bool(is_ready), bool(is_refused)

    def read_page(self) -> Page:
        """Copy the worker's numbers."""
        beaten_at, is_ready, _ = self.read_heartbeat()
        worker = WorkerNumbers.unpack(self._memory[_WORKER_AT:_COUNTERS_AT])
        return Page(
            beaten_at=beaten_at,
            is_ready=is_ready,
            worker=worker,
            _slots=self._memory[_HEADER.size : _HEADER.size + worker.slots * _SLOT.size],
            _counters=self._memory[_COUNTERS_AT : _COUNTERS_AT + worker.slots * PROJECTION_BYTES],
        )

    def read_wanting_builder(self) -> Mapping[str, int]:
        """Give the projections that are to be built anew beside their live tables, with the number of the request."""
        slots = WorkerNumbers.unpack(self._memory[_WORKER_AT:_COUNTERS_AT]).slots
        found = {}
        for index in range(slots):
            if request := wants_builder(self._memory, _COUNTERS_AT + index * PROJECTION_BYTES):
                _, _, name = _SLOT.unpack_from(self._memory, _HEADER.size + index * _SLOT.size)
                found[name.rstrip(b"\0").decode(errors="replace")] = request
        return found

    def read_in_hand(self) -> Sequence[InHand]:
        """Give what each busy runner has in hand, and for how long."""
        now = time.monotonic()
        found = []
        for index in range(MAX_SLOTS):
            sequence_number, since, name = _SLOT.unpack_from(self._memory, _HEADER.size + index * _SLOT.size)
            name = name.rstrip(b"\0")
            if not name:
                break
            if sequence_number:
                found.append(InHand(name.decode(errors="replace"), sequence_number, now - since))
        return found


class Slot:
    """A runner's place in the recorder."""

    def __init__(self, memory: mmap.mmap | bytearray, offset: int, counters: ProjectionCounters) -> None:
        self._memory = memory
        self._offset = offset
        self.counters = counters

    def take(self, sequence_number: int) -> None:
        """Say that this event goes to a handler now."""
        _IN_HAND.pack_into(self._memory, self._offset, sequence_number, time.monotonic())

    def put_down(self) -> None:
        """Say that no event is in hand."""
        _IN_HAND.pack_into(self._memory, self._offset, 0, 0.0)


def nowhere() -> Slot:
    """Give a place that nobody reads."""
    return Slot(bytearray(_SLOT.size), 0, ProjectionCounters(bytearray(PROJECTION_BYTES), 0))
