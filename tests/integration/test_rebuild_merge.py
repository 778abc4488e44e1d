"""Live tables take over the rows of built ones, and only what differs is changed, whatever constraints there are.

The property test makes up tables and rows; the others are named after what might break a merge.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from projectiond.errors import ConfigurationError
from projectiond.rebuild.compare import compare
from projectiond.rebuild.merge import merge
from projectiond.rebuild.shape import finish_by
from projectiond.rebuild.tables import TableChange, TablesBusyError, hold_writers
from tests.support.postgres import Database
from tests.support.spaces import SPACE, Sides

pytestmark = pytest.mark.integration

# What a column may be, with texts of values for it: equal ones with other images, and some that need care.
COLUMN_TYPES = {
    "integer": ["0", "1", "-7"],
    "numeric": ["1", "1.0", "1.00", "NaN"],
    "text": ["", "a", "A", "100%", "it's", 'say "no"', "two\nlines", "\u00e9", "\\N", "{}"],
    "json": ['{"a":1}', '{"a": 1}', "null"],
    "jsonb": ['{"a":1}', "[]"],
    "mood": ["sad", "happy"],
    "mood[]": ["{}", "{sad,NULL}", "{happy}"],
    "amount": ["0.00", "12.50"],
    "place": ["(1,x)", "(1,)", "(,)"],
    "label": ["a", "b"],
    'label COLLATE "C"': ["a", "b"],
    "double precision": ["0", "-0", "NaN", "0.1"],
    "integer[]": ["{}", "{1,NULL}", "[5:5]={1}"],
    "timestamptz": ["2024-01-01 00:00:00+00", "infinity"],
    "bytea": ["\\x00ff", ""],
    "xid": ["1", "2"],
}
KEY_TYPES = [
    "integer",
    "numeric",
    "text",
    "mood",
    "amount",
    "label",
    'label COLLATE "C"',
    "integer[]",
    "timestamptz",
    "bytea",
]
NAMES = ["id", "Order", "a b", 'q"uote', "100%", "select", "{brace}", "c0", "l", "naïve"]


Made = tuple[str, list[tuple[str, str]], int, list[Any], list[Any]]


@st.composite
def tables(draw: st.DrawFn) -> Made:
    """Make a table: its name, columns with types, how many of them are the key, rows before and after."""
    name, *names = draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=6, unique=True))
    width = draw(st.integers(0, min(2, len(names))))
    types = [draw(st.sampled_from(KEY_TYPES if at < width else sorted(COLUMN_TYPES))) for at in range(len(names))]
    values = [
        st.sampled_from(COLUMN_TYPES[kind]) if at < width else st.none() | st.sampled_from(COLUMN_TYPES[kind])
        for at, kind in enumerate(types)
    ]
    rows = st.lists(st.tuples(*values), max_size=8)
    return name, list(zip(names, types, strict=True)), width, draw(rows), draw(rows)


@pytest.fixture
def sides(database: Database) -> Iterator[Sides]:
    both = Sides(database)
    with contextlib.closing(both):
        yield both


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables())
def test_after_a_merge_the_live_table_has_the_very_rows_and_the_counts_are_true(sides: Sides, table: Made) -> None:
    name, columns, width, before, after = table
    with sides.db.transaction(force_rollback=True):
        for schema, rows, order in (("public", before, columns), (SPACE, after, columns[::-1])):
            make_types(sides, schema)
            make_table(sides, schema, name, order, [column for column, _ in columns[:width]])
            for row in rows:
                insert(sides, schema, name, dict(zip([column for column, _ in columns], row, strict=True)))
        pairs = sides.pairs(name)
        assert finish_by(pairs).by == "merge", finish_by(pairs).reason
        old, new = (images(sides, schema, name, columns, width) for schema in ("public", SPACE))
        expected = expected_change(name, old, new, width)
        differences = compare(sides.db, pairs, samples=100)
        assert differences[0].change == expected
        assert len(differences[0].samples) == expected.changed + expected.added + expected.removed
        assert merge(sides.db, pairs) == (expected,)
        assert sorted(images(sides, "public", name, columns, width)) == sorted(new)
        assert compare(sides.db, pairs)[0].change == TableChange(name, len(new), 0, 0, 0)


def make_types(sides: Sides, schema: str) -> None:
    sides.db.execute(f"SET LOCAL search_path = {schema}")
    sides.db.execute("CREATE TYPE mood AS ENUM ('sad', 'happy')")
    sides.db.execute("CREATE DOMAIN amount AS numeric(10, 2) CHECK (VALUE >= 0)")
    sides.db.execute("CREATE TYPE place AS (x integer, y text)")
    sides.db.execute('CREATE DOMAIN label AS text COLLATE "POSIX"')
    sides.db.execute("SET LOCAL search_path = public")


def make_table(sides: Sides, schema: str, name: str, columns: list[tuple[str, str]], key: list[str]) -> None:
    sides.db.execute(f"SET LOCAL search_path = {schema}")
    parts = [sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(kind)) for column, kind in columns]
    if key:
        parts.append(sql.SQL("PRIMARY KEY ({})").format(sql.SQL(", ").join(map(sql.Identifier, key))))
    sides.db.execute(sql.SQL("CREATE TABLE {} ({})").format(sql.Identifier(name), sql.SQL(", ").join(parts)))
    sides.db.execute("SET LOCAL search_path = public")


def insert(sides: Sides, schema: str, name: str, row: dict[str, str | None]) -> None:
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT DO NOTHING").format(
        sql.Identifier(schema, name),
        sql.SQL(", ").join(map(sql.Identifier, row)),
        sql.SQL(", ").join(map(sql.Literal, row.values())),
    )
    sides.db.execute(statement)


def images(sides: Sides, schema: str, name: str, columns: list[tuple[str, str]], width: int) -> list[tuple[Any, ...]]:
    """Give each row as (what it is known by, its stored bytes as text), without asking the code under test."""
    texts = [sql.SQL("{}::text").format(sql.Identifier(column)) for column, _ in columns]
    # Of a numeric, equal values have one key: the texts with trailing zeros taken off.
    keys = [
        sql.SQL("trim_scale({}::numeric)::text").format(sql.Identifier(column))
        if kind in {"numeric", "amount"}
        else sql.SQL("{}::text").format(sql.Identifier(column))
        for column, kind in columns[:width]
    ]
    statement = sql.SQL("SELECT ARRAY[{}]::text[], ARRAY[{}]::text[] FROM {}").format(
        sql.SQL(", ").join(keys), sql.SQL(", ").join(texts), sql.Identifier(schema, name)
    )
    rows = sides.db.execute(statement).fetchall()
    return sorted((tuple(map(str, key)), tuple(repr(value) for value in row)) for key, row in rows)


def expected_change(name: str, old: list[Any], new: list[Any], width: int) -> TableChange:
    if width:
        before, after = dict(old), dict(new)
        changed = sum(before[key] != after[key] for key in before.keys() & after.keys())
        return TableChange(name, len(new), changed, len(after.keys() - before), len(before.keys() - after))
    added, removed = list(new), list(old)
    for row in old:
        if row in added:
            added.remove(row)
            removed.remove(row)
    return TableChange(name, len(new), 0, len(added), len(removed))


# Orders by their id, with a number that is theirs alone, and the order that they follow; lines by their id, with their
# order and place in it.
States = tuple[dict[int, tuple[str | None, int]], dict[int, tuple[int, int]]]


@st.composite
def states(draw: st.DrawFn) -> States:
    """Make two tables that are full of constraints, and what may stand in them at one time."""
    ids = st.integers(1, 5)
    numbers = draw(st.permutations("abcde"))
    orders = {
        at: (draw(st.sampled_from([numbers[place], None])), draw(ids))
        for place, at in enumerate(draw(st.lists(ids, unique=True)))
    }
    places = draw(st.lists(st.tuples(ids, st.integers(1, 2)), unique=True, max_size=5))
    lines = dict(enumerate(((order, place) for order, place in places if order in orders), start=draw(ids)))
    return orders, lines


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=states(), after=states(), action=st.sampled_from(["NO ACTION", "CASCADE", "RESTRICT", "SET NULL"]))
def test_tables_full_of_constraints_become_what_was_built(
    sides: Sides, before: States, after: States, action: str
) -> None:
    with sides.db.transaction(force_rollback=True):
        sides.both(f"""
            CREATE TABLE orders (
                id int PRIMARY KEY, number text UNIQUE, follows int REFERENCES orders ON DELETE {action}
            );
            CREATE TABLE lines (
                id int PRIMARY KEY, o int REFERENCES orders ON DELETE {action}, place int, UNIQUE (o, place)
            )
        """)
        for run, (orders, lines) in ((sides.live, before), (sides.built, after)):
            for at, (number, _) in orders.items():
                run(f"INSERT INTO orders VALUES ({at}, {'NULL' if number is None else repr(number)})")
            for at, (_, follows) in orders.items():
                run(f"UPDATE orders SET follows = {follows if follows in orders else 'NULL'} WHERE id = {at}")
            for at, (order, place) in lines.items():
                run(f"INSERT INTO lines VALUES ({at}, {order}, {place})")
        pairs = sides.pairs("lines", "orders")
        expected = [difference.change for difference in compare(sides.db, pairs)]
        try:
            changes = merge(sides.db, pairs)
        except ConfigurationError as refusal:
            # Rows would have to go and come again, which is just what this action forbids.
            is_fair = action == "RESTRICT" and "forbids" in refusal.message
            if not is_fair:
                raise
            return
        assert list(changes) == expected
        for table in ("orders", "lines"):
            assert sides.rows(table) == sides.rows(table, schema=SPACE)


def test_only_rows_that_differ_are_written(sides: Sides) -> None:
    sides.both("CREATE TABLE orders (id int PRIMARY KEY, total numeric); INSERT INTO orders VALUES (1, 1.0), (2, 2.0)")
    sides.built("UPDATE orders SET total = 2.00 WHERE id = 2")
    before = dict(sides.rows("orders", "id, ctid::text"))
    assert sides.merge("orders") == (TableChange("orders", 2, 1, 0, 0),)
    after = dict(sides.rows("orders", "id, ctid::text"))
    assert after[1] == before[1]
    assert after[2] != before[2]


def test_a_child_moves_from_a_parent_that_goes_to_one_that_comes(sides: Sides) -> None:
    sides.both(
        "CREATE TABLE orders (id int PRIMARY KEY, email text UNIQUE);"
        "CREATE TABLE lines (id int PRIMARY KEY, order_id int NOT NULL REFERENCES orders ON DELETE CASCADE, n int)"
    )
    # The new parent takes the unique value of the one that goes.
    sides.live("INSERT INTO orders VALUES (1, 'a'); INSERT INTO lines VALUES (1, 1, 1), (2, 1, 2)")
    sides.built("INSERT INTO orders VALUES (2, 'a'); INSERT INTO lines VALUES (1, 2, 1)")
    changes = sides.merge("lines", "orders")
    assert changes == (TableChange("lines", 1, 1, 0, 1), TableChange("orders", 1, 0, 1, 1))
    assert sides.rows("lines") == [(1, 2, 1)]
    assert sides.rows("orders") == [(2, "a")]


def test_tables_that_refer_to_each_other_and_to_themselves(sides: Sides) -> None:
    sides.both(
        "CREATE TABLE orders (id int PRIMARY KEY, latest int NOT NULL, parent int REFERENCES orders);"
        "CREATE TABLE lines (id int PRIMARY KEY, order_id int NOT NULL REFERENCES orders);"
        "ALTER TABLE orders ADD FOREIGN KEY (latest) REFERENCES lines DEFERRABLE"
    )
    old = "INSERT INTO orders VALUES (1, 1, 2), (2, 1, NULL); INSERT INTO lines VALUES (1, 1)"
    new = "INSERT INTO orders VALUES (3, 3, 4), (4, 3, 3), (2, 3, 4); INSERT INTO lines VALUES (3, 3)"
    sides.live(f"BEGIN; SET CONSTRAINTS ALL DEFERRED; {old}; COMMIT")
    sides.built(f"SET CONSTRAINTS ALL DEFERRED; {new}")
    assert sides.merge("orders", "lines") == (TableChange("orders", 3, 1, 2, 1), TableChange("lines", 1, 0, 1, 1))
    assert sides.rows("orders") == [(2, 3, 4), (3, 3, 4), (4, 3, 3)]


@pytest.mark.parametrize(
    "constraint",
    [
        "UNIQUE (email)",
        "EXCLUDE USING btree (email WITH =)",
        "UNIQUE (email) DEFERRABLE INITIALLY DEFERRED",
    ],
)
def test_unique_values_that_move_between_rows_that_stay(sides: Sides, constraint: str) -> None:
    sides.both(
        f"CREATE TABLE orders (id int PRIMARY KEY, email text, n int, {constraint});"
        "CREATE TABLE lines (id int PRIMARY KEY, order_id int REFERENCES orders ON DELETE CASCADE);"
    )
    sides.live("INSERT INTO orders VALUES (1, 'a', 0), (2, 'b', 0), (3, 'c', 0)")
    sides.built("INSERT INTO orders VALUES (1, 'b', 0), (2, 'a', 0), (3, 'c', 1)")
    # A change by deleting takes these with it: they have to come back.
    sides.both("INSERT INTO lines VALUES (1, 1), (2, 2), (3, 3)")
    changes = sides.merge("orders", "lines")
    assert changes == (TableChange("orders", 3, 3, 0, 0), TableChange("lines", 3, 0, 0, 0))
    assert sides.rows("orders") == [(1, "b", 0), (2, "a", 0), (3, "c", 1)]
    assert sides.rows("lines") == [(1, 1), (2, 2), (3, 3)]


def test_a_unique_index_on_an_expression_that_only_the_live_table_has(sides: Sides) -> None:
    sides.both("CREATE TABLE orders (id int PRIMARY KEY, email text)")
    sides.live("CREATE UNIQUE INDEX mine ON orders (lower(email)) WHERE id > 0")
    sides.live("INSERT INTO orders VALUES (1, 'a'), (2, 'b')")
    sides.built("INSERT INTO orders VALUES (1, 'B'), (2, 'A')")
    assert sides.merge("orders") == (TableChange("orders", 2, 2, 0, 0),)
    assert sides.rows("orders") == [(1, "B"), (2, "A")]


def test_rows_of_others_are_not_deleted_with_a_row_that_is_to_stay(sides: Sides) -> None:
    sides.both("CREATE TABLE orders (id int PRIMARY KEY, email text, CONSTRAINT one_each UNIQUE (email))")
    sides.live("CREATE TABLE notes (order_id int CONSTRAINT of_order REFERENCES orders ON DELETE CASCADE)")
    sides.live("INSERT INTO orders VALUES (1, 'a'), (2, 'b'); INSERT INTO notes VALUES (1)")
    sides.built("INSERT INTO orders VALUES (1, 'b'), (2, 'a')")
    with pytest.raises(ConfigurationError, match=r"move from row to row \(one_each\).*of_order of notes.*--in-place"):
        sides.merge("orders")
    assert sides.rows("notes") == [(1,)]
    assert sides.rows("orders") == [(1, "a"), (2, "b")]


def test_a_constraint_that_only_the_live_table_has_is_named_when_it_refuses(sides: Sides) -> None:
    sides.both("CREATE TABLE orders (id int PRIMARY KEY, total int)")
    sides.live("ALTER TABLE orders ADD CONSTRAINT positive CHECK (total > 0); INSERT INTO orders VALUES (1, 1)")
    sides.built("INSERT INTO orders VALUES (1, -1)")
    with sides.db.transaction():
        with pytest.raises(ConfigurationError, match=r'refuse the rebuilt rows: CheckViolation.*"positive"'):
            sides.merge("orders")
        # The caller's transaction is still good.
        assert sides.rows("orders") == [(1, 1)]


def test_columns_that_cannot_be_written(sides: Sides) -> None:
    sides.both(
        "CREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int,"
        " twice int GENERATED ALWAYS AS (n * 2) STORED, number int GENERATED ALWAYS AS IDENTITY)"
    )
    sides.live("INSERT INTO orders (n) VALUES (1), (2), (3)")
    sides.built("INSERT INTO orders (n) VALUES (1), (20)")
    sides.built("INSERT INTO orders (id, n, number) OVERRIDING SYSTEM VALUE VALUES (3, 3, 30)")
    assert sides.merge("orders") == (TableChange("orders", 3, 2, 0, 0),)
    assert sides.rows("orders") == [(1, 1, 2, 1), (2, 20, 40, 2), (3, 3, 6, 30)]


def test_sequences_move_up_and_never_down(sides: Sides) -> None:
    sides.both(
        "CREATE TABLE orders (id serial PRIMARY KEY, other int GENERATED BY DEFAULT AS IDENTITY (INCREMENT -1));"
        "CREATE TABLE lines (id serial PRIMARY KEY);"
        "CREATE TABLE notes (id serial PRIMARY KEY)"
    )
    sides.live("INSERT INTO lines SELECT FROM generate_series(1, 9)")
    sides.built("INSERT INTO orders SELECT FROM generate_series(1, 5); INSERT INTO lines DEFAULT VALUES")
    sides.merge("orders", "lines", "notes")
    for table in ("orders", "lines", "notes"):
        sides.live(f"INSERT INTO {table} DEFAULT VALUES")
    assert sides.rows("orders")[-1] == (6, -6)
    assert sides.rows("lines") == [(1,), (10,)]
    assert sides.rows("notes") == [(1,)]


def test_triggers_of_the_live_table_fire_and_their_sums_are_put_right(sides: Sides) -> None:
    sides.both(
        "CREATE TABLE orders (id int PRIMARY KEY, total int NOT NULL);"
        "CREATE TABLE lines (id int PRIMARY KEY, order_id int REFERENCES orders, n int)"
    )
    for run in (sides.live, sides.built):
        run("""
            CREATE FUNCTION add_up() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                UPDATE orders SET total = total + NEW.n WHERE id = NEW.order_id;
                RETURN NEW;
            END $$;
            CREATE TRIGGER add_up AFTER INSERT ON lines FOR EACH ROW EXECUTE FUNCTION add_up();
            INSERT INTO orders VALUES (1, 0), (2, 0);
        """)
    sides.built("INSERT INTO lines VALUES (1, 1, 10), (2, 2, 5)")
    sides.live("""
        CREATE TABLE audit (line int);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO audit VALUES (NEW.id); RETURN NEW; END $$;
        CREATE TRIGGER note AFTER INSERT ON lines FOR EACH ROW EXECUTE FUNCTION note();
    """)
    assert sides.merge("orders", "lines") == (TableChange("orders", 2, 2, 0, 0), TableChange("lines", 2, 0, 2, 0))
    assert sides.rows("orders") == [(1, 10), (2, 5)]
    assert sides.rows("audit") == [(1,), (2,)]


def test_what_a_trigger_insists_on_is_left_to_it_and_counted(sides: Sides) -> None:
    sides.both("CREATE TABLE orders (id int PRIMARY KEY, note text); INSERT INTO orders VALUES (1, 'x'), (2, 'x')")
    sides.live("""
        CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF NEW.id = 3 THEN RETURN NULL; END IF; NEW.note := 'stamped'; RETURN NEW; END $$;
        CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION stamp();
    """)
    sides.built("UPDATE orders SET note = 'y' WHERE id = 2; INSERT INTO orders VALUES (3, 'z')")
    assert sides.merge("orders") == (TableChange("orders", 2, 1, 1, 0, kept=2),)
    assert sides.rows("orders") == [(1, "x"), (2, "stamped")]


def test_a_check_that_is_put_off_until_the_end_is_done_within_the_merge(sides: Sides) -> None:
    sides.both("CREATE TABLE orders (id int PRIMARY KEY, customer int)")
    sides.live("""
        CREATE TABLE customers (id int PRIMARY KEY);
        ALTER TABLE orders ADD CONSTRAINT known
            FOREIGN KEY (customer) REFERENCES customers DEFERRABLE INITIALLY DEFERRED;
    """)
    sides.built("INSERT INTO orders VALUES (1, 7)")
    with pytest.raises(ConfigurationError, match="known"), sides.db.transaction():
        sides.merge("orders")


def test_a_partitioned_table_whose_rows_change_partition(sides: Sides) -> None:
    sides.both(
        "CREATE TABLE orders (id int, at date, n int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);"
        "CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');"
        "CREATE TABLE orders_2 PARTITION OF orders DEFAULT;"
    )
    sides.live("INSERT INTO orders VALUES (1, '2024-01-01', 1), (1, '2024-03-01', 1), (2, '2024-01-01', 1)")
    sides.built("INSERT INTO orders VALUES (1, '2024-01-01', 1), (1, '2024-03-01', 2), (3, '2024-01-01', 1)")
    assert sides.merge("orders") == (TableChange("orders", 3, 1, 1, 1),)
    assert sides.rows("orders", "id, at::text, n") == [(1, "2024-01-01", 1), (1, "2024-03-01", 2), (3, "2024-01-01", 1)]


def test_rows_of_a_table_that_inherits_are_not_the_live_tables_own(sides: Sides) -> None:
    sides.both("CREATE TABLE orders (id int PRIMARY KEY)")
    sides.live("CREATE TABLE archive () INHERITS (orders); INSERT INTO archive VALUES (1)")
    sides.built("INSERT INTO orders VALUES (2)")
    assert sides.merge("orders") == (TableChange("orders", 1, 0, 1, 0),)
    assert sides.rows("archive") == [(1,)]


def test_rows_that_policies_hide_are_not_taken_for_missing_ones(sides: Sides) -> None:
    sides.both("CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (1)")
    role = f"hidden_{sides.database.name}"
    sides.live(f"""
        ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
        CREATE ROLE {role};
        GRANT ALL ON orders, {SPACE}.orders TO {role};
        GRANT USAGE ON SCHEMA {SPACE} TO {role};
    """)
    try:
        with sides.db.transaction():
            pairs = sides.pairs("orders")
            sides.db.execute(f"SET LOCAL ROLE {role}")
            with pytest.raises(ConfigurationError, match="BYPASSRLS"), sides.db.transaction():
                compare(sides.db, pairs)
    finally:
        sides.live(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_readers_go_on_and_see_the_old_rows_until_commit(sides: Sides, database: Database) -> None:
    sides.both("CREATE TABLE orders (id int PRIMARY KEY, n int); INSERT INTO orders VALUES (1, 1)")
    sides.built("UPDATE orders SET n = 2")
    reader = database.connect()
    reader.execute("SET lock_timeout = '1ms'")
    with sides.db.transaction():
        sides.merge("orders")
        assert reader.execute("SELECT n FROM orders").fetchall() == [(1,)]
        with pytest.raises(psycopg.errors.LockNotAvailable):
            reader.execute("UPDATE orders SET n = 3")
    assert reader.execute("SELECT n FROM orders").fetchall() == [(2,)]


def test_a_writer_in_the_way_is_said_to_be_and_the_transaction_stays_good(
    sides: Sides, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides.both("CREATE TABLE orders (id int PRIMARY KEY)")
    monkeypatch.setattr("projectiond.rebuild.tables.WRITERS_TIMEOUT", "10ms")
    writer = database.connect(autocommit=False)
    writer.execute("INSERT INTO orders VALUES (1)")
    with sides.db.transaction():
        with pytest.raises(TablesBusyError, match="orders"):
            hold_writers(sides.db, sides.pairs("orders"))
        writer.commit()
        hold_writers(sides.db, sides.pairs("orders"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("ALTER TABLE orders ADD COLUMN more int", "column more is new"),
        ("ALTER TABLE orders DROP COLUMN n", "column n is no longer in `schema`"),
        ("ALTER TABLE orders ALTER n TYPE bigint", "column n is integer, in `schema` bigint"),
        ("ALTER TABLE orders ALTER n SET NOT NULL", "column n is not NOT NULL, in `schema` otherwise"),
        (
            "ALTER TABLE orders ALTER n SET DEFAULT 1",
            "column n is filled by whoever inserts, in `schema` by default with 1",
        ),
        (
            'ALTER TABLE orders ALTER t TYPE text COLLATE "C"',
            'column t is text, in `schema` text COLLATE pg_catalog."C"',
        ),
        ("ALTER TABLE orders DROP CONSTRAINT orders_pkey", "has the key (id), in `schema` it has no primary key"),
        ("ALTER TABLE orders ADD CHECK (n > 0)", "lacks the constraint orders_n_check CHECK (n > 0)"),
        ("CREATE INDEX ON orders (n)", "lacks the index orders_n_idx USING btree (n)"),
        ("ALTER TABLE orders SET UNLOGGED", "public.orders is logged, in `schema` it is unlogged"),
        ("ALTER TYPE mood ADD VALUE 'glad'", "column m is public.mood"),
        ("ALTER DOMAIN amount ADD CHECK (VALUE < 9)", "column a is public.amount"),
    ],
)
def test_what_a_merge_could_not_bring_is_a_reason_to_swap(sides: Sides, change: str, reason: str) -> None:
    sides.both(
        "CREATE TYPE mood AS ENUM ('sad'); CREATE DOMAIN amount AS numeric(9, 2);"
        "CREATE TABLE orders (id serial PRIMARY KEY, n int, t text, m mood, a amount, u int UNIQUE)"
    )
    # More than the schema has does not matter.
    sides.live("CREATE INDEX mine ON orders (t); ALTER TABLE orders ADD CONSTRAINT mine CHECK (n < 9)")
    assert finish_by(sides.pairs("orders")).by == "merge", finish_by(sides.pairs("orders")).reason
    sides.built(change)
    finish = finish_by(sides.pairs("orders"))
    assert finish.by == "swap"
    assert reason in finish.reason


def test_samples_show_what_differs_and_are_fit_to_be_printed(sides: Sides) -> None:
    sides.both("CREATE TABLE orders (id int PRIMARY KEY, t text, n numeric, j json)")
    long = "x" * 200
    sides.live(f"INSERT INTO orders VALUES (1, '{long}a', 1.0, '{{}}'), (2, NULL, 1, NULL)")
    sides.built(f"INSERT INTO orders VALUES (1, '{long}b', 1.00, '{{}}'), (3, E'a\\x1b[31m', 1, NULL)")
    difference = compare(sides.db, sides.pairs("orders"), samples=5)[0]
    changed, removed, added = difference.samples
    assert [(column.name, column.old, column.new) for column in changed.columns] == [
        ("t", f"…{'x' * 20}a", f"…{'x' * 20}b"),
        ("n", "1.0", "1.00"),
    ]
    assert (removed.kind, removed.key, removed.columns[0].old) == ("removed", (("id", "2"),), "NULL")
    assert (added.kind, added.key, added.columns[0].new) == ("added", (("id", "3"),), "a\\u001b[31m")


def test_one_row_among_many_is_found(sides: Sides) -> None:
    sides.both(
        "CREATE TABLE orders (id int PRIMARY KEY, total numeric);"
        "INSERT INTO orders SELECT n, n / 100.0 FROM generate_series(1, 100000) AS n"
    )
    sides.built("UPDATE orders SET total = total + 0.01 WHERE id = 77777")
    difference = compare(sides.db, sides.pairs("orders"), samples=1)[0]
    assert difference.change == TableChange("orders", 100000, 1, 0, 0)
    assert difference.samples[0].key == (("id", "77777"),)
