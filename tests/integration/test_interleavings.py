"""Any interleaving of writers, readers and crashes: each projection applies each committed event once, in order.

Hypothesis makes up schedules over a real server: transactions that begin, append, commit, roll back, are prepared and
decided later, and between any two of these steps the mark is looked at, a projection takes a step, or the daemon
loses its connections and begins anew. One thread plays all parts, so a schedule that fails can be played again.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Self
from unittest.mock import patch

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from projectiond import sql
from projectiond.operating import steering
from projectiond.postgres import database as databases
from projectiond.postgres.database import Connection
from projectiond.stream import highwater
from projectiond.stream.highwater import HighWaterMark, keep_proven_mark
from tests.support.daemon import Stage, journal
from tests.support.events import append
from tests.support.postgres import Database
from tests.support.queries import value

pytestmark = pytest.mark.integration

WRITERS = 4

READ_LOCKERS = highwater._read_lockers

Step = tuple[str, int]

# How often each step is to be chosen: so that most of them find something to do.
WEIGHTS = {
    "append": 6,
    "commit": 4,
    "roll back": 1,
    "prepare": 3,
    "decide": 2,
    "undo decision": 1,
    "savepoint": 1,
    "look": 1,
    "look while they write": 4,
    "look and apply": 6,
    "apply a": 1,
    "apply b": 1,
    "pause": 1,
    "resume": 2,
    "rebuild": 1,
    "lose the watcher": 1,
    "lose the runners": 1,
    "keep the mark": 1,
}
CHOICES = [what for what, weight in WEIGHTS.items() for _ in range(weight)]

schedules = st.lists(st.tuples(st.sampled_from(CHOICES), st.integers(0, WRITERS - 1)), min_size=30, max_size=80)


class Play:
    """One database, its writers, a mark and two projections."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.admin = database.connect()
        self.writers = [database.connect() for _ in range(WRITERS)]
        for writer in self.writers:
            # A transaction that rings the bell cannot be prepared.
            writer.execute("SET projectiond.doorbell = off")
        self.prepared: list[str] = []
        self.gids = 0
        self.interlude: list[Step] = []
        self._exit = contextlib.ExitStack()
        self.watcher_db: Connection
        self.mark = HighWaterMark()
        self.stages: dict[str, Stage] = {}

    def __enter__(self) -> Self:
        self._exit.enter_context(patch.object(highwater, "_read_lockers", self.read_lockers_after_interlude))
        self.begin_watching()
        self.begin_running()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()
        self.database.close()

    # --- the daemon

    def begin_watching(self) -> None:
        self.watcher_db = self._exit.enter_context(
            databases.connect(self.database.dsn, role="watcher", statement_timeout_seconds=30)
        )
        # A new process knows nothing but what the database keeps.
        self.mark = HighWaterMark()
        self.mark.reopen(self.watcher_db)

    def begin_running(self) -> None:
        self.stages = {
            name: self._exit.enter_context(Stage(self.database, projection, batch_size=3, checkpoint_every=2))
            for name, projection in (("a", journal("a")), ("b", journal("b")))
        }

    def read_lockers_after_interlude(self, *reading: Any) -> frozenset[str]:  # noqa: ANN401 -- passed through
        """Between the two statements of one look anything may happen."""
        while self.interlude:
            what, which = self.interlude.pop(0)
            self.write(what, self.writers[which])
        return READ_LOCKERS(*reading)

    def run(self, name: str) -> None:
        stage = self.stages[name]
        stage.mark = self.mark.settled
        stage.runner.recheck()
        stage.runner.run_once()

    def do(self, step: Step) -> None:
        what, which = step
        match what:
            case "look while they write":
                self.interlude = [("commit", which), ("append", which), ("append", 0), ("commit", 0)]
                self.mark.look(self.watcher_db)
                # Nothing, where the mark had no need to ask for lockers.
                self.interlude.clear()
            case "look":
                self.mark.look(self.watcher_db)
            case "apply a" | "apply b":
                self.run(what[-1])
            case "look and apply":
                self.mark.look(self.watcher_db)
                self.run("ab"[which % 2])
            case "rebuild":
                steering.rebuild(self.watcher_db, "ab"[which % 2], is_in_place=True)
            case "pause" | "resume":
                status = {"pause": "paused", "resume": "running"}[what]
                self.admin.execute(
                    "UPDATE projection_checkpoints SET status = %s WHERE projection_name = %s",
                    (status, "ab"[which % 2]),
                )
            case "lose the watcher":
                self.watcher_db.close()
                self.begin_watching()
            case "lose the runners":
                self.begin_running()
            case "keep the mark":
                keep_proven_mark(self.watcher_db, self.mark.settled)
            case _:
                self.write(what, self.writers[which])

    # --- the writers

    def write(self, what: str, writer: psycopg.Connection[Any]) -> None:
        is_open = writer.info.transaction_status.name == "INTRANS"
        match what:
            case "append":
                if not is_open:
                    writer.execute("BEGIN")
                append(writer, "Counted")
            case "commit" if is_open:
                writer.execute("COMMIT")
            case "roll back" if is_open:
                writer.execute("ROLLBACK")
            case "savepoint" if is_open:
                writer.execute("SAVEPOINT s")
                append(writer, "Counted")
                writer.execute("ROLLBACK TO s")
            case "prepare" if is_open:
                self.gids += 1
                gid = f"{self.database.name}-{self.gids}"
                writer.execute(f"PREPARE TRANSACTION '{gid}'".encode())
                self.prepared.append(gid)
            case "decide" if self.prepared:
                self.admin.execute(f"COMMIT PREPARED '{self.prepared.pop(0)}'".encode())
            case "undo decision" if self.prepared:
                self.admin.execute(f"ROLLBACK PREPARED '{self.prepared.pop(0)}'".encode())
            case _:
                pass

    # --- what must be true

    def check(self) -> None:
        """At any time: each read model is a piece of the store's beginning, without a hole and in order."""
        stored = self.stored()
        for name, stage in self.stages.items():
            if value(self.admin, "SELECT to_regclass(%s) IS NULL", name):
                continue
            applied = stage.applied(name)
            position = stage.checkpoint(name)["position"]
            assert applied == [number for number in stored if number <= position], name

    def stored(self) -> list[int]:
        return [row[0] for row in self.admin.execute("SELECT sequence_number FROM event_store ORDER BY 1")]

    def end(self) -> None:
        """Let everything come to its end; then both read models must be the store."""
        for writer in self.writers:
            if writer.info.transaction_status.name == "INTRANS":
                writer.execute("COMMIT")
        for gid in self.prepared:
            self.admin.execute(f"COMMIT PREPARED '{gid}'".encode())
        self.admin.execute("UPDATE projection_checkpoints SET status = 'running' WHERE status = 'paused'")
        stored = self.stored()
        for _ in range(3):
            self.mark.look(self.watcher_db)
        assert self.mark.settled == (stored[-1] if stored else 0)
        for name, stage in self.stages.items():
            for _ in range(3 * len(stored) + 10):
                self.run(name)
            assert stage.applied(name) == stored
            assert stage.checkpoint(name)["processed"] == len(stored)
            assert stage.checkpoint(name)["status"] == "running"


@pytest.fixture
def clean(database: Database) -> Iterator[Database]:
    yield database
    with psycopg.connect(database.dsn, autocommit=True) as conn:
        for (gid,) in conn.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()").fetchall():
            conn.execute(f"ROLLBACK PREPARED '{gid}'".encode())


def empty(database: Database) -> None:
    """Make a used database as good as new: much faster than a new one for each schedule."""
    with psycopg.connect(database.dsn, autocommit=True) as conn:
        for (gid,) in conn.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()").fetchall():
            conn.execute(f"ROLLBACK PREPARED '{gid}'".encode())
        conn.execute("DROP TABLE IF EXISTS a, b")
        conn.execute(
            "TRUNCATE event_store, projection_checkpoints, projection_rebuilds, projectiond_high_water_mark"
            " RESTART IDENTITY"
        )


@pytest.mark.slow
@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(schedule=schedules)
def test_every_schedule_applies_every_committed_event_exactly_once_and_in_order(
    clean: Database, schedule: list[Step]
) -> None:
    act_out(clean, schedule)


def act_out(database: Database, schedule: list[Step]) -> None:
    empty(database)
    with Play(database) as play:
        for step in schedule:
            play.do(step)
            play.check()
        play.end()


def test_a_mark_that_is_not_proven_is_found_out_by_such_schedules(
    clean: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same steps with a mark that trusts what it sees."""
    monkeypatch.setattr(sql.highwater, "LOCKERS", "SELECT '' WHERE false")
    schedule: list[Step] = [("append", 0), ("append", 1), ("commit", 1), ("look and apply", 0), ("commit", 0)]
    with pytest.raises(AssertionError):
        act_out(clean, schedule)
