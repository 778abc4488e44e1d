"""Events that the watcher reads along: each range is what a query finds, and nobody reads a new event twice."""

import random
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any, LiteralString

import pytest

from projectiond import sql
from projectiond.errors import UnreadableEventError
from projectiond.event import Event
from projectiond.postgres import database as databases
from projectiond.stream import highwater, recent, watcher
from projectiond.stream.head import MOST_BYTES, MOST_EVENTS, MOST_STORED_BYTES, Head
from projectiond.stream.highwater import HighWaterMark, Sighting
from projectiond.stream.reader import EventReader
from projectiond.stream.recent import Passage
from tests.support.daemon import Daemon, journal
from tests.support.events import append, append_many
from tests.support.postgres import Database, LocalServer
from tests.support.queries import Connection, value
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

NEW_EVENT: LiteralString = (
    "INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, metadata, version)"
    " VALUES (gen_random_uuid(), 'Order', 'OrderPlaced', {}, {}, 1) RETURNING sequence_number"
)


@pytest.fixture
def conn(database: Database) -> Connection:
    return database.connect()


@pytest.fixture
def late(database: Database) -> Connection:
    """Connect a writer whose transactions stay open until it commits."""
    return database.connect(autocommit=False)


@pytest.fixture
def runner(database: Database) -> Iterator[databases.Connection]:
    """Open a connection to apply events on, before anything is read."""
    with databases.connect(database.dsn, role="runner", statement_timeout_seconds=30) as db:
        yield db


@pytest.fixture
def db(database: Database, runner: databases.Connection) -> Iterator[databases.Connection]:  # noqa: ARG001 -- order
    with databases.connect(database.dsn, role="watcher", statement_timeout_seconds=30) as db:
        db.execute(sql.highwater.CONFIGURE_WATCHER)
        yield db


@pytest.fixture
def mark(db: databases.Connection) -> HighWaterMark:
    mark = HighWaterMark()
    mark.reopen(db)
    return mark


def facts(events: Sequence[Event[Any]] | None) -> list[tuple[object, ...]] | None:
    """Give everything that an event has, and its JSON byte for byte."""
    if events is None:
        return None
    return [tuple(getattr(event, name) for name in Event.__slots__ if hasattr(event, name)) for event in events]


def read_by_query(db: databases.Connection, after: int, upto: int) -> list[tuple[object, ...]] | None:
    return facts(EventReader(None, 10_000).read(db, after, upto).events)


# --- what is read along is what a query finds


def test_what_is_read_along_is_what_a_query_finds_byte_for_byte(
    db: databases.Connection, mark: HighWaterMark, conn: Connection, runner: databases.Connection
) -> None:
    append(conn, "OrderPlaced", {"text": "Größe\t漢字", "n": 1.10}, metadata={"by": "é"})
    conn.execute(NEW_EVENT.format("'[1, 2.50, null]'", "NULL"))
    append_many(conn, 3)
    assert mark.look(db, is_reading=True)
    shared = mark.recent.read(runner, 0, 5)
    assert facts(shared) == read_by_query(runner, 0, 5)
    assert shared is not None
    assert shared[0].data == {"text": "Größe\t漢字", "n": 1.10}
    assert shared[1].metadata == {}


def test_json_that_is_kept_as_text_is_read_along_as_well(
    db: databases.Connection, mark: HighWaterMark, conn: Connection, runner: databases.Connection
) -> None:
    conn.execute("ALTER TABLE event_store ALTER event_data TYPE json, ALTER event_type TYPE text")
    conn.execute(NEW_EVENT.format("""'{"b": 1,   "a": 2}'""", "NULL"))
    mark.look(db, is_reading=True)
    assert facts(mark.recent.read(runner, 0, 1)) == read_by_query(runner, 0, 1)


def test_nothing_is_read_along_unless_it_is_wanted(
    db: databases.Connection, mark: HighWaterMark, conn: Connection, runner: databases.Connection
) -> None:
    last = append(conn, "OrderPlaced")
    mark.look(db)
    assert mark.settled == last
    assert mark.recent.read(runner, 0, last) is None
    append(conn, "OrderPlaced")
    mark.look(db, is_reading=True)
    assert mark.recent.read(runner, 0, last + 1) is None
    assert mark.recent.read(runner, last, last + 1) is not None


def test_an_event_beyond_a_gap_is_read_once_its_window_has_closed(
    db: databases.Connection, mark: HighWaterMark, conn: Connection, late: Connection, runner: databases.Connection
) -> None:
    first = append(conn, "OrderPlaced")
    held = append(late, "Late")
    last = append(conn, "OrderPlaced")
    mark.look(db, is_reading=True)
    assert mark.recent.read(runner, 0, first) is not None
    assert mark.recent.read(runner, 0, last) is None
    late.commit()
    mark.look(db, is_reading=True)
    given = mark.recent.read(runner, 0, last)
    assert given is not None
    assert [event.sequence_number for event in given] == [first, held, last]
    # And a gap that nobody will fill is a window that closes within one look.
    append(late, "Late")
    late.rollback()
    last = append(conn, "OrderPlaced")
    mark.look(db, is_reading=True)
    assert facts(mark.recent.read(runner, 0, last)) == read_by_query(runner, 0, last)


def test_a_burst_is_left_to_the_runners(
    db: databases.Connection, mark: HighWaterMark, conn: Connection, late: Connection, runner: databases.Connection
) -> None:
    append_many(conn, MOST_EVENTS)
    mark.look(db, is_reading=True)
    assert mark.recent.read(runner, 0, MOST_EVENTS) is not None
    append_many(conn, MOST_EVENTS + 1)
    mark.look(db, is_reading=True)
    assert mark.settled == 2 * MOST_EVENTS + 1
    assert mark.recent.read(runner, MOST_EVENTS, MOST_EVENTS + 1) is None
    append(late, "Late")
    append_many(conn, MOST_EVENTS)
    mark.look(db, is_reading=True)
    late.rollback()
    mark.look(db, is_reading=True)
    assert mark.settled == 3 * MOST_EVENTS + 2
    assert mark.recent.read(runner, 2 * MOST_EVENTS + 1, mark.settled) is None


@pytest.mark.parametrize("column", ["event_data", "metadata"])
@pytest.mark.parametrize("text", ["repeat('x', 32)", "md5(n::text)"], ids=["compressible", "incompressible"])
@pytest.mark.parametrize("is_late", [False, True])
def test_a_heavy_event_is_left_to_the_runners(  # noqa: PLR0913 -- two ways to be heavy, two to be settled
    db: databases.Connection,
    mark: HighWaterMark,
    conn: Connection,
    late: Connection,
    runner: databases.Connection,
    column: LiteralString,
    text: LiteralString,
    *,
    is_late: bool,
) -> None:
    if is_late:
        append(late, "Late")
    first = append(conn, "OrderPlaced")
    heavy: LiteralString = (
        f"jsonb_build_object('x', (SELECT string_agg({text}, '') FROM generate_series(1, %(rows)s) AS n))"
    )
    columns = (heavy, "'{}'") if column == "event_data" else ("'{}'", heavy)
    conn.execute(NEW_EVENT.format(*columns), {"rows": MOST_BYTES // 32})
    stored = value(conn, f"SELECT max(pg_column_size({column})) FROM event_store")
    assert (stored > MOST_STORED_BYTES) == ("md5" in text)
    last = append(conn, "OrderPlaced")
    mark.look(db, is_reading=True)
    if is_late:
        late.rollback()
        mark.look(db, is_reading=True)
    assert mark.settled == last
    assert mark.recent.read(runner, first - 1, first) is not None
    assert mark.recent.read(runner, first, first + 1) is None
    assert mark.recent.read(runner, last - 1, last) is None
    assert sum(passage.weight for passage in mark.recent._passages) < 100
    last = append(conn, "OrderPlaced")
    mark.look(db, is_reading=True)
    assert mark.recent.read(runner, last - 1, last) is not None


def test_events_that_weigh_too_much_together_are_read_as_far_as_they_do_not(
    db: databases.Connection, mark: HighWaterMark, conn: Connection, runner: databases.Connection
) -> None:
    for _ in range(4):
        append(conn, "OrderPlaced", {"text": "x" * (MOST_BYTES // 3)})
    mark.look(db, is_reading=True)
    assert mark.settled == 4
    assert mark.recent.read(runner, 0, 2) is not None
    assert mark.recent.read(runner, 2, 3) is None


@pytest.mark.parametrize("is_late", [False, True])
def test_an_event_that_cannot_be_read_does_not_hold_the_mark(
    db: databases.Connection,
    mark: HighWaterMark,
    conn: Connection,
    late: Connection,
    runner: databases.Connection,
    *,
    is_late: bool,
) -> None:
    """It is the affair of the projections that take it; the others must not wait for it."""
    if is_late:
        append(late, "Late")
    unreadable = append(conn, "OrderPlaced")
    conn.execute("UPDATE event_store SET created_at = 'infinity'")
    with pytest.raises(UnreadableEventError):
        read_by_query(runner, 0, unreadable)
    mark.look(db, is_reading=True)
    if is_late:
        late.rollback()
        mark.look(db, is_reading=True)
    assert mark.settled == unreadable
    assert mark.recent.read(runner, unreadable - 1, unreadable) is None
    last = append(conn, "OrderPlaced")
    mark.look(db, is_reading=True)
    assert mark.recent.read(runner, unreadable, last) is not None


def test_a_number_that_the_sequence_has_not_drawn_is_not_read_along(
    db: databases.Connection, mark: HighWaterMark, conn: Connection, runner: databases.Connection
) -> None:
    append(conn, "OrderPlaced")
    conn.execute(
        "INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version, sequence_number) "
        "VALUES (gen_random_uuid(), 'Order', 'Stray', '{}', 1, 2)"
    )
    mark.look(db, is_reading=True)
    assert (mark.settled, mark.stray) == (1, 2)
    assert mark.recent.read(runner, 0, 1) is not None
    assert mark.recent.read(runner, 1, 2) is None


# --- other histories


def test_a_store_that_was_emptied_takes_what_was_read_with_it(
    db: databases.Connection, mark: HighWaterMark, conn: Connection, runner: databases.Connection
) -> None:
    append_many(conn, 5)
    mark.look(db, is_reading=True)
    conn.execute("TRUNCATE event_store RESTART IDENTITY")
    append(conn, "OrderPlaced")
    mark.look(db, is_reading=True)
    assert mark.settled == 1
    assert facts(mark.recent.read(runner, 0, 1)) == read_by_query(runner, 0, 1)
    assert mark.recent.read(runner, 0, 5) is None


def test_a_new_connection_begins_with_nothing(
    db: databases.Connection, mark: HighWaterMark, conn: Connection, database: Database, runner: databases.Connection
) -> None:
    append_many(conn, 5)
    mark.look(db, is_reading=True)
    with databases.connect(database.dsn, role="watcher", statement_timeout_seconds=30) as other:
        mark.reopen(other)
    assert mark.recent.read(runner, 0, 5) is None


def test_a_connection_that_is_opened_after_the_look_reads_by_itself(
    db: databases.Connection, mark: HighWaterMark, conn: Connection, database: Database, runner: databases.Connection
) -> None:
    append_many(conn, 5)
    mark.look(db, is_reading=True)
    with databases.connect(database.dsn, role="runner", statement_timeout_seconds=30) as other:
        assert mark.recent.read(other, 0, 5) is None
    assert mark.recent.read(runner, 0, 5) is not None


# --- whatever writers do meanwhile


class Writers:
    """Transactions that append, commit and roll back at random; one thread plays them all."""

    def __init__(self, database: Database, chance: random.Random) -> None:
        self._chance = chance
        self._sessions = [database.connect(autocommit=False) for _ in range(4)]

    def step(self) -> None:
        session = self._chance.choice(self._sessions)
        match self._chance.choice(["append", "append", "commit", "commit", "commit", "roll back"]):
            case "append":
                append_many(session, self._chance.choice([1, 1, 2, 5]))
            case "commit":
                session.commit()
            case _:
                session.rollback()


def misjudged_sighting(head: Head, settled: int, sequence: str | None) -> tuple[Sighting, Passage]:
    """Take the events to be all there are upto the largest number seen, whatever is missing in between."""
    sighting = highwater._read_sighting(head.db, settled, sequence)
    events = EventReader(None, MOST_EVENTS).read(head.db, settled, sighting.largest).events
    upto = events[-1].sequence_number if events else settled
    return sighting, Passage(settled, upto, events, 0, head.db.incarnation, time.monotonic())


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_range_that_is_given_never_lacks_an_event_whatever_writers_do(
    database: Database,
    db: databases.Connection,
    mark: HighWaterMark,
    runner: databases.Connection,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_broken: bool,
) -> None:
    """Between any two statements of a look the writers go on. And a design that reads past gaps is found guilty."""
    chance = random.Random(7)  # noqa: S311 -- schedules, not secrets
    writers = Writers(database, chance)
    by_window = 0

    def interrupted(name: str) -> None:
        function = getattr(highwater, name)

        def between(*arguments: Any) -> Any:  # noqa: ANN401 -- passed through
            for _ in range(chance.choice([0, 1, 3])):
                writers.step()
            return function(*arguments)

        monkeypatch.setattr(highwater, name, between)

    if is_broken:
        monkeypatch.setattr(highwater, "_read_sighting_and_events", misjudged_sighting)
    for name in ("_read_sighting_and_events", "_read_lockers", "_read_passage"):
        interrupted(name)
    given, wrong = 0, 0
    for _ in range(400):
        writers.step()
        before, was_held = mark.settled, mark.is_held
        mark.look(db, is_reading=True)
        for after in {before, chance.randint(max(0, before - 20), mark.settled)}:
            shared = mark.recent.read(runner, after, mark.settled)
            if shared is not None and after < mark.settled:
                given += 1
                by_window += was_held and not mark.is_held
                wrong += facts(shared) != read_by_query(runner, after, mark.settled)
    assert given > 100, "it hardly ever read along: this proves nothing"
    if not is_broken:
        assert by_window > 20, "hardly ever by a window"
    assert bool(wrong) is is_broken


# --- one reading for all


def test_the_plan_of_a_look_is_right_also_when_the_store_was_tiny_when_it_was_made(
    db: databases.Connection, mark: HighWaterMark, conn: Connection, late: Connection
) -> None:
    conn.execute("ALTER TABLE event_store SET (autovacuum_enabled = false)")
    for writer in (conn, late):
        # Only what the looks scan counts.
        writer.execute("SET track_counts = off")
    append(conn, "OrderPlaced")
    conn.execute("ANALYZE event_store")
    append(late, "Late")
    for _ in range(10):
        mark.look(db, is_reading=True)
        append(conn, "OrderPlaced")
    late.rollback()
    mark.look(db, is_reading=True)
    scans = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'event_store'"
    # What this session has scanned so far may be counted as late as seconds from now.
    flush: LiteralString = "SELECT pg_stat_force_next_flush()" if db.info.server_version >= 150000 else "SELECT 1"
    db.execute(flush)
    before = value(conn, scans)
    for _ in range(20):
        append_many(conn, 500)
        mark.look(db, is_reading=True)
        append(conn, "OrderPlaced")
        mark.look(db, is_reading=True)
    db.execute(flush)
    assert value(conn, scans) == before


def queries_of_runners(server: LocalServer) -> int:
    """Count the queries for events that runners have sent."""
    log = server.log_file.read_text()
    lines = re.split(r"^(?=\S+ \S+ \S+ \[\d+\] )", log, flags=re.MULTILINE)
    return sum("projectiond/runner" in line and "FROM event_store" in line for line in lines)


def test_a_new_event_is_read_once_for_all_projections(
    own_server: LocalServer, own_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However slow this machine is.
    monkeypatch.setattr(recent, "KEPT_SECONDS", 60.0)
    monkeypatch.setattr(watcher, "BACK_SECONDS", 60.0)
    conn = own_database.connect()
    conn.execute("ALTER DATABASE app SET log_statement = 'all'")
    names = [f"journal_{number}" for number in range(8)]
    numbers: list[int] = []
    with Daemon(own_database, *(journal(name) for name in names), pool_size=4) as daemon:

        def append_and_wait() -> None:
            numbers.append(append(conn, "Counted"))
            for name in names:
                daemon.wait_until_at(name, numbers[-1])
            eventually(lambda: all(runner.is_waiting for runner in daemon.worker._runners.values()))

        def connections() -> int:
            return int(value(conn, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%/runner'"))

        # The pool opens its two connections when it must; one that is opened after a look reads by itself once.
        append_and_wait()
        while connections() < 2:
            append_and_wait()
        append_and_wait()
        before = queries_of_runners(own_server)
        assert before > 0
        for _ in range(5):
            append_and_wait()
        assert queries_of_runners(own_server) == before
        for name in names:
            assert daemon.applied(name) == numbers


def test_an_event_that_was_mended_is_applied_as_it_is_now(database: Database) -> None:
    """Right after it was resumed, while the event as it was may still be at hand."""

    def fail_over_null(event: Event[Any], _db: databases.Connection) -> None:
        assert event.data["n"] is not None

    conn = database.connect()
    projection = journal("journal", effect=fail_over_null, max_attempts=1)
    with Daemon(database, projection, journal("bystander")) as daemon:
        for _ in range(3):
            number = append(conn, "Bad", {"n": None})
            daemon.wait_for_status("journal", "paused")
            conn.execute("UPDATE event_store SET event_data = '{\"n\": 1}' WHERE sequence_number = %s", (number,))
            daemon.set_status("journal", "running")
            daemon.wait_until_at("journal", number)
            assert daemon.checkpoint("journal")["status"] == "running"
