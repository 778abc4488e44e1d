"""The log's lines, read back from a stream, and the limit on repeated errors."""

import io
import json
import logging
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from projectiond import logs
from projectiond.logs import EVENTS, RateLimited, configure_logging, get_logger


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("projectiond")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


class TestEventNames:
    def test_every_constant_has_a_meaning_and_no_name_is_used_twice(self) -> None:
        constants = [
            value
            for name, value in vars(logs).items()
            if name.isupper() and isinstance(value, str) and not name.startswith("_")
        ]
        assert len(constants) >= 29
        assert sorted(constants) == sorted(EVENTS)

    def test_names_are_an_object_a_dot_and_what_happened_to_it(self) -> None:
        for name, meaning in EVENTS.items():
            assert re.fullmatch(r"[a-z]+\.[a-z]+(_[a-z]+)*", name), name
            assert "\n" not in meaning
            assert len(meaning) > 20


class TestJson:
    def test_a_line_holds_event_level_time_in_utc_and_values(self) -> None:
        stream = io.StringIO()
        configure_logging("json", "info", stream=stream, context={"worker": 2})
        get_logger(projection="orders").info(logs.BATCH_COMMITTED, events=100)
        (line,) = lines_of(stream)
        at = datetime.fromisoformat(line.pop("timestamp"))
        assert abs(datetime.now(UTC) - at) < timedelta(minutes=1)
        assert line == {
            "event": "batch.committed",
            "level": "info",
            "worker": 2,
            "projection": "orders",
            "events": 100,
        }

    def test_auto_is_json_where_stdout_is_no_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        configure_logging("auto")
        get_logger().info(logs.DAEMON_STARTED)
        assert json.loads(capsys.readouterr().out)["event"] == "daemon.started"

    def test_less_severe_lines_are_left_out(self) -> None:
        stream = io.StringIO()
        configure_logging("json", "warning", stream=stream)
        get_logger().info(logs.DAEMON_STARTED)
        get_logger().warning(logs.LEASE_LOST)
        assert [line["event"] for line in lines_of(stream)] == ["lease.lost"]

    def test_debug_lines_are_shown_on_demand(self) -> None:
        stream = io.StringIO()
        configure_logging("json", "debug", stream=stream)
        get_logger().debug(logs.BATCH_COMMITTED)
        assert [line["level"] for line in lines_of(stream)] == ["debug"]

    def test_a_logger_taken_before_the_set_up_follows_it(self) -> None:
        logger = get_logger()
        stream = io.StringIO()
        configure_logging("json", stream=stream)
        logger.info(logs.DAEMON_STARTED)
        assert len(lines_of(stream)) == 1

    def test_a_second_set_up_replaces_the_first(self) -> None:
        first, second = io.StringIO(), io.StringIO()
        configure_logging("json", stream=first)
        configure_logging("json", stream=second)
        get_logger().info(logs.DAEMON_STARTED)
        logging.getLogger("psycopg").warning("no more connections")
        assert first.getvalue() == ""
        assert len(lines_of(second)) == 2

    def test_no_value_makes_a_line_fail(self) -> None:
        stream = io.StringIO()
        configure_logging("json", stream=stream)
        get_logger().info(logs.EVENT_POISONED, type="\ud800\x1b[31m\n", data=b"\x00", error=ValueError("no"))
        (line,) = lines_of(stream)
        assert stream.getvalue().isascii()
        assert stream.getvalue().count("\n") == 1
        assert (line["type"], line["data"], line["error"]) == (
            "\ud800\x1b[31m\n",
            "b'\\x00'",
            "ValueError('no')",
        )

    def test_an_exception_brings_its_traceback(self) -> None:
        stream = io.StringIO()
        configure_logging("json", stream=stream)
        try:
            raise RuntimeError("broken")  # noqa: TRY301 - the traceback is what is tested
        except RuntimeError:
            get_logger().exception(logs.PROJECTION_STOPPED)
        (line,) = lines_of(stream)
        assert line["level"] == "error"
        assert line["exception"].startswith("Traceback")
        assert line["exception"].endswith("RuntimeError: broken")


class TestLibraries:
    def test_the_echo_of_a_failed_pipeline_is_not_told(self) -> None:
        stream = io.StringIO()
        configure_logging("json", stream=stream)
        logging.getLogger("psycopg").warning("error ignored terminating %r: %s", "pipeline", "pipeline aborted")
        assert lines_of(stream) == []

    def test_their_warnings_take_the_same_way(self) -> None:
        stream = io.StringIO()
        configure_logging("json", stream=stream, context={"worker": 1})
        logging.getLogger("psycopg").warning("error connecting in %r: %s", "pool-1", "refused")
        (line,) = lines_of(stream)
        line.pop("timestamp")
        assert line == {
            "event": "library.reported",
            "level": "warning",
            "logger": "psycopg",
            "message": "error connecting in 'pool-1': refused",
            "worker": 1,
        }

    def test_their_chatter_is_left_out_even_when_ours_is_wanted(self) -> None:
        stream = io.StringIO()
        configure_logging("json", "debug", stream=stream)
        logging.getLogger("psycopg").info("starting up")
        assert stream.getvalue() == ""

    def test_their_exceptions_bring_the_traceback_once(self) -> None:
        stream = io.StringIO()
        configure_logging("json", stream=stream)
        try:
            raise OSError("gone")  # noqa: TRY301 - the traceback is what is tested
        except OSError:
            logging.getLogger("psycopg").exception("lost")
        assert stream.getvalue().count("OSError: gone") == 1


class TestConsole:
    def test_auto_is_columns_on_a_terminal(self) -> None:
        stream = Terminal()
        configure_logging("auto", stream=stream)
        get_logger().info(logs.BATCH_COMMITTED, events=100)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
        assert re.fullmatch(r"\S+Z \[info +\] batch\.committed +events=100\n", plain)
        assert plain != stream.getvalue(), "a terminal gets colours"

    def test_no_colours_where_no_terminal_is(self) -> None:
        stream = io.StringIO()
        configure_logging("console", stream=stream)
        get_logger().error(logs.PROJECTION_STOPPED, error="no table")
        assert "\x1b" not in stream.getvalue()
        assert "error='no table'" in stream.getvalue()

    def test_a_hostile_value_cannot_steer_the_terminal(self) -> None:
        stream = io.StringIO()
        configure_logging("console", stream=stream)
        get_logger().info(logs.EVENT_POISONED, type="\x1b]0;owned\x07", other="a\nb\x9b\u202e\ud800")
        assert stream.getvalue().rstrip("\n").isprintable()
        assert "\\x1b]0;owned\\x07" in stream.getvalue()

    def test_a_hostile_repr_cannot_steer_the_terminal(self) -> None:
        class Hostile:
            def __repr__(self) -> str:
                return "\x1b[2J"

        stream = io.StringIO()
        configure_logging("console", stream=stream)
        get_logger().info(logs.EVENT_POISONED, nested={"key": [Hostile()]}, plain=Hostile())
        assert stream.getvalue().rstrip("\n").isprintable()

    def test_a_traceback_keeps_its_lines_and_nothing_else(self) -> None:
        stream = io.StringIO()
        configure_logging("console", stream=stream)
        try:
            raise RuntimeError("\x1b[31mred")  # noqa: TRY301 - the traceback is what is tested
        except RuntimeError:
            get_logger().exception(logs.PROJECTION_STOPPED)
        lines = stream.getvalue().splitlines()
        assert lines[1].startswith("Traceback")
        assert all(line.isprintable() for line in lines)

    @given(text=st.text())
    def test_no_text_gets_through_unescaped(self, text: str) -> None:
        stream = io.StringIO()
        configure_logging("console", stream=stream)
        get_logger().info(logs.EVENT_POISONED, type=text)
        assert stream.getvalue().endswith("\n")
        assert stream.getvalue()[:-1].isprintable()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestRateLimited:
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def stream(self) -> io.StringIO:
        stream = io.StringIO()
        configure_logging("json", stream=stream)
        return stream

    @pytest.fixture
    def limited(self, clock: Clock) -> RateLimited:
        return RateLimited(get_logger(), clock=clock)

    def test_repeats_are_logged_once_and_then_counted(
        self, limited: RateLimited, clock: Clock, stream: io.StringIO
    ) -> None:
        assert limited.log("warning", logs.PROJECTION_RETRYING, key="a", error="x")
        for _ in range(7):
            assert not limited.log("warning", logs.PROJECTION_RETRYING, key="a", error="x")
        clock.now += 10
        assert limited.log("warning", logs.PROJECTION_RETRYING, key="a", error="x")
        clock.now += 10
        assert limited.log("error", logs.PROJECTION_RETRYING, key="a", error="x")
        assert [line.get("count") for line in lines_of(stream)] == [None, 7, None]
        assert [line["level"] for line in lines_of(stream)] == ["warning", "warning", "error"]

    def test_keys_do_not_silence_each_other(self, limited: RateLimited, stream: io.StringIO) -> None:
        assert limited.log("warning", logs.PROJECTION_RETRYING, key=("orders", OSError))
        assert limited.log("warning", logs.PROJECTION_RETRYING, key=("sales", OSError))
        assert len(lines_of(stream)) == 2

    def test_an_error_that_was_over_is_news_again(self, limited: RateLimited, stream: io.StringIO) -> None:
        assert limited.log("warning", logs.DATABASE_UNAVAILABLE, key="a")
        limited.reset("a")
        limited.reset("never seen")
        assert limited.log("warning", logs.DATABASE_UNAVAILABLE, key="a")
        assert len(lines_of(stream)) == 2

    def test_memory_is_bounded_however_many_keys_there_are(self, limited: RateLimited, stream: io.StringIO) -> None:
        for number in range(logs.MAX_REPEAT_KEYS + 50):
            limited.log("debug", logs.PROJECTION_RETRYING, key=number)
        assert len(limited._seen) == logs.MAX_REPEAT_KEYS
        assert stream.getvalue() == ""
        assert not limited.log("debug", logs.PROJECTION_RETRYING, key=logs.MAX_REPEAT_KEYS + 49), "the newest"
        assert limited.log("debug", logs.PROJECTION_RETRYING, key=0), "the oldest was forgotten"

    def test_threads_lose_no_count(self, limited: RateLimited, clock: Clock, stream: io.StringIO) -> None:
        def repeat() -> None:
            for _ in range(500):
                limited.log("warning", logs.PROJECTION_RETRYING, key="a")

        threads = [threading.Thread(target=repeat) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        clock.now += 10
        limited.log("warning", logs.PROJECTION_RETRYING, key="a")
        assert [line.get("count") for line in lines_of(stream)] == [None, 1999]
