"""The way of each kind of value from a field of a `RowProjection` into its column, and back."""

import collections
import dataclasses
import enum
import functools
import math
import string
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, NewType
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, JsonValue
from typing_extensions import TypeAliasType, TypedDict

from projectiond.errors import PoisonError
from projectiond.event import Event
from projectiond.failure import Failure, classify
from projectiond.kinds.row_codec import Codec
from projectiond.postgres import database as databases
from projectiond.postgres.database import Connection
from projectiond.projection import RowProjection, handles
from tests.support import postgres
from tests.support.postgres import Server
from tests.support.rows import Player, happened, told

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


class Rights(enum.IntFlag):
    READ = 1
    WRITE = 2


@dataclass
class Item:
    sku: str
    price: Decimal
    parts: list["Item"] = field(default_factory=list)


class Address(BaseModel):
    street: str
    since: date | None = None


class Size(TypedDict):
    width: int
    height: int


CustomerId = NewType("CustomerId", uuid.UUID)
Money = TypeAliasType("Money", Annotated[Decimal, "euros"])

TYPES = """
    CREATE TYPE shape AS ENUM ('rnd', 'flt', 'it''s "odd"\\');
    CREATE DOMAIN code AS varchar(5);
    CREATE DOMAIN short_code AS code CHECK (length(VALUE) < 5);
    CREATE DOMAIN codes AS text[];
    CREATE DOMAIN price AS numeric(8, 2) CHECK (VALUE > -1000000);
"""

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
ODD_TEXT = st.sampled_from(
    ["", " ", "null", "NULL", "{}", '"', "\\", "\\n", "a,b", "{a}", "é", "%s", "$1", "\u2028", "😀"]
)
ANY_TEXT = TEXT | ODD_TEXT


def up_to(length: int) -> st.SearchStrategy[str]:
    """Texts that a column of this length takes: longer only by blanks."""
    texts = st.text(st.sampled_from(string.ascii_letters + " é"), max_size=length)
    return st.builds(lambda text, blanks: text + " " * blanks, texts, st.integers(0, 3))


def decimals(limit: str, places: int) -> st.SearchStrategy[Decimal]:
    return st.decimals(f"-{limit}", limit, allow_nan=False, allow_infinity=False, places=places)


ROUNDED = decimals("99999", 0) | decimals("99999", 3) | decimals("99999", 7) | st.just(Decimal("NaN"))
EXPONENTS = st.builds(Decimal, st.sampled_from(["1E+3", "-12E+9", "0E+5", "-0", "-0.00", "1E-30", "1.10", "Infinity"]))
INSTANTS = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.timezones() | st.just(UTC))  # noqa: DTZ001
NAIVE = st.datetimes()
INTERVALS = st.timedeltas(timedelta(days=-900_000), timedelta(days=900_000))
NUMBERS = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e15, max_value=1e15)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS | ANY_TEXT,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(ANY_TEXT, values, max_size=3),
    max_leaves=8,
)
ITEMS = st.builds(Item, ANY_TEXT, decimals("999", 2), st.lists(st.builds(Item, ANY_TEXT, decimals("9", 1)), max_size=2))


def listed(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(values | st.none(), max_size=4)


PAIRS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "uuid": (uuid.UUID, st.uuids()),
    "text": (str, ANY_TEXT),
    "varchar": (str, ANY_TEXT),
    "varchar(5)": (str, up_to(5)),
    "char(4)": (str, up_to(4)),
    "shape": (str, st.sampled_from(["rnd", 'it\'s "odd"\\'])),
    "code": (str, up_to(5)),
    "short_code": (str, up_to(4).filter(lambda text: len(text) < 5)),
    "smallint": (int, st.integers(-(2**15), 2**15 - 1)),
    "integer": (int, st.integers(-(2**31), 2**31 - 1)),
    "bigint": (int, st.integers(-(2**63), 2**63 - 1)),
    "numeric(30)": (int, st.integers(-(10**29), 10**29)),
    "numeric(30, 0)": (Decimal, decimals("999999", 3)),
    "numeric": (Decimal, ROUNDED | EXPONENTS | st.integers()),
    "numeric(8, 2)": (Decimal, ROUNDED | st.integers(-99999, 99999)),
    "price": (Money, ROUNDED.filter(lambda number: not number.is_nan())),
    "double precision": (float, st.floats() | st.integers(-(2**53), 2**53)),
    "boolean": (bool, st.booleans()),
    "date": (date, st.dates()),
    "time": (time, st.times()),
    "timestamp": (datetime, NAIVE),
    "timestamptz": (datetime, INSTANTS),
    "timestamptz(6)": (datetime, INSTANTS),
    "interval": (timedelta, INTERVALS),
    "bytea": (bytes, st.binary(max_size=12)),
    # Annotations that stand for others.
    "uuid ": (CustomerId, st.uuids()),
    "text ": (Literal["red", "blue"], st.sampled_from(["red", "blue"])),
    "text  ": (Color, st.sampled_from(Color)),
    "char(3)": (Shape, st.sampled_from(Shape)),
    "shape ": (Shape, st.sampled_from(Shape)),
    "integer ": (Level, st.sampled_from(Level)),
    "numeric(3)": (Level, st.sampled_from(Level)),
    "bigint ": (Rights, st.sampled_from([Rights.READ, Rights.READ | Rights.WRITE])),
    # Arrays.
    "uuid[]": (list[uuid.UUID | None], listed(st.uuids())),
    "text[]": (list[str | None], listed(ANY_TEXT)),
    "codes": (list[str | None], listed(ANY_TEXT)),
    "varchar(5)[]": (list[str | None], listed(up_to(5))),
    "char(4)[]": (list[str | None], listed(up_to(4))),
    "shape[]": (list[Shape | None], listed(st.sampled_from(Shape))),
    "integer[]": (list[int | None], listed(st.integers(-5, 5))),
    "numeric[]": (list[Decimal | None], listed(ROUNDED | EXPONENTS)),
    "numeric(8, 2)[]": (list[Decimal | None], listed(ROUNDED | st.integers(-99999, 99999))),
    "numeric(8)[]": (list[int | None], listed(st.integers(-99999, 99999))),
    "double precision[]": (list[float | None], listed(st.floats() | st.integers(-9, 9))),
    "boolean[]": (list[bool | None], listed(st.booleans())),
    "date[]": (list[date | None], listed(st.dates())),
    "time[]": (list[time | None], listed(st.times())),
    "timestamp[]": (list[datetime | None], listed(NAIVE)),
    "timestamptz[]": (list[datetime | None], listed(INSTANTS)),
    "interval[]": (list[timedelta | None], listed(INTERVALS)),
    "bytea[]": (list[bytes | None], listed(st.binary(max_size=12))),
    # JSON.
    "jsonb": (Any, JSON),
    "json": (JsonValue, JSON),
    "jsonb ": (dict, st.dictionaries(ANY_TEXT, JSON, max_size=3)),
    "jsonb  ": (list[Any], st.lists(JSON, max_size=3)),
    "jsonb   ": (dict[str, int], st.dictionaries(ANY_TEXT, st.integers(), max_size=3)),
    "jsonb    ": (dict[int, Decimal], st.dictionaries(st.integers(), decimals("999", 2), max_size=3)),
    "jsonb     ": (list[Item], st.lists(ITEMS, max_size=2)),
    "jsonb      ": (Address, st.builds(Address, street=ANY_TEXT, since=st.dates() | st.none())),
    "json ": (Size, st.fixed_dictionaries({"width": st.integers(), "height": st.integers()})),
    "jsonb       ": (set[Color], st.sets(st.sampled_from(Color))),
}

# Each of them is another way to read or to write.
STYLES = [
    "SET TimeZone = 'Europe/Amsterdam'; SET DateStyle = 'German'; SET IntervalStyle = 'sql_standard'",
    "SET TimeZone = 'UTC'; SET DateStyle = 'SQL, DMY'; SET IntervalStyle = 'iso_8601'; SET extra_float_digits = 0",
]


class Holding(RowProjection):
    """A projection whose handler puts what the test wants into a row."""

    name = "held"
    tables = ("held",)
    values: ClassVar[dict[int, Any]] = {}

    def key(self, event: Event) -> object:
        return event.data["key"]

    @handles("Held")
    def hold(self, row: Any, _event: Event) -> None:  # noqa: ANN401 -- any dataclass
        row.held = self.values[row.id]

    @handles("Seen")
    def see(self, row: Any, _event: Event) -> None:  # noqa: ANN401 -- any dataclass
        self.values[row.id] = row.held


def holding(db: Connection, declared: str, annotation: Any) -> Player:  # noqa: ANN401 -- a type form
    """Make a table with one column of this type, and a projection with one field of that one."""
    db.execute("DROP TABLE IF EXISTS held")
    db.execute(f"CREATE TABLE held (id int PRIMARY KEY, held {declared})".encode())
    fields: list[Any] = [("id", int), ("held", annotation, None)]
    Holding.row = dataclasses.make_dataclass("Held", fields, slots=True)
    Holding.values = {}
    return Player(db, Holding)


def codec_of(player: Player) -> Codec:
    assert player.kind._table is not None
    return player.kind._table._fields[1].codec


def exactly(value: object, *, is_json: bool) -> object:
    """Give what tells apart values that only look equal; of JSON only what JSON keeps."""
    if is_json or isinstance(value, enum.Enum):
        return value
    if isinstance(value, list):
        return [exactly(part, is_json=False) for part in value]
    if isinstance(value, (datetime, time)):
        value = value.replace(fold=0)  # of a time that occurs once it says nothing
    return type(value), repr(value)


@pytest.mark.parametrize("declared", PAIRS)
def test_a_value_comes_back_as_a_handler_would_find_it_in_the_same_batch(db: Connection, declared: str) -> None:
    annotation, values = PAIRS[declared]
    db.execute(TYPES.encode())
    player = holding(db, declared, annotation if annotation is JsonValue else annotation | None)
    settle = codec_of(player).settle or (lambda value: value)
    is_json = declared.startswith("json")

    @settings(max_examples=20, deadline=None)
    @given(st.lists(values | st.none(), min_size=1, max_size=12), st.sampled_from(STYLES))
    def check(given_values: list[Any], style: str) -> None:
        db.execute(style.encode())
        keys = range(len(given_values))
        Holding.values = dict(enumerate(given_values))
        settled = {key: None if value is None else settle(value) for key, value in Holding.values.items()}
        player.apply([happened(key + 1, "Held", key=key) for key in keys])
        player.apply([happened(key + 1, "Seen", key=key) for key in keys])
        for key in keys:
            assert exactly(Holding.values[key], is_json=is_json) == exactly(settled[key], is_json=is_json)

    check()


NOON = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
NESTED: dict[str, Any] = functools.reduce(lambda inner, _: {"a": inner}, range(300), {"a": 1})

REFUSED: list[tuple[str, Any, object]] = [
    ("text", str, 5),
    ("text", str, b"x"),
    ("text", str, Color.RED),
    ("text", str, "\ud800"),
    ("text", Shape, "rnd"),
    ("integer", int, True),
    ("integer", int, 1.0),
    ("integer", int, "1"),
    ("integer", int, Level.LOW),
    ("boolean", bool, 1),
    ("double precision", float, True),
    ("double precision", float, Decimal(1)),
    ("numeric", Decimal, 1.5),
    ("numeric", Decimal, "1.5"),
    ("numeric(9)", int, Decimal(1)),
    ("date", date, NOON),
    ("timestamptz", datetime, NOON.replace(tzinfo=None)),
    ("timestamptz", datetime, date(2024, 5, 1)),
    ("timestamp", datetime, NOON),
    ("time", time, time(12, tzinfo=UTC)),
    ("interval", timedelta, 5),
    ("uuid", uuid.UUID, str(uuid.UUID(int=5))),
    ("bytea", bytes, "x"),
    ("bytea", bytes, bytearray(b"x")),
    ("text[]", list[str], ("a",)),
    ("text[]", list[str], ["a", None]),
    ("text[]", list[str], ["a", 1]),
    ("integer[]", list[int], [[1], [2]]),
    ("timestamptz[]", list[datetime], [NOON.replace(tzinfo=None)]),
    ("jsonb", Any, (1, 2)),
    ("jsonb", dict, [1]),
    ("jsonb", dict, {"a": (1, 2)}),
    ("jsonb", dict, {"a": {1, 2}}),
    ("jsonb", dict, {1: 2}),
    ("jsonb", dict, {"a": math.nan}),
    ("jsonb", dict, {"a": NOON}),
    ("jsonb", dict, {"a": object()}),
    ("jsonb", dict, {"a": "\ud800"}),
    ("jsonb", dict, collections.defaultdict(int, a=1)),
    ("jsonb", dict, NESTED),
    ("jsonb", dict[str, int], {"a": "1"}),
    ("jsonb", dict[str, int], collections.Counter("aab")),
    ("jsonb", dict[str, datetime], {"a": datetime(1900, 1, 1, tzinfo=ZoneInfo("Europe/Amsterdam"))}),
    ("jsonb", Address, {"street": "x"}),
    ("jsonb", list[Item], [Item("x", "1")]),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("declared", "annotation", "value"), REFUSED, ids=told)
def test_a_value_that_would_come_back_as_another_is_refused(
    db: Connection,
    declared: str,
    annotation: Any,  # noqa: ANN401 -- a type form
    value: object,
) -> None:
    player = holding(db, declared, annotation | None)
    Holding.values = {7: value, 8: None}
    with pytest.raises(PoisonError, match=r"Held\.held") as raised:
        player.apply([happened(1, "Held", key=8), happened(2, "Held", key=7)])
    assert classify(raised.value) is Failure.POISON
    assert player.kind.at_work == "Holding writing held"
    assert player.rows() == []


REFUSED_BY_POSTGRESQL: list[tuple[str, Any, object, str]] = [
    ("text", str, "a\0b", "22P05"),
    ("jsonb", dict, {"a": "\0"}, "22P05"),
    ("varchar(3)", str, "long", "22001"),
    ("char(3)", str, "long", "22001"),
    ("varchar(3)[]", list[str], ["long"], "22001"),
    ("code", str, "too long", "22001"),
    ("short_code", str, "12345", "23514"),
    ("smallint", int, 2**15, "22003"),
    ("bigint", int, 2**63, "22003"),
    ("numeric(5, 2)", Decimal, Decimal(1000), "22003"),
    ("numeric(5, 2)", Decimal, Decimal("Infinity"), "22003"),
    ("numeric(5)", int, 10**5, "22003"),
    ("shape", str, "square", "22P02"),
    ("integer CHECK (held > 0)", int, -1, "23514"),
    ("integer NOT NULL", int, None, "23502"),
    ("integer UNIQUE", int, 5, "23505"),
]


@pytest.mark.parametrize(("declared", "annotation", "value", "code"), REFUSED_BY_POSTGRESQL, ids=told)
def test_what_postgresql_refuses_fails_as_it_says(
    db: Connection,
    declared: str,
    annotation: Any,  # noqa: ANN401 -- a type form
    value: object,
    code: str,
) -> None:
    db.execute(TYPES.encode())
    player = holding(db, declared, annotation)
    Holding.values = {7: value, 8: value}
    with pytest.raises(psycopg.Error) as raised:
        player.apply([happened(1, "Held", key=8), happened(2, "Held", key=7)])
    assert raised.value.sqlstate == code
    assert classify(raised.value) is Failure.POISON
    assert player.kind.at_work == "Holding writing held"
    assert player.rows() == []


def test_what_the_class_cannot_hold_is_named_when_it_is_read(db: Connection) -> None:
    player = holding(db, "text", Color | None)
    db.execute("INSERT INTO held VALUES (7, 'green')")
    with pytest.raises(PoisonError, match=r"held\.held is 'green', which is no Color"):
        player.apply([happened(1, "Seen", key=7)])
