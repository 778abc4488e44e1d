"""Leases: which worker runs which projection, while workers come, go and lose their connection."""

import contextlib
import math
from collections.abc import Iterator

import pytest

from projectiond import logs, sql, worker
from projectiond.leases import lease
from projectiond.leases.fair_share import Shares
from projectiond.leases.lease import Leases, lease_key
from projectiond.postgres import database as databases
from tests.support.daemon import Daemon, journal
from tests.support.events import append
from tests.support.postgres import Database, LocalServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

NAMES = ["a", "b", "c", "d", "e"]


@contextlib.contextmanager
def connected(database: Database) -> Iterator[databases.Connection]:
    with databases.connect(database.dsn, role="leases", statement_timeout_seconds=30) as db:
        yield db


@pytest.fixture
def surveys(monkeypatch: pytest.MonkeyPatch) -> list[Shares]:
    """Give what all workers' looks at the locks come to, as they take them."""
    survey, seen = Leases.survey, list[Shares]()

    def noted(leases: Leases) -> Shares:
        seen.append(survey(leases))
        return seen[-1]

    monkeypatch.setattr(Leases, "survey", noted)
    return seen


def held_by(*workers: Daemon) -> list[list[str]]:
    return [sorted(worker.worker._runners) for worker in workers]


def are_shared(*workers: Daemon, most: int) -> bool:
    """Say whether each projection is run by exactly one worker, and none runs more than its share."""
    held = held_by(*workers)
    return sorted(name for names in held for name in names) == NAMES and max(map(len, held)) <= most


def test_keys_are_distinct_and_stay_what_they_are() -> None:
    assert len({lease_key(f"projection {n}") for n in range(10_000)}) == 10_000
    # A worker of the next version must find the lease of this one's.
    assert lease_key("orders") == lease_key("orders")
    assert -(2**63) <= lease_key("orders") < 2**63


def test_a_worker_alone_may_hold_them_all(database: Database) -> None:
    with connected(database) as db:
        leases = Leases(db, NAMES)
        assert leases.survey() == Shares(5, 5)
        assert leases.acquire(NAMES, 5) == NAMES
        assert leases.held == set(NAMES)
        assert repr(leases) == "<Leases held=['a', 'b', 'c', 'd', 'e']>"


def test_shares_add_up_so_that_nothing_is_left_over(database: Database) -> None:
    with connected(database) as one, connected(database) as two, connected(database) as three:
        first, second = Leases(one, NAMES), Leases(two, NAMES)
        assert sorted([first.survey().taking, second.survey().taking]) == [2, 3]
        third = Leases(three, NAMES)
        assert sorted([first.survey().taking, second.survey().taking, third.survey().taking]) == [1, 2, 2]


def test_what_cannot_be_divided_stays_with_who_holds_it_so_that_nobody_is_left_without(database: Database) -> None:
    with connected(database) as one, connected(database) as two, connected(database) as three:
        first, second, third = Leases(one, NAMES[:4]), Leases(two, NAMES[:4]), Leases(three, NAMES[:4])
        second.acquire(NAMES[:2], 2)
        assert (first.survey().taking, second.survey().taking, third.survey().taking) == (1, 2, 1)


def test_workers_with_other_projections_do_not_count(database: Database) -> None:
    """They could not take what this one left for them: each set of projections is shared out by itself."""
    with connected(database) as one, connected(database) as two:
        first, second = Leases(one, ["a", "b"]), Leases(two, ["c", "d", "a"])
        assert (first.survey().taking, second.survey().taking) == (2, 3)
        assert first.acquire(["a", "b"], 2) == ["a", "b"]
        second.survey()
        assert second.acquire(["c", "d", "a"], 3) == ["c", "d"]


def test_a_lease_is_held_by_one_and_free_once_given_back(database: Database) -> None:
    with connected(database) as one, connected(database) as two:
        first, second = Leases(one, NAMES), Leases(two, NAMES)
        assert first.acquire(["a"], first.survey().taking) == ["a"]
        assert second.acquire(["a"], second.survey().taking) == []
        first.release("a")
        second.survey()
        assert second.acquire(["a"], 1) == ["a"]


def test_a_lease_that_is_asked_for_twice_is_still_given_back_at_once(database: Database) -> None:
    """A session's advisory locks are counted: taken twice, it would have to be given back twice."""
    with connected(database) as one, connected(database) as two:
        first, second = Leases(one, NAMES), Leases(two, NAMES)
        first.acquire(["a"], first.survey().taking)
        first.survey()
        assert first.acquire(["a"], 2) == []
        first.release("a")
        second.survey()
        assert second.acquire(["a"], 2) == ["a"]


def test_leases_of_another_database_are_none_of_ours(database: Database, empty_database: Database) -> None:
    with connected(database) as one, connected(empty_database) as two:
        first, second = Leases(one, NAMES), Leases(two, NAMES)
        assert first.survey().taking == second.survey().taking == len(NAMES)
        assert first.acquire(["a"], 1) == second.acquire(["a"], 1) == ["a"]


def test_a_session_that_dies_leaves_its_leases(database: Database) -> None:
    with connected(database) as one, connected(database) as two:
        Leases(one, NAMES).acquire(["a"], 1)
        second = Leases(two, NAMES)
        database.connect().execute("SELECT pg_terminate_backend(%s)", (one.info.backend_pid,))
        eventually(lambda: second.acquire(["a"], second.survey().taking) == ["a"])


@pytest.mark.slow
def test_workers_that_come_and_go_share_the_projections(database: Database) -> None:
    projections = [journal(name) for name in NAMES]
    conn = database.connect()
    with Daemon(database, *projections) as one:
        eventually(lambda: are_shared(one, most=5))
        with Daemon(database, *projections, log=one.log) as two:
            eventually(lambda: are_shared(one, two, most=3))
            with Daemon(database, *projections, log=one.log) as three:
                eventually(lambda: are_shared(one, two, three, most=2))
                last = append(conn, "OrderPlaced")
                for name in NAMES:
                    one.wait_until_at(name, last)
            eventually(lambda: are_shared(one, two, most=3))
        eventually(lambda: are_shared(one, most=5))
        last = append(conn, "OrderPlaced")
        for name in NAMES:
            one.wait_until_at(name, last)
            assert one.applied(name) == one.stored()


@pytest.mark.any_server
def test_workers_that_join_and_leave_in_order_are_noticed_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "TICK_SECONDS", 60)
    projections = [journal(name) for name in NAMES]
    with Daemon(database, *projections) as one:
        eventually(lambda: are_shared(one, most=5))
        with Daemon(database, *projections, log=one.log) as two:
            eventually(lambda: are_shared(one, two, most=3))
        eventually(lambda: are_shared(one, most=5))


def test_a_worker_gives_leases_back_only_for_one_that_is_established(database: Database) -> None:
    with connected(database) as one, connected(database) as two:
        first = Leases(one, NAMES)
        first.acquire(NAMES, first.survey().taking)
        first._establish()
        second = Leases(two, NAMES)
        assert (first.survey(), second.survey()) == (Shares(3, 5), Shares(2, 2))
        assert 0 < second.established_in_seconds <= lease.ESTABLISHED_SECONDS
        second._establish()
        assert (first.survey(), second.survey()) == (Shares(3, 3), Shares(2, 2))
        assert second.established_in_seconds == math.inf


@pytest.mark.any_server
def test_workers_that_come_and_go_each_moment_move_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch, surveys: list[Shares]
) -> None:
    monkeypatch.setattr(lease, "ESTABLISHED_SECONDS", 0.1)
    with Daemon(database, *[journal(name) for name in NAMES]) as daemon:
        leases = daemon.worker._leases
        eventually(lambda: leases is not None and leases._established_at == math.inf)
        monkeypatch.setattr(lease, "ESTABLISHED_SECONDS", 60)
        for _ in range(5):
            with connected(database) as db:
                passer_by = Leases(db, NAMES)
                # Its announcement has been heard: the worker has looked, and found it there.
                eventually(lambda: surveys[-1].taking < len(NAMES))
                assert passer_by.acquire(NAMES, passer_by.survey().taking) == []
            surveys.clear()
            daemon.worker._is_called.set()
            eventually(lambda: surveys and surveys[-1].taking == len(NAMES))
        assert not daemon.log.lines(logs.LEASE_RELEASED)


@pytest.mark.any_server
def test_a_worker_that_dies_with_the_bell_armed_silences_it_only_until_the_next_look_at_the_leases(
    database: Database, monkeypatch: pytest.MonkeyPatch, surveys: list[Shares]
) -> None:
    """Its sessions end one after the other: that of its leases may be long gone when that of the bell is."""
    monkeypatch.setattr(worker, "TICK_SECONDS", 0.2)
    conn = database.connect()
    leases_of_dead, bell_of_dead = database.connect(), database.connect()
    leases_of_dead.execute("SELECT pg_advisory_lock_shared(%s)", (sql.keys.WORKERS_KEY,))
    bell_of_dead.execute("SELECT pg_advisory_lock(%s)", (sql.keys.DOORBELL_KEY,))
    with Daemon(database, journal()) as daemon:
        daemon.wait_until_at("journal", append(conn, "OrderPlaced"))
        relied_on = bell_of_dead.info.backend_pid
        eventually(lambda: daemon.worker._watcher._relied_on == relied_on)
        leases_of_dead.close()
        surveys.clear()
        eventually(lambda: len(surveys) > 2)
        bell_of_dead.close()
        key = {"key": sql.keys.DOORBELL_KEY}
        eventually(lambda: conn.execute(sql.doorbell.DOORBELL_HOLDER, key).fetchone() is None)
        daemon.wait_until_at("journal", append(conn, "OrderPlaced"))


@pytest.mark.any_server
def test_what_a_worker_ran_that_has_died_is_taken_at_once_by_those_whom_their_supervisor_tells(
    database: Database, monkeypatch: pytest.MonkeyPatch, surveys: list[Shares]
) -> None:
    monkeypatch.setattr(worker, "TICK_SECONDS", 60)
    with connected(database) as db:
        dying = Leases(db, NAMES)
        dying.acquire(NAMES, 3)
        with Daemon(database, *[journal(name) for name in NAMES]) as daemon:
            eventually(lambda: held_by(daemon) == [["d", "e"]])
            # It is told before the server has noticed, and looks a few times.
            daemon.worker.take_care({})
            surveys.clear()
            eventually(lambda: len(surveys) > 2)
            db.close()
            eventually(lambda: are_shared(daemon, most=5))


def test_a_worker_whose_lease_connection_is_killed_stops_its_runners_and_comes_back(database: Database) -> None:
    conn = database.connect()
    with Daemon(database, *[journal(name) for name in NAMES]) as daemon:
        eventually(lambda: are_shared(daemon, most=5))
        before = dict(daemon.worker._runners)
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'projectiond/leases' AND datname = current_database()"
        )
        lost = daemon.log.wait_for(logs.LEASE_LOST)
        assert lost["projections"] == NAMES
        eventually(lambda: are_shared(daemon, most=5))
        assert all(runner.join(5) for runner in before.values())
        last = append(conn, "OrderPlaced")
        for name in NAMES:
            daemon.wait_until_at(name, last)
            assert daemon.applied(name) == daemon.stored()


@pytest.mark.any_server
def test_somebody_who_has_tables_locked_that_leases_do_not_need_costs_no_lease(database: Database) -> None:
    conn = database.connect()
    with Daemon(database, journal()) as daemon:
        daemon.wait_until_at("journal", append(conn, "OrderPlaced"))
        with conn.transaction():
            conn.execute("LOCK projection_dead_letters, projection_workers")
            daemon.log.wait_for(logs.LEASE_HINDERED)
            daemon.wait_until_at("journal", append(database.connect(), "OrderPlaced"))
        assert not daemon.log.lines(logs.LEASE_LOST)


@pytest.mark.any_server
def test_a_roster_that_is_gone_costs_no_lease(database: Database) -> None:
    conn = database.connect()
    with Daemon(database, journal()) as daemon:
        daemon.wait_until_at("journal", append(conn, "OrderPlaced"))
        conn.execute("ALTER TABLE projection_workers RENAME TO elsewhere")
        with Daemon(database, journal("journal"), journal("another"), log=daemon.log) as other:
            daemon.log.wait_for(logs.LEASE_HINDERED)
            other.wait_until_at("another", append(conn, "OrderPlaced"))
            conn.execute("ALTER TABLE elsewhere RENAME TO projection_workers")
            eventually(lambda: other.ask(b"SELECT 1 FROM projection_workers WHERE held_since ? 'another'"))


def test_a_worker_of_a_server_that_is_down_comes_back_with_it(own_server: LocalServer, own_database: Database) -> None:
    with Daemon(own_database, journal()) as daemon:
        daemon.wait_until_at("journal", append(own_database.connect(), "OrderPlaced"))
        own_server.stop("immediate")
        daemon.log.wait_for(logs.LEASE_LOST)
        daemon.log.wait_for(logs.DATABASE_UNAVAILABLE)
        own_server.start()
        last = append(own_database.connect(), "OrderPlaced")
        daemon.wait_until_at("journal", last, 30)
        assert daemon.applied() == daemon.stored()
