"""A projection whose transactions do not wait for the disk: what a crash takes back is applied again, once."""

import pytest

from projectiond.event import Event
from projectiond.postgres.database import Connection, fetch_row
from tests.support.daemon import Daemon, Stage, journal
from tests.support.events import append, append_many
from tests.support.postgres import Database, LocalServer

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("checkpoint_every", [1, 10], ids=["single", "pipelined"])
def test_a_projection_s_transactions_have_its_setting(database: Database, checkpoint_every: int) -> None:
    seen: list[str] = []

    def note(_event: Event, db: Connection) -> None:
        seen.extend(fetch_row(db, "SHOW synchronous_commit"))

    append(database.connect(), "Bad")
    for name, options in (("a", {}), ("b", {"synchronous_commit": "off"}), ("c", {"synchronous_commit": "on"})):
        plugin = journal(name, effect=note, **options)
        with Stage(database, plugin, mark=1, checkpoint_every=checkpoint_every) as stage:
            stage.runner.run_once()
            with stage.pool.connection() as db:
                assert fetch_row(db, "SHOW synchronous_commit") == ("on",)
    assert seen == ["on", "off", "on"]


def test_the_setting_for_all_is_overruled_by_a_projection_s_own(database: Database) -> None:
    seen: list[str] = []

    def note(_event: Event, db: Connection) -> None:
        seen.extend(fetch_row(db, "SHOW synchronous_commit"))

    append(database.connect(), "Bad")
    for name, options in (("a", {}), ("b", {"synchronous_commit": "on"})):
        with Stage(database, journal(name, effect=note, **options), mark=1, synchronous_commit="off") as stage:
            stage.runner.run_once()
    assert seen == ["off", "on"]


@pytest.mark.faults
@pytest.mark.any_server
def test_g2_what_a_crash_of_the_server_takes_back_is_applied_again(
    own_server: LocalServer, own_database: Database
) -> None:
    conn = own_database.connect()
    conn.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
    own_server.restart()
    calls = []
    plugin = journal("journal", effect=lambda event, _db: calls.append(event.sequence_number), synchronous_commit="off")
    with Daemon(own_database, plugin, poll_interval_seconds=0.2) as daemon:
        conn = own_database.connect()
        daemon.wait_until_at("journal", append_many(conn, 20)[-1])
        last = append(conn, "Bad")
        daemon.wait_until_at("journal", last)
        own_server.restart("immediate")
        last = append(own_database.connect(), "Bad")
        daemon.wait_until_at("journal", last, 40)
        assert daemon.applied() == daemon.stored()
        assert daemon.checkpoint()["processed"] == len(daemon.stored())
    if len(calls) == len(set(calls)):
        pytest.skip("the server wrote everything before it crashed")
