"""The process of a builder: ``python -m projectiond.rebuild.process PROJECTION RECORDER_DESCRIPTOR``.

Started by the supervisor while a rebuild is in progress, as a worker is: it gets the settings on standard input, which
stays open (the line ``drain`` ends it, and so does its end), and shares a flight recorder.  It loads the plugins anew,
so that nothing which a live handler remembers gets into the replay, and gives way to other processes of the machine.

It takes one projection as far as it goes, and ends.  What it came to is its exit code.
"""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import psycopg

from projectiond import logs
from projectiond.errors import DatabaseUnavailableError
from projectiond.failure import printable
from projectiond.plugins.fault import Fault
from projectiond.plugins.registry import load_projections
from projectiond.postgres.database import connect
from projectiond.processes.orphan import end_in_time
from projectiond.processes.prints import LinesToLog
from projectiond.processes.recorder import Recorder
from projectiond.processes.wire import Briefing
from projectiond.rebuild.builder import Builder, Result
from projectiond.rebuild.marker import note_failure
from projectiond.settings import Settings

BEAT_SECONDS: Final = 1.0

EXIT_CODES: Final = {Result.FINISHED: 0, Result.NOTHING: 0, Result.FAILED: 1, Result.BUSY: 2, Result.INTERRUPTED: 2}


def main(arguments: Sequence[str]) -> int:
    """Run a builder."""
    name, descriptor = arguments[0], int(arguments[1])
    # The terminal's interrupt goes to the whole group; when to end is the supervisor's word.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    briefing = Briefing.from_wire(sys.stdin.readline())
    settings = briefing.settings
    context = {"builder": name, "pid": os.getpid()}
    logs.configure_logging(settings.log_format, settings.log_level, context=context)
    sys.stdout = LinesToLog()
    with suppress(OSError):
        os.nice(settings.rebuild_niceness)
    recorder = Recorder(descriptor)
    recorder.beat(is_ready=False)
    registry = load_projections(settings.projections, settings.projection)
    definition = next((found for found in registry.definitions if found.name == name), None)
    if definition is None:
        _say_missing(settings, name, registry.faults)
        return EXIT_CODES[Result.FAILED]
    builder = Builder(
        settings,
        definition,
        recorder.slot(0, name),
        careful_upto=briefing.careful_upto.get(name, 0),
    )
    signal.signal(signal.SIGTERM, lambda *_: builder.stop())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
    is_over = threading.Event()
    threading.Thread(target=_obey, args=(builder, settings.drain_seconds), name="control", daemon=True).start()
    threading.Thread(target=_beat, args=(recorder, is_over), name="heartbeat", daemon=True).start()
    try:
        return EXIT_CODES[builder.run()]
    finally:
        is_over.set()


def _say_missing(settings: Settings, name: str, faults: Sequence[Fault]) -> None:
    told = "; ".join(str(fault) for fault in faults) or "it may be in a file that was removed"
    with (
        suppress(psycopg.Error, DatabaseUnavailableError),
        connect(settings.database_dsn() or "", role="builder", statement_timeout_seconds=5) as db,
    ):
        note_failure(db, name, printable(f"no plugin defines {name} any more: {told}"))


def _obey(builder: Builder, drain_seconds: float) -> None:
    # Told to drain, or the end of the input: the supervisor has ended, or died.
    while sys.stdin.readline() not in {"", "drain\n"}:
        pass
    builder.stop()
    end_in_time(drain_seconds)


def _beat(recorder: Recorder, is_over: threading.Event) -> None:
    while not is_over.wait(BEAT_SECONDS):
        recorder.beat(is_ready=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
