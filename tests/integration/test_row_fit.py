"""What is found out about a `RowProjection`'s class and its table before the first event."""

import dataclasses
import enum
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal

import pytest

from projectiond.errors import ConfigurationError
from projectiond.event import Event
from projectiond.kinds.kind import AuthorCode
from projectiond.kinds.row import RowByKey
from projectiond.postgres import database as databases
from projectiond.postgres.database import Connection
from projectiond.processes.recorder import nowhere
from projectiond.projection import RowProjection
from projectiond.stream.reader import Batch
from tests.support import postgres
from tests.support.postgres import Server
from tests.support.rows import bare, told

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def connection(server: Server) -> Iterator[Connection]:
    with (
        postgres.fresh_database(server) as database,
        databases.connect(database.dsn, role="runner", statement_timeout_seconds=30) as connection,
    ):
        yield connection


@pytest.fixture
def db(connection: Connection) -> Iterator[Connection]:
    """Give each test the same empty database: what it does is rolled back."""
    with connection.transaction(force_rollback=True):
        yield connection


class Color(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Shape(enum.Enum):
    ROUND = "rnd"
    FLAT = "flt"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


TYPES = """
    CREATE TYPE shape AS ENUM ('rnd', 'flt', 'it''s "odd"\\');
    CREATE DOMAIN code AS varchar(5);
    CREATE DOMAIN short_code AS code CHECK (length(VALUE) < 5);
    CREATE DOMAIN codes AS text[];
    CREATE DOMAIN price AS numeric(8, 2) CHECK (VALUE > -1000000);
"""


@dataclass
class Good:
    id: uuid.UUID
    total: Decimal = Decimal(0)
    note: str | None = None


GOOD_TABLE = "CREATE TABLE orders (id uuid PRIMARY KEY, total numeric(9, 2) NOT NULL, note text)"


def check(db: Connection, row: object, schema: str, *tables: str, key: object = None) -> RowByKey:
    """Check a class against a table."""
    db.execute(schema.encode())
    options: dict[str, object] = {"row": row, "tables": ("orders",)}
    if key is not None:
        options["key"] = key
    projection = type("Orders", (RowProjection,), options)()
    kind = RowByKey(bare(projection, *tables), AuthorCode(nowhere()))
    kind.check(db)
    return kind


def faults_of(db: Connection, row: object, schema: str, *tables: str, key: object = None) -> str:
    """Return what is said of a class and a table that do not fit."""
    with pytest.raises(ConfigurationError) as raised:
        check(db, row, schema, *tables, key=key)
    return str(raised.value)


def by_some_key(_self: RowProjection, event: Event) -> object:
    return event.sequence_number


def test_a_class_that_fits_its_table_passes(db: Connection) -> None:
    check(db, Good, GOOD_TABLE)


def test_columns_that_have_a_value_of_their_own_need_no_field(db: Connection) -> None:
    check(
        db,
        Good,
        """
        CREATE DOMAIN stamped AS timestamptz NOT NULL DEFAULT now();
        CREATE TABLE orders (
            id uuid PRIMARY KEY,
            total numeric NOT NULL,
            note text,
            place bigint GENERATED ALWAYS AS IDENTITY,
            number serial,
            made_at timestamptz NOT NULL DEFAULT now(),
            seen_at stamped,
            doubled numeric GENERATED ALWAYS AS (total * 2) STORED,
            remark text
        )
        """,
    )


def test_a_partitioned_table_passes(db: Connection) -> None:
    check(
        db,
        Good,
        "CREATE TABLE orders (id uuid PRIMARY KEY, total numeric, note text) PARTITION BY HASH (id);"
        "CREATE TABLE orders_0 PARTITION OF orders FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
    )


def test_every_fault_is_said_at_once(db: Connection) -> None:
    @dataclass
    class Bad:
        id: uuid.UUID
        total: float
        customer: str | None = None
        missing: datetime | None = None

    said = faults_of(
        db,
        Bad,
        "CREATE TABLE orders (id uuid PRIMARY KEY, total numeric(9, 2), customer text NOT NULL, placed date NOT NULL)",
    )
    assert '"orders" (orders.py:1) and its table do not fit' in said
    assert 'field "total" has no default, which it needs in a row that is new' in said
    assert 'field "total" is float, but column orders.total is numeric(9,2): write "Decimal"' in said
    assert 'field "customer" may be None, but column orders.customer is NOT NULL; write "customer: str"' in said
    assert 'field "missing" has no column in orders; add "missing timestamptz" there' in said
    assert 'column orders.placed (date) is NOT NULL, and nothing fills it; add a field "placed: date = …"' in said


@dataclass
class NoKey:
    total: Decimal = Decimal(0)


@dataclass
class ById:
    id: Any


UNFIT_TABLES: list[tuple[type, str, str]] = [
    (Good, "", "table orders does not exist; create it"),
    (Good, "CREATE VIEW orders AS SELECT 1", "orders is a view; rows are kept in a table"),
    (Good, "CREATE MATERIALIZED VIEW orders AS SELECT 1", "orders is a materialized view"),
    (Good, "CREATE SEQUENCE orders", "orders is a sequence"),
    (Good, "CREATE TABLE orders (id uuid, total numeric, note text)", "orders has no primary key; add PRIMARY KEY"),
    (Good, "CREATE TABLE orders (id uuid UNIQUE NOT NULL, total numeric, note text)", "has no primary key"),
    (
        Good,
        "CREATE TABLE orders (id uuid PRIMARY KEY DEFERRABLE, total numeric, note text)",
        "the primary key of orders is deferrable; take DEFERRABLE off",
    ),
    (NoKey, "CREATE TABLE orders (id uuid PRIMARY KEY, total numeric)", 'orders.id (uuid) is no field; add "id: UUID"'),
    (
        Good,
        "CREATE TABLE orders (id uuid PRIMARY KEY, total numeric GENERATED ALWAYS AS (1) STORED, note text)",
        'column orders.total is generated; take field "total" out',
    ),
    (
        Good,
        "CREATE TABLE orders (id uuid PRIMARY KEY, total bigint GENERATED ALWAYS AS IDENTITY, note text)",
        'column orders.total is generated; take field "total" out',
    ),
    (
        Good,
        "CREATE DOMAIN memo AS text NOT NULL; CREATE TABLE orders (id uuid PRIMARY KEY, total numeric, note memo)",
        'field "note" may be None, but column orders.note is NOT NULL',
    ),
    (
        Good,
        "CREATE TABLE orders (id uuid, line int, total numeric, note text, PRIMARY KEY (id, line))",
        'primary-key column orders.line (integer) is no field; add "line: int"',
    ),
    (
        Good,
        "CREATE TABLE orders (id uuid, line int, total numeric, note text, PRIMARY KEY (id, line))",
        "the primary key of orders is (id, line); write `key`, which gives such a tuple",
    ),
    (
        ById,
        "CREATE TABLE orders (id text PRIMARY KEY)",
        "column orders.id is text, but an aggregate id is a uuid; write `key`",
    ),
]


@pytest.mark.parametrize(("row", "schema", "words"), UNFIT_TABLES, ids=told)
def test_a_table_that_does_not_fit_is_refused(db: Connection, row: type, schema: str, words: str) -> None:
    assert words in faults_of(db, row, schema)


UNFIT_KEYS = [("double precision", float), ("interval", timedelta), ("int[]", list[int])]


@pytest.mark.parametrize(("declared", "annotation"), UNFIT_KEYS)
def test_a_key_that_python_and_postgresql_may_compare_differently_is_refused(
    db: Connection,
    declared: str,
    annotation: Any,  # noqa: ANN401 -- a type form
) -> None:
    row = dataclasses.make_dataclass("Order", [("id", annotation)])
    said = faults_of(db, row, f"CREATE TABLE orders (id {declared} PRIMARY KEY)", key=by_some_key)
    assert "which cannot be a key here; use another type" in said


def test_a_key_whose_collation_takes_different_texts_for_equal_is_refused(db: Connection) -> None:
    db.execute('CREATE COLLATION blind FROM "C"')
    # Not every server is built with the collations that are so.
    db.execute("UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'blind'")
    row = dataclasses.make_dataclass("Order", [("id", str), ("note", str, "")])
    fine = "CREATE TABLE orders (id text PRIMARY KEY, note text COLLATE blind)"
    check(db, row, fine, key=by_some_key)
    said = faults_of(
        db, row, "ALTER TABLE orders ALTER id TYPE text COLLATE blind, ALTER note TYPE text", key=by_some_key
    )
    assert "column orders.id has a collation by which different texts are equal" in said


UNFIT_PAIRS: list[tuple[str, Any, str]] = [
    ("text", int, 'write "str"'),
    ("text", bytes, 'write "str"'),
    ("text", Level, 'write "str"'),
    ("text", Literal["a", 1], 'write "str"'),
    ("text", str | int, 'write "str"'),
    ("text", Any, 'write "str"'),
    ("text", list[str], 'write "str"'),
    ("uuid", str, 'write "UUID"'),
    ("integer", bool, 'write "int"'),
    ("integer", float, 'write "int"'),
    ("integer", Color, 'write "int"'),
    ("boolean", int, 'write "bool"'),
    ("numeric", float, 'write "Decimal"'),
    ("numeric", int, 'write "Decimal"'),
    ("numeric(9, 2)", int, 'write "Decimal"'),
    ("numeric(5, -2)", Decimal, "declare it with a scale of 0 or more"),
    ("double precision", Decimal, 'write "float"'),
    ("real", float, "make the column double precision"),
    ("date", datetime, 'write "date"'),
    ("timestamptz", date, 'write "datetime"'),
    ("timestamptz(0)", datetime, "declare it without a precision"),
    ("timestamp(3)", datetime, "declare it without a precision"),
    ("time(0)", time, "declare it without a precision"),
    ("interval(0)", timedelta, "declare it without fields or precision"),
    ("interval day", timedelta, "declare it without fields or precision"),
    ("time with time zone", time, "make the column timestamptz"),
    ("bytea", bytearray, 'write "bytes"'),
    ("money", Decimal, "make the column numeric"),
    ("inet", str, "make the column text"),
    ("int4range", str, "make the column text"),
    ("bpchar", str, "make the column text"),
    ("name", str, "make the column text"),
    ("good_pair", str, "make the column text"),
    ("text[]", str, 'write "list[str]"'),
    ("text[]", list, 'write "list[str]"'),
    ("text[]", list[int], 'write "list[str]"'),
    ("integer[]", list[list[int]], 'write "list[int]"'),
    ("integer[]", tuple[int, ...], 'write "list[int]"'),
    ("jsonb[]", list[dict[str, int]], "make the column text"),
    ("shape", Color, "the column cannot hold 'red'"),
    ("char(4)", Color, "the column cannot hold 'red'"),
    ("jsonb", object(), "pydantic cannot make it from JSON"),
    ("jsonb", Connection, "pydantic cannot make it from JSON"),
]


@pytest.mark.parametrize(("declared", "annotation", "words"), UNFIT_PAIRS, ids=told)
def test_a_pair_of_types_that_would_change_values_is_refused(
    db: Connection,
    declared: str,
    annotation: Any,  # noqa: ANN401 -- a type form
    words: str,
) -> None:
    db.execute(f"{TYPES}; CREATE TYPE good_pair AS (a int, b int)".encode())
    row = dataclasses.make_dataclass("Order", [("id", uuid.UUID), ("held", annotation, None)])
    said = faults_of(db, row, f"CREATE TABLE orders (id uuid PRIMARY KEY, held {declared})")
    assert 'field "held" is ' in said
    assert words in said


@dataclass
class TakesMore:
    id: uuid.UUID
    factor: dataclasses.InitVar[int] = 1


@dataclass(init=False)
class MadeByHand:
    id: uuid.UUID


@dataclass
class Partly:
    id: uuid.UUID
    total: Decimal = field(default=Decimal(0), init=False)


@dataclass
class Unresolved:
    id: "NoSuchName"  # type: ignore[name-defined] # noqa: F821


UNFIT_CLASSES: list[tuple[object, str]] = [
    (None, "Orders.row has to be the dataclass of the table's rows"),
    (dict, "Orders.row has to be the dataclass"),
    (Good(uuid.UUID(int=1)), "Orders.row has to be the dataclass"),
    (TakesMore, "TakesMore takes what is no field of it (factor)"),
    (MadeByHand, 'field "id" of MadeByHand is not taken by its __init__'),
    (Partly, 'field "total" of Partly is not taken by its __init__; take init=False off'),
    (Unresolved, "the annotations of Unresolved cannot be resolved: NameError: name 'NoSuchName' is not defined"),
]


@pytest.mark.parametrize(("row", "words"), UNFIT_CLASSES, ids=told)
def test_a_class_that_rows_cannot_be_made_of_is_refused(db: Connection, row: object, words: str) -> None:
    assert words in faults_of(db, row, GOOD_TABLE)


@pytest.mark.parametrize("tables", [(), ("orders", "others")])
def test_rows_are_those_of_exactly_one_table(db: Connection, tables: tuple[str, ...]) -> None:
    db.execute(GOOD_TABLE)
    projection = type("Orders", (RowProjection,), {"row": Good, "tables": tables})()
    definition = dataclasses.replace(bare(projection), tables=tables)
    with pytest.raises(ConfigurationError, match=f"tables names {len(tables)} tables; name the one"):
        RowByKey(definition, AuthorCode(nowhere())).check(db)


def test_a_check_that_fails_forgets_the_one_that_passed(db: Connection) -> None:
    kind = check(db, Good, GOOD_TABLE)
    db.execute("ALTER TABLE orders DROP note")
    with pytest.raises(ConfigurationError, match='"note" has no column'):
        kind.check(db)
    with pytest.raises(ConfigurationError, match="has not been checked"):
        kind.load(db, Batch(0, 0, [], 0, None))
    db.execute("ALTER TABLE orders ADD note text")
    kind.check(db)
    kind.load(db, Batch(0, 0, [], 0, None))
