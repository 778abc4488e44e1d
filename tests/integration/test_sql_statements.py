"""The statements of a SqlProjection: however they are written they run, and what cannot be right is refused."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace

import pytest
from psycopg import errors

from projectiond.errors import ConfigurationError
from projectiond.kinds.relation import InSql
from projectiond.postgres.database import Connection, connect
from projectiond.projection import Projection
from tests.support.events import append, append_many
from tests.support.postgres import Database
from tests.support.relation import TABLES, Conn, apply, make_author, make_kind, refusal, rows

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


# --- texts

# Each writes one row (n, note) for each event, or for all.
TEXTS = {
    "a comment in front": (
        "-- what -- it does\n  /* and /* why */ not */ INSERT INTO seen SELECT version FROM events",
        (1, None),
    ),
    "a planner's hint in front": ("/*+ SeqScan(events) */ INSERT INTO seen SELECT version FROM events", (1, None)),
    "semicolons and comments at the end": (
        "INSERT INTO seen SELECT version FROM events ; ; -- done\n;/* ; */",
        (1, None),
    ),
    "a semicolon in front": (";\n; INSERT INTO seen SELECT version FROM events", (1, None)),
    "a comment that the end of the text ends": ("INSERT INTO seen SELECT version FROM events -- done", (1, None)),
    "lower case and no spaces": ('insert into seen(n)select(version)from(select*from events)as"e"', (1, None)),
    "upper case": ("INSERT INTO SEEN SELECT VERSION FROM EVENTS", (1, None)),
    "percent signs": (
        "INSERT INTO seen SELECT 7 % 4, '%s %% %(n)s %' FROM events WHERE event_type LIKE '%un%'",
        (3, "%s %% %(n)s %"),
    ),
    "a dollar quote": ("INSERT INTO seen SELECT 1, $a$; $$ -- /* $1 ' $a$ FROM events", (1, "; $$ -- /* $1 ' ")),
    "an escape string": (r"INSERT INTO seen SELECT 1, E'it\'s; \\' FROM events", (1, "it's; \\")),
    "an escape string over two lines": ("INSERT INTO seen SELECT 1, E'a'\n -- it's\n '\\';b' FROM events", (1, "a';b")),
    "a backslash that escapes nothing": (r"INSERT INTO seen SELECT 1, 'C:\' || ';' FROM events", (1, "C:\\;")),
    "unicode escapes": (r"INSERT INTO seen SELECT 1, U&'\00fc;' FROM events", (1, "ü;")),
    "unicode": (
        "INSERT INTO seen SELECT größe, '世界 🎉' FROM (SELECT version AS größe FROM events) AS ß",
        (1, "世界 🎉"),
    ),
    "quoted names": (
        'INSERT INTO "seen" SELECT "a;""b -- %" FROM (SELECT version AS "a;""b -- %" FROM "events") AS e',
        (1, None),
    ),
    "the relation's own row": ("INSERT INTO seen SELECT 1, (events).event_type FROM events", (1, "Counted")),
    "an operator before a comment": ("INSERT INTO seen SELECT 2+--1\n3/*;*/+4 FROM events", (9, None)),
    "with": ("WITH one AS (SELECT * FROM events) INSERT INTO seen SELECT version FROM one", (1, None)),
    "with, after comments": (
        "/* a */ -- b\n WITH/* c */one AS (SELECT * FROM events) INSERT INTO seen SELECT version FROM one",
        (1, None),
    ),
    "with, materialized": (
        "WITH one AS MATERIALIZED (SELECT * FROM events) INSERT INTO seen SELECT version FROM one",
        (1, None),
    ),
    "with, not materialized": (
        "WITH one AS NOT MATERIALIZED (TABLE events) INSERT INTO seen SELECT version FROM one",
        (1, None),
    ),
    "with, a quoted name": (
        'WITH"RECURSIVE"AS(TABLE events)INSERT INTO seen SELECT version FROM"RECURSIVE"',
        (1, None),
    ),
    "with, the name recursive": (
        "WITH recursive AS (TABLE events) INSERT INTO seen SELECT version FROM recursive",
        (1, None),
    ),
    "with recursive": (
        (
            "WITH /* all */ RECURSIVE up (n) AS (SELECT version FROM events UNION ALL SELECT n + 1 FROM up WHERE n < 5)"
            " INSERT INTO seen SELECT max(n) FROM up"
        ),
        (5, None),
    ),
    "with recursive, over the events": (
        (
            "WITH RECURSIVE up (n) AS (SELECT 0 UNION ALL SELECT n + version FROM up, events WHERE n < 3)"
            " INSERT INTO seen SELECT max(n) FROM up"
        ),
        (3, None),
    ),
    "with, further in": ("INSERT INTO seen WITH one AS (SELECT * FROM events) SELECT version FROM one", (1, None)),
    "a query in parentheses": ("INSERT INTO seen (SELECT version FROM events)", (1, None)),
    "values": ("INSERT INTO seen VALUES ((SELECT version FROM events))", (1, None)),
    "twice": ("INSERT INTO seen SELECT a.version + b.version FROM events AS a, events AS b", (2, None)),
    "within a function's argument": ("INSERT INTO seen VALUES (abs((SELECT -version FROM events)))", (1, None)),
    "in what the planner leaves out": (
        "INSERT INTO seen SELECT 4 WHERE true OR EXISTS (SELECT FROM events)",
        (4, None),
    ),
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_statement_may_be_written_in_any_way(db: Connection, conn: Conn, text: str) -> None:
    append_many(conn, 1)
    statement, expected = TEXTS[text]
    apply(db, make_kind(statement))
    assert rows(conn) == [expected]


@pytest.mark.parametrize("statement", ["SELECT 1 FROM events", "(TABLE events)", "VALUES ((SELECT 1 FROM events))"])
def test_a_statement_may_be_a_query(db: Connection, conn: Conn, statement: str) -> None:
    append_many(conn, 3)
    with pytest.raises(errors.CardinalityViolation) if "VALUES" in statement else nullcontext():
        apply(db, make_kind(statement))


# --- what is refused

NO_DDL = "write INSERT, UPDATE, DELETE, MERGE or SELECT, and DDL into `schema`"
UNREAD = "it does not read the relation events, which holds the events of a batch; write FROM events"

REFUSED = [
    ("BEGIN", f'"BEGIN": it begins with BEGIN; {NO_DDL}'),
    (" commit;", f'"commit": it begins with COMMIT; {NO_DDL}'),
    ("/* a */ CREATE TABLE x ()", f'"CREATE TABLE x ()": it begins with CREATE; {NO_DDL}'),
    ("SET search_path = x", f'"SET search_path = x": it begins with SET; {NO_DDL}'),
    ("DO $$BEGIN COMMIT; END$$", f'"DO $$BEGIN COMMIT; END$$": it begins with DO; {NO_DDL}'),
    (
        "SELECT 1 FROM events; COMMIT",
        '"SELECT 1 FROM events; COMMIT": it holds several statements; make `sql` a tuple of them',
    ),
    ("-- INSERT", "there is no statement in it"),
    ("/* SELECT FROM events", "there is no statement in it"),
    (
        "INSERT INTO seen SELECT $1 FROM events",
        (
            '"INSERT INTO seen SELECT $1 FROM events": it has the parameter $1, but gets none;'
            " write the value, or read it from events"
        ),
    ),
    (
        "SELECT * INTO TEMP kept FROM events",
        (
            '"SELECT * INTO TEMP kept FROM events": SELECT … INTO makes a table for each batch;'
            " make it in `schema`, and write INSERT INTO … SELECT"
        ),
    ),
    (
        "SELECT 'a\0b' FROM events",
        (
            "\"SELECT 'a\\x00b' FROM events\": it has a character that PostgreSQL cannot take"
            " (NUL, or half of a surrogate pair)"
        ),
    ),
    (
        "SELECT '\ud83d' FROM events",
        (
            "\"SELECT '\\ud83d' FROM events\": it has a character that PostgreSQL cannot take"
            " (NUL, or half of a surrogate pair)"
        ),
    ),
    (
        "INSERT INTO sene SELECT version FROM events",
        '"INSERT INTO sene SELECT version FROM events": relation "sene" does not exist',
    ),
    (
        "\n  INSERT INTO seen\n    SELECT verzion\n    FROM events",
        (
            '"INSERT INTO seen": column "verzion" does not exist, in "SELECT verzion"'
            ' (Perhaps you meant to reference the column "events.version".)'
        ),
    ),
    (
        "INSERT INTO seen SELECT version FROM events WHERE event_type = 'OrderPlaced' AND verzion > 1 AND version < 10",
        (
            '"INSERT INTO seen SELECT version FROM events WHERE event_type…": column "verzion" does not exist, in'
            " \"…event_type = 'OrderPlaced' AND verzion > 1 AND version < 10\""
            ' (Perhaps you meant to reference the column "events.version".)'
        ),
    ),
    (
        "INSERT INTO seen SELECT %(n)s FROM events",
        '"INSERT INTO seen SELECT %(n)s FROM events": syntax error at or near "%"',
    ),
    (
        "WITH events AS (TABLE event_store) INSERT INTO seen SELECT version FROM events",
        (
            '"WITH events AS (TABLE event_store) INSERT INTO seen SELECT v…": WITH query name "events" specified more'
            " than once"
        ),
    ),
    (
        "SELECT 'events FROM events",
        '"SELECT \'events FROM events": unterminated quoted string at or near "\'events FROM events"',
    ),
]


@pytest.mark.parametrize(("statement", "expected"), REFUSED, ids=[statement[:40] for statement, _ in REFUSED])
@pytest.mark.usefixtures("conn")
def test_a_statement_that_cannot_be_right_is_refused_in_one_sentence(
    db: Connection, statement: str, expected: str
) -> None:
    assert refusal(db, statement) == expected


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        "DELETE FROM seen /* events */ WHERE note = 'events' -- events",
        "INSERT INTO seen SELECT version FROM event_store",
        "INSERT INTO seen SELECT version FROM public.events",
        "INSERT INTO events SELECT 1",
        "UPDATE events SET version = 1",
        "INSERT INTO seen WITH events AS (SELECT 1 AS n) SELECT n FROM events",
        "INSERT INTO seen SELECT events.n FROM seen AS events",
        'SELECT 1 AS "events"',
    ],
)
def test_a_statement_that_does_not_read_the_events_is_refused(db: Connection, conn: Conn, statement: str) -> None:
    conn.execute("CREATE TABLE events (version bigint)")
    assert refusal(db, statement).endswith(f": {UNREAD}")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1 FROM events WHERE false",
        "SELECT 1 FROM events LIMIT 0",
        "DELETE FROM seen WHERE false AND n IN (SELECT version FROM events)",
        "WITH one AS (SELECT * FROM events) INSERT INTO seen VALUES (1)",
        "INSERT INTO seen VALUES (1) RETURNING (SELECT count(*) FROM events)",
        "INSERT INTO totals VALUES ('a', 1, 1) ON CONFLICT (name) DO UPDATE SET count = (SELECT count(*) FROM events)",
        "MERGE INTO seen USING totals ON false WHEN NOT MATCHED THEN INSERT VALUES ((SELECT count(*) FROM events))",
        "SELECT 1 FROM totals, LATERAL (SELECT FROM events WHERE version = totals.count) AS e",
        "SELECT coalesce(1, (SELECT count(*) FROM events))",
    ],
)
@pytest.mark.usefixtures("conn")
def test_reading_the_events_counts_wherever_it_stands(db: Connection, statement: str) -> None:
    make_kind(statement).check(db)


def make_view(conn: Conn) -> None:
    conn.execute("ALTER TABLE event_store RENAME TO kept_events")
    conn.execute(
        "CREATE VIEW event_store AS SELECT *, 1 AS more FROM kept_events UNION ALL SELECT *, 2 FROM kept_events"
    )


def make_partitions(conn: Conn) -> None:
    conn.execute("DROP TABLE event_store")
    conn.execute(
        "CREATE TABLE event_store (event_id uuid, aggregate_id uuid, aggregate_type text, event_type text,"
        " event_data jsonb, metadata jsonb, version int, sequence_number bigint, created_at timestamptz)"
        " PARTITION BY RANGE (sequence_number)"
    )
    conn.execute("CREATE TABLE event_store_1 PARTITION OF event_store FOR VALUES FROM (500) TO (1000)")


def take_partitions(conn: Conn) -> None:
    make_partitions(conn)
    conn.execute("DROP TABLE event_store_1")


@pytest.mark.parametrize("prepare", [make_view, make_partitions, take_partitions])
def test_whether_the_events_are_read_is_known_whatever_the_store_is_made_of(
    db: Connection, conn: Conn, prepare: Callable[[Conn], None]
) -> None:
    prepare(conn)
    make_kind("INSERT INTO seen SELECT version FROM events").check(db)
    assert refusal(db, "INSERT INTO seen SELECT version FROM event_store").endswith(UNREAD)


def test_a_missing_privilege_is_found_at_the_start(database: Database, conn: Conn) -> None:
    role = f"reader_{database.name}"
    conn.execute(f'CREATE ROLE "{role}"')
    try:
        conn.execute(f'GRANT SELECT ON event_store, totals TO "{role}"')
        with connect(database.dsn, role="runner", statement_timeout_seconds=30) as db:
            db.execute(f'SET ROLE "{role}"')
            # Also without any on the table that the look for the relation mentions.
            make_kind("SELECT 1 FROM events, totals").check(db)
            assert refusal(db, "SELECT 1 FROM totals").endswith(UNREAD)
            assert refusal(db, "INSERT INTO seen SELECT version FROM events").endswith(
                "permission denied for table seen"
            )
    finally:
        conn.execute(f'DROP OWNED BY "{role}"')
        conn.execute(f'DROP ROLE "{role}"')


@pytest.mark.usefixtures("conn")
def test_all_faults_of_all_statements_are_named_at_once(db: Connection) -> None:
    told = refusal(db, "SELECT 1", "SELECT 2 FROM events", "INSERT INTO sene SELECT version FROM events", "COMMIT", ";")
    assert told == (
        f'statement 1 of 5, "SELECT 1": {UNREAD}; '
        'statement 3 of 5, "INSERT INTO sene SELECT version FROM events": relation "sene" does not exist; '
        f'statement 4 of 5, "COMMIT": it begins with COMMIT; {NO_DDL}; '
        "statement 5 of 5: there is no statement in it"
    )


def test_a_check_executes_nothing_and_leaves_its_transaction_usable(db: Connection, conn: Conn) -> None:
    append_many(conn, 3)
    with db.transaction():
        refusal(db, "INSERT INTO seen SELECT version FROM events", "SELECT FROM nowhere", "SELECT 1")
        make_kind(
            "INSERT INTO seen SELECT version FROM events RETURNING nextval('event_store_sequence_number_seq')"
        ).check(db)
        db.execute("INSERT INTO seen VALUES (7)")
    assert rows(conn) == [(7, None)]
    assert append(conn, "Next") == 4


@pytest.mark.usefixtures("conn")
def test_what_passes_by_itself_is_no_fault_of_the_statement(db: Connection, database: Database) -> None:
    other = database.connect(autocommit=False)
    other.execute("LOCK TABLE seen")
    db.execute("SET lock_timeout = '10ms'")
    with pytest.raises(errors.LockNotAvailable):
        make_kind("INSERT INTO seen SELECT version FROM events").check(db)


def test_only_a_sql_projection_is_taken() -> None:
    definition = replace(make_kind("SELECT 1 FROM events")._definition, projection=Projection())
    with pytest.raises(ConfigurationError, match="is not a SqlProjection"):
        InSql(definition, make_author())
