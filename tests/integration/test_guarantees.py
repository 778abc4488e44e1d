"""The guarantees of the design, each with the tests that bear its name, while writers and operators interfere.

G5 (what writers pay) is measured by the benchmark, G6 and G8 have their tests beside the parts that give them.
"""

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from projectiond import logs
from projectiond.event import Event
from projectiond.postgres.database import Connection
from projectiond.projection import SqlProjection
from tests.support import journals
from tests.support.daemon import Daemon, Stage
from tests.support.daemon import journal as journal_with_effect
from tests.support.events import append, append_many
from tests.support.journals import Journal
from tests.support.postgres import Database, LocalServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration


@pytest.fixture(params=journals.KINDS)
def journal(request: pytest.FixtureRequest) -> Journal:
    """Make projections of each kind in turn; they note what is applied to them."""
    if request.param in {"batch", "row"} and "pg15" in request.node.name:
        pytest.skip("nothing in this kind depends on the server's version; test_kinds.py tries it on each")
    return journals.journal_of(request.param)


@contextlib.contextmanager
def writers(database: Database, count: int = 4, *, seed: int = 1) -> Iterator[None]:
    """Append, commit and roll back at random, from several sessions, for the length of the context."""
    is_over = threading.Event()

    def write(number: int) -> None:
        chance = random.Random(seed * 100 + number)  # noqa: S311 -- load, not secrets
        while not is_over.is_set():
            # The server may be stopped in the middle of it, which is what some tests are about.
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(database.dsn) as conn:
                while not is_over.is_set():
                    for _ in range(chance.randint(1, 4)):
                        append(conn, chance.choice(["Good", "Other", "Good", "Bad"]))
                        is_over.wait(chance.choice([0, 0.001, 0.003]))
                    if chance.random() < 0.2:
                        conn.rollback()
                    else:
                        conn.commit()
                    is_over.wait(chance.choice([0, 0.002, 0.02]))
            is_over.wait(0.02)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def pause_for(seconds: float) -> None:
    """Let the load run for a while: how long a stress lasts is no condition that could be waited for."""
    threading.Event().wait(seconds)


# --- G1 no event is lost


def test_g1_an_event_that_commits_late_behind_100_later_ones_is_applied_in_order_and_its_transaction_is_named(
    database: Database, journal: Journal
) -> None:
    late = psycopg.connect(database.dsn, application_name="nightly import")
    conn = database.connect()
    with Daemon(database, journal()) as daemon, contextlib.closing(late):
        first = append(conn, "Good")
        held = append(late, "Good")
        numbers = [append(conn, "Good") for _ in range(100)]
        line = daemon.log.wait_for(logs.HIGHWATER_HELD)
        assert line["held_at"] == held - 1
        (holder,) = line["by"]
        assert f"pid {late.info.backend_pid} " in holder
        assert 'app "nightly import"' in holder
        assert daemon.applied() == [first]
        late.commit()
        daemon.wait_until_at("journal", numbers[-1], 5)
        assert daemon.applied() == [first, held, *numbers]
        daemon.log.wait_for(logs.HIGHWATER_RELEASED, held_at=held - 1)


def test_g1_a_rolled_back_number_delays_nothing_once_its_transaction_has_ended(
    database: Database, journal: Journal
) -> None:
    late = database.connect(autocommit=False)
    conn = database.connect()
    with Daemon(database, journal()) as daemon:
        append(late, "Good")
        numbers = append_many(conn, 3)
        late.rollback()
        began = time.monotonic()
        daemon.wait_until_at("journal", numbers[-1], 5)
        assert time.monotonic() - began < 1
        assert daemon.applied() == numbers


def test_g1_an_open_transaction_on_another_table_delays_nothing(database: Database, journal: Journal) -> None:
    conn = database.connect()
    conn.execute("CREATE TABLE elsewhere (n int)")
    other = database.connect(autocommit=False)
    other.execute("INSERT INTO elsewhere VALUES (1)")
    other.execute("SELECT count(*) FROM event_store")
    burnt = database.connect(autocommit=False)
    with Daemon(database, journal()) as daemon:
        append(burnt, "Good")
        last = append(conn, "Good")
        burnt.rollback()
        began = time.monotonic()
        daemon.wait_until_at("journal", last, 5)
        assert time.monotonic() - began < 1
        assert daemon.log.lines(logs.HIGHWATER_HELD) == []


def test_g1_a_prepared_transaction_that_holds_a_number_is_waited_for_and_named(
    database: Database, journal: Journal
) -> None:
    session = database.connect()
    conn = database.connect()
    with Daemon(database, journal()) as daemon:
        session.execute("SET projectiond.doorbell = off")
        session.execute("BEGIN")
        held = append(session, "Good")
        session.execute("PREPARE TRANSACTION 'transfer'")
        last = append(conn, "Good")
        line = daemon.log.wait_for(logs.HIGHWATER_HELD)
        assert line["held_at"] == held - 1
        assert 'prepared transaction "transfer"' in line["by"][0]
        assert daemon.applied() == []
        session.execute("COMMIT PREPARED 'transfer'")
        daemon.wait_until_at("journal", last, 5)
        assert daemon.applied() == [held, last]


def test_g1_a_start_position_far_ahead_of_one_projection_makes_no_other_lose_an_event_in_flight(
    database: Database, journal: Journal
) -> None:
    late = database.connect(autocommit=False)
    conn = database.connect()
    held = append(late, "Good")
    numbers = append_many(conn, 50)
    conn.execute(
        "INSERT INTO projection_checkpoints (projection_name, last_sequence_number) VALUES ('ahead', %s)",
        (numbers[-1],),
    )
    with Daemon(database, journal("ahead"), journal()) as daemon:
        daemon.log.wait_for(logs.HIGHWATER_HELD)
        assert daemon.applied() == []
        late.commit()
        last = append(conn, "Good")
        daemon.wait_until_at("journal", last)
        daemon.wait_until_at("ahead", last)
        assert daemon.applied() == [held, *numbers, last]
        assert daemon.applied("ahead") == [last]


def test_g1_a_restart_while_an_event_is_in_flight_loses_nothing(database: Database, journal: Journal) -> None:
    late = database.connect(autocommit=False)
    conn = database.connect()
    before = append_many(conn, 5)
    held = append(late, "Good")
    after = append_many(conn, 5)
    for _ in range(2):
        with Daemon(database, journal()) as daemon:
            daemon.wait_until_at("journal", before[-1])
            daemon.log.wait_for(logs.HIGHWATER_HELD)
            assert daemon.ask(b"SELECT mark FROM projectiond_high_water_mark") == [(held - 1,)]
    with Daemon(database, journal()) as daemon:
        late.commit()
        daemon.wait_until_at("journal", after[-1])
        assert daemon.applied() == [*before, held, *after]


# --- G2 exactly once, G3 order


@pytest.mark.slow
def test_g2_g3_two_daemons_on_one_database_apply_every_event_once_and_in_order(
    database: Database, journal: Journal
) -> None:
    names = ["a", "b", "c"]
    projections = [journal(name, checkpoint_every=3) for name in names]
    with (
        Daemon(database, *projections) as one,
        Daemon(database, *projections, log=one.log) as two,
    ):
        with writers(database):
            pause_for(1.5)
        last = one.stored()[-1]
        for name in names:
            two.wait_until_at(name, last)
            assert one.applied(name) == one.stored()
            assert one.checkpoint(name)["processed"] == len(one.stored())


def test_g2_g3_two_runners_of_one_projection_never_apply_an_event_twice(database: Database, journal: Journal) -> None:
    """As if leases did not exist: both run, and the compare-and-set decides each transaction."""
    projection = journal("journal", checkpoint_every=2, batch_size=10)
    # Enough for many transactions of each kind.
    numbers = append_many(database.connect(), 30_000 if issubclass(projection, SqlProjection) else 600)
    mark = numbers[-1]
    # Transactions that hardly grow: there are many in which the two can meet.
    short: dict[str, Any] = {"mark": mark, "catchup_transaction_seconds": 0.01}
    with Stage(database, projection, **short) as one, Stage(database, projection, log=one.log, **short) as two:
        for stage in (one, two):
            stage.runner.start()
        one.wait_until_at("journal", mark, 40)
        assert one.applied() == numbers
        assert one.checkpoint()["processed"] == len(numbers)
        conflicted = one.log.lines(logs.CHECKPOINT_CONFLICTED)
        assert conflicted, "the two never met: this proves nothing"
        for stage in (one, two):
            stage.runner.stop()
            assert stage.runner.join(10)


def test_g2_two_runners_that_rebuild_at_once_build_the_read_model_once(database: Database, journal: Journal) -> None:
    numbers = append_many(database.connect(), 200)
    mark = numbers[-1]
    projection = journal("journal", checkpoint_every=5)
    with Stage(database, projection, mark=mark) as one, Stage(database, projection, mark=mark, log=one.log) as two:
        for stage in (one, two):
            stage.runner.start()
        one.wait_until_at("journal", mark)
        for _ in range(5):
            one.rebuild_in_place("journal")
            for stage in (one, two):
                stage.runner.recheck()
            one.wait_for_status("journal", "running")
            assert one.applied() == numbers
            assert one.checkpoint()["processed"] == len(numbers)
        for stage in (one, two):
            stage.runner.stop()
            assert stage.runner.join(10)


@pytest.mark.faults
@pytest.mark.slow
def test_g2_g3_sessions_of_every_kind_killed_at_random_lose_and_repeat_nothing(
    database: Database, journal: Journal
) -> None:
    chance = random.Random(7)  # noqa: S311 -- load, not secrets
    admin = database.connect()
    killed: set[str] = set()
    projections = [journal("a", checkpoint_every=2), journal("b", "Good"), journal("c", checkpoint_every=50)]
    with Daemon(database, *projections, poll_interval_seconds=1.0) as daemon:
        with writers(database):
            for _ in range(40):
                victim = admin.execute(
                    "SELECT pid, application_name FROM pg_stat_activity WHERE datname = current_database()"
                    " AND application_name LIKE 'projectiond/%%' ORDER BY md5(pid::text || %s) LIMIT 1",
                    (str(chance.random()),),
                ).fetchone()
                if victim is not None:
                    admin.execute("SELECT pg_terminate_backend(%s)", victim[:1])
                    killed.add(victim[1])
                pause_for(0.05)
        assert killed == {"projectiond/leases", "projectiond/watcher", "projectiond/runner"}
        stored = daemon.stored()
        for name in ("a", "b", "c"):
            daemon.wait_until_at(name, stored[-1], 40)
        good = [
            row[0] for row in daemon.ask(b"SELECT sequence_number FROM event_store WHERE event_type='Good' ORDER BY 1")
        ]
        assert daemon.applied("a") == daemon.applied("c") == stored
        assert daemon.applied("b") == good
        assert daemon.checkpoint("a")["processed"] == len(stored)


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_g2_g3_a_server_that_is_restarted_in_the_middle_loses_and_repeats_nothing(
    own_server: LocalServer, own_database: Database, mode: str, journal: Journal
) -> None:
    with Daemon(own_database, journal("a", checkpoint_every=2), journal("b"), poll_interval_seconds=1.0) as daemon:
        with writers(own_database):
            for _ in range(2):
                pause_for(0.5)
                own_server.restart("fast" if mode == "fast" else "immediate")
            pause_for(0.5)
        stored = daemon.stored()
        for name in ("a", "b"):
            daemon.wait_until_at(name, stored[-1], 40)
            assert daemon.applied(name) == stored
            assert daemon.checkpoint(name)["processed"] == len(stored)
            assert daemon.checkpoint(name)["status"] == "running"


# --- G4 the status is obeyed


@pytest.mark.slow
def test_g4_after_a_paused_status_has_committed_no_batch_commits(database: Database, journal: Journal) -> None:
    chance = random.Random(3)  # noqa: S311 -- load, not secrets
    operator = database.connect()
    append_many(operator, 4000)
    # Slow enough to be met in the middle at each round.
    with Daemon(database, journal("journal", checkpoint_every=1, batch_size=7)) as daemon, writers(database, 2):
        eventually(lambda: daemon.checkpoint().get("position"), 10, "it did not begin")
        met = 0
        for _ in range(40):
            pause_for(chance.uniform(0, 0.02))
            (position,) = daemon.ask(
                b"UPDATE projection_checkpoints SET status = 'paused' WHERE projection_name = 'journal'"
                b" RETURNING last_sequence_number"
            )[0]
            applied = daemon.applied()
            met += position < daemon.stored()[-1]
            eventually(lambda: daemon.worker._runners["journal"].checkpoint.status == "paused")  # type: ignore[union-attr]
            assert daemon.checkpoint()["position"] == position
            assert daemon.applied() == applied
            assert applied == daemon.stored()[: len(applied)]
            daemon.set_status("journal", "running")
        assert met >= 3, "it was hardly ever at work when it was paused: this proves little"


def test_g4_a_batch_in_hand_when_the_status_changes_is_rolled_back(database: Database) -> None:
    is_in_hand, may_go_on = threading.Event(), threading.Event()

    def wait(_event: Event, _db: Connection) -> None:
        is_in_hand.set()
        assert may_go_on.wait(20)

    numbers = [append(database.connect(), kind) for kind in ("Good", "Good", "Bad", "Good")]
    with Daemon(database, journal_with_effect("journal", effect=wait)) as daemon:
        assert is_in_hand.wait(20)
        daemon.set_status("journal", "paused")
        may_go_on.set()
        daemon.log.wait_for(logs.PROJECTION_PAUSED, projection="journal")
        assert daemon.applied() == []
        assert daemon.checkpoint()["position"] == 0
        daemon.set_status("journal", "running")
        daemon.wait_until_at("journal", numbers[-1])
        assert daemon.applied() == numbers


def test_g4_a_change_of_status_is_seen_at_once_and_not_by_polling(database: Database, journal: Journal) -> None:
    conn = database.connect()
    with Daemon(database, journal()) as daemon:
        daemon.wait_until_at("journal", append(conn, "Good"))
        delays = []
        for _ in range(10):
            for status in ("paused", "running"):
                daemon.set_status("journal", status)
                began = time.monotonic()
                eventually(lambda s=status: daemon.worker._runners["journal"].checkpoint.status == s)  # type: ignore[misc, union-attr]
                delays.append(time.monotonic() - began)
        # The worker's own look at the statuses comes every second: most must be far quicker.
        assert sorted(delays)[len(delays) // 2] < 0.1
