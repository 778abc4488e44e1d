"""However events are cut into batches, the rows of a `RowProjection` come out the same."""

import dataclasses
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projectiond.event import Event
from projectiond.postgres import database as databases
from projectiond.postgres.database import Connection
from projectiond.projection import DELETE, Delete, RowProjection, handles
from tests.support.daemon import Daemon
from tests.support.events import append
from tests.support.postgres import Database
from tests.support.rows import BEGAN, Player, happened

pytestmark = pytest.mark.integration

ONE, TWO, THREE = (uuid.UUID(int=number) for number in (1, 2, 3))


@pytest.fixture
def db(database: Database) -> Iterator[Connection]:
    with databases.connect(database.dsn, role="runner", statement_timeout_seconds=30) as db:
        yield db


@dataclass(slots=True)
class Day:
    """A field of each kind that the database gives back in another form than a handler may have put there."""

    day: date
    place: str
    owner: str | None = None
    total: Decimal = Decimal(0)
    weight: Decimal = Decimal(0)
    rate: float = 0.0
    at: datetime | None = None
    code: str = ""
    tags: list[str] = field(default_factory=list)
    times: list[datetime] = field(default_factory=list)
    doc: dict[str, Any] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)


def change(row: Day, how: str, value: Any) -> Day | Delete | None:  # noqa: ANN401 -- whatever the change takes
    """Do what the test's handler does; all that it can tell of the row ends up in the row."""
    row.seen.append(f"{row.owner!r} {row.total} {row.weight} {row.rate!r} {row.at} {row.code!r} {row.times} {row.doc}")
    match how:
        case "owner" | "code":
            setattr(row, how, value)
        case "total" | "weight":
            setattr(row, how, getattr(row, how) + Decimal(value) / 3)
        case "rate":
            row.rate = value
        case "at":
            row.at = BEGAN.astimezone(timezone(timedelta(hours=value)))
            row.times.append(row.at)
        case "tag":
            row.tags.append(value)
        case "doc":
            row.doc.setdefault("list", []).append(value)
        case "replace":
            return Day(row.day, row.place, owner=value, seen=row.seen)
        case "delete":
            return DELETE
    return None


class Days(RowProjection):
    tables = ("days",)
    schema = """
        CREATE TABLE days (
            place text, day date, owner text, total numeric(9, 2), weight numeric, rate double precision,
            at timestamptz, code char(4), tags text[] NOT NULL, times timestamptz[], doc jsonb, seen jsonb,
            PRIMARY KEY (place, day)
        )
    """
    row = Day

    def key(self, event: Event) -> object:
        return [tuple(key) for key in event.data["keys"]]

    @handles("Changed")
    def changed(self, row: Day, event: Event) -> Day | Delete | None:
        return change(row, event.data["how"], event.data["value"])


def rounded(number: Decimal) -> Decimal:
    return number.quantize(Decimal("0.01"), rounding=ROUND_HALF_UP) + 0


def model(events: Sequence[Event]) -> list[tuple[Any, ...]]:
    """Do with a dict what the table should hold: each row as it is after it has been stored."""
    rows: dict[tuple[str, str], Day] = {}
    for event in events:
        for place, day in dict.fromkeys(map(tuple, event.data["keys"])):
            row = rows.pop((place, day), None) or Day(date.fromisoformat(day), place)
            result = change(row, event.data["how"], event.data["value"])
            if result is DELETE:
                continue
            row = result if isinstance(result, Day) else row
            row.total = rounded(row.total)
            row.weight += 0
            row.rate = float(row.rate)
            row.at = row.at and row.at.astimezone(UTC)
            row.times = [moment.astimezone(UTC) for moment in row.times]
            row.code = row.code.rstrip(" ").ljust(4)
            rows[place, day] = row
    return sorted(dataclasses.astuple(row) for row in rows.values())


KEYS_OF_DAYS = st.lists(
    st.tuples(st.sampled_from(["a", "A", "b "]), st.sampled_from(["2024-05-01", "2024-05-02"])), max_size=3
)
CHANGES = st.one_of(
    st.tuples(st.just("owner"), st.none() | st.sampled_from(["Ada", "Bob", ""])),
    st.tuples(st.sampled_from(["total", "weight"]), st.integers(-9, 9)),
    st.tuples(st.just("rate"), st.integers(0, 3) | st.sampled_from([0.5, -0.0, 1.0, 1e300])),
    st.tuples(st.just("at"), st.integers(-11, 11)),
    st.tuples(st.just("code"), st.sampled_from(["", "a", "abcd", "ab    "])),
    st.tuples(st.just("tag"), st.sampled_from(["x", "NULL", '"', "{}"])),
    st.tuples(st.just("doc"), st.none() | st.integers(0, 1) | st.booleans() | st.just(1.0) | st.just({"a": [None]})),
    st.tuples(st.just("replace"), st.sampled_from(["Eve"])),
    st.tuples(st.just("delete"), st.none()),
    st.tuples(st.just("delete"), st.none()),
    st.tuples(st.just("look"), st.none()),
)


def test_the_table_is_the_same_however_the_events_are_cut(db: Connection) -> None:
    db.execute("SET TimeZone = 'Asia/Kolkata'")
    player = Player(db, Days)
    columns = ", ".join(each.name for each in dataclasses.fields(Day))

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.tuples(KEYS_OF_DAYS, CHANGES), min_size=1, max_size=20), st.sets(st.integers(1, 19)))
    def check(history: list[Any], cuts: set[int]) -> None:
        events = [
            happened(number, "Changed", keys=[(place, day) for place, day in keys], how=how, value=value)
            for number, (keys, (how, value)) in enumerate(history, 1)
        ]

        def play(places: Sequence[int]) -> list[tuple[Any, ...]]:
            player.empty()
            player.play(events, [place for place in places if place < len(events)])
            # As text, for 1 and True, 1.0 and 1.00 are not the same in a table.
            return player.rows("days::text")

        one_by_one = play(range(1, len(events)))
        assert play(sorted(cuts)) == one_by_one
        assert play([]) == one_by_one
        assert sorted(in_utc(row) for row in player.rows(columns)) == model(events)

    check()


def in_utc(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Give a row whose times are told as the model tells them."""
    *first, at, code, tags, times, doc, seen = row
    moments = [moment.astimezone(UTC) for moment in times]
    return (*first, at and at.astimezone(UTC), code, tags, moments, doc, seen)


def test_unique_values_that_change_places_within_a_batch_get_there(database: Database) -> None:
    @dataclass
    class Seat:
        id: uuid.UUID
        number: int | None = None

    class Seats(RowProjection):
        tables = ("seats",)
        schema = "CREATE TABLE IF NOT EXISTS seats (id uuid PRIMARY KEY, number int UNIQUE)"
        row = Seat
        batch_size = 100
        checkpoint_every = 100

        @handles("Seated")
        def seated(self, row: Seat, event: Event) -> None:
            row.number = event.data["number"]

    conn = database.connect(autocommit=False)
    for person, number in [(ONE, 1), (TWO, 2), (ONE, None), (TWO, 1), (ONE, 2)]:
        last = append(conn, "Seated", {"number": number}, person)
    conn.commit()
    with Daemon(database, Seats) as daemon:
        daemon.wait_until_at("seats", last)
        assert daemon.ask(b"SELECT id, number FROM seats ORDER BY id") == [(ONE, 2), (TWO, 1)]
        assert daemon.checkpoint("seats")["processed"] == 5


@pytest.mark.parametrize("bad", ["key", "value", "check"])
def test_a_bad_event_among_many_is_found_and_all_others_are_applied(database: Database, bad: str) -> None:
    @dataclass
    class Account:
        id: uuid.UUID
        balance: Decimal = Decimal(0)

    class Accounts(RowProjection):
        tables = ("accounts",)
        schema = "CREATE TABLE IF NOT EXISTS accounts (id uuid PRIMARY KEY, balance numeric CHECK (balance < 1000))"
        row = Account
        batch_size = 200
        checkpoint_every = 200
        on_error = "skip"
        max_attempts = 1

        def key(self, event: Event) -> object:
            return "not a key" if event.event_type == "Bad" and bad == "key" else event.aggregate_id

        @handles("Paid")
        def paid(self, row: Account, event: Event) -> None:
            row.balance += event.data["amount"]

        @handles("Bad")
        def err(self, row: Account, _event: Event) -> None:
            row.balance = 0.5 if bad == "value" else Decimal(1000)  # type: ignore[assignment]

    conn = database.connect(autocommit=False)
    people = [uuid.UUID(int=number) for number in range(30)]
    numbers = [append(conn, "Bad" if n == 97 else "Paid", {"amount": 1}, people[n % 30]) for n in range(180)]
    conn.commit()
    with Daemon(database, Accounts) as daemon:
        daemon.wait_until_at("accounts", numbers[-1])
        ((number, error),) = daemon.ask(b"SELECT sequence_number, error FROM projection_dead_letters")
        assert number == numbers[97]
        assert {"key": "cannot be read as UUID", "value": "which is no Decimal", "check": "check constraint"}[
            bad
        ] in error
        assert daemon.ask(b"SELECT sum(balance) FROM accounts") == [(Decimal(179),)]
