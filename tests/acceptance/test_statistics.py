"""`projectiond stats`: what it counts, what that costs, and how it prints what applications have written."""

import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from psycopg import sql as statement

from projectiond import sql
from projectiond.cli.application import main
from tests.support.command import Command, Shown, enter
from tests.support.events import append, append_many
from tests.support.postgres import Database
from tests.support.queries import Connection, value

pytestmark = [pytest.mark.acceptance, pytest.mark.integration]

QUIET, BUSY = uuid.UUID(int=1), uuid.UUID(int=2)


@pytest.fixture
def stats(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    enter(tmp_path, database.dsn, monkeypatch)
    return Command(capsys, "stats")


@pytest.fixture
def db(database: Database) -> Connection:
    return database.connect()


def date_back(event: int, db: Connection, days: float) -> None:
    db.execute(
        "UPDATE event_store SET created_at = date_trunc('day', now(), 'UTC') + %s WHERE sequence_number = %s",
        (timedelta(hours=24) * -days, event),
    )


def lines_of(shown: Shown) -> list[list[str]]:
    return [line.split() for line in shown.out.splitlines()]


def test_an_empty_store_is_said_to_be_empty(stats: Command) -> None:
    shown = stats()
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.splitlines() == ["no projection has begun", "", "the store holds no event yet"]
    empty = stats.as_object("--days", "1")
    assert empty["head"] == 0
    assert empty["projections"] == empty["most_active_aggregates"] == []
    assert empty["events_per_day"] == [{"day": datetime.now(UTC).date().isoformat(), "events": 0, "aggregates": 0}]


def test_a_database_without_the_schema_is_one_sentence_that_names_init(
    empty_database: Database, stats: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database.dsn)
    shown = stats()
    assert (shown.code, shown.out) == (1, "")
    assert shown.err.startswith("projectiond: ")
    assert shown.err.endswith('run "projectiond init"\n')


def test_lag_is_counted_as_status_counts_it(stats: Command, db: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    append_many(db, 5)
    db.execute("INSERT INTO projection_checkpoints (projection_name, last_sequence_number) VALUES ('orders', 3)")
    # A number that was rolled back is part of the head only when a later one is there.
    db.execute("SELECT nextval('event_store_sequence_number_seq')")
    (projection,) = stats.as_object()["projections"]
    main(["status", "--json"])
    (same,) = json.loads(capsys.readouterr().out)["projections"]
    assert projection["lag"] == 2
    assert projection == {key: same[key] for key in projection}
    assert ["orders", "2"] in [line[:2] for line in lines_of(stats())]


def test_each_day_of_utc_has_its_events_and_aggregates_and_the_others_have_none(stats: Command, db: Connection) -> None:
    for days_ago in (0, 0, 1.5, 1.5, 1.5, 6, 6.001):
        date_back(append(db, "Counted", aggregate_id=BUSY if days_ago else QUIET), db, days_ago)
    # Whatever the server's own time zone is: in this one it is another day half of the time.
    db.execute(
        statement.SQL("ALTER DATABASE {} SET timezone = 'Pacific/Kiritimati'").format(
            statement.Identifier(value(db, "SELECT current_database()"))
        )
    )
    today = datetime.now(UTC).date()
    counted = stats.as_object()["events_per_day"]
    assert [day["day"] for day in counted] == [(today - timedelta(days=back)).isoformat() for back in range(7)]
    assert [(day["events"], day["aggregates"]) for day in counted] == [
        (2, 1), (0, 0), (3, 1), (0, 0), (0, 0), (0, 0), (1, 1),
    ]  # fmt: skip
    assert [day["events"] for day in stats.as_object("--days", "8")["events_per_day"]][-1] == 1
    assert [(today - timedelta(days=2)).isoformat(), "3", "1"] in lines_of(stats())


def test_the_most_active_aggregates_come_first_and_are_as_many_as_asked_for(stats: Command, db: Connection) -> None:
    append_many(db, 3, aggregate_id=QUIET, aggregate_type="Order")
    busiest = append_many(db, 5, aggregate_id=BUSY)
    append_many(db, 4)
    date_back(busiest[0], db, 30)
    first, second, third = stats.as_object()["most_active_aggregates"]
    # Four of its five events are of these days, and four others come after it by their aggregate's id.
    assert first == {"aggregate_id": str(BUSY), "aggregate_type": "Counter", "events": 4, "version": 5}
    assert second["events"] == 4
    assert third == {"aggregate_id": str(QUIET), "aggregate_type": "Order", "events": 3, "version": 3}
    assert stats.as_object("--limit", "1")["most_active_aggregates"] == [first]
    assert stats.as_object("--days", "60", "--limit", "1")["most_active_aggregates"] == [{**first, "events": 5}]


def test_days_without_an_event_are_said_to_be_so(stats: Command, db: Connection) -> None:
    date_back(append(db, "Counted"), db, 8)
    assert stats().out.splitlines()[-1] == "no event in the last 7 days; the store's head is 1"


def test_hostile_types_cannot_move_the_cursor_or_break_the_lines(stats: Command, db: Connection) -> None:
    hostile = "a\x1b[2Jb\nc\r\u202ed[red]e"
    append(db, "Counted", aggregate_id=BUSY, aggregate_type=hostile)
    out = stats().out
    assert [line.split("  ")[1] for line in out.splitlines() if line.startswith(str(BUSY))] == [
        r"a\x1b[2Jb c \u202ed[red]e"
    ]
    assert not [char for char in out if not char.isprintable() and char != "\n"]
    assert stats.as_object()["most_active_aggregates"][0]["aggregate_type"] == hostile


def test_a_count_that_takes_too_long_ends_with_what_to_do(
    stats: Command, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(db, "Counted")
    monkeypatch.setenv("PROJECTIOND_STATEMENT_TIMEOUT_SECONDS", "0.2")
    monkeypatch.setattr(sql.overview, "MOST_ACTIVE_AGGREGATES", "SELECT pg_sleep(60)")
    shown = stats("--days", "30")
    assert (shown.code, shown.out) == (1, "")
    assert shown.err == (
        "projectiond: to count the events of 30 days took longer than 0.2 s (statement_timeout_seconds);"
        " ask for fewer --days, or raise that setting\n"
    )


@pytest.mark.parametrize(("option", "wrong"), [("--days", "0"), ("--days", "100000"), ("--limit", "0")])
def test_a_range_that_means_nothing_is_a_wrong_usage(stats: Command, option: str, wrong: str) -> None:
    shown = stats(option, wrong)
    assert shown.code == 2
    assert option in shown.err


def test_the_queries_of_the_manual_give_what_the_command_gives(stats: Command, db: Connection) -> None:
    manual = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    section = manual.split("\n## Monitoring by SQL\n")[1].split("\n## ")[0]
    lag, per_day, most_active = (query.encode() for query in re.findall(r"```sql\n(.*?)```", section, re.DOTALL))
    db.execute("INSERT INTO projection_checkpoints (projection_name) VALUES ('orders')")
    assert db.execute(lag).fetchall() == [("orders", "running", 0, None, None)]
    for days_ago in (0, 1.5, 1.5, 6, 6.001):
        date_back(append(db, "Counted", aggregate_id=BUSY if days_ago > 1 else QUIET), db, days_ago)
    db.execute("UPDATE projection_checkpoints SET last_sequence_number = 2")
    ((_, _, behind, waiting, _),) = db.execute(lag).fetchall()
    assert behind == stats.as_object()["projections"][0]["lag"] == 3
    assert timedelta(days=1.5) <= waiting < timedelta(days=2.6)
    shown = stats.as_object()
    assert [
        {"day": day.isoformat(), "events": events, "aggregates": aggregates}
        for day, events, aggregates in db.execute(per_day)
    ] == shown["events_per_day"]
    assert [
        {"aggregate_id": str(aggregate), "aggregate_type": kind, "events": events, "version": version}
        for aggregate, kind, events, version in db.execute(most_active)
    ] == shown["most_active_aggregates"]
    assert [aggregate["events"] for aggregate in shown["most_active_aggregates"]] == [3, 1]


@pytest.mark.parametrize(
    "query", [sql.overview.EVENTS_PER_DAY, sql.overview.MOST_ACTIVE_AGGREGATES], ids=["days", "aggregates"]
)
def test_a_few_days_of_a_large_store_are_found_by_the_index_on_created_at(query: str, db: Connection) -> None:
    db.execute(
        """
        INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version, created_at)
        SELECT gen_random_uuid(), 'Counter', 'Counted', jsonb_build_object('n', n, 'filling', repeat('x', 200)), 1,
            now() - (40000 - n) * interval '5 minutes'
        FROM generate_series(1, 40000) AS n
        """
    )
    db.execute("VACUUM ANALYZE event_store")
    (plan,) = db.execute(b"EXPLAIN (ANALYZE, FORMAT JSON) " + query.encode(), {"days": 2, "limit": 10}).fetchall()
    text = json.dumps(plan[0])
    assert "idx_event_store_created" in text
    assert '"Seq Scan"' not in text
