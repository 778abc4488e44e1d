"""The flight recorder: what each runner of a worker had in hand, readable after the worker's death.

A handler may hang, exit the process or crash the interpreter.  To say afterwards which projection it was, and at
which event, the worker writes it into memory that the supervisor shares: an unlinked file, mapped by both.  A write
costs some hundred nanoseconds and no system call, and it survives SIGKILL.

The worker is the only writer, the supervisor the only reader.  A number may be read while it is being written; the
supervisor acts only on what has stood for seconds, or after the writer has ended, so that does not matter.

Times are CLOCK_MONOTONIC, which all processes of a machine share.
"""

import mmap
import os
import struct
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

# More projections than this on one worker find no slot, and a crash of theirs is not attributed.
MAX_SLOTS: Final = 1024
_NAME_BYTES: Final = 400  # 100 characters, as projection_name allows, of 4 bytes each

_HEADER: Final = struct.Struct("=d??6x")  # heartbeat, is_ready, is_refused
_SLOT: Final = struct.Struct(f"=qd{_NAME_BYTES}s")  # sequence number in hand (0: none), since, name
_IN_HAND: Final = struct.Struct("=qd")
_SIZE: Final = _HEADER.size + MAX_SLOTS * _SLOT.size


@dataclass(frozen=True, slots=True)
class InHand:
    """The event that a runner gave to a handler which has not returned."""

    projection: str
    sequence_number: int
    seconds: float


def create_recorder_file() -> int:
    """Make the shared file; the descriptor is to be passed to the worker."""
    with tempfile.TemporaryFile(prefix="projectiond-recorder-") as file:
        file.truncate(_SIZE)
        return os.dup(file.fileno())


class Recorder:
    """One end of the shared memory."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _SIZE)

    def close(self) -> None:
        """Unmap it."""
        self._memory.close()

    # --- the worker's side

    def slot(self, index: int, projection: str) -> "Slot":
        """Name a slot and give it to a runner."""
        if index < MAX_SLOTS:
            offset = _HEADER.size + index * _SLOT.size
            _SLOT.pack_into(self._memory, offset, 0, 0.0, projection.encode()[:_NAME_BYTES])
            return Slot(self._memory, offset)
        return nowhere()

    def beat(self, *, is_ready: bool, is_refused: bool = False) -> None:
        """Say that the worker's main thread is alive; and whether it works, or cannot for want of configuration."""
        _HEADER.pack_into(self._memory, 0, time.monotonic(), is_ready, is_refused)

    # --- the supervisor's side

    def read_heartbeat(self) -> tuple[float, bool, bool]:
        """Give the time of the last beat (0.0: none yet), whether the worker is ready, and whether it refused."""
        beaten_at, is_ready, is_refused = _HEADER.unpack_from(self._memory, 0)
        return float(beaten_at), bool(is_ready), bool(is_refused)

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

    def __init__(self, memory: mmap.mmap | bytearray, offset: int) -> None:
        self._memory = memory
        self._offset = offset

    def take(self, sequence_number: int) -> None:
        """Say that this event goes to a handler now."""
        _IN_HAND.pack_into(self._memory, self._offset, sequence_number, time.monotonic())

    def put_down(self) -> None:
        """Say that no event is in hand."""
        _IN_HAND.pack_into(self._memory, self._offset, 0, 0.0)


def nowhere() -> Slot:
    """Give a place that nobody reads."""
    return Slot(bytearray(_SLOT.size), 0)
