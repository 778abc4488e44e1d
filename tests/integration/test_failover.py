"""Failover: a promoted standby is found again, and nothing that only the old primary knew is used."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote

import psycopg
import pytest

from projectiond import logs
from projectiond.event import Event
from projectiond.postgres.database import Connection
from projectiond.projection import Projection, handles
from tests.support.daemon import Daemon, journal
from tests.support.events import append, append_many
from tests.support.postgres import Database, LocalServer
from tests.support.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.any_server]


class Seen(Projection):
    """Notes which event it was, not only its number."""

    name = "seen"
    tables: ClassVar[tuple[str, ...]] = ("seen",)
    schema = "CREATE TABLE IF NOT EXISTS seen (sequence_number bigint, event_id uuid)"

    @handles("*")
    def note(self, event: Event, db: Connection) -> None:
        db.execute("INSERT INTO seen VALUES (%s, %s)", (event.sequence_number, event.event_id))


@dataclass(frozen=True)
class Cluster:
    """Whichever of two servers is the primary."""

    first: LocalServer
    second: LocalServer

    def dsn(self, database: str = "postgres") -> str:
        hosts = ",".join(f"{server.data_directory}.s" for server in (self.first, self.second))
        return f"postgresql://postgres@/{database}?host={quote(hosts, safe='')}&target_session_attrs=read-write"


@contextlib.contextmanager
def standby_as_of_now(server: LocalServer) -> Iterator[LocalServer]:
    """Run a standby that has what the server has now, and hears no more from it."""
    server.stop()
    data = server.data_directory.with_name("s")
    subprocess.run(["/bin/cp", "-a", str(server.data_directory), str(data)], check=True)
    (data / "standby.signal").touch()
    standby = LocalServer(server.bin_directory, data)
    server.start()
    try:
        standby.start()
        yield standby
    finally:
        standby.stop("immediate")
        shutil.rmtree(data)


def promote(server: LocalServer) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        assert admin.execute("SELECT pg_promote()").fetchone() == (True,)


def test_what_the_old_primary_lost_and_whose_numbers_the_new_one_gives_to_other_events_leaves_no_trace(
    own_server: LocalServer, own_database: Database
) -> None:
    with Daemon(own_database, Seen) as daemon:
        daemon.wait_until_at("seen", append_many(own_database.connect(), 5)[-1])
    with standby_as_of_now(own_server) as standby:
        cluster = Database(Cluster(standby, own_server), "app")
        with contextlib.closing(cluster), Daemon(cluster, Seen) as daemon:
            lost = append_many(own_database.connect(), 3)
            daemon.wait_until_at("seen", lost[-1])
            own_server.stop("immediate")
            daemon.log.wait_for(logs.LEASE_LOST)
            promote(standby)
            numbers = [append(cluster.connect(), "Other") for _ in range(2)]
            assert numbers == lost[:2]
            daemon.wait_until_at("seen", numbers[-1])
            numbers.append(append(cluster.connect(), "Other"))
            daemon.wait_until_at("seen", numbers[-1])
            stored = daemon.ask(b"SELECT sequence_number, event_id FROM event_store ORDER BY 1")
            assert daemon.ask(b"SELECT sequence_number, event_id FROM seen ORDER BY 1") == stored
            assert daemon.checkpoint("seen")["error"] is None
            daemon.log.wait_for(logs.DATABASE_RESTORED)


def test_a_standby_is_not_projected_from_until_it_is_promoted(own_server: LocalServer, own_database: Database) -> None:
    append_many(own_database.connect(), 3)
    own_server.stop()
    (own_server.data_directory / "standby.signal").touch()
    own_server.start()
    daemon = Daemon(own_database, journal())
    daemon._thread.start()
    try:
        said = daemon.log.wait_for(logs.DATABASE_UNAVAILABLE)["error"]
        assert said.startswith("the server is a standby, which cannot be projected from; point database_url at")
        assert not daemon.recorder.read_heartbeat()[1]
        promote(own_server)
        daemon.wait_until_at("journal", 3)
    finally:
        daemon.stop()


# --- another history


def replace_event(conn: psycopg.Connection[Any], number: int, event_type: str = "OrderPlaced") -> None:
    """Do what restoring event_store alone from an older backup, and appending to it, does to a number."""
    conn.execute("DELETE FROM event_store WHERE sequence_number = %s", (number,))
    conn.execute(
        "INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version, sequence_number)"
        " VALUES (gen_random_uuid(), 'Order', %s, '{}', 1, %s)",
        (event_type, number),
    )


def test_a_checkpoint_over_another_event_than_the_one_applied_pauses_with_a_word(database: Database) -> None:
    conn = database.connect()
    last = append_many(conn, 3)[-1]
    with Daemon(database, journal()) as daemon:
        daemon.wait_until_at("journal", last)
    replace_event(conn, last)
    after = append(conn, "OrderPlaced")
    with Daemon(database, journal()) as daemon:
        error = daemon.wait_for_status("journal", "paused")["error"]
        assert f'the event store is another than the one that "journal" was projected from: at {last} it has' in error
        assert 'run "projectiond rebuild journal"' in error
        assert daemon.applied() == [1, 2, 3]
        conn.execute(
            "UPDATE projection_checkpoints SET last_sequence_number = 2, last_event_id = NULL, status = 'running'"
        )
        daemon.wait_until_at("journal", after)
        assert daemon.applied() == [1, 2, 3, 3, 4]


def test_a_rebuild_mends_a_checkpoint_over_another_event(database: Database) -> None:
    conn = database.connect()
    last = append_many(conn, 3)[-1]
    with Daemon(database, journal()) as daemon:
        daemon.wait_until_at("journal", last)
    replace_event(conn, last)
    with Daemon(database, journal()) as daemon:
        daemon.wait_for_status("journal", "paused")
        daemon.rebuild_in_place("journal")
        eventually(lambda: daemon.checkpoint("journal")["status"] == "running" and daemon.applied() == [1, 2, 3])


@pytest.mark.parametrize(
    "happening",
    [
        b"DELETE FROM event_store WHERE sequence_number <= 3 RETURNING 1",
        b"UPDATE projection_checkpoints SET last_sequence_number = 2 RETURNING 1",
        b"UPDATE event_store SET event_data = '{\"mended\": true}' RETURNING 1",
    ],
    ids=["old events deleted", "position set back by hand", "an event mended"],
)
def test_what_people_do_to_a_store_is_not_another_history(database: Database, happening: bytes) -> None:
    conn = database.connect()
    last = append_many(conn, 3)[-1]
    with Daemon(database, journal()) as daemon:
        daemon.wait_until_at("journal", last)
        daemon.ask(happening)
    with Daemon(database, journal()) as daemon:
        last = append(conn, "OrderPlaced")
        daemon.wait_until_at("journal", last)


def test_an_event_of_another_type_at_the_checkpoint_proves_nothing(database: Database) -> None:
    conn = database.connect()
    append(conn, "Handled")
    last = append(conn, "Ignored")
    with Daemon(database, journal("journal", "Handled")) as daemon:
        daemon.wait_until_at("journal", last)
    conn.execute("DELETE FROM event_store WHERE event_type = 'Handled'")
    with Daemon(database, journal("journal", "Handled")) as daemon:
        last = append(conn, "Handled")
        daemon.wait_until_at("journal", last)
        assert daemon.applied() == [1, 3]
