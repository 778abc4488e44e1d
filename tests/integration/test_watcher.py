"""The watcher: it wakes whoever waits for the mark, sleeps when nothing happens, and survives its connection."""

import contextlib
import queue
import random
import select
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Self

import psycopg
import pytest

from projectiond import logs
from projectiond.errors import DatabaseUnavailableError
from projectiond.postgres import database as databases
from projectiond.sql.keys import DOORBELL_KEY
from projectiond.stream import watcher
from projectiond.stream.doorbell import Arming, Doorbell
from projectiond.stream.watcher import Watcher
from tests.support.daemon import NEVER_SECONDS, Daemon, Log, captured_log, journal
from tests.support.events import append
from tests.support.postgres import Database, LocalServer
from tests.support.queries import value
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration


class Sentry:
    """A watcher, and a place to wait until its mark has reached a number."""

    def __init__(self, database: Database, *, poll_interval_seconds: float = NEVER_SECONDS, **settings: Any) -> None:  # noqa: ANN401 -- whatever Watcher takes
        self.statuses: list[str] = []
        self._moved = threading.Condition()
        self._dsn = database.dsn
        self.watcher = Watcher(
            database.dsn,
            wakeup=settings.pop("wakeup", "notify"),
            poll_interval_seconds=poll_interval_seconds,
            on_mark=self._tell,
            on_status=self.statuses.append,
            is_awaited=settings.pop("is_awaited", lambda: True),
        )

    def _tell(self) -> None:
        with self._moved:
            self._moved.notify_all()

    @property
    def settled(self) -> int:
        return self.watcher._mark.settled if self.watcher.is_ready else -1

    def waits_until_at(self, number: int, timeout_seconds: float) -> bool:
        with self._moved:
            return self._moved.wait_for(lambda: self.settled >= number, timeout_seconds)

    def is_asleep(self, conn: psycopg.Connection[Any]) -> bool:
        """Say whether it holds the bell."""
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted"
        return bool(value(conn, query))

    def __enter__(self) -> Self:
        self.watcher.start()
        eventually(lambda: self.watcher.is_ready)
        return self

    def __exit__(self, *_: object) -> None:
        self.watcher.stop()


@pytest.fixture
def log() -> Iterator[Log]:
    with captured_log() as log:
        yield log


def pid_of_watcher(conn: psycopg.Connection[Any]) -> int | None:
    row = conn.execute(
        "SELECT pid FROM pg_stat_activity"
        " WHERE application_name = 'projectiond/watcher' AND datname = current_database()"
    ).fetchone()
    return None if row is None else int(row[0])


# --- no wake-up is lost


class Writers:
    """Sessions that append at a moment, hold their transaction open for a while, and commit or roll back."""

    def __init__(self, dsn: str, count: int) -> None:
        self._orders: list[queue.SimpleQueue[tuple[float, float, bool] | None]] = [
            queue.SimpleQueue() for _ in range(count)
        ]
        self._done: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._write, args=(dsn, orders)) for orders in self._orders]
        for thread in self._threads:
            thread.start()

    def _write(self, dsn: str, orders: queue.SimpleQueue[tuple[float, float, bool] | None]) -> None:
        idle = threading.Event()
        insert = (
            "INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version)"
            " VALUES (gen_random_uuid(), 'Order', 'OrderPlaced', '{}', 1) RETURNING sequence_number"
        )
        with psycopg.connect(dsn) as conn:
            while (order := orders.get()) is not None:
                delay, hold, is_kept = order
                idle.wait(delay)
                row = conn.execute(insert).fetchone()
                assert row is not None
                idle.wait(hold)
                if is_kept:
                    conn.commit()
                else:
                    conn.rollback()
                self._done.put(int(row[0]) if is_kept else 0)

    def append(self, orders: list[tuple[float, float, bool]]) -> int:
        """Append, each session by its order, and return the largest number that was committed."""
        for place, order in zip(self._orders, orders, strict=True):
            place.put(order)
        return max(self._done.get(timeout=60) for _ in orders)

    def close(self) -> None:
        for orders in self._orders:
            orders.put(None)
        for thread in self._threads:
            thread.join()


def slowest_wake_up(database: Database, sentries: list[Sentry], *, rounds: int, writers: int, limit: float) -> float:
    """Append round by round, each after the last one was seen; return the longest wait, up to the limit."""
    chance = random.Random(11)  # noqa: S311 -- load, not secrets
    slowest = 0.0
    with contextlib.ExitStack() as stack:
        sessions = Writers(database.dsn, writers)
        stack.callback(sessions.close)
        for sentry in sentries:
            stack.enter_context(sentry)
        pause = threading.Event()
        for _ in range(rounds):
            last = sessions.append(
                [
                    (chance.choice([0, 0, 0.0005, 0.002]), chance.choice([0, 0, 0.0005, 0.003]), chance.random() > 0.2)
                    for _ in range(writers)
                ]
            )
            began = time.monotonic()
            for sentry in sentries:
                is_seen = sentry.waits_until_at(last, limit)
                slowest = max(slowest, time.monotonic() - began)
                if not is_seen:
                    return slowest
            # Sometimes before the watcher sleeps, sometimes while it arms, sometimes long after.
            pause.wait(chance.choice([0, 0, 0.0002, 0.001, 0.003]))
    return slowest


@pytest.mark.slow
@pytest.mark.parametrize("watchers", [1, 2])
def test_no_wake_up_is_lost_in_10000_randomly_timed_appends(
    database: Database, monkeypatch: pytest.MonkeyPatch, watchers: int
) -> None:
    """Each watcher runs half of them; it arms as often as it can, since the danger is around the arming."""
    monkeypatch.setattr(watcher, "LINGER_SECONDS", 0.001)
    armed: list[Arming] = []
    arm = Doorbell.arm

    def counted(bell: Doorbell) -> Arming:
        armed.append(arm(bell))
        return armed[-1]

    monkeypatch.setattr(Doorbell, "arm", counted)
    sentries = [Sentry(database, poll_interval_seconds=5.0) for _ in range(watchers)]
    assert slowest_wake_up(database, sentries, rounds=1250, writers=4, limit=2.5) < 2.5
    assert armed.count(Arming.ARMED) > 100, "it hardly ever slept: this proves nothing"
    assert Arming.BUSY in armed
    assert (Arming.ELSEWHERE in armed) == (watchers == 2)


def forget_to_look(_sentry: Sentry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sleep right after arming."""

    def fall_asleep(self: Watcher, _db: databases.Connection, bell: Doorbell) -> bool:
        if bell.arm() is Arming.BUSY:
            return False
        bell.sleep(self._poll_interval_seconds, self._wake_read)
        self._hear(bell)
        bell.disarm()
        return True

    monkeypatch.setattr(Watcher, "_fall_asleep", fall_asleep)


def forget_to_arm(_sentry: Sentry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sleep as if the bell were armed."""

    def arm(_bell: Doorbell) -> Arming:
        return Arming.ELSEWHERE

    monkeypatch.setattr(Doorbell, "arm", arm)


def sleep_while_a_writer_is_in_flight(_sentry: Sentry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a refusal for somebody else's arming."""
    arm = Doorbell.arm

    def mistaken(bell: Doorbell) -> Arming:
        arming = arm(bell)
        return Arming.ELSEWHERE if arming is Arming.BUSY else arming

    monkeypatch.setattr(Doorbell, "arm", mistaken)


@pytest.mark.parametrize("mistake", [forget_to_look, forget_to_arm, sleep_while_a_writer_is_in_flight])
def test_that_test_finds_a_wrong_protocol_guilty(
    database: Database, monkeypatch: pytest.MonkeyPatch, mistake: Callable[[Sentry, pytest.MonkeyPatch], None]
) -> None:
    monkeypatch.setattr(watcher, "LINGER_SECONDS", 0.001)
    sentry = Sentry(database, poll_interval_seconds=2.0)
    mistake(sentry, monkeypatch)
    assert slowest_wake_up(database, [sentry], rounds=1250, writers=4, limit=0.9) >= 0.9


def forget_to_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disarm without a word to those who relied on it."""

    def disarm(bell: Doorbell) -> None:
        if bell.is_armed:
            bell.is_armed = False
            bell._db.execute("SELECT pg_advisory_unlock_all()")

    monkeypatch.setattr(Doorbell, "disarm", disarm)


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_watcher_that_leaves_wakes_the_one_that_relied_on_it(
    database: Database, monkeypatch: pytest.MonkeyPatch, *, is_broken: bool
) -> None:
    """And without that ring the event is not seen, so it is the ring that does it."""
    arm = Doorbell.arm
    armed: list[Arming] = []

    def noted(bell: Doorbell) -> Arming:
        armed.append(arm(bell))
        return armed[-1]

    monkeypatch.setattr(Doorbell, "arm", noted)
    if is_broken:
        forget_to_ring(monkeypatch)
    conn = database.connect()
    holding = Sentry(database).__enter__()
    eventually(lambda: holding.is_asleep(conn))
    with Sentry(database) as relying:
        eventually(lambda: Arming.ELSEWHERE in armed)
        holding.__exit__()
        last = append(conn, "OrderPlaced")
        assert relying.waits_until_at(last, 0.7 if is_broken else 5) is not is_broken


def test_a_ring_is_looked_at_before_anything_is_done_about_the_bell(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that relies on another's arming must try to arm anew after each ring; the event does not wait for that."""
    arm = Doorbell.arm
    armed: list[Arming] = []
    is_seen = threading.Event()

    def reluctant(bell: Doorbell) -> Arming:
        if Arming.ELSEWHERE in armed:
            is_seen.wait(10)
        armed.append(arm(bell))
        return armed[-1]

    monkeypatch.setattr(Doorbell, "arm", reluctant)
    conn = database.connect()
    with Sentry(database) as holding:
        eventually(lambda: holding.is_asleep(conn))
        with Sentry(database) as relying:
            eventually(lambda: Arming.ELSEWHERE in armed)
            try:
                assert relying.waits_until_at(append(conn, "OrderPlaced"), 5)
            finally:
                is_seen.set()


def holder(conn: psycopg.Connection[Any]) -> int:
    query = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted"
    return int(value(conn, query))


def pids(conn: psycopg.Connection[Any]) -> list[int]:
    query = (
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'projectiond/watcher'"
        " AND datname = current_database() ORDER BY backend_start"
    )
    return [row[0] for row in conn.execute(query)]


# --- what it reads along


@pytest.mark.parametrize("is_awaited", [True, False])
def test_events_are_read_along_while_somebody_waits_for_them(database: Database, *, is_awaited: bool) -> None:
    conn = database.connect()
    with (
        databases.connect(database.dsn, role="runner", statement_timeout_seconds=5) as runner,
        Sentry(database, is_awaited=lambda: is_awaited) as sentry,
    ):
        for _ in range(3):
            last = append(conn, "OrderPlaced")
            assert sentry.waits_until_at(last, 5)
            shared = sentry.watcher.recent.read(runner, last - 1, last)
            assert (shared is not None) is is_awaited


# --- what it survives


def test_a_listen_connection_that_is_killed_is_back_within_the_poll_interval_and_listens(
    database: Database, log: Log
) -> None:
    conn = database.connect()
    with Sentry(database) as sentry:
        for _ in range(3):
            eventually(lambda: sentry.is_asleep(conn))
            conn.execute("SELECT pg_terminate_backend(%s)", (pid_of_watcher(conn),))
            last = append(conn, "OrderPlaced")
            assert sentry.waits_until_at(last, 1.0)
            eventually(lambda: sentry.is_asleep(conn))
            assert sentry.waits_until_at(append(conn, "OrderPlaced"), 1.0)
        log.wait_for(logs.DOORBELL_LOST)
        log.wait_for(logs.DOORBELL_RESTORED)


def test_columns_that_change_their_type_cost_the_watcher_no_more_than_its_connection(
    database: Database, log: Log
) -> None:
    """Its statements are prepared, and PostgreSQL refuses them then."""
    conn = database.connect()
    with Sentry(database) as sentry:
        assert sentry.waits_until_at(append(conn, "OrderPlaced"), 5)
        eventually(lambda: sentry.is_asleep(conn))
        conn.execute("ALTER TABLE event_store ALTER version TYPE bigint")
        assert sentry.waits_until_at(append(conn, "OrderPlaced"), 5)
        log.wait_for(logs.DOORBELL_RESTORED)


def test_the_crash_of_the_one_that_armed_is_covered_by_the_others_poll(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = Doorbell.arm
    armed: list[Arming] = []

    def noted(bell: Doorbell) -> Arming:
        armed.append(arm(bell))
        return armed[-1]

    monkeypatch.setattr(Doorbell, "arm", noted)
    conn = database.connect()
    with Sentry(database) as crashing:
        eventually(lambda: crashing.is_asleep(conn))
        with Sentry(database, poll_interval_seconds=0.3) as relying:
            eventually(lambda: Arming.ELSEWHERE in armed)
            # It must not come back, nor say a word on its way out.
            crashing.watcher._stopping.set()
            conn.execute("SELECT pg_terminate_backend(%s)", (holder(conn),))
            assert relying.waits_until_at(append(conn, "OrderPlaced"), 2)
            # And from then on it arms the bell itself.
            eventually(lambda: relying.is_asleep(conn))
            relying.watcher._poll_interval_seconds = NEVER_SECONDS
            for _ in range(3):
                assert relying.waits_until_at(append(conn, "OrderPlaced"), 2)


def test_polling_alone_finds_events(database: Database) -> None:
    conn = database.connect()
    with Sentry(database, wakeup="poll", poll_interval_seconds=0.2) as sentry:
        assert sentry.waits_until_at(append(conn, "OrderPlaced"), 1.0)
        assert not sentry.is_asleep(conn)


def test_the_poll_finds_what_was_loaded_with_the_trigger_disabled(database: Database) -> None:
    conn = database.connect()
    with Sentry(database, poll_interval_seconds=0.3) as sentry:
        eventually(lambda: sentry.is_asleep(conn))
        conn.execute("ALTER TABLE event_store DISABLE TRIGGER projectiond_ring_doorbell")
        last = append(conn, "OrderPlaced")
        assert sentry.waits_until_at(last, 1.5)


def test_an_event_that_is_announced_before_it_is_readable_is_seen_when_its_blocker_ends(database: Database) -> None:
    conn = database.connect()
    late = database.connect(autocommit=False)
    with Sentry(database) as sentry:
        eventually(lambda: sentry.is_asleep(conn))
        append(late, "OrderPlaced")
        last = append(conn, "OrderPlaced")
        assert not sentry.waits_until_at(last, 0.2)
        late.rollback()
        assert sentry.waits_until_at(last, 0.5)


def test_statuses_are_passed_on(database: Database) -> None:
    conn = database.connect()
    with Sentry(database) as sentry:
        conn.execute("INSERT INTO projection_checkpoints (projection_name) VALUES ('orders')")
        eventually(lambda: "orders" in sentry.statuses)
        # And at the start "any", for whatever was announced before it listened.
        assert sentry.statuses[0] == ""


@pytest.mark.slow
def test_an_idle_daemon_asks_less_than_5_queries_a_second_and_waits_for_nothing_in_the_server(
    own_server: LocalServer, own_database: Database
) -> None:
    conn = own_database.connect()
    conn.execute("ALTER DATABASE app SET log_statement = 'all'")
    seconds = 3

    def asked() -> int:
        log = own_server.log_file.read_text()
        return log.count("LOG:  statement: ") + log.count("LOG:  execute ")

    with Daemon(own_database, journal("a"), journal("b"), journal("c"), poll_interval_seconds=1.0) as daemon:
        last = append(conn, "OrderPlaced")
        for name in ("a", "b", "c"):
            daemon.wait_until_at(name, last)
        bell = b"SELECT FROM pg_locks WHERE mode = 'ExclusiveLock' AND (classid::bigint << 32) | objid::bigint = %s"
        eventually(lambda: daemon.ask(bell, DOORBELL_KEY))
        before, began = asked(), time.monotonic()
        waiting = 0
        # This connection was there before its statements were logged.
        while time.monotonic() - began < seconds:
            waiting += value(conn, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            threading.Event().wait(0.1)
        assert 0 < asked() - before < 5 * seconds
        assert waiting == 0


def test_it_stops_at_once_in_whatever_state_it_is(database: Database) -> None:
    conn = database.connect()
    late = database.connect(autocommit=False)
    for prepare in (lambda: None, lambda: append(late, "OrderPlaced"), lambda: append(conn, "OrderPlaced")):
        prepare()
        with Sentry(database):
            began = time.monotonic()
        assert time.monotonic() - began < 1


# --- for which connections the mark holds


def test_a_mark_holds_only_for_a_connection_that_was_open_before_the_look(database: Database) -> None:
    """A crash between the look and the connection may have taken back what was seen."""
    number = append(database.connect(), "Counted")
    with Sentry(database) as sentry:
        assert sentry.waits_until_at(number, 10)
        with databases.connect(database.dsn, role="runner", statement_timeout_seconds=5) as late:
            # No look since; one is on its way now, though nothing has happened in the store.
            assert sentry.watcher.settled(late) == -1
            eventually(lambda: sentry.watcher.settled(late) == number)


def test_a_connection_to_another_server_is_refused_and_replaced(database: Database) -> None:
    with Sentry(database) as sentry:
        assert sentry.waits_until_at(0, 10)
        with databases.connect(database.dsn, role="runner", statement_timeout_seconds=5) as other:
            assert other.incarnation is not None
            other.incarnation -= timedelta(seconds=1)
            with pytest.raises(DatabaseUnavailableError, match="another server"):
                sentry.watcher.settled(other)
            assert other.is_altered


def test_a_nudge_ends_a_doze(database: Database) -> None:
    watcher = Sentry(database).watcher
    watcher.nudge()
    assert not is_readable(watcher._wake_read)
    watcher._is_dozing = True
    watcher.nudge()
    assert is_readable(watcher._wake_read)


def is_readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


def test_a_number_that_the_sequence_has_not_drawn_is_never_passed_and_is_named(database: Database) -> None:
    """Whoever writes numbers of their own must not make the mark pass those that are yet to be drawn."""
    conn = database.connect()
    with Daemon(database, journal(), poll_interval_seconds=0.2) as daemon:
        last = append(conn, "Counted")
        conn.execute(
            "INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version, sequence_number) "
            "VALUES (gen_random_uuid(), 'Order', 'Stray', '{}', 1, 1000)"
        )
        held = daemon.log.wait_for(logs.HIGHWATER_HELD)
        assert held["held_at"] == last
        assert "number 1000" in held["by"][0]
        later = [append(conn, "Counted") for _ in range(20)]
        daemon.wait_until_at("journal", later[-1])
        assert daemon.applied() == [last, *later]
