"""What ``run_trial`` tells of a projection over real events, and that nothing of it stays."""

from typing import Any, LiteralString

import pytest

from projectiond.errors import ConfigurationError
from projectiond.event import Event
from projectiond.plugins.registry import define
from projectiond.postgres.database import Connection, connect
from projectiond.projection import BaseProjection, Projection, handles
from projectiond.trial import ROWS, Trial, run_trial
from tests.support.events import append, append_many
from tests.support.journals import KINDS, Effect, journal_of
from tests.support.postgres import Database

pytestmark = pytest.mark.integration

BAD = [(kind, effect) for kind in KINDS for effect in ("raise", "statement") if (kind, effect) != ("sql", "raise")]


def try_out(database: Database, projection: type[BaseProjection], first: int = 1, last: int | None = None) -> Trial:
    """Try over a range, the whole store when left out; see that nothing was kept."""
    with connect(database.dsn, role="try", statement_timeout_seconds=10) as db:
        if last is None:
            row = db.execute("SELECT max(sequence_number) FROM event_store").fetchone()
            last = int(row[0]) if row else 0
        before = _everything(database)
        try:
            return run_trial(db, define(projection), first, last)
        finally:
            assert _everything(database) == before


def _everything(database: Database) -> list[tuple[Any, ...]]:
    return (
        database.connect()
        .execute(
            "SELECT nspname, relname, reltuples IS NULL FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace"
            " WHERE nspname !~ '^pg_' UNION ALL SELECT nspname, '', false FROM pg_namespace WHERE nspname !~ '^pg_'"
            " UNION ALL SELECT projection_name, status, false FROM projection_checkpoints"
            " UNION ALL SELECT 'rows', (SELECT count(*)::text FROM projection_dead_letters), false ORDER BY 1, 2"
        )
        .fetchall()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_rows_that_events_make_are_given_with_what_each_handler_took(database: Database, kind: str) -> None:
    numbers = append_many(database.connect(), 1203, "Good")
    trial = try_out(database, journal_of(kind)())
    assert (trial.events, trial.failure) == (1203, None)
    (table,) = trial.tables
    assert (table.table, table.total, len(table.samples)) == ("journal", 1203, 5)
    assert {row[table.columns.index("sequence_number")] for row in table.samples} <= set(numbers)
    assert all(cost.seconds > 0 for cost in trial.costs)
    told = {(cost.handler, cost.event_type): (cost.calls, cost.statements) for cost in trial.costs}
    match kind:
        case "event":
            assert told == {("Journal.note", "*"): (1203, 1203)}
        case "batch":
            assert told == {("Journal.apply", ""): (3, 3)}
        case "row":
            assert told["Journal.note", "*"] == (1203, 0)
            assert told[ROWS, ""][0] == 3
        case _:
            assert told == {("Journal.sql", ""): (1, 1)}


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_range_is_applied(database: Database, kind: str) -> None:
    numbers = append_many(database.connect(), 50, "Good")
    trial = try_out(database, journal_of(kind)(), numbers[10], numbers[19])
    assert trial.events == 10
    assert trial.tables[0].total == 10


@pytest.mark.parametrize(("kind", "effect"), BAD)
def test_the_first_event_that_fails_is_named_and_what_precedes_it_is_shown(
    database: Database, kind: str, effect: Effect
) -> None:
    conn = database.connect()
    good = append_many(conn, 700, "Good")
    bad = append(conn, "Bad")
    append_many(conn, 100, "Good")
    append(conn, "Bad")
    trial = try_out(database, journal_of(kind)("journal", effect=effect))
    assert trial.failure is not None
    assert (trial.failure.sequence_number, trial.failure.event_type) == (bad, "Bad")
    assert ("no use for" if effect == "raise" else "division by zero") in trial.failure.error
    assert trial.failure.handler.startswith("Journal")
    assert trial.tables[0].total == trial.events == len(good)


def test_a_deployed_projection_keeps_its_rows(database: Database) -> None:
    conn = database.connect()
    append_many(conn, 3, "Good")
    conn.execute("CREATE TABLE journal (sequence_number bigint, note text)")
    conn.execute("INSERT INTO journal VALUES (1, 'live')")
    assert try_out(database, journal_of("event")()).tables[0].total == 3
    assert conn.execute("SELECT * FROM journal").fetchall() == [(1, "live")]


@pytest.mark.parametrize("statement", ["INSERT INTO public.outbox VALUES (1)", "DELETE FROM public.outbox"])
def test_a_write_outside_of_its_own_tables_is_told_and_taken_back(database: Database, statement: LiteralString) -> None:
    """Also one that finds no row: a rebuild would be refused for it."""
    conn = database.connect()
    append(conn, "Good")
    conn.execute("CREATE TABLE outbox (sequence_number bigint)")

    class Mailer(Projection):
        tables = ("mails",)
        schema = "CREATE TABLE IF NOT EXISTS mails (sequence_number bigint)"

        @handles("Good")
        def send(self, event: Event, db: Connection) -> None:
            db.execute(statement)
            db.execute("INSERT INTO mails VALUES (%s)", (event.sequence_number,))

    trial = try_out(database, Mailer)
    assert trial.written_elsewhere == ["public.outbox"]
    assert trial.tables[0].total == 1
    assert conn.execute("SELECT count(*) FROM outbox").fetchone() == (0,)


def test_what_is_checked_at_the_end_of_a_transaction_is_the_failing_events(database: Database) -> None:
    conn = database.connect()
    append_many(conn, 4, "Good")
    bad = append(conn, "Bad")

    class Deferred(Projection):
        tables = ("lines",)
        schema = "CREATE TABLE lines (place bigint UNIQUE DEFERRABLE INITIALLY DEFERRED)"

        @handles("*")
        def note(self, event: Event, db: Connection) -> None:
            place = 1 if event.event_type == "Bad" else event.sequence_number
            db.execute("INSERT INTO lines VALUES (%s)", (place,))

    trial = try_out(database, Deferred)
    assert trial.failure is not None
    assert trial.failure.sequence_number == bad
    assert "duplicate key" in trial.failure.error


def test_an_event_that_cannot_be_read_is_named(database: Database) -> None:
    conn = database.connect()
    append_many(conn, 3, "Good")
    bad = append(conn, "Good")
    conn.execute("UPDATE event_store SET created_at = 'infinity' WHERE sequence_number = %s", (bad,))
    trial = try_out(database, journal_of("event")())
    assert trial.failure is not None
    assert (trial.failure.sequence_number, trial.failure.handler) == (bad, "reading the event")


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        ("CREATE TABLE nothing (", "is refused"),
        ("SELECT 1", "declares tables that do not exist"),
        ("CREATE TABLE IF NOT EXISTS public.journal (sequence_number bigint)", "does not make journal in the schema"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(database: Database, schema: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        try_out(database, journal_of("event")("journal", schema=schema), 1, 1)


def test_a_role_that_may_not_make_a_schema_is_told_the_grant(database: Database) -> None:
    conn = database.connect()
    role = f"reader_{database.name}"
    conn.execute(f'CREATE ROLE "{role}" LOGIN'.encode())
    try:
        with connect(database.dsn, role="try", statement_timeout_seconds=10) as db:
            db.execute(f'SET ROLE "{role}"'.encode())
            with pytest.raises(ConfigurationError, match="GRANT CREATE ON DATABASE"):
                run_trial(db, define(journal_of("event")()), 1, 1)
    finally:
        conn.execute(f'DROP ROLE "{role}"'.encode())
