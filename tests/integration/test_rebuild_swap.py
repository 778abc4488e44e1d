"""Tables change places: what people have done to the old ones is done to the new, and there is a way back."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from projectiond.cli import going_back
from projectiond.errors import ConfigurationError
from projectiond.rebuild.dependents import dependents, refuse_merge, refuse_swap
from projectiond.rebuild.retired import forget, roll_back
from projectiond.rebuild.swap import retired_schema, swap
from projectiond.rebuild.tables import TableChange, TablesBusyError
from tests.support.postgres import Database
from tests.support.spaces import SPACE, Sides
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

RETIRED = "projectiond_retired_orders"


@pytest.fixture
def sides(database: Database) -> Iterator[Sides]:
    both = Sides(database)
    with contextlib.closing(both):
        yield both


@pytest.fixture
def role(sides: Sides) -> Iterator[str]:
    """Make a role that reads, or owns, or both."""
    name = f"reader_{sides.database.name}"
    sides.live(f"CREATE ROLE {name}")
    yield name
    sides.live(f"REASSIGN OWNED BY {name} TO postgres; DROP OWNED BY {name}; DROP ROLE {name}")


def run_swap(sides: Sides, *tables: str) -> tuple[TableChange, ...]:
    with sides.db.transaction():
        changes = swap(sides.db, "orders", sides.pairs(*tables))
        sides.db.execute(f"DROP SCHEMA {SPACE}".encode())
        return changes


def facts(sides: Sides) -> dict[str, Any]:
    """Read what is to be the same again after going there and back."""
    one = """
        SELECT pg_get_userbyid(relowner), relacl::text, reloptions, relrowsecurity, relreplident,
            obj_description(oid), col_description(oid, 1)
        FROM pg_class WHERE oid = 'public.orders'::regclass
    """
    many = """
        SELECT relname, relkind::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1
    """
    return {
        "table": sides.db.execute(one).fetchall(),
        "relations": sides.db.execute(many).fetchall(),
        "rows": sides.rows("orders"),
        "columns": sides.db.execute("SELECT attname FROM pg_attribute WHERE attrelid = 'orders'::regclass").fetchall(),
        "checkpoint": sides.db.execute("SELECT * FROM projection_checkpoints").fetchall(),
        "dead letters": sides.db.execute("SELECT sequence_number FROM projection_dead_letters").fetchall(),
        "build": sides.db.execute("SELECT digest FROM projection_builds").fetchall(),
    }


def checkpoint(sides: Sides, position: int) -> None:
    sides.live(f"""
        INSERT INTO projection_checkpoints (projection_name, last_sequence_number, last_processed_at)
        VALUES ('orders', {position}, '2024-01-01')
        ON CONFLICT (projection_name) DO UPDATE SET last_sequence_number = {position}
    """)


def build(sides: Sides, digest: str) -> None:
    sides.live(f"""
        INSERT INTO projection_builds (projection_name, fingerprint, digest, built_by)
        VALUES ('orders', '{{}}', '{digest}', 'rebuilt')
        ON CONFLICT (projection_name) DO UPDATE SET digest = '{digest}'
    """)


def letter(sides: Sides, number: int) -> None:
    sides.live(f"""
        INSERT INTO projection_dead_letters
            (projection_name, sequence_number, event_id, event_type, aggregate_id, event_data, handler, error, attempts)
        VALUES ('orders', {number}, gen_random_uuid(), 't', gen_random_uuid(), '{{}}', 'h', 'e', 1)
    """)


def test_tables_change_places_with_all_that_belongs_to_them_and_go_back(sides: Sides, role: str) -> None:
    sides.live(f"""
        CREATE TABLE orders (id serial PRIMARY KEY, total int, note text);
        CREATE TABLE lines (id int PRIMARY KEY, order_id int REFERENCES orders);
        INSERT INTO orders VALUES (DEFAULT, 1, 'old');
        INSERT INTO lines VALUES (1, 1);
        ALTER TABLE orders SET (fillfactor = 70, toast.autovacuum_enabled = false), REPLICA IDENTITY FULL;
        ALTER TABLE orders ALTER total SET STATISTICS 500, ALTER total SET (n_distinct = 7);
        ALTER TABLE orders ALTER note SET STORAGE EXTERNAL;
        COMMENT ON TABLE orders IS 'the orders';
        COMMENT ON COLUMN orders.id IS 'their number';
        CREATE INDEX by_hand ON orders (lower(note)) WHERE total > 0;
        GRANT SELECT, UPDATE (total) ON orders TO {role} WITH GRANT OPTION;
        GRANT USAGE ON SEQUENCE orders_id_seq TO {role};
        GRANT SELECT ON lines TO PUBLIC;
        ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
        CREATE POLICY few ON orders FOR SELECT TO {role}
            USING (total < 100 AND id IN (SELECT order_id FROM lines));
        ALTER TABLE lines OWNER TO {role};
    """)
    sides.built("""
        CREATE TABLE orders (id serial PRIMARY KEY, total int, note text, more int);
        CREATE TABLE lines (id int PRIMARY KEY, order_id int REFERENCES orders);
        INSERT INTO orders VALUES (DEFAULT, 2, 'new', 3), (DEFAULT, 200, 'new', 3);
        INSERT INTO lines VALUES (1, 2), (2, 1);
        COMMENT ON COLUMN orders.id IS 'its new number';
    """)
    checkpoint(sides, 40)
    letter(sides, 7)
    build(sides, "old")
    before = facts(sides)

    changes = run_swap(sides, "orders", "lines")
    assert changes == (TableChange("orders", 2, 0, 2, 1), TableChange("lines", 2, 0, 2, 1))
    after = facts(sides)
    assert after["rows"] == [(1, 2, "new", 3), (2, 200, "new", 3)]
    owner, acl, options, is_secured, identity, comment, on_column = after["table"][0]
    assert before["table"][0] == (owner, acl, options, is_secured, identity, comment, "their number")
    assert on_column == "its new number"
    assert after["relations"] == before["relations"]
    settings = """
        SELECT attname, attstattarget, attoptions, attstorage, attacl::text FROM pg_attribute
        WHERE attrelid = to_regclass(%s) AND attnum > 0 AND attname <> 'more' ORDER BY 1
    """
    new, old = (sides.db.execute(settings, [table]).fetchall() for table in ("orders", f"{RETIRED}.orders"))
    assert new == old
    for statement, expected in (
        ("SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'lines'::regclass", role),
        (
            (
                "SELECT reloptions::text FROM pg_class WHERE oid = (SELECT reltoastrelid FROM pg_class "
                "WHERE oid = 'orders'::regclass)"
            ),
            "{autovacuum_enabled=false}",
        ),
        ("SELECT nextval('orders_id_seq')", 3),
        (f"SELECT has_sequence_privilege('{role}', 'orders_id_seq', 'USAGE')", True),
        ("SELECT has_table_privilege('public', 'lines', 'SELECT')", True),
        ("SELECT EXISTS (SELECT FROM pg_stats WHERE schemaname = 'public' AND tablename = 'orders')", True),
    ):
        assert sides.db.execute(statement.encode()).fetchall() == [(expected,)], statement
    with sides.db.transaction():
        sides.db.execute(f"SET LOCAL ROLE {role}".encode())
        assert sides.db.execute("SELECT id, total FROM orders").fetchall() == [(1, 2)]

    # Meanwhile the daemon goes on.
    build(sides, "new")
    checkpoint(sides, 50)
    sides.live("DELETE FROM projection_dead_letters")
    letter(sides, 45)
    with sides.db.transaction():
        gone = roll_back(sides.db, "orders")
    assert (gone.left, gone.position, sorted(gone.tables)) == (50, 40, ["lines", "orders"])
    back = facts(sides)
    was, now = before.pop("checkpoint")[0], back.pop("checkpoint")[0]
    assert (was[0], was[1], was[4:]) == (now[0], now[1], now[4:])
    assert back == before

    with sides.db.transaction():
        assert roll_back(sides.db, "orders").position == 50
    assert facts(sides)["rows"] == after["rows"]
    assert facts(sides)["dead letters"] == [(45,)]
    assert facts(sides)["build"] == [("new",)]
    assert forget(sides.db, "orders")
    assert not forget(sides.db, "orders")
    with pytest.raises(ConfigurationError, match="no retired tables"):
        roll_back(sides.db, "orders")
    assert sides.db.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ 'projectiond'").fetchall() == []


def test_types_functions_and_views_of_the_schema_go_with_the_tables(sides: Sides) -> None:
    for run, labels in ((sides.live, "'sad'"), (sides.built, "'sad', 'glad'")):
        run(f"""
            CREATE TYPE mood AS ENUM ({labels});
            CREATE FUNCTION check_mood(mood) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT $1 IS NOT NULL';
            CREATE TABLE orders (id int PRIMARY KEY, m mood CHECK (check_mood(m)), at int) PARTITION BY RANGE (id);
            CREATE TABLE orders_low PARTITION OF orders FOR VALUES FROM (0) TO (9);
            CREATE STATISTICS of_orders ON id, at FROM orders;
            CREATE VIEW sad_orders AS SELECT id FROM orders WHERE m = 'sad';
            INSERT INTO orders VALUES (1, 'sad');
        """)
    sides.built("INSERT INTO orders VALUES (2, 'glad')")
    # Not needed by the tables, and somebody else's: stays.
    sides.both("CREATE FUNCTION other() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    sides.live("CREATE VIEW uses_other AS SELECT other()")
    checkpoint(sides, 1)
    with sides.db.transaction():
        swap(sides.db, "orders", sides.pairs("orders"))
        sides.db.execute(f"DROP SCHEMA {SPACE} CASCADE".encode())
    assert sides.rows("orders", "id, m::text") == [(1, "sad"), (2, "glad")]
    assert sides.rows("sad_orders") == [(1,)]
    homes = """
        SELECT refobjid::regtype::text FROM pg_depend
        WHERE classid = 'pg_class'::regclass AND objid = 'orders'::regclass AND refclassid = 'pg_type'::regclass
    """
    assert sides.db.execute(homes).fetchall() == [("mood",)]
    with sides.db.transaction():
        roll_back(sides.db, "orders")
    assert sides.rows("orders", "id, m::text") == [(1, "sad")]
    assert forget(sides.db, "orders")
    assert sides.rows("sad_orders") == [(1,)]


def test_a_trigger_function_that_others_use_too_stays_where_it_is(sides: Sides) -> None:
    function = """
        CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN NEW.note := 'touched'; RETURN NEW; END $$;
    """
    trigger = """
        CREATE TRIGGER "a b" BEFORE INSERT ON orders FOR EACH ROW WHEN (NEW.m = 'sad'::mood) EXECUTE FUNCTION touch();
    """
    sides.live(f"""
        {function}
        CREATE TABLE others (note text);
        CREATE TRIGGER t BEFORE INSERT ON others FOR EACH ROW EXECUTE FUNCTION touch();
    """)
    sides.both("CREATE TYPE mood AS ENUM ('sad')")
    sides.live(f"CREATE TABLE orders (m mood, note text); {trigger}")
    sides.built(f"{function} CREATE TABLE orders (m mood, note text, more int); {trigger}")
    checkpoint(sides, 1)
    with sides.db.transaction():
        swap(sides.db, "orders", sides.pairs("orders"))
        sides.db.execute(f"DROP SCHEMA {SPACE} CASCADE".encode())
    sides.live("INSERT INTO orders VALUES ('sad')")
    assert sides.rows("orders", "note") == [("touched",)]
    with sides.db.transaction():
        roll_back(sides.db, "orders")
    sides.live("INSERT INTO orders VALUES ('sad'); INSERT INTO others DEFAULT VALUES")
    assert forget(sides.db, "orders")
    assert sides.rows("orders", "note") == sides.rows("others", "note") == [("touched",)]


def test_a_trigger_function_that_has_changed_takes_the_place_of_the_old_one(sides: Sides) -> None:
    for run, word in ((sides.live, "old"), (sides.built, "new")):
        run(f"""
            CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN NEW.note := '{word}'; RETURN NEW; END $$;
            CREATE TABLE orders (note text);
            CREATE TRIGGER t BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION touch();
        """)
    checkpoint(sides, 1)
    run_swap(sides, "orders")
    sides.live("INSERT INTO orders VALUES (NULL)")
    assert sides.rows("orders") == [("new",)]
    with sides.db.transaction():
        roll_back(sides.db, "orders")
    sides.live("INSERT INTO orders VALUES (NULL)")
    assert sides.rows("orders") == [("old",)]


def test_a_new_table_goes_with_a_way_back(sides: Sides) -> None:
    sides.live("CREATE TABLE orders (id int PRIMARY KEY)")
    sides.built("CREATE TABLE orders (id int PRIMARY KEY, n int); CREATE TABLE lines (id int)")
    checkpoint(sides, 1)
    assert run_swap(sides, "orders", "lines")[1] == TableChange("lines", 0, 0, 0, 0)
    with sides.db.transaction():
        roll_back(sides.db, "orders")
    assert sides.db.execute("SELECT to_regclass('lines')").fetchall() == [(None,)]
    with sides.db.transaction():
        roll_back(sides.db, "orders")
    assert sides.rows("lines") == []


def test_the_tables_of_the_swap_before_last_are_dropped(sides: Sides) -> None:
    checkpoint(sides, 1)
    sides.live("CREATE TABLE orders (id int PRIMARY KEY)")
    for number in (1, 2):
        sides.built(f"CREATE TABLE orders (id int PRIMARY KEY, c{number} int)")
        run_swap(sides, "orders")
        sides.live(f"CREATE SCHEMA {SPACE}")
    kept = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum = 2"
    assert sides.db.execute(kept, [f"{RETIRED}.orders"]).fetchall() == [("c1",)]


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("CREATE VIEW v AS SELECT id FROM orders", "view public.v (on public.orders)"),
        ("CREATE MATERIALIZED VIEW v AS SELECT * FROM orders", "materialized view public.v"),
        ("CREATE TABLE notes (o int CONSTRAINT fk REFERENCES orders)", "table constraint fk on public.notes"),
        ("CREATE PUBLICATION p FOR TABLE orders", "publication relation public.orders in publication p"),
        ("CREATE FUNCTION f() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM orders; END", "function public.f()"),
        ("CREATE FUNCTION f(orders) RETURNS int LANGUAGE sql AS 'SELECT 1'", "function public.f(public.orders)"),
        (
            "CREATE TABLE notes (id int); CREATE POLICY p ON notes USING (id IN (SELECT id FROM orders))",
            "policy p on public.notes",
        ),
        ("CREATE TABLE more () INHERITS (orders)", "table public.more"),
        ("CREATE TABLE base (id int); ALTER TABLE orders INHERIT base", "parent table base"),
        ("CREATE TABLE notes (o orders)", "table column public.notes.o"),
        ("CREATE TABLE notes (o orders[])", "table column public.notes.o"),
        ("CREATE TABLE notes (id int DEFAULT nextval('orders_id_seq'))", "default value for public.notes.id"),
        (
            (
                "CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
                "CREATE TRIGGER mine AFTER INSERT ON orders EXECUTE FUNCTION t()"
            ),
            "trigger mine (on public.orders)",
        ),
        ("CREATE RULE r AS ON INSERT TO notes DO ALSO SELECT count(*) FROM orders", "table public.notes"),
    ],
)
def test_whatever_hangs_on_a_table_is_found_before_it_is_swapped(sides: Sides, statement: str, found: str) -> None:
    sides.both("CREATE TABLE orders (id serial PRIMARY KEY, total int); CREATE INDEX ON orders (total)")
    sides.both("CREATE TABLE lines (id int PRIMARY KEY, o int REFERENCES orders)")
    # What the tables themselves refer to does not hang on them.
    sides.live(
        "CREATE TABLE customers (id int PRIMARY KEY); ALTER TABLE orders ADD FOREIGN KEY (id) REFERENCES customers"
    )
    assert dependents(sides.db, sides.pairs("orders", "lines")) == ()
    if "TO notes" in statement:
        sides.live("CREATE TABLE notes (id int)")
    sides.live(statement)
    pairs = sides.pairs("orders", "lines")
    assert any(str(dependent).startswith(found) for dependent in dependents(sides.db, pairs)), dependents(
        sides.db, pairs
    )
    with pytest.raises(ConfigurationError, match=r"cannot change places: .* drop that first .*--in-place"):
        refuse_swap(sides.db, "orders", pairs)
    with pytest.raises(ConfigurationError, match="cannot change places"), sides.db.transaction():
        swap(sides.db, "orders", pairs)


def test_names_that_need_quoting_are_quoted(sides: Sides, role: str) -> None:
    table = """
        CREATE TYPE "m %s" AS ENUM ('a');
        CREATE TABLE "T ""1"" %" ("a %s" serial PRIMARY KEY, "select" "m %s");
        CREATE INDEX "i %" ON "T ""1"" %" ("select");
    """
    sides.both(table)
    sides.live(f"""
        CREATE INDEX "by hand %" ON "T ""1"" %" (("a %s" + 1));
        COMMENT ON COLUMN "T ""1"" %"."a %s" IS '100% {{}}';
        GRANT SELECT ("select") ON "T ""1"" %" TO {role};
        CREATE POLICY "p %" ON "T ""1"" %" USING ("a %s" % 2 = 0);
        INSERT INTO "T ""1"" %" ("select") VALUES ('a')
    """)
    sides.built('ALTER TABLE "T ""1"" %" ADD COLUMN "more %" text')
    checkpoint(sides, 1)
    name = 'T "1" %'
    assert run_swap(sides, name) == (TableChange(name, 0, 0, 0, 1),)
    indexes = "SELECT indexname FROM pg_indexes WHERE schemaname = 'public' AND tablename = %s ORDER BY 1"
    assert sides.db.execute(indexes, [name]).fetchall() == [('T "1" %_pkey',), ("by hand %",), ("i %",)]
    with sides.db.transaction():
        roll_back(sides.db, "orders")
    assert sides.rows('"T ""1"" %"') == [(1, "a")]


def test_a_table_that_is_not_declared_is_not_taken_along(sides: Sides) -> None:
    sides.both("CREATE TABLE countries (id int PRIMARY KEY)")
    sides.live("CREATE TABLE orders (id int PRIMARY KEY)")
    sides.built("CREATE TABLE orders (id int PRIMARY KEY, country int REFERENCES countries)")
    with pytest.raises(ConfigurationError, match="refer to countries"):
        refuse_swap(sides.db, "orders", sides.pairs("orders"))


def test_a_table_that_is_not_declared_and_refers_to_one_that_is_goes_with_the_space(sides: Sides) -> None:
    sides.live("CREATE TABLE orders (id int PRIMARY KEY)")
    sides.built("CREATE TABLE orders (id int PRIMARY KEY, n int); CREATE TABLE extra (o int REFERENCES orders)")
    checkpoint(sides, 1)
    with sides.db.transaction():
        swap(sides.db, "orders", sides.pairs("orders"))
        sides.db.execute(f"DROP SCHEMA {SPACE} CASCADE".encode())
    assert sides.db.execute("SELECT to_regclass('orders'), to_regclass('extra')").fetchall() == [("orders", None)]


def test_a_role_that_is_no_superuser_swaps_the_tables_of_another(sides: Sides, role: str) -> None:
    daemon = f"daemon_{sides.database.name}"
    sides.live(f"""
        CREATE ROLE {daemon};
        GRANT {role} TO {daemon};
        GRANT CREATE ON DATABASE {sides.database.name} TO {daemon};
        GRANT CREATE ON SCHEMA public TO {daemon};
        GRANT SELECT, INSERT, UPDATE, DELETE ON projection_checkpoints, projection_dead_letters,
            projection_builds TO {daemon};
        ALTER SCHEMA {SPACE} OWNER TO {daemon};
        CREATE TABLE orders (id serial PRIMARY KEY);
        ALTER TABLE orders OWNER TO {role};
    """)
    checkpoint(sides, 1)
    owner = "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = to_regclass(%s)"
    try:
        sides.live(f"SET ROLE {daemon}")
        sides.built("CREATE TABLE orders (id serial PRIMARY KEY, n int)")
        run_swap(sides, "orders")
        assert sides.db.execute(owner, ["orders"]).fetchall() == [(role,)]
        with sides.db.transaction():
            roll_back(sides.db, "orders")
        assert sides.db.execute(owner, ["orders"]).fetchall() == [(role,)]
        assert forget(sides.db, "orders")
    finally:
        sides.live(f"RESET ROLE; DROP OWNED BY {daemon} CASCADE; DROP ROLE {daemon}")


def test_a_reader_in_the_way_is_waited_for_briefly_and_nothing_is_lost(sides: Sides, database: Database) -> None:
    sides.live("CREATE TABLE orders (id int PRIMARY KEY)")
    sides.built("CREATE TABLE orders (id int PRIMARY KEY, n int)")
    checkpoint(sides, 1)
    reader = database.connect(autocommit=False)
    reader.execute("SELECT * FROM orders")
    with sides.db.transaction():
        pairs = sides.pairs("orders")
        with pytest.raises(TablesBusyError, match="orders"):
            swap(sides.db, "orders", pairs)
        # Others read on, and the transaction is as it was.
        other = database.connect()
        other.execute("SET lock_timeout = '1ms'; SELECT * FROM orders")
        reader.commit()
        swap(sides.db, "orders", pairs)
        assert sides.db.execute("SHOW lock_timeout").fetchall() == [("0",)]
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute("SELECT * FROM orders")
    assert other.execute("SELECT * FROM orders").fetchall() == []
    reader.execute("SELECT * FROM orders")
    with pytest.raises(TablesBusyError), sides.db.transaction():
        roll_back(sides.db, "orders")
    reader.commit()
    with sides.db.transaction():
        roll_back(sides.db, "orders")


def test_missing_privileges_are_named_before_anything_is_replayed(sides: Sides, role: str) -> None:
    sides.both("CREATE TABLE orders (id int PRIMARY KEY)")
    pairs = sides.pairs("orders")
    for grant, refusal, message in (
        ("", refuse_merge, "lacks DELETE on orders"),
        ("GRANT SELECT, INSERT, UPDATE, DELETE ON orders TO {role}", refuse_merge, None),
        ("ALTER TABLE orders ENABLE ROW LEVEL SECURITY", refuse_merge, "BYPASSRLS"),
        (
            "ALTER TABLE orders OWNER TO {role}; CREATE RULE r AS ON DELETE TO orders DO ALSO NOTIFY x",
            refuse_merge,
            "rules",
        ),
    ):
        sides.live(grant.format(role=role))
        pairs = sides.pairs("orders")
        with sides.db.transaction():
            sides.db.execute(f"SET LOCAL ROLE {role}".encode())
            with contextlib.nullcontext() if message is None else pytest.raises(ConfigurationError, match=message):
                refusal(sides.db, pairs)
    sides.live(
        "DROP RULE r ON orders; ALTER TABLE orders OWNER TO postgres; REVOKE CREATE ON SCHEMA public FROM PUBLIC"
    )
    for grant, wanted in (
        ("", "belongs to postgres"),
        (f"ALTER TABLE orders OWNER TO {role}", "GRANT CREATE ON SCHEMA public"),
        (f"GRANT CREATE ON SCHEMA public TO {role}", "GRANT CREATE ON DATABASE"),
    ):
        sides.live(grant)
        with sides.db.transaction():
            pairs = sides.pairs("orders")
            sides.db.execute(f"SET LOCAL ROLE {role}".encode())
            with pytest.raises(ConfigurationError, match=wanted):
                refuse_swap(sides.db, "orders", pairs)


def test_there_is_no_way_back_in_the_middle_of_a_rebuild_or_to_what_is_gone(sides: Sides) -> None:
    sides.live("CREATE TABLE orders (id int PRIMARY KEY)")
    sides.built("CREATE TABLE orders (id int PRIMARY KEY, n int)")
    checkpoint(sides, 1)
    run_swap(sides, "orders")
    sides.live("UPDATE projection_checkpoints SET status = 'rebuilding'")
    with pytest.raises(ConfigurationError, match="being rebuilt"), sides.db.transaction():
        roll_back(sides.db, "orders")
    sides.live("UPDATE projection_checkpoints SET status = 'running'; CREATE VIEW v AS SELECT * FROM orders")
    with pytest.raises(ConfigurationError, match=r"view public\.v"), sides.db.transaction():
        roll_back(sides.db, "orders")
    sides.live(f"CREATE VIEW kept AS SELECT * FROM {RETIRED}.orders")
    with pytest.raises(ConfigurationError, match="kept"):
        forget(sides.db, "orders")
    sides.live(f"DROP VIEW v; DROP TABLE {RETIRED}.orders CASCADE")
    with (
        pytest.raises(ConfigurationError, match=r"orders cannot be found in projectiond_retired_orders"),
        sides.db.transaction(),
    ):
        roll_back(sides.db, "orders")


def test_the_commands_wait_for_readers_and_say_what_they_did(
    sides: Sides, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    sides.live("CREATE TABLE orders (id int PRIMARY KEY)")
    sides.built("CREATE TABLE orders (id int PRIMARY KEY, n int)")
    checkpoint(sides, 41)
    run_swap(sides, "orders")
    checkpoint(sides, 43)
    reader, watcher = database.connect(autocommit=False), database.connect()
    reader.execute("SELECT * FROM orders")
    watcher.execute("LISTEN projectiond_status")
    waiting = "SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
    with ThreadPoolExecutor(1) as pool:
        command = pool.submit(going_back.roll_back, sides.db, ["orders"])
        eventually(lambda: watcher.execute(waiting).fetchall(), 10)
        reader.commit()
        command.result(timeout=20)
    # A runner that sleeps at the head has to hear of it: the status is the same as before.
    assert [note.payload for note in watcher.notifies(timeout=10, stop_after=1)] == ["orders"]
    assert "orders is back at 41, with the tables orders of that time" in capsys.readouterr().out
    going_back.forget(sides.db, ["orders"])
    going_back.forget(sides.db, ["orders"])
    assert capsys.readouterr().out.splitlines() == [
        "dropped the retired tables of orders",
        "orders has no retired tables",
    ]


def test_the_schema_of_a_long_name_is_cut_and_still_its_own() -> None:
    first, second = (retired_schema("é" * 40 + letter) for letter in "ab")
    assert first != second
    assert len(first.encode()) <= 63


@pytest.mark.any_server
def test_there_is_a_way_back_after_an_upgrade_that_added_columns(sides: Sides) -> None:
    sides.live("CREATE TABLE orders (id int PRIMARY KEY)")
    sides.built("CREATE TABLE orders (id int PRIMARY KEY, more int)")
    checkpoint(sides, 40)
    letter(sides, 7)
    build(sides, "old")
    run_swap(sides, "orders")
    letter(sides, 8)
    sides.live("""
        ALTER TABLE projection_dead_letters ADD COLUMN later int NOT NULL DEFAULT 3;
        ALTER TABLE projection_builds ADD COLUMN later int NOT NULL DEFAULT 3;
    """)
    for _ in range(2):
        with sides.db.transaction():
            roll_back(sides.db, "orders")
    assert facts(sides)["build"] == [("old",)]
    assert sides.rows("projection_dead_letters", "sequence_number, later") == [(7, 3), (8, 3)]
