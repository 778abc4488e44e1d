"""One worker process as the supervisor sees it: started, watched, told to drain, killed, and read after its death.

Called by the supervisor.  It knows the process and its flight recorder and nothing of projections.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from projectiond.processes.recorder import InHand, Page, Recorder, create_recorder_file
from projectiond.processes.wire import Briefing, Care


class Child:
    """A worker process, or a builder, that has been started."""

    def __init__(
        self, number: int, briefing: Briefing, *, module: str = "projectiond.worker", subject: str = ""
    ) -> None:
        """Start worker ``number``, or the process of another module, whose ``subject`` is no number."""
        self.number = number
        self.started_at = time.monotonic()
        descriptor = create_recorder_file()
        try:
            self._recorder = Recorder(descriptor)
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", module, subject or str(number), str(descriptor)],
                stdin=subprocess.PIPE,
                pass_fds=(descriptor,),
            )
        finally:
            os.close(descriptor)
        self._tell(briefing.to_wire())

    def __repr__(self) -> str:
        return f"<Child {self.number} pid={self.pid} exit={self._process.returncode}>"

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def is_ready(self) -> bool:
        """Whether the worker is connected and works."""
        return self._recorder.read_heartbeat()[1]

    @property
    def has_refused(self) -> bool:
        """Whether the worker ended because it would fail again."""
        return self._recorder.read_heartbeat()[2]

    @property
    def heard_of_at(self) -> float:
        """When the worker's main thread was last heard of."""
        return max(self._recorder.read_heartbeat()[0], self.started_at)

    @property
    def silent_seconds(self) -> float:
        """How long the worker's main thread has not been heard of."""
        return time.monotonic() - self.heard_of_at

    def exit_code(self) -> int | None:
        """Give the exit code, negative for a signal; ``None`` while the process lives."""
        return self._process.poll()

    def in_hand(self) -> Sequence[InHand]:
        """Give the events that handlers have, or had when the process died."""
        return self._recorder.read_in_hand()

    def wanting_builder(self) -> Mapping[str, int]:
        """Give the projections of this worker that are to be built anew, with the number of the request."""
        return self._recorder.read_wanting_builder()

    def page(self) -> Page:
        """Give the numbers that the worker keeps, or left behind."""
        return self._recorder.read_page()

    def take_care(self, care: Care) -> None:
        """Say at which events to be careful: a worker has died over them."""
        self._tell(care.to_wire())

    def drain(self) -> None:
        """Ask it to finish the transactions in hand and to exit."""
        self._tell("drain\n")

    def kill(self) -> None:
        """End it at once."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Let go of a process that has ended."""
        self._process.wait()
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        self._recorder.close()

    def _tell(self, line: str) -> None:
        # A worker that has died in the meantime is noticed by its exit code.
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.write(line.encode())
                self._process.stdin.flush()
