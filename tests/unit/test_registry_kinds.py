"""The registry: each of the four kinds becomes a definition, and what is wrong in one of them is said in a sentence."""

import importlib.metadata
from pathlib import Path
from textwrap import dedent, indent
from uuid import uuid4

import pytest

from projectiond.event import Event
from projectiond.plugins.registry import Registry, load_projections
from projectiond.projection import BaseProjection, BatchProjection, Projection, RowProjection, SqlProjection

HEAD = """\
from dataclasses import dataclass
from typing import Any, Sequence
from pydantic import BaseModel
from projectiond import DELETE, BatchProjection, Connection, Event, Projection, RowProjection, SqlProjection, handles
from projectiond.projection import BaseProjection

class Model(BaseModel):
    sku: str

@dataclass
class Total:
    order_id: str
    cents: int = 0

"""
LINE = HEAD.count("\n") + 1
"""Where the class begins."""


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    directory = tmp_path / "projections"
    directory.mkdir()
    return directory


def load(directory: Path, text: str, *, head: str = HEAD) -> Registry:
    (directory / "orders.py").write_text(head + dedent(text).lstrip("\n"), encoding="utf-8")
    return load_projections([directory], {})


def class_of(kind: str, body: str) -> str:
    return f"class Orders({kind}):\n{indent(dedent(body).strip(), '    ')}\n"


def faults(directory: Path, kind: str, body: str) -> list[str]:
    """Return the faults of a class of this kind; nothing faulty may be defined."""
    registry = load(directory, class_of(kind, body))
    assert registry.definitions == ()
    return [str(fault).replace(f"{directory}/", "") for fault in registry.faults]


def only_fault(directory: Path, kind: str, body: str) -> str:
    (fault,) = faults(directory, kind, body)
    return fault


# --------------------------------------------------------------------------------------- the four kinds

EVENT = """
@handles("B", "A")
def a(self, event, db): pass
"""
BATCH = """
event_types = ("B", "A")
def apply(self, events, db): pass
"""
ROW = """
tables = ("orders",)
row = Total
@handles("B", "A")
def a(self, row, event): pass
"""
SQL = """
event_types = ("B", "A")
sql = "INSERT INTO orders SELECT aggregate_id FROM events"
"""

GOOD = {"Projection": EVENT, "BatchProjection": BATCH, "RowProjection": ROW, "SqlProjection": SQL}
KINDS: list[type[BaseProjection]] = [Projection, BatchProjection, RowProjection, SqlProjection]
LIST_OF_KINDS = "Projection, BatchProjection, RowProjection or SqlProjection"


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_becomes_a_definition(plugins: Path, kind: type[BaseProjection]) -> None:
    registry = load(plugins, class_of(kind.__name__, GOOD[kind.__name__]))
    assert registry.faults == ()
    (definition,) = registry.definitions
    assert isinstance(definition.projection, kind)
    assert (definition.name, definition.event_types) == ("orders", ("A", "B"))
    has_handlers = kind in {Projection, RowProjection}
    assert sorted(definition.handlers) == (["A", "B"] if has_handlers else [])


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_can_take_all_events(plugins: Path, kind: type[BaseProjection]) -> None:
    text = class_of(kind.__name__, GOOD[kind.__name__].replace('"B"', '"*"'))
    registry = load(plugins, text)
    assert registry.faults == ()
    assert registry.definitions[0].event_types is None


def test_an_sql_projection_takes_all_events_unless_it_says_otherwise(plugins: Path) -> None:
    registry = load(plugins, class_of("SqlProjection", 'sql = ["SELECT 1 FROM events", "SELECT 2 FROM events"]'))
    assert registry.faults == ()
    assert registry.definitions[0].event_types is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_without_anything_in_it_is_told_what_to_write(plugins: Path, kind: type[BaseProjection]) -> None:
    said: dict[type[BaseProjection], list[str]] = {
        Projection: ['Orders has no handlers; mark a method with @handles("SomeEvent")'],
        BatchProjection: [
            'Orders: has no event_types; write event_types = ("SomeEvent",) with the types to read, or ("*",) for all',
            "Orders has no apply; write def apply(self, events: Sequence[Event], db: Connection)",
        ],
        RowProjection: [
            "Orders: has no row; write row = OrderTotal, where OrderTotal is the dataclass of the table's rows",
            "Orders: tables is (); the rows of a RowProjection are those of exactly one table, name that one",
            'Orders has no handlers; mark a method with @handles("SomeEvent")',
        ],
        SqlProjection: [
            (
                "Orders: has no sql; write the statement that reads the relation events, "
                'as in sql = "INSERT INTO … FROM events"'
            )
        ],
    }
    assert faults(plugins, kind.__name__, "pass") == [f"orders.py:{LINE}: {sentence}" for sentence in said[kind]]


def test_bases_that_begin_with_an_underscore_are_no_projections_of_any_kind(plugins: Path) -> None:
    bases = "".join(f"class _{kind.__name__}({kind.__name__}): pass\n" for kind in KINDS)
    registry = load(
        plugins, f"{bases}class _Mixin(BaseProjection): pass\nclass Orders(_Mixin, _SqlProjection):\n    sql = 'x'\n"
    )
    assert registry.faults == ()
    assert [definition.name for definition in registry.definitions] == ["orders"]


def test_the_kinds_themselves_and_classes_with_an_underscore_are_no_entry_points(
    plugins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (plugins / "installed_base.py").write_text(HEAD + class_of("Projection", EVENT).replace("Orders", "_Orders"))
    monkeypatch.syspath_prepend(plugins)
    points = [
        importlib.metadata.EntryPoint("bad", value, "projectiond.projections")
        for value in ("projectiond:RowProjection", "projectiond.projection:BaseProjection", "installed_base:_Orders")
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: points * bool(group))
    registry = load_projections([], {})
    assert registry.definitions == ()
    assert [fault.message for fault in registry.faults] == [
        "is neither a projection nor a module",
        "is neither a projection nor a module",
        "_Orders begins with _ and so is a base for others; name a projection, or a module of them",
    ]


def test_a_class_of_no_kind_is_a_fault(plugins: Path) -> None:
    assert only_fault(plugins, "BaseProjection", EVENT) == (
        f"orders.py:{LINE}: Orders: is of no kind; instead of BaseProjection subclass {LIST_OF_KINDS}"
    )


def test_a_class_of_two_kinds_is_a_fault(plugins: Path) -> None:
    assert only_fault(plugins, "Projection, SqlProjection", SQL) == (
        f"orders.py:{LINE}: Orders: is of several kinds, Projection and SqlProjection; "
        "subclass one of them, and make another class of the rest"
    )


# ------------------------------------------------------------------- names that belong to another kind


@pytest.mark.parametrize(
    ("kind", "attribute", "sentence"),
    [
        (
            "Projection",
            "sql = 'x'",
            "sql means nothing in a Projection; subclass SqlProjection instead, or call it _sql",
        ),
        (
            "Projection",
            "row = Total",
            "row means nothing in a Projection; subclass RowProjection instead, or call it _row",
        ),
        (
            "Projection",
            "def key(self, event): pass",
            "key means nothing in a Projection; subclass RowProjection instead",
        ),
        ("Projection", "def apply(self, events, db): pass", "apply means nothing in a Projection; subclass BatchProj"),
        ("Projection", "event_types = ('A',)", "event_types means nothing in a Projection, where @handles says which"),
        ("RowProjection", "event_types = ('A',)", "event_types means nothing in a RowProjection, where @handles says"),
        ("SqlProjection", "batch_size = 5", "batch_size means nothing in a SqlProjection, where a transaction tak"),
        ("SqlProjection", "checkpoint_every = 5", "checkpoint_every means nothing in a SqlProjection, where a transac"),
        ("RowProjection", "sql = 'x'", "sql means nothing in a RowProjection; subclass SqlProjection instead"),
        (
            "RowProjection",
            "def apply(self, events, db): pass",
            "apply means nothing in a RowProjection; subclass Batch",
        ),
        ("BatchProjection", "sql = 'x'", "sql means nothing in a BatchProjection; subclass SqlProjection instead"),
        ("BatchProjection", "row = Total", "row means nothing in a BatchProjection; subclass RowProjection instead"),
        ("BatchProjection", "key = 'id'", "key means nothing in a BatchProjection; subclass RowProjection instead"),
        ("SqlProjection", "row = Total", "row means nothing in a SqlProjection; subclass RowProjection instead"),
        ("SqlProjection", "def key(self, event): pass", "key means nothing in a SqlProjection; subclass RowProjection"),
        (
            "SqlProjection",
            "def apply(self, events, db): pass",
            "apply means nothing in a SqlProjection; subclass Batch",
        ),
    ],
)
def test_what_belongs_to_another_kind_is_a_fault_that_names_it(
    plugins: Path, kind: str, attribute: str, sentence: str
) -> None:
    fault = only_fault(plugins, kind, GOOD[kind] + attribute)
    assert fault.startswith(f"orders.py:{LINE}: Orders: {sentence}")


def test_handlers_may_have_the_names_of_other_kinds_methods_and_helpers_those_of_their_options(plugins: Path) -> None:
    body = """
        @handles("A")
        def apply(self, event, db): pass

        @handles("B")
        def key(self, event, db): pass

        def row(self, event): return (event.aggregate_id,)

        class Row: pass
        class Rows: pass
        """
    text = class_of("Projection", body) + "class Others(Orders):\n    def apply(self, event, db): pass\n"
    registry = load(plugins, text)
    assert registry.faults == ()
    assert [definition.event_types for definition in registry.definitions] == [("A", "B"), ("A", "B")]


@pytest.mark.parametrize("kind", ["BatchProjection", "SqlProjection"])
def test_a_handler_in_a_kind_that_calls_none_is_a_fault_at_the_handler(plugins: Path, kind: str) -> None:
    body = GOOD[kind] + EVENT
    line = LINE + 1 + body.strip().split("\n").index('@handles("B", "A")')
    assert only_fault(plugins, kind, body) == (
        f"orders.py:{line}: handler Orders.a: a {kind} has no handlers; take @handles off, "
        "or subclass Projection or RowProjection instead"
    )


@pytest.mark.parametrize(
    ("kind", "attribute", "sentence"),
    [
        (
            "BatchProjection",
            "event_type = ('A',)",
            "event_type is no option of a projection; did you mean event_types?",
        ),
        (
            "BatchProjection",
            "def aply(self, events, db): pass",
            "aply is no method of a projection; did you mean apply?",
        ),
        ("RowProjection", "rows = 3", "rows is no option of a projection; did you mean row?"),
        ("RowProjection", "def keys(self, event): pass", "keys is no method of a projection; did you mean key?"),
        ("SqlProjection", "SQL_ = 'x'", "SQL_ is no option of a projection; did you mean sql?"),
        ("SqlProjection", "table = ('x',)", "table is no option of a projection; did you mean tables?"),
    ],
)
def test_a_misspelt_name_of_each_kind_is_a_fault(plugins: Path, kind: str, attribute: str, sentence: str) -> None:
    assert only_fault(plugins, kind, GOOD[kind] + attribute).startswith(f"orders.py:{LINE}: Orders: {sentence}")


# ------------------------------------------------------------------------------- batches and event types


@pytest.mark.parametrize("kind", ["BatchProjection", "SqlProjection"])
@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("'A'", "event_types is the string 'A'; write event_types = ('A',), with the comma"),
        ("{'A'}", "event_types is set {'A'}; it must be a tuple of event types"),
        ("None", "event_types is NoneType None; it must be a tuple of event types"),
        ("()", 'has no event_types; write event_types = ("SomeEvent",) with the types to read, or ("*",) for all'),
        ("('A', 1)", "event_types: event type 1 is not a string"),
        ("('A', '')", "event_types: an event type is empty"),
        ("('é' * 101,)", "event_types: event type 'éééééééééééééééééééééééééééééééééééééééé'… has 101 characters"),
        (r"('a\0',)", r"event_types: event type 'a\x00' has characters that PostgreSQL cannot store"),
    ],
)
def test_wrong_event_types_are_a_fault(plugins: Path, kind: str, value: str, sentence: str) -> None:
    body = f"{GOOD[kind]}event_types = {value}"
    assert only_fault(plugins, kind, body).startswith(f"orders.py:{LINE}: Orders: {sentence}")


def test_event_types_may_be_inherited_and_given_twice(plugins: Path) -> None:
    text = "class _Base(BatchProjection):\n    event_types = ('B', 'A', 'B')\n    def apply(self, events, db): pass\n"
    registry = load(plugins, text + "class Orders(_Base):\n    pass\n")
    assert registry.faults == ()
    assert registry.definitions[0].event_types == ("A", "B")


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("def apply(self, events): pass", "has the parameters (self, events); they must be exactly (self, events, db)"),
        (
            "def apply(self, event, db, *more): pass",
            "has the parameters (self, event, db, *more); they must be exactly",
        ),
        ("async def apply(self, events, db): pass", "is async; the methods of a projection are plain functions"),
        ("def apply(self, events, db): yield", "is a generator, so calling it does nothing; take the yield out"),
        ("@staticmethod\ndef apply(events, db): pass", "is a staticmethod; make it a plain method with the parameters"),
        ("apply = 42", "is not a method; make it one with the parameters (self, events, db)"),
        (
            "def apply(self, events: Sequence[Event[Model]], db): pass",
            (
                '"events" is annotated Event[Model], but apply gets data as the JSON has it; annotate plain Event, '
                "and make the Model of event.data yourself"
            ),
        ),
    ],
)
def test_an_apply_that_cannot_be_called_is_a_fault(plugins: Path, method: str, sentence: str) -> None:
    fault = only_fault(plugins, "BatchProjection", f"event_types = ('A',)\n{method}")
    place, _, said = fault.partition(": ")
    assert place in {f"orders.py:{LINE}", f"orders.py:{LINE + 2}"}
    assert said.startswith(f"Orders.apply: {sentence}")


@pytest.mark.parametrize("annotation", ["Sequence[Event]", "list[Event[Any]]", "'Sequence[Event[dict]]'", "'Unheard'"])
def test_an_apply_may_be_annotated_with_any_data(plugins: Path, annotation: str) -> None:
    body = f"event_types = ('A',)\ndef apply(self, events: {annotation}, db: 'OnlyForTheTypeChecker'): pass"
    assert load(plugins, class_of("BatchProjection", body)).faults == ()


# ------------------------------------------------------------------------------------------------- rows


def test_a_row_projections_handlers_are_bound_and_get_typed_events(plugins: Path) -> None:
    body = """
        tables = ("orders",)
        row = Total

        def key(self, event: Event): return [event.data["sku"]]

        @handles("A")
        def a(self, row: Total, event: Event[Model]):
            return (row.cents, event.data.sku)
        """
    registry = load(plugins, class_of("RowProjection", body))
    assert registry.faults == ()
    (definition,) = registry.definitions
    assert isinstance(definition.projection, RowProjection)
    event = Event(event_type="A", data={"sku": "T"}, aggregate_id=uuid4())
    (handler,) = definition.handlers_for("A")
    assert handler.function(definition.projection.row("x"), handler.event_for(event)) == (0, "T")
    assert definition.projection.key(event) == ["T"]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("row: Total", "has no row; write row = OrderTotal, where OrderTotal is the dataclass of the table's rows"),
        ("row = Total('x')", "row is an instance of Total; it must be the class itself, so write row = Total"),
        ("row = Model", "row is Model; it must be a dataclass, a class marked by @dataclass"),
        ("row = 'Total'", "row is 'Total'; it must be a dataclass, a class marked by @dataclass"),
        ("def row(self): pass", "row is <function Orders.row"),
        ("row = dataclass(type('Empty', (), {}))", "row is Empty, which has no fields; it needs one for each column"),
    ],
)
def test_a_row_that_is_no_dataclass_is_a_fault(plugins: Path, row: str, sentence: str) -> None:
    fault = only_fault(plugins, "RowProjection", ROW.replace("row = Total", row))
    assert fault.startswith(f"orders.py:{LINE}: Orders: {sentence}")


def test_a_row_projection_has_exactly_one_table(plugins: Path) -> None:
    assert only_fault(plugins, "RowProjection", ROW.replace('("orders",)', '("a", "b")')) == (
        f"orders.py:{LINE}: Orders: tables is ('a', 'b'); "
        "the rows of a RowProjection are those of exactly one table, name that one"
    )


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ("self, event", "has the parameters (self, event); they must be exactly (self, row, event)"),
        ("self, event, db", "has the parameters (self, event, db); they must be exactly (self, row, event)"),
        ("self, event, row", "has the parameters (self, event, row); they must be exactly (self, row, event)"),
        ("self, row, event, db", "has the parameters (self, row, event, db); they must be exactly (self, row, event)"),
        ("self, row: Model, event", '"row" must be annotated Total, the class that `row` names, not Model'),
        ("self, old: Event, new", '"old" must be annotated Total, the class that `row` names, not Event'),
        ("self, row: 'Unheard', event", "the annotation of \"row\" cannot be resolved: NameError: name 'Unheard'"),
        ("self, row: Total, event: Total", '"event" must be annotated Event or Event[Model], not Total'),
    ],
)
def test_a_wrong_handler_of_a_row_projection_is_a_fault(plugins: Path, parameters: str, sentence: str) -> None:
    fault = only_fault(plugins, "RowProjection", ROW.replace("self, row, event", parameters))
    assert fault.startswith(f"orders.py:{LINE + 3}: handler Orders.a: {sentence}")


def test_a_handler_of_a_projection_that_takes_a_row_is_a_fault(plugins: Path) -> None:
    assert only_fault(plugins, "Projection", EVENT.replace("self, event, db", "self, row, event")) == (
        f"orders.py:{LINE + 1}: handler Orders.a: has the parameters (self, row, event); "
        "they must be exactly (self, event, db)"
    )


@pytest.mark.parametrize("annotation", ["Total", "'Total'", "Any", "object", "Base", "Orders.row", "'Nested'"])
def test_a_row_may_be_annotated_with_its_class_or_a_base_of_it(plugins: Path, annotation: str) -> None:
    text = f"""
        from __future__ import annotations

        class Base: pass

        class _Base(RowProjection):
            tables = ("orders",)
            class Total(Base): pass
            Nested = Total

        @dataclass
        class Total(_Base.Nested):
            order_id: str

        class Orders(_Base):
            row = Total
            @handles("A")
            def a(self, row: {annotation}, event): pass
        """
    text = dedent(text).lstrip("\n")
    future, _, rest = text.partition("\n")
    registry = load(plugins, future + "\n" + HEAD + rest, head="")
    assert registry.faults == ()


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("def key(self): pass", "has the parameters (self); they must be exactly (self, event)"),
        ("def key(self, event, db): pass", "has the parameters (self, event, db); they must be exactly (self, event)"),
        ("async def key(self, event): pass", "is async; the methods of a projection are plain functions, write def"),
        ("def key(self, event): yield 1", "is a generator, and keys are returned; return a list of them"),
        ("@staticmethod\ndef key(event): pass", "is a staticmethod; make it a plain method with the parameters"),
        ("key = 'order_id'", "is not a method; make it one with the parameters (self, event)"),
        (
            "def key(self, event: Event[Model]): pass",
            '"event" is annotated Event[Model], but key gets data as the JSON',
        ),
    ],
)
def test_a_key_that_cannot_be_called_is_a_fault(plugins: Path, key: str, sentence: str) -> None:
    assert f"Orders.key: {sentence}" in only_fault(plugins, "RowProjection", ROW + key)


# -------------------------------------------------------------------------------------------------- SQL


@pytest.mark.parametrize(
    ("sql", "sentence"),
    [
        ("''", "sql is empty"),
        ("' '", "sql is empty"),
        ("()", "has no sql; write the statement that reads the relation events"),
        ("42", "sql is int 42; it must be a string, or a tuple of strings"),
        ("None", "sql is NoneType None; it must be a string, or a tuple of strings"),
        ("('SELECT 1 FROM events', 1)", "statement 2 of sql is 1; it must be a string"),
        ("('', 'SELECT 1 FROM events')", "statement 1 of sql is empty"),
    ],
)
def test_wrong_sql_is_a_fault(plugins: Path, sql: str, sentence: str) -> None:
    assert only_fault(plugins, "SqlProjection", f"sql = {sql}").startswith(f"orders.py:{LINE}: Orders: {sentence}")


def test_all_faults_of_a_class_of_any_kind_are_reported_at_once(plugins: Path) -> None:
    body = """
        event_types = "A"
        table = ("a",)
        sql = ("", 1)
        batch_size = 0
        def apply(self): pass
        @handles("A")
        def a(self): pass
        """
    found = faults(plugins, "SqlProjection", body)
    assert [fault.split(":")[1] for fault in found] == [str(LINE)] * 6 + [str(LINE + 6)]
