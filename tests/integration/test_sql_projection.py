"""SqlProjection: what its statements do with the relation `events`, and that no cut of the store makes a difference."""

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import errors
from psycopg.pq import TransactionStatus

from projectiond.errors import ConfigurationError
from projectiond.kinds.relation import InSql
from projectiond.postgres.database import Connection, connect
from projectiond.projection import SqlProjection
from tests.support.events import append, append_many
from tests.support.postgres import Database
from tests.support.relation import EVERYTHING, TABLES, Conn, apply, make_kind, make_kind_of, refusal, rows

pytestmark = pytest.mark.integration


@pytest.fixture
def db(database: Database) -> Iterator[Connection]:
    with connect(database.dsn, role="runner", statement_timeout_seconds=30) as db:
        yield db


@pytest.fixture
def conn(database: Database) -> Conn:
    conn = database.connect()
    conn.execute(TABLES)
    return conn


@pytest.fixture(params=[True, False], ids=["pipelined", "single"])
def is_pipelined(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


# --- each kind of statement


KINDS = {
    "insert": (
        (
            "INSERT INTO totals AS kept SELECT 'a', count(*), sum((event_data ->> 'n')::int) FROM events"
            " ON CONFLICT (name) DO UPDATE SET count = kept.count + excluded.count, sum = kept.sum + excluded.sum"
        ),
        [("a", 14, 146), ("b", 20, 200)],
    ),
    "update": (
        "UPDATE totals SET count = count + 1, sum = (SELECT max(sequence_number) FROM events) WHERE name = 'b'",
        [("a", 10, 100), ("b", 21, 13)],
    ),
    "update from": (
        "UPDATE totals SET sum = e.version FROM events AS e WHERE e.version = 12 AND name = 'a'",
        [("a", 10, 12), ("b", 20, 200)],
    ),
    "delete": (
        "DELETE FROM totals USING events WHERE totals.count = events.version",
        [("b", 20, 200)],
    ),
    "merge": (
        (
            "MERGE INTO totals USING (SELECT name, count(*) AS more FROM events, (VALUES ('b'), ('c')) AS names (name)"
            " GROUP BY name) AS change ON totals.name = change.name"
            " WHEN MATCHED THEN UPDATE SET count = totals.count + more"
            " WHEN NOT MATCHED THEN INSERT VALUES (change.name, more, 0)"
        ),
        [("a", 10, 100), ("b", 24, 200), ("c", 4, 0)],
    ),
    "select": (
        "SELECT add_total('a', version) FROM events",
        [("a", 14, 146), ("b", 20, 200)],
    ),
    "with": (
        (
            "WITH gone AS (DELETE FROM totals USING events WHERE name = 'a' AND count = version RETURNING name, sum)"
            " INSERT INTO totals SELECT name || '2', 0, sum FROM gone"
        ),
        [("a2", 0, 100), ("b", 20, 200)],
    ),
    "returning": (
        "INSERT INTO totals SELECT 'n' || version, 0, 0 FROM events RETURNING *",
        [("a", 10, 100), ("b", 20, 200), ("n10", 0, 0), ("n11", 0, 0), ("n12", 0, 0), ("n13", 0, 0)],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_statement_does_its_work_over_the_range(
    db: Connection, conn: Conn, kind: str, *, is_pipelined: bool
) -> None:
    statement, expected = KINDS[kind]
    conn.execute("INSERT INTO totals VALUES ('a', 10, 100), ('b', 20, 200)")
    conn.execute(
        "CREATE FUNCTION add_total(whose text, what int) RETURNS void LANGUAGE sql"
        " AS 'UPDATE totals SET count = count + 1, sum = sum + what WHERE name = whose'"
    )
    append_many(conn, 20)
    apply(db, make_kind(statement), 9, 13, is_pipelined=is_pipelined)
    assert rows(conn, "SELECT * FROM totals ORDER BY name") == expected


# --- the relation


def test_the_relation_has_the_columns_of_an_event(db: Connection, conn: Conn) -> None:
    aggregate_id, event_id = uuid.uuid4(), uuid.uuid4()
    append(conn, "OrderPlaced", {"n": 7}, aggregate_id, 3, metadata={"by": "Ann"}, event_id=event_id)
    conn.execute("CREATE TABLE copies AS SELECT * FROM event_store WITH NO DATA")
    apply(db, make_kind("INSERT INTO copies SELECT * FROM events"))
    assert rows(conn, "SELECT * FROM copies") == rows(conn, "SELECT * FROM event_store")
    assert rows(conn, "SELECT event_id, aggregate_id, event_data, metadata, version, sequence_number FROM copies") == [
        (event_id, aggregate_id, {"n": 7}, {"by": "Ann"}, 3, 1)
    ]


def test_the_relation_ends_at_both_bounds(db: Connection, conn: Conn) -> None:
    append_many(conn, 9)
    kind = make_kind("INSERT INTO seen SELECT sequence_number FROM events")
    apply(db, kind, 3, 6)
    assert [n for n, _ in rows(conn)] == [4, 5, 6]


HOSTILE = ["it's", '"', "\\", "a,b", "{a}", "%s", "%", "$1", "NULL", "", " ", "ü 🎉", "line\nline", "*"]


def test_the_relation_holds_the_types_of_the_projection_whatever_they_look_like(db: Connection, conn: Conn) -> None:
    for event_type in [*HOSTILE, "Other", "OTHER"]:
        append(conn, event_type)
    note = "INSERT INTO seen SELECT sequence_number, event_type FROM events"
    for number, event_type in enumerate(HOSTILE, 1):
        apply(db, make_kind(note, event_types=(event_type,)))
        assert rows(conn) == [(number, event_type)]
        conn.execute("TRUNCATE seen")
    apply(db, make_kind(note, event_types=tuple(HOSTILE)))
    assert [note for _, note in rows(conn)] == HOSTILE


def test_a_type_that_no_event_can_have_is_a_fault_and_no_crash(db: Connection) -> None:
    assert "NUL" in refusal(db, "SELECT 1 FROM events", event_types=("a\0b",))


def test_without_an_event_nothing_is_executed(db: Connection, conn: Conn) -> None:
    append_many(conn, 5)
    kind = make_kind("INSERT INTO seen SELECT count(*) FROM events", event_types=("Rare",))
    apply(db, kind)
    assert rows(conn) == []
    append(conn, "Rare")
    apply(db, kind)
    assert rows(conn) == [(1, None)]


def test_rare_events_are_found_however_many_others_there_are(db: Connection, conn: Conn) -> None:
    numbers = []
    for _ in range(5):
        append_many(conn, 200)
        numbers.append(append(conn, "Rare"))
    kind = make_kind("INSERT INTO seen SELECT sequence_number FROM events", event_types=("Rare", "Never"))
    for after in range(0, 1005, 150):
        apply(db, kind, after, after + 150)
    assert [n for n, _ in rows(conn)] == numbers


def test_a_table_of_the_same_name_is_hidden_and_may_be_written_to(db: Connection, conn: Conn) -> None:
    conn.execute("CREATE TABLE events (version bigint)")
    conn.execute("INSERT INTO events VALUES (99)")
    append_many(conn, 2)
    apply(db, make_kind("INSERT INTO events SELECT version FROM events"))
    assert rows(conn, "SELECT version FROM events ORDER BY 1") == [(1,), (2,), (99,)]
    apply(db, make_kind("INSERT INTO seen SELECT e.version FROM public.events AS e JOIN events USING (version)"))
    assert rows(conn) == [(1, None), (2, None)]


def test_a_name_in_quotes_and_capitals_is_another_relation(db: Connection, conn: Conn) -> None:
    conn.execute('CREATE TABLE "Events" (version bigint)')
    assert "does not read the relation events" in refusal(db, 'INSERT INTO seen SELECT version FROM "Events"')


def test_statements_see_what_those_before_them_have_done(db: Connection, conn: Conn, *, is_pipelined: bool) -> None:
    append_many(conn, 3)
    kind = make_kind(
        "INSERT INTO seen SELECT version FROM events",
        "UPDATE seen SET note = events.event_type FROM events WHERE n = events.version AND n > 1",
        "INSERT INTO totals SELECT coalesce(note, '-'), count(*), sum(n) FROM seen"
        " WHERE EXISTS (TABLE events) GROUP BY 1",
    )
    apply(db, kind, is_pipelined=is_pipelined)
    assert rows(conn, "SELECT * FROM totals ORDER BY name") == [("-", 1, 1), ("Counted", 2, 5)]


def test_a_failure_names_the_statement_that_failed(db: Connection, conn: Conn, *, is_pipelined: bool) -> None:
    append_many(conn, 3)
    kind = make_kind(
        "INSERT INTO seen SELECT version FROM events",
        "INSERT INTO totals SELECT 'a', 1, 1 / (version - 2) FROM events WHERE version = 2",
        "INSERT INTO seen SELECT version FROM events",
    )
    with pytest.raises(errors.DivisionByZero):
        apply(db, kind, is_pipelined=is_pipelined)
    assert kind.at_work == "DailySales.sql, statement 2 of 3"
    assert rows(conn) == []
    apply(db, kind, 2, 3, is_pipelined=is_pipelined)
    assert kind.at_work == "DailySales.sql, statement 3 of 3"
    assert make_kind("SELECT 1 FROM events").at_work == "DailySales.sql"


TWICE = [
    (
        "INSERT INTO totals SELECT event_type, version, 0 FROM events"
        " ON CONFLICT (name) DO UPDATE SET count = excluded.count"
    ),
    "MERGE INTO totals USING events ON name = event_type WHEN MATCHED THEN UPDATE SET count = totals.count + 1",
]


@pytest.mark.parametrize("statement", TWICE, ids=["insert", "merge"])
def test_a_statement_that_can_only_take_one_event_is_a_fault_of_the_projection_and_of_no_event(
    db: Connection, conn: Conn, statement: str, *, is_pipelined: bool
) -> None:
    conn.execute("INSERT INTO totals VALUES ('Counted', 0, 0)")
    append_many(conn, 3)
    kind = make_kind("SELECT 1 FROM events", statement)
    with pytest.raises(ConfigurationError) as caught:
        apply(db, kind, is_pipelined=is_pipelined)
    assert str(caught.value).startswith(
        "DailySales.sql, statement 2 of 2 (projections/daily_sales.py:8) cannot take several events: "
    )
    assert "cannot affect row a second time; let it write each row once, with GROUP BY or DISTINCT ON: mend it" in str(
        caught.value
    )
    assert db.info.transaction_status is TransactionStatus.IDLE
    apply(db, kind, 0, 1, is_pipelined=is_pipelined)
    assert rows(conn, "SELECT name, count FROM totals") == [("Counted", 1)]


def test_what_may_be_the_fault_of_one_event_is_left_to_be_found(
    db: Connection, conn: Conn, *, is_pipelined: bool
) -> None:
    conn.execute("INSERT INTO seen VALUES (2, 'a'), (2, 'b')")
    append_many(conn, 3)
    kind = make_kind("INSERT INTO seen SELECT version, (SELECT note FROM seen WHERE n = version) FROM events")
    with pytest.raises(errors.CardinalityViolation):
        apply(db, kind, is_pipelined=is_pipelined)


def test_nothing_is_left_in_the_session(db: Connection, conn: Conn) -> None:
    append_many(conn, 3)
    kind = make_kind("INSERT INTO seen SELECT version FROM events")
    for _ in range(20):
        apply(db, kind)
    with pytest.raises(errors.UndefinedTable):
        db.execute("SELECT FROM events")
    prepared = db.execute("SELECT statement FROM pg_prepared_statements WHERE statement LIKE '%events%'").fetchall()
    assert prepared == []
    assert not db.is_altered


@pytest.mark.parametrize(
    ("is_local", "is_altered"),
    [
        ("false", True),
        ("true", False),
    ],
)
def test_a_statement_that_changes_the_session_spoils_the_connection_for_others(
    db: Connection, conn: Conn, is_local: str, *, is_altered: bool
) -> None:
    append_many(conn, 1)
    far = " " * 5000
    apply(db, make_kind(f"SELECT{far}set_config('search_path', 'public', {is_local}) FROM events"))
    assert db.is_altered == is_altered


# --- how the ranges are cut


class SalesReport(SqlProjection):
    """A read model as people write one: orders with their totals, and sales for each day."""

    event_types = ("OrderPlaced", "ItemAdded", "OrderPaid", "OrderCancelled")
    tables = ("orders", "daily_sales")
    schema = """
        CREATE TABLE IF NOT EXISTS orders (
            order_id uuid PRIMARY KEY,
            customer text,
            status text NOT NULL,
            items bigint NOT NULL,
            total_cents bigint NOT NULL,
            paid_cents bigint NOT NULL
        );
        CREATE TABLE IF NOT EXISTS daily_sales (
            day date PRIMARY KEY,
            placed bigint NOT NULL,
            cancelled bigint NOT NULL,
            revenue_cents bigint NOT NULL
        );
    """
    sql = (
        # An order's events may be spread over several ranges: what is added up is added, what is said last is set.
        """
        INSERT INTO orders AS kept (order_id, customer, status, items, total_cents, paid_cents)
        SELECT
            aggregate_id,
            max(event_data ->> 'customer') FILTER (WHERE event_type = 'OrderPlaced'),
            'open',
            coalesce(sum((event_data ->> 'quantity')::int) FILTER (WHERE event_type = 'ItemAdded'), 0),
            coalesce(
                sum((event_data ->> 'quantity')::bigint * (event_data ->> 'unit_price_cents')::bigint)
                    FILTER (WHERE event_type = 'ItemAdded'),
                0
            ),
            coalesce(sum((event_data ->> 'amount_cents')::bigint) FILTER (WHERE event_type = 'OrderPaid'), 0)
        FROM events
        GROUP BY aggregate_id
        ON CONFLICT (order_id) DO UPDATE
        SET customer = coalesce(excluded.customer, kept.customer),
            items = kept.items + excluded.items,
            total_cents = kept.total_cents + excluded.total_cents,
            paid_cents = kept.paid_cents + excluded.paid_cents
        """,
        """
        WITH last AS (
            SELECT DISTINCT ON (aggregate_id) aggregate_id, event_type
            FROM events
            WHERE event_type LIKE 'Order%'
            ORDER BY aggregate_id, sequence_number DESC
        )
        UPDATE orders
        SET status = lower(substring(last.event_type FROM 6))
        FROM last
        WHERE order_id = last.aggregate_id;
        """,
        """
        -- The days are those of UTC, whatever the session's time zone is.
        MERGE INTO daily_sales
        USING (
            SELECT
                (created_at AT TIME ZONE 'UTC')::date AS day,
                count(*) FILTER (WHERE event_type = 'OrderPlaced') AS placed,
                count(*) FILTER (WHERE event_type = 'OrderCancelled') AS cancelled,
                coalesce(sum((event_data ->> 'amount_cents')::bigint) FILTER (WHERE event_type = 'OrderPaid'), 0)
                    AS revenue_cents
            FROM events
            WHERE event_type <> 'ItemAdded'
            GROUP BY 1
        ) AS change
        ON daily_sales.day = change.day
        WHEN MATCHED THEN UPDATE
            SET placed = daily_sales.placed + change.placed,
                cancelled = daily_sales.cancelled + change.cancelled,
                revenue_cents = daily_sales.revenue_cents + change.revenue_cents
        WHEN NOT MATCHED THEN
            INSERT VALUES (change.day, change.placed, change.cancelled, change.revenue_cents)
        """,
    )


def make_sales() -> InSql:
    return make_kind_of(SalesReport(), SalesReport.event_types)


MIDNIGHT = datetime(2026, 5, 1, tzinfo=UTC)
Happening = tuple[str, int, int, int]
HAPPENINGS = st.lists(
    st.tuples(
        st.sampled_from(["OrderPlaced", "ItemAdded", "OrderPaid", "OrderCancelled", "Unrelated"]),
        st.integers(0, 3),
        st.integers(1, 9),
        st.integers(0, 60),
    ),
    max_size=25,
)


def happen(conn: Conn, happenings: list[Happening]) -> None:
    """Append events: type, order, amount and hour of each."""
    conn.execute("TRUNCATE event_store, orders, daily_sales RESTART IDENTITY")
    for version, (event_type, order, amount, hour) in enumerate(happenings, 1):
        data = {"customer": f"Ann {order}", "quantity": amount, "unit_price_cents": 100, "amount_cents": amount * 10}
        conn.execute(
            "INSERT INTO event_store (aggregate_id, aggregate_type, event_type, event_data, version, created_at)"
            " VALUES (%s, 'Order', %s, %s, %s, %s)",
            (uuid.UUID(int=order), event_type, json.dumps(data), version, MIDNIGHT + timedelta(hours=hour)),
        )


def model(conn: Conn) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    return rows(conn, "TABLE orders ORDER BY order_id"), rows(conn, "TABLE daily_sales ORDER BY day")


def expected_model(happenings: list[Happening]) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """What the statements are to come to, event by event in Python."""
    orders: dict[int, list[Any]] = {}
    days: dict[date, list[Any]] = {}
    for event_type, number, amount, hour in happenings:
        if event_type == "Unrelated":
            continue
        order = orders.setdefault(number, [None, "open", 0, 0, 0])
        if event_type == "ItemAdded":
            order[2] += amount
            order[3] += amount * 100
            continue
        day = days.setdefault((MIDNIGHT + timedelta(hours=hour)).date(), [0, 0, 0])
        order[1] = event_type.removeprefix("Order").lower()
        match event_type:
            case "OrderPlaced":
                order[0] = f"Ann {number}"
                day[0] += 1
            case "OrderCancelled":
                day[1] += 1
            case _:
                order[4] += amount * 10
                day[2] += amount * 10
    return (
        [(uuid.UUID(int=number), *order) for number, order in sorted(orders.items())],
        [(day, *counts) for day, counts in sorted(days.items())],
    )


@pytest.fixture
def sales(conn: Conn) -> Conn:
    conn.execute(SalesReport.schema.encode())
    return conn


def test_a_report_by_sql_comes_to_what_a_handler_would_have_come_to(db: Connection, sales: Conn) -> None:
    happenings: list[Happening] = [
        ("OrderPlaced", 1, 1, 0),
        ("ItemAdded", 1, 2, 0),
        ("Unrelated", 1, 2, 0),
        ("OrderPlaced", 2, 2, 1),
        ("ItemAdded", 1, 3, 1),
        ("OrderPaid", 1, 5, 25),
        ("OrderCancelled", 2, 1, 26),
    ]
    happen(sales, happenings)
    apply(db, make_sales())
    assert model(sales) == expected_model(happenings)
    assert model(sales) == (
        [
            (uuid.UUID(int=1), "Ann 1", "paid", 5, 500, 50),
            (uuid.UUID(int=2), "Ann 2", "cancelled", 0, 0, 0),
        ],
        [(date(2026, 5, 1), 2, 0, 0), (date(2026, 5, 2), 0, 1, 50)],
    )


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(happenings=HAPPENINGS, cuts=st.sets(st.integers(0, 25)))
def test_the_result_is_the_same_however_the_ranges_are_cut(
    db: Connection, sales: Conn, happenings: list[Happening], cuts: set[int]
) -> None:
    happen(sales, happenings)
    kind = make_sales()
    apply(db, kind)
    in_one = model(sales)
    sales.execute("TRUNCATE orders, daily_sales")
    bounds = [0, *sorted(cuts - {0}), EVERYTHING]
    for after, upto in pairwise(bounds):
        apply(db, kind, after, upto)
    assert model(sales) == in_one == expected_model(happenings)
