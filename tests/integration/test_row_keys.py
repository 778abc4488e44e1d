"""Which row an event belongs to: what `key` may return, and what it may not."""

import dataclasses
import enum
import uuid
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, ClassVar, Final

import psycopg
import pytest

from projectiond.errors import PoisonError
from projectiond.event import Event
from projectiond.failure import Failure, classify
from projectiond.postgres import database as databases
from projectiond.postgres.database import Connection
from projectiond.projection import DELETE, Delete, RowProjection, handles
from tests.support.postgres import Database
from tests.support.rows import BEGAN, Player, happened, told

pytestmark = pytest.mark.integration

ONE, TWO, THREE = (uuid.UUID(int=number) for number in (1, 2, 3))


@pytest.fixture
def db(database: Database) -> Iterator[Connection]:
    with databases.connect(database.dsn, role="runner", statement_timeout_seconds=30) as db:
        yield db


class Keyed(RowProjection):
    """A count for each key, which is whatever an event says."""

    name = "keyed"
    tables = ("keyed",)
    read: ClassVar[Callable[[Any], Any]] = staticmethod(lambda key: key)

    def key(self, event: Event) -> object:
        return type(self).read(event.data["key"])

    @handles("Counted")
    def counted(self, row: Any, _event: Event) -> None:  # noqa: ANN401 -- any dataclass
        row.count += 1


def keyed(db: Connection, read: Callable[[Any], Any], **columns: tuple[str, type]) -> Player:
    """Make a table with these key columns."""
    declared = ", ".join(f'"{name}" {kind}' for name, (kind, _) in columns.items())
    names = ", ".join(f'"{name}"' for name in columns)
    db.execute(f"CREATE TABLE keyed (count int NOT NULL, {declared}, PRIMARY KEY ({names}))".encode())
    fields: list[Any] = [(name, annotation) for name, (_, annotation) in columns.items()]
    Keyed.row = dataclasses.make_dataclass("Counter", [*fields, ("count", int, 0)])
    Keyed.read = staticmethod(read)
    return Player(db, Keyed)


def counted(number: int, key: object) -> Event:
    return happened(number, "Counted", key=key)


def same(value: Any) -> Any:  # noqa: ANN401 -- whatever it is
    return value


class Place(enum.StrEnum):
    HERE = "here"
    THERE = "there"


LETTERS: Final = uuid.UUID("abcdef00-0000-4000-8000-000000000000")
IN_CAIRO: Final = timezone(timedelta(hours=2))

# Column, annotation, how `key` makes the key of the event's data, and groups of data that mean the same row.
SINGLE_KEYS: list[tuple[str, Any, Callable[[Any], Any], list[list[Any]]]] = [
    ("text", str, same, [["a"], ["A"], ["a "], [""], ['"\\'], ["null"], ["é"]]),
    ("text", str, lambda data: Place(data) if data else "here", [["here", ""], ["there"]]),
    ("text", Place, lambda data: Place(data[1:]) if data[0] == "!" else data, [["here", "!here"], ["!there"]]),
    ("varchar(3)", str, same, [["abc", "abc   "], ["ab"], ["ab "]]),
    ("char(3)", str, same, [["ab", "ab ", "ab    "], ["abc"]]),
    ("integer", int, same, [[1, "1"], [2]]),
    ("bigint", int, same, [[2**60, str(2**60)], [-1]]),
    ("numeric", Decimal, lambda data: Decimal(data[1:]) if data[0] == "!" else data, [["1", "!1.0"], ["!1E3", "1000"]]),
    ("numeric(5, 1)", Decimal, same, [["1", "1.04", 1], ["1.05", "1.1"]]),
    ("uuid", uuid.UUID, same, [[str(ONE), ONE.hex, f"{{{ONE}}}"], [str(LETTERS), str(LETTERS).upper()]]),
    ("date", date, same, [["2024-05-01"], ["0001-01-01"]]),
    ("timestamptz", datetime, same, [["2024-05-01T12:00:00Z", "2024-05-01T14:00+02:00"], ["2024-05-01T12:00:01Z"]]),
    ("timestamptz", datetime, lambda data: BEGAN.astimezone(IN_CAIRO) if data else BEGAN, [[0, 1]]),
    ("timestamp", datetime, same, [["2024-05-01T12:00:00"]]),
    ("boolean", bool, same, [[True, "true"], [False]]),
    ("bytea", bytes, lambda data: data.encode(), [["a"], ["b\x00"]]),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "annotation", "read", "groups"), SINGLE_KEYS, ids=told)
@pytest.mark.parametrize("size", [1, 100])
def test_what_is_one_key_to_the_database_is_one_row(
    db: Connection,
    declared: str,
    annotation: Any,  # noqa: ANN401 -- a type form
    read: Callable[[Any], Any],
    groups: list[list[Any]],
    size: int,
) -> None:
    db.execute("SET TimeZone = 'America/New_York'")
    player = keyed(db, read, id=(declared, annotation))
    data = [each for group in groups for each in group] * 2
    events = [counted(number, each) for number, each in enumerate(data, 1)]
    player.play(events, cuts=range(0, len(events), size))
    assert sorted(count for (count,) in player.rows("count")) == sorted(2 * len(group) for group in groups)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_key_may_have_several_columns_in_the_order_of_the_primary_key(db: Connection, size: int) -> None:
    player = keyed(db, tuple, day=("date", date), place=("text", str), customer=("uuid", uuid.UUID))
    keys = [
        ("2024-05-01", "a", str(ONE)),
        ("2024-05-01", "a", str(TWO)),
        ("2024-05-01", "b", str(ONE)),
        ("2024-05-02", "a", str(ONE)),
    ]
    events = [counted(number, keys[number % 4]) for number in range(1, 13)]
    player.play(events, cuts=range(0, 12, size))
    assert sorted(player.rows("day, place, customer, count")) == [
        (date(2024, 5, 1), "a", ONE, 3),
        (date(2024, 5, 1), "a", TWO, 3),
        (date(2024, 5, 1), "b", ONE, 3),
        (date(2024, 5, 2), "a", ONE, 3),
    ]


def test_rows_of_a_key_with_several_columns_are_deleted_one_by_one(db: Connection) -> None:
    class Leaving(Keyed):
        name = "leaving"

        @handles("Left")
        def left(self, _row: object, _event: Event) -> Delete:
            return DELETE

    keyed(db, tuple, a=("int", int), b=("int", int))
    player = Player(db, Leaving)
    player.apply([counted(1 + 3 * a + b, [a, b]) for a in range(3) for b in range(3)])
    player.apply([happened(20, "Left", key=[0, 1]), happened(21, "Left", key=[1, 0])])
    assert len(player.rows()) == 7
    assert not {(0, 1), (1, 0)} & set(player.rows("a, b"))


def test_an_event_may_belong_to_several_rows_to_one_twice_or_to_none(db: Connection) -> None:
    player = keyed(db, same, id=("int", int))
    player.apply([counted(1, [1, 2]), counted(2, [2, 3, 2, "2"]), counted(3, []), counted(4, 3)])
    assert player.rows("id, count") == [(1, 1), (2, 2), (3, 2)]


def test_events_may_all_belong_to_no_row(db: Connection) -> None:
    player = keyed(db, same, id=("int", int))
    player.apply([counted(1, []), counted(2, [])])
    assert player.rows() == []


BAD_KEYS: list[tuple[str, Any, Callable[[Any], Any], str]] = [
    ("uuid", uuid.UUID, lambda _: None, "is None; return the key of a row, or an empty list"),
    ("uuid", uuid.UUID, lambda _: [None], "is None"),
    ("uuid", uuid.UUID, lambda _: "abc", "is 'abc', which cannot be read as UUID"),
    ("uuid", uuid.UUID, lambda _: 5, "is 5, which is no UUID"),
    ("uuid", uuid.UUID, lambda _: (ONE, TWO), "which is no UUID"),
    ("uuid", uuid.UUID, lambda _: [[ONE]], "is a list, which is no UUID"),
    ("uuid", uuid.UUID, lambda _: {ONE}, "is a set, which is no UUID"),
    ("text", str, lambda _: {"a": 1}, "is a dict, which is no str"),
    ("text", str, lambda _: ONE, "which is no str"),
    ("integer", int, lambda _: True, "is True, which is no int"),
    ("integer", int, lambda _: 1.0, "is 1.0, which is no int"),
    ("numeric", Decimal, lambda _: Decimal("NaN"), "is not a finite number"),
    ("numeric", Decimal, lambda _: 1.5, "is 1.5, which is no Decimal"),
    ("date", date, lambda _: BEGAN, "which is no date"),
    ("timestamptz", datetime, lambda _: BEGAN.replace(tzinfo=None), "is a datetime without a time zone"),
    ("text", Place, lambda _: "nowhere", "is 'nowhere', which cannot be read as Place"),
    ("text", str, lambda _: "x" * 10_000 if _ else 5, "is 5, which is no str"),
    ("uuid", uuid.UUID, lambda _: "x" * 10_000, "…, which cannot be read as UUID"),
]


@pytest.mark.parametrize(("declared", "annotation", "read", "words"), BAD_KEYS, ids=told)
def test_a_key_that_is_none_of_the_table_is_an_error_of_its_event(
    db: Connection,
    declared: str,
    annotation: Any,  # noqa: ANN401 -- a type form
    read: Callable[[Any], Any],
    words: str,
) -> None:
    player = keyed(db, read, id=(declared, annotation))
    with pytest.raises(PoisonError) as raised:
        player.apply([counted(7, "")])
    said = str(raised.value)
    assert said.startswith(
        "event 7 ('Counted', id 00000000-0000-0000-0000-000000000007): the key that Keyed.key returned"
    )
    assert words in said
    assert len(said) < 300
    assert classify(raised.value) is Failure.POISON
    assert player.kind.at_work == "Keyed.key"


@pytest.mark.parametrize("given_key", [5, (1,), (1, 2, 3), [1, 2], (1, None)])
def test_a_key_of_several_columns_has_to_be_a_tuple_of_as_many(db: Connection, given_key: object) -> None:
    player = keyed(db, lambda _: given_key, a=("int", int), b=("int", int))
    with pytest.raises(PoisonError, match=r"the key that Keyed\.key returned is"):
        player.apply([counted(7, "")])


@pytest.mark.parametrize(
    ("declared", "annotation", "bad_key", "code"),
    [("integer", int, 2**40, "22003"), ("text", str, "a\0", "22P05")],
)
def test_a_key_that_postgresql_refuses_fails_as_it_says(
    db: Connection, declared: str, annotation: type, bad_key: object, code: str
) -> None:
    player = keyed(db, same, id=(declared, annotation))
    with pytest.raises(psycopg.Error) as raised:
        player.apply([counted(7, bad_key)])
    assert raised.value.sqlstate == code
    assert classify(raised.value) is Failure.POISON
    assert player.kind.at_work == "Keyed reading keyed"


def test_the_error_of_a_key_is_its_own(db: Connection) -> None:
    player = keyed(db, same, id=("int", int))
    with pytest.raises(KeyError, match="key"):
        player.apply([happened(7, "Counted")])
    assert player.kind.at_work == "Keyed.key"
    assert player.rows() == []
