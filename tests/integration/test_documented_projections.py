"""The projections of README and docs/ work: what their pages say, on a real PostgreSQL."""

import itertools
import re
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from projectiond.cli.scaffold import Kind, read_template
from projectiond.plugins.definition import Definition
from projectiond.plugins.registry import load_projections
from projectiond.postgres.database import Connection
from projectiond.running.preparation import try_out
from tests.support.daemon import Daemon
from tests.support.events import append
from tests.support.postgres import Database
from tests.support.snippets import ROOT, Snippet, python_snippets

pytestmark = pytest.mark.integration

Conn = psycopg.Connection[Any]

GUIDE = "writing-a-projection.md"
ORDER_TOTALS = [s for s in python_snippets("file") if s.page.name == GUIDE and s.value == "order_totals.py"]


def load(snippet: Snippet, directory: Path) -> tuple[Definition, ...]:
    snippet.write_plugin(directory)
    registry = load_projections([directory], {})
    assert registry.faults == ()
    return registry.definitions


def run(database: Database, definition: Definition, upto: int, batch_size: int = 50) -> None:
    """Apply all events up to a number, as the daemon does."""
    with Daemon(database, type(definition.projection), batch_size=batch_size, checkpoint_every=batch_size) as daemon:
        daemon.wait_until_at(definition.name, upto)


def append_items(conn: Conn) -> tuple[int, dict[UUID, tuple[int, int]]]:
    """Append events of some orders, interleaved; give the last one's number, and what each order comes to."""
    expected: dict[UUID, tuple[int, int]] = {uuid4(): (0, 0) for _ in range(7)}
    orders = itertools.cycle(expected)
    last = 0
    for step in range(100):
        order = next(orders)
        event_type = ("ItemAdded", "ItemAdded", "ItemRemoved", "OrderNoted")[step % 4]
        quantity, price = 1 + step % 3, 495 + step
        data = {"sku": "TEA-250", "quantity": quantity, "unit_price_cents": price}
        last = append(conn, event_type, data, order)
        if event_type != "OrderNoted":
            change = quantity if event_type == "ItemAdded" else -quantity
            items, cents = expected[order]
            expected[order] = (items + change, cents + change * price)
    return last, expected


@pytest.mark.parametrize("snippet", python_snippets("file"), ids=str)
def test_a_documented_plugin_passes_the_check(database: Database, tmp_path: Path, snippet: Snippet) -> None:
    with Connection.connect(database.dsn, autocommit=True) as db:
        for definition in load(snippet, tmp_path):
            try_out(db, definition)


@pytest.mark.parametrize("batch_size", [3, 500])
@pytest.mark.parametrize("snippet", ORDER_TOTALS, ids=str)
def test_the_guides_order_totals_are_right_in_every_kind_however_events_are_cut(
    database: Database, tmp_path: Path, snippet: Snippet, batch_size: int
) -> None:
    conn = database.connect()
    last, expected = append_items(conn)
    (definition,) = load(snippet, tmp_path)
    run(database, definition, last, batch_size)
    totals = conn.execute("SELECT order_id, items, total_cents FROM order_totals").fetchall()
    assert {order: (items, cents) for order, items, cents in totals} == expected


def test_the_guides_accounts_have_several_rows_for_an_event_and_are_deleted(database: Database, tmp_path: Path) -> None:
    (snippet,) = (s for s in python_snippets("file") if s.value == "account_balances.py")
    conn = database.connect()
    moves = [("a", "b", 100), ("b", "c", 30), ("c", "a", 10), ("d", "d", 5)]
    for source, target, cents in moves:
        append(conn, "MoneyMoved", {"source": source, "target": target, "cents": cents})
    last = append(conn, "AccountClosed", {"account": "b"})
    (definition,) = load(snippet, tmp_path)
    run(database, definition, last)
    balances = conn.execute("SELECT account, cents FROM account_balances ORDER BY account").fetchall()
    assert balances == [("a", -90), ("c", 20), ("d", 0)]


def test_the_guides_log_of_items_is_copied(database: Database, tmp_path: Path) -> None:
    (snippet,) = (s for s in python_snippets("file") if s.value == "item_log.py")
    conn = database.connect()
    last, _ = append_items(conn)
    (definition,) = load(snippet, tmp_path)
    run(database, definition, last)
    logged = conn.execute("SELECT sequence_number, order_id, what, sku FROM item_log ORDER BY 1").fetchall()
    stored = conn.execute(
        "SELECT sequence_number, aggregate_id, event_type, event_data ->> 'sku' FROM event_store"
        " WHERE event_type <> 'OrderNoted' ORDER BY 1"
    ).fetchall()
    assert logged == stored


@pytest.mark.parametrize("kind", Kind)
def test_a_new_projection_of_each_kind_keeps_the_same_table(database: Database, tmp_path: Path, kind: Kind) -> None:
    (tmp_path / "things.py").write_text(read_template(kind, "things"), encoding="utf-8")
    (definition,) = load_projections([tmp_path], {}).definitions
    conn = database.connect()
    one, other = uuid4(), uuid4()
    append(conn, "SomethingHappened", {"label": "the first", "amount": 3}, one)
    append(conn, "SomethingElse", {}, one)
    append(conn, "SomethingHappened", {"label": "another"}, other)
    last = append(conn, "SomethingHappened", {"label": "the last", "amount": 4}, one)
    run(database, definition, last)
    moments: dict[UUID, Any] = dict(
        conn.execute("SELECT aggregate_id, max(created_at) FROM event_store GROUP BY 1").fetchall()
    )
    kept = conn.execute("SELECT id, label, amount, updated_at FROM things ORDER BY amount").fetchall()
    assert kept == [(other, "another", 0, moments[other]), (one, "the last", 7, moments[one])]


# The guide's table of columns and fields.
FIELDS = """
import datetime as dt
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel

from projectiond import Event, RowProjection, handles


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


class Part(BaseModel):
    sku: str


@dataclass
class Everything:
    id: UUID
    small: int = 0
    whole: int = 0
    amount: Decimal = Decimal(0)
    count: int = 0
    ratio: float = 0.0
    is_paid: bool = False
    label: str = ""
    size: Size = Size.SMALL
    colour: Literal["red", "green"] = "red"
    mood: str = "fine"
    happened_at: dt.datetime = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    local: dt.datetime = dt.datetime(2026, 1, 1)
    day: dt.date = dt.date(2026, 1, 1)
    at: dt.time = dt.time(12)
    took: dt.timedelta = dt.timedelta(seconds=1)
    digest: bytes = b""
    notes: dict[str, Any] = field(default_factory=dict)
    anything: Any = 0
    parts: list[Part] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    owner: UUID | None = None


class Rows(RowProjection):
    tables = ("everything",)
    schema = '''
        CREATE TYPE mood AS ENUM ('fine', 'sad');
        CREATE TABLE everything (
            id UUID PRIMARY KEY, small SMALLINT NOT NULL, whole BIGINT NOT NULL, amount NUMERIC(12, 2) NOT NULL,
            count NUMERIC(20) NOT NULL, ratio DOUBLE PRECISION NOT NULL, is_paid BOOLEAN NOT NULL,
            label VARCHAR(20) NOT NULL, size TEXT NOT NULL, colour TEXT NOT NULL, mood MOOD NOT NULL,
            happened_at TIMESTAMPTZ NOT NULL, local TIMESTAMP NOT NULL, day DATE NOT NULL, at TIME NOT NULL,
            took INTERVAL NOT NULL, digest BYTEA NOT NULL, notes JSONB NOT NULL, anything JSON NOT NULL,
            parts JSONB NOT NULL, tags TEXT[] NOT NULL, owner UUID
        );
    '''
    row = Everything

    @handles("Happened")
    def happened(self, row: Everything, event: Event) -> None: ...
"""


def test_the_guides_pairs_of_column_and_field_fit(database: Database, tmp_path: Path) -> None:
    (tmp_path / "rows.py").write_text(FIELDS, encoding="utf-8")
    (definition,) = load_projections([tmp_path], {}).definitions
    with Connection.connect(database.dsn, autocommit=True) as db:
        try_out(db, definition)


def test_the_first_event_of_the_readme_is_one_that_the_sample_projections_take_too(database: Database) -> None:
    (statement,) = re.findall(
        r"^INSERT INTO event_store.*?;$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    samples = load_projections([ROOT / "projections"], {}).definitions
    conn = database.connect()
    conn.execute(statement.encode())
    with Daemon(database, *(type(sample.projection) for sample in samples)) as daemon:
        for sample in samples:
            daemon.wait_until_at(sample.name, 1)
