"""The daemon's log: the names of its events, and how its lines look.

Every process calls configure_logging once, at its start; every module takes its logger from get_logger and
logs one of the constants below with named values. Lines go to stdout: JSON for machines, columns for a person
at a terminal. What libraries log (psycopg's pool, mostly) goes the same way, as `library.reported`.

Values from events are hostile: neither form lets a control character through to the terminal. A value that
JSON does not know is shown by its repr, so that no value can make a log line fail.
"""

import json
import logging
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType
from typing import Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]

DAEMON_STARTED: Final = "daemon.started"
DAEMON_DRAINING: Final = "daemon.draining"
DAEMON_STOPPED: Final = "daemon.stopped"
WORKER_STARTED: Final = "worker.started"
WORKER_EXITED: Final = "worker.exited"
WORKER_RESTARTING: Final = "worker.restarting"
WORKER_KILLED: Final = "worker.killed"
LEASE_ACQUIRED: Final = "lease.acquired"
LEASE_RELEASED: Final = "lease.released"
LEASE_LOST: Final = "lease.lost"
LEASE_HINDERED: Final = "lease.hindered"
PROJECTION_STARTED: Final = "projection.started"
PROJECTION_STOPPED: Final = "projection.stopped"
PROJECTION_CHANGED: Final = "projection.changed"
PROJECTION_PAUSED: Final = "projection.paused"
PROJECTION_RESUMED: Final = "projection.resumed"
PROJECTION_CAUGHT_UP: Final = "projection.caught_up"
PROJECTION_STOOD_STILL: Final = "projection.stood_still"
PROJECTION_RETRYING: Final = "projection.retrying"
REBUILD_STARTED: Final = "rebuild.started"
REBUILD_CONTINUED: Final = "rebuild.continued"
REBUILD_FINISHED: Final = "rebuild.finished"
REBUILD_CANCELLED: Final = "rebuild.cancelled"
REBUILD_FAILED: Final = "rebuild.failed"
REBUILD_RETRYING: Final = "rebuild.retrying"
BUILDER_EXITED: Final = "builder.exited"
BUILDER_KILLED: Final = "builder.killed"
BATCH_COMMITTED: Final = "batch.committed"
EVENT_SEARCHED: Final = "event.searched"
PIPELINE_ABANDONED: Final = "pipeline.abandoned"
PIPELINE_PLAIN: Final = "pipeline.plain"
EVENT_POISONED: Final = "event.poisoned"
EVENT_DEAD_LETTERED: Final = "event.dead_lettered"
LETTER_APPLIED: Final = "letter.applied"
LETTER_FAILED: Final = "letter.failed"
CHECKPOINT_CONFLICTED: Final = "checkpoint.conflicted"
HIGHWATER_HELD: Final = "highwater.held"
HIGHWATER_RELEASED: Final = "highwater.released"
DOORBELL_LOST: Final = "doorbell.lost"
DOORBELL_RESTORED: Final = "doorbell.restored"
PLUGIN_REJECTED: Final = "plugin.rejected"
HTTP_STARTED: Final = "http.started"
HTTP_FAILED: Final = "http.failed"
HTTP_STEERED: Final = "http.steered"
HTTP_REFUSED: Final = "http.refused"
DATABASE_CHECKED: Final = "database.checked"
DATABASE_UNAVAILABLE: Final = "database.unavailable"
DATABASE_RESTORED: Final = "database.restored"
PLUGIN_PRINTED: Final = "plugin.printed"
LIBRARY_REPORTED: Final = "library.reported"

# Every event that this package logs, with its meaning; the table in docs/operations.md is held against it.
EVENTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        DAEMON_STARTED: "the supervisor has checked everything and starts its workers",
        DAEMON_DRAINING: "a signal arrived: workers finish the transaction in hand, then exit",
        DAEMON_STOPPED: "every worker has exited, and the supervisor does too",
        WORKER_STARTED: "a worker process is connected and competes for leases",
        WORKER_EXITED: "a worker process has ended, with this exit code or signal",
        WORKER_RESTARTING: "a dead worker will be started again after this delay",
        WORKER_KILLED: "a worker made no progress for too long, or did not drain in time, and was killed",
        LEASE_ACQUIRED: "this worker now runs the projection",
        LEASE_RELEASED: "this worker has given the projection back",
        LEASE_LOST: "the connection that held the leases is gone; this worker's runners stop",
        LEASE_HINDERED: "somebody has a table locked, or took it away: roster and statuses have to wait, leases do not",
        PROJECTION_STARTED: "a runner began at this checkpoint",
        PROJECTION_STOPPED: "a runner ended and will not go on by itself; the error says why",
        PROJECTION_CHANGED: "the code or the schema is not what built the tables; `changed` names the parts",
        PROJECTION_PAUSED: "the status is paused, by an operator or after a poison event",
        PROJECTION_RESUMED: "the status went back to running",
        PROJECTION_CAUGHT_UP: "the checkpoint reached the high-water mark after a backlog",
        PROJECTION_STOOD_STILL: "it cannot go on with its live tables, which stay as they are until its rebuild ends",
        PROJECTION_RETRYING: "a transient error: the batch was rolled back and will be tried again",
        REBUILD_STARTED: "the replay of all events begins, in tables of `space`; in place, in the emptied live ones",
        REBUILD_CONTINUED: "the replay goes on where a builder has left it",
        REBUILD_FINISHED: "the live tables have become what the replay gave; `tables` has the rows that have changed",
        REBUILD_CANCELLED: "nobody asks for the rebuild any more, and what it had built was dropped",
        REBUILD_FAILED: "the rebuild cannot go on; the live projection can, and it is tried again after a minute",
        REBUILD_RETRYING: "the finish has to wait, for others who use the live tables",
        BUILDER_EXITED: "the process that builds a projection anew has ended, with this exit code or signal",
        BUILDER_KILLED: "the process that builds a projection anew made no progress for too long, and was killed",
        BATCH_COMMITTED: "read model and checkpoint of a batch were committed in one transaction",
        EVENT_SEARCHED: "several events failed together; fewer at a time are tried, to find the one to blame",
        PIPELINE_ABANDONED: "a handler does what a pipeline cannot carry; its statements go one by one from now on",
        PIPELINE_PLAIN: "this release of psycopg is not known; its own pipeline carries everything, which is slower",
        EVENT_POISONED: "a handler failed on this event, on its own and repeatedly",
        EVENT_DEAD_LETTERED: "a poison event went to projection_dead_letters, and its projection goes on",
        LETTER_APPLIED: "the event of a dead letter was applied when it was tried again, and the letter removed",
        LETTER_FAILED: "the event of a dead letter failed again when it was tried again; the letter stays",
        CHECKPOINT_CONFLICTED: "the checkpoint was not where this runner left it; the batch was rolled back",
        HIGHWATER_HELD: "open transactions may still fill a gap; the mark waits for the ones named here",
        HIGHWATER_RELEASED: "the mark moved on after it had been held",
        DOORBELL_LOST: "the watcher's connection broke; projections wait until it is back, tried again and again",
        DOORBELL_RESTORED: "the watcher's connection is back",
        PLUGIN_REJECTED: "a projection could not be loaded, with file and line",
        HTTP_STARTED: "health, metrics and the API are served at this address",
        HTTP_FAILED: "an answer could not be given, or the server ended and is started again; workers go on",
        HTTP_STEERED: "somebody with the token has done this over HTTP",
        HTTP_REFUSED: "somebody asked over HTTP without the right token, from another page, or by another name",
        DATABASE_CHECKED: "the daemon uses this database, and everything that it needs is there",
        DATABASE_UNAVAILABLE: "the database does not answer; the daemon keeps trying",
        DATABASE_RESTORED: "the database answers again, and the worker competes for leases again",
        PLUGIN_PRINTED: "a handler, or a library that it uses, printed this line",
        LIBRARY_REPORTED: "a library logged a warning or an error; `logger` names it, `message` is its text",
    }
)

# Repeats of one error within this time tell an operator nothing new.
REPEAT_INTERVAL_SECONDS: Final = 10.0

# Enough for every projection's every error; beyond it the oldest key is forgotten, so that memory stays flat.
MAX_REPEAT_KEYS: Final = 1_000

# Event names are padded to this width on a console; the longest of ours fits.
CONSOLE_EVENT_WIDTH: Final = 22


def configure_logging(
    log_format: LogFormat = "auto",
    log_level: LogLevel = "info",
    *,
    stream: TextIO | None = None,
    context: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """Send this process's log to one stream in one form; a second call replaces the first.

    Args:
        log_format: "auto" is "console" when the stream is a terminal, else "json".
        log_level: the least severe level to show; libraries are never heard below warning.
        stream: where lines go; stdout when left out.
        context: values for every line of this process, such as the worker's number.
    """
    stream = sys.stdout if stream is None else stream
    level = logging.getLevelNamesMapping()[log_level.upper()]
    is_console = log_format == "console" or (log_format == "auto" and stream.isatty())

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _adder_of(dict(context)),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    handler = _OurHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_name_library_line, *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *([_escape_values, _console(stream)] if is_console else [_json()]),
            ],
        )
    )
    root = logging.getLogger()
    # Only ours is replaced: a test runner's or an embedding program's handler is not ours to take away.
    root.handlers[:] = [other for other in root.handlers if not isinstance(other, _OurHandler)] + [handler]
    root.setLevel(max(level, logging.WARNING))
    # It reports each connection that a restart of the server has broken; the runners say so themselves, once.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    logging.getLogger("psycopg").addFilter(_is_news)
    ours = logging.getLogger("projectiond")
    ours.setLevel(level)

    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: ours,
        # A logger taken before this call must follow it.
        cache_logger_on_first_use=False,
    )


def _is_news(record: logging.LogRecord) -> bool:
    """Drop what psycopg says of the rest of a pipeline that has failed: the failure itself is told."""
    return not str(record.msg).startswith("error ignored terminating")


def get_logger(**values: object) -> FilteringBoundLogger:
    """Return a logger with these values on every line; may be taken before configure_logging."""
    logger: FilteringBoundLogger = structlog.get_logger(**values)
    return logger


class RateLimited:
    """Logs repeated errors once per interval and key; the next line says how many were left out.

    Threads may share one. It remembers a bounded number of keys, whatever the storm.

    Args:
        logger: where the lines go.
        interval_seconds: the least time between two lines of one key.
        clock: seconds that never go back; a test's own clock.
    """

    def __init__(
        self,
        logger: FilteringBoundLogger,
        *,
        interval_seconds: float = REPEAT_INTERVAL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._lock = threading.Lock()
        # key -> (when its last line was logged, how many were left out since)
        self._seen: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<RateLimited every {self._interval_seconds} s, {len(self._seen)} keys>"

    def log(self, level: LogLevel, event: str, *, key: Hashable, **values: object) -> bool:
        """Log the event unless a line of this key is younger than the interval.

        Args:
            level: its severity.
            event: one of the constants of this module.
            key: what makes two errors the same, such as (projection, class of the error).
            values: the line's values; `count` is added when lines were left out, and is their number.

        Returns:
            Whether a line was logged.
        """
        suppressed = self._admit(key)
        if suppressed is None:
            return False
        counted = {"count": suppressed} if suppressed else {}
        self._logger.log(logging.getLevelNamesMapping()[level.upper()], event, **values, **counted)
        return True

    def reset(self, key: Hashable) -> None:
        """Forget a key, since its error is over: the next one is news."""
        with self._lock:
            self._seen.pop(key, None)

    def _admit(self, key: Hashable) -> int | None:
        now = self._clock()
        with self._lock:
            logged_at, suppressed = self._seen.get(key, (None, 0))
            if logged_at is not None and now - logged_at < self._interval_seconds:
                self._seen[key] = (logged_at, suppressed + 1)
                return None
            self._seen[key] = (now, 0)
            self._seen.move_to_end(key)
            if len(self._seen) > MAX_REPEAT_KEYS:
                self._seen.popitem(last=False)
            return suppressed


class _OurHandler(logging.StreamHandler[TextIO]):
    """The one handler of this module, known again by its class."""


def _adder_of(context: dict[str, object]) -> Processor:
    def add_context(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
        return {**context, **event_dict}

    return add_context


def _name_library_line(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    record: logging.LogRecord = event_dict["_record"]
    return {**event_dict, "event": LIBRARY_REPORTED, "logger": record.name, "message": event_dict["event"]}


def _json() -> Processor:
    # ASCII only: lone surrogates and terminal escapes cannot pass, and any encoding of stdout will do.
    return structlog.processors.JSONRenderer(serializer=json.dumps, ensure_ascii=True, default=repr)


def _console(stream: TextIO) -> Processor:
    return structlog.dev.ConsoleRenderer(
        colors=stream.isatty(),
        pad_event_to=CONSOLE_EVENT_WIDTH,
        exception_formatter=structlog.dev.plain_traceback,
    )


def _escape_values(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    return {key: _escaped(value, is_block=key == "exception") for key, value in event_dict.items()}


def _escaped(value: object, *, is_block: bool) -> object:
    """Escape what a terminal would obey: control characters, direction marks, lone surrogates."""
    if not isinstance(value, str):
        text = repr(value)
        return value if text.isprintable() else _escaped(text, is_block=is_block)
    if value.isprintable():
        return value
    kept = "\n" if is_block else ""
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode("ascii") for c in value)
