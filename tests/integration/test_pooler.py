"""The daemon refuses a pooler that shares sessions out, and works behind one that does not."""

import contextlib
import subprocess
import sys

import psycopg
import pytest

from projectiond.errors import ConfigurationError
from projectiond.leases.fair_share import Shares
from projectiond.leases.lease import Leases
from projectiond.postgres import database as databases
from projectiond.postgres.pooler import refuse_shared_sessions
from tests.support.daemon import Daemon, journal
from tests.support.events import append
from tests.support.pgbouncer import needs_pgbouncer, running_pgbouncer
from tests.support.postgres import Database
from tests.support.process import clean_environment
from tests.support.queries import value

pytestmark = [pytest.mark.integration, pytest.mark.any_server]


def test_the_server_itself_is_not_refused(database: Database) -> None:
    refuse_shared_sessions(database.dsn)


def test_what_cannot_be_reached_is_left_to_whoever_connects() -> None:
    refuse_shared_sessions("postgresql://localhost:1/nowhere")


@needs_pgbouncer
@pytest.mark.parametrize("settings", [{}, {"server_round_robin": 1}, {"default_pool_size": 1}])
def test_a_pooler_in_transaction_mode_is_refused(database: Database, settings: dict[str, int]) -> None:
    with running_pgbouncer(database.server, "transaction", **settings) as bouncer:
        dsn = bouncer.dsn(database.name)
        # Sessions that lie ready, one of them just used by somebody else.
        with psycopg.connect(dsn) as first, psycopg.connect(dsn) as second:
            for other in (first, second)[: settings.get("default_pool_size", 2)]:
                other.execute("SELECT 1")
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute("SELECT 1")
            with pytest.raises(ConfigurationError, match="is reached through a pooler that hands sessions on"):
                refuse_shared_sessions(dsn)


@needs_pgbouncer
def test_a_pooler_in_statement_mode_is_refused(database: Database) -> None:
    with running_pgbouncer(database.server, "statement") as bouncer, pytest.raises(ConfigurationError):
        refuse_shared_sessions(bouncer.dsn(database.name))


@needs_pgbouncer
def test_a_command_refuses_and_leaves_the_shared_sessions_as_they_were(database: Database) -> None:
    with running_pgbouncer(database.server, "transaction", default_pool_size=1) as bouncer:
        dsn = bouncer.dsn(database.name)
        done = subprocess.run(
            [sys.executable, "-m", "projectiond", "status"],
            env=clean_environment(database_url=dsn),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 1
        assert "point database_url at the server itself, or at a pool in session mode" in done.stderr
        with psycopg.connect(dsn) as conn:
            assert (
                value(conn, "SELECT count(*) FROM pg_settings WHERE source = 'session' AND name LIKE '%timeout'") == 0
            )


@needs_pgbouncer
def test_a_pooler_that_keeps_its_only_session_for_us_is_not_refused(database: Database) -> None:
    with running_pgbouncer(database.server, "session", default_pool_size=1, query_wait_timeout=1) as bouncer:
        refuse_shared_sessions(bouncer.dsn(database.name))


@needs_pgbouncer
def test_a_daemon_works_behind_a_pooler_in_session_mode(database: Database) -> None:
    with running_pgbouncer(database.server, "session", default_pool_size=10) as bouncer:
        refuse_shared_sessions(bouncer.dsn(database.name))
        conn = database.connect()
        behind = Database(bouncer, database.name)
        # Nothing is found by polling here: LISTEN gets through.
        with contextlib.closing(behind), Daemon(behind, journal()) as daemon:
            for _ in range(3):
                daemon.wait_until_at("journal", append(conn, "Counted"))


@needs_pgbouncer
def test_a_pool_that_is_switched_to_transaction_mode_costs_the_leases_and_is_named(database: Database) -> None:
    """Nobody looks for a pooler after the start; but the locks are not where they were taken."""
    with (
        running_pgbouncer(database.server, "transaction") as bouncer,
        psycopg.connect(bouncer.dsn(database.name)) as other,
        databases.connect(bouncer.dsn(database.name), role="leases", statement_timeout_seconds=30) as db,
    ):
        # It holds one of the two sessions, so all of this is in the second one, and what follows in the first.
        other.execute("SELECT 1")
        leases = Leases(db, ["a"])
        assert leases.survey() == Shares(1, 1)
        other.commit()
        with pytest.raises(ConfigurationError, match="a pooler hands sessions on"):
            leases.survey()
