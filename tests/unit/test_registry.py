"""The registry: plugins are found, imported and checked, and every fault is reported, with its place."""

import importlib.metadata
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from projectiond.event import Event
from projectiond.plugins.definition import Handler
from projectiond.plugins.registry import Fault, Registry, load_projections
from projectiond.projection import Projection, handles
from projectiond.settings import ProjectionSettings

HEAD = "from projectiond import Connection, Event, Projection, handles\n"

GOOD = """
class {name}(Projection):
    @handles("OrderPlaced")
    def placed(self, event: Event, db: Connection) -> None:
        pass
"""


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    directory = tmp_path / "projections"
    directory.mkdir()
    return directory


def write(directory: Path, name: str, text: str, *, head: str = HEAD) -> Path:
    """Write a plugin; its text begins in line 2, below the imports."""
    file = directory / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(head + dedent(text).lstrip("\n"), encoding="utf-8")
    return file


def load(directory: Path, **overrides: ProjectionSettings) -> Registry:
    return load_projections([directory], overrides)


def faults(directory: Path, **overrides: ProjectionSettings) -> list[str]:
    """Return the faults, with files relative to the directory; nothing faulty may be defined."""
    registry = load(directory, **overrides)
    return [str(fault).replace(f"{directory}/", "") for fault in registry.faults]


def call(handler: Handler, event: Event, db: object) -> None:
    handler.function(handler.event_for(event), db)


def only_fault(directory: Path) -> str:
    (fault,) = faults(directory)
    assert load(directory).definitions == ()
    return fault


def names(registry: Registry) -> list[str]:
    assert registry.faults == ()
    return [definition.name for definition in registry.definitions]


# ------------------------------------------------------------------------------------------- finding


def test_a_plugin_becomes_a_definition(plugins: Path) -> None:
    file = write(
        plugins,
        "orders.py",
        """
        from pydantic import BaseModel

        class ItemAdded(BaseModel):
            sku: str

        class OrderSummary(Projection):
            tables = ("order_summary",)
            schema = "CREATE TABLE IF NOT EXISTS order_summary ()"
            batch_size = 7
            on_error = "skip"

            @handles("OrderPlaced")
            def placed(self, event: Event, db: Connection) -> None:
                db.append(event.data["customer"])

            @handles("ItemAdded", "ItemRemoved")
            def changed(self, event: Event[ItemAdded], db: Connection) -> None:
                db.append(event.data.sku)
        """,
    )
    registry = load(plugins)
    assert registry.faults == ()
    (definition,) = registry.definitions
    assert definition.name == "order_summary"
    assert definition.tables == ("order_summary",)
    assert definition.schema == "CREATE TABLE IF NOT EXISTS order_summary ()"
    assert definition.event_types == ("ItemAdded", "ItemRemoved", "OrderPlaced")
    assert definition.source == f"{file}:7"
    assert (definition.batch_size, definition.on_error, definition.max_attempts) == (7, "skip", None)
    assert [handler.name for handler in definition.handlers_for("ItemRemoved")] == ["OrderSummary.changed"]
    assert definition.handlers_for("Unheard of") == ()
    db: Any = []
    for event_type, data in [("OrderPlaced", {"customer": "Ann"}), ("ItemAdded", {"sku": "A1"})]:
        for handler in definition.handlers_for(event_type):
            call(handler, Event(event_type=event_type, data=data), db)
    assert db == ["Ann", "A1"]


def test_definitions_are_sorted_by_name_whatever_the_files_are_called(plugins: Path) -> None:
    write(plugins, "a.py", GOOD.format(name="Zebra"))
    write(plugins, "b.py", GOOD.format(name="Ant") + GOOD.format(name="Mouse"))
    assert names(load(plugins)) == ["ant", "mouse", "zebra"]


def test_names_that_begin_with_underscore_or_dot_are_ignored(plugins: Path) -> None:
    write(plugins, "_helper.py", "this is not Python")
    write(plugins, ".hidden.py", "nor is this")
    write(plugins, "_package/__init__.py", "nor is this")
    write(plugins, "notes.txt", "nor is this")
    write(plugins, "data/readme.py", "a directory without __init__.py is no package")
    write(plugins, "orders.py", GOOD.format(name="_Base") + GOOD.format(name="Orders"))
    assert names(load(plugins)) == ["orders"]


def test_a_package_is_found_with_all_its_modules_and_relative_imports(plugins: Path) -> None:
    write(plugins, "sales/__init__.py", "from .daily import DailySales\n")
    write(plugins, "sales/_money.py", "CENTS = 100\n")
    write(plugins, "sales/daily.py", "from ._money import CENTS\n" + GOOD.format(name="DailySales"))
    write(plugins, "sales/europe/__init__.py", "")
    write(plugins, "sales/europe/weekly.py", "from .._money import CENTS\n" + GOOD.format(name="Weekly"))
    assert names(load(plugins)) == ["daily_sales", "weekly"]


def test_files_of_one_name_in_two_directories_are_both_loaded(tmp_path: Path) -> None:
    write(tmp_path, "one/orders.py", GOOD.format(name="One"))
    write(tmp_path, "two/orders.py", GOOD.format(name="Two"))
    registry = load_projections([tmp_path / "one", tmp_path / "two"], {})
    assert names(registry) == ["one", "two"]


def test_a_directory_that_is_named_twice_is_read_once(plugins: Path) -> None:
    write(plugins, "orders.py", GOOD.format(name="Orders"))
    assert names(load_projections([plugins, plugins], {})) == ["orders"]


def test_a_file_that_was_edited_is_read_anew(plugins: Path) -> None:
    write(plugins, "orders.py", GOOD.format(name="Orders"))
    assert names(load(plugins)) == ["orders"]
    write(plugins, "orders.py", GOOD.format(name="Others"))  # as long as before, and in the same second
    assert names(load(plugins)) == ["others"]


def test_file_names_need_not_be_identifiers(plugins: Path) -> None:
    write(plugins, "order-summary v2.1.py", GOOD.format(name="Orders"))
    assert names(load(plugins)) == ["orders"]


def test_loading_leaves_no_bytecode_behind(plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    write(plugins, "sales/__init__.py", "from .daily import DailySales\n")
    write(plugins, "sales/daily.py", GOOD.format(name="DailySales"))
    assert names(load(plugins)) == ["daily_sales"]
    assert list(plugins.rglob("__pycache__")) == []
    assert sys.dont_write_bytecode is False


def test_a_class_counts_only_where_it_is_defined(plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = types.ModuleType("orders_library")

    class Shared(Projection):
        @handles("A")
        def a(self, event: Event, db: object) -> None:
            """Do nothing."""

    library.Shared = Shared  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "orders_library", library)
    imports = "from orders_library import Shared\n"
    write(plugins, "one.py", imports + GOOD.format(name="One") + "Alias = One\n")
    write(plugins, "two.py", imports + "class Two(Shared):\n    pass\n")
    assert names(load(plugins)) == ["one", "two"]


def test_the_sample_projections_load_without_a_fault() -> None:
    samples = Path(__file__).parents[2] / "projections"
    assert names(load(samples)) == ["customer_activity", "daily_sales", "order_summary"]


# -------------------------------------------------------------------------------------- entry points


@pytest.fixture
def entry_point(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    def install(name: str, value: str) -> None:
        point = importlib.metadata.EntryPoint(name, value, "projectiond.projections")
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [point] * bool(group))

    return install


def test_entry_points_give_classes_and_modules(
    tmp_path: Path,
    plugins: Path,
    monkeypatch: pytest.MonkeyPatch,
    entry_point: Callable[[str, str], None],
) -> None:
    write(tmp_path, "installed_orders.py", GOOD.format(name="One") + GOOD.format(name="Two"))
    monkeypatch.syspath_prepend(tmp_path)
    entry_point("one", "installed_orders:One")
    assert names(load(plugins)) == ["one"]
    entry_point("all", "installed_orders")
    assert names(load(plugins)) == ["one", "two"]


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("no_such_module:Orders", "cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'"),
        ("json:dumps", "is neither a projection nor a module"),
        ("json", "the module has no projection of its own"),
    ],
)
def test_a_bad_entry_point_is_a_fault(
    plugins: Path, entry_point: Callable[[str, str], None], value: str, fault: str
) -> None:
    write(plugins, "orders.py", GOOD.format(name="Orders"))
    entry_point("bad", value)
    registry = load(plugins)
    assert [str(f) for f in registry.faults] == [f"entry point bad = {value}: {fault}"]
    assert [d.name for d in registry.definitions] == ["orders"]


# ------------------------------------------------------------------------------- faults of whole files


def test_a_directory_that_does_not_exist_is_a_fault(tmp_path: Path) -> None:
    (fault,) = load(tmp_path / "nowhere").faults
    assert str(fault) == f"{tmp_path}/nowhere: the directory of projections does not exist"


def test_a_file_in_place_of_a_directory_is_a_fault(tmp_path: Path) -> None:
    file = write(tmp_path, "orders.py", GOOD.format(name="Orders"))
    (fault,) = load(file).faults
    assert str(fault) == f"{file}: is a file; `projections` takes directories"


def test_a_syntax_error_is_a_fault_with_its_line(plugins: Path) -> None:
    write(plugins, "orders.py", "x = 1\ndef broken(:\n")
    assert only_fault(plugins) == "orders.py:3: syntax error: invalid syntax"


def test_a_missing_module_is_a_fault_at_the_import(plugins: Path) -> None:
    write(plugins, "orders.py", "x = 1\nimport no_such_module\n")
    assert only_fault(plugins) == (
        "orders.py:3: cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"
    )


def test_importing_a_neighbouring_plugin_gets_a_hint(plugins: Path) -> None:
    write(plugins, "_money.py", "CENTS = 100")
    write(plugins, "orders.py", "import _money\n")
    assert "make a package of them and import relatively" in only_fault(plugins)


def test_an_exception_at_import_is_a_fault_at_the_plugins_own_line(plugins: Path) -> None:
    write(plugins, "orders.py", 'import json\n\ndef read():\n    json.loads("{")\n\nread()\n')
    assert only_fault(plugins).startswith("orders.py:5: cannot be imported: JSONDecodeError: Expecting")


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("import sys; sys.exit(3)", "orders.py:2: importing it calls sys.exit(3)"),
        ("raise SystemExit", "orders.py:2: importing it calls sys.exit(None)"),
        ("1 / 0", "orders.py:2: cannot be imported: ZeroDivisionError: division by zero"),
        ("raise ValueError", "orders.py:2: cannot be imported: ValueError"),
    ],
)
def test_whatever_an_import_raises_is_a_fault(plugins: Path, statement: str, fault: str) -> None:
    write(plugins, "orders.py", statement)
    assert only_fault(plugins) == fault


def test_a_long_exception_text_is_cut(plugins: Path) -> None:
    write(plugins, "orders.py", "raise ValueError('x\\n' * 100_000)")
    assert len(only_fault(plugins)) < 500


@pytest.mark.parametrize("content", [b"\0\0", b"x = '\xff\xfe'", b"# coding: no-such-codec\n"])
def test_a_file_that_is_no_python_source_is_a_fault(plugins: Path, content: bytes) -> None:
    (plugins / "orders.py").write_bytes(content)
    assert only_fault(plugins).startswith("orders.py")


def test_a_dangling_link_is_a_fault(plugins: Path) -> None:
    (plugins / "orders.py").symlink_to(plugins / "gone.txt")
    assert only_fault(plugins).startswith("orders.py: cannot be imported: FileNotFoundError")


def test_a_file_without_a_projection_is_a_fault(plugins: Path) -> None:
    write(plugins, "orders.py", "class Orders:\n    pass\n")
    assert only_fault(plugins) == (
        "orders.py: no projection is defined here; subclass Projection, or begin the file's name with _"
    )


def test_a_fault_in_a_module_of_a_package_names_that_module(plugins: Path) -> None:
    write(plugins, "sales/__init__.py", "")
    write(plugins, "sales/daily.py", "1 / 0\n")
    write(plugins, "sales/weekly.py", GOOD.format(name="Weekly"))
    assert faults(plugins) == ["sales/daily.py:2: cannot be imported: ZeroDivisionError: division by zero"]
    assert [definition.name for definition in load(plugins).definitions] == ["weekly"]


def test_one_files_fault_hides_no_other(plugins: Path) -> None:
    write(plugins, "a.py", "def broken(:\n")
    write(plugins, "b.py", "import no_such_module\n")
    write(plugins, "c.py", "class Empty(Projection):\n    table = ('x',)\n")
    write(plugins, "d.py", GOOD.format(name="Good"))
    registry = load(plugins)
    found = [str(fault).replace(f"{plugins}/", "") for fault in registry.faults]
    assert [fault.split(": ")[0] for fault in found] == ["a.py:2", "b.py:2", "c.py:2", "c.py:2"]
    assert [definition.name for definition in registry.definitions] == ["good"]


def test_two_projections_of_one_name_are_both_named_and_neither_is_loaded(plugins: Path) -> None:
    write(plugins, "a.py", GOOD.format(name="Orders"))
    write(plugins, "b.py", "\n" + GOOD.format(name="Orders"))
    write(plugins, "c.py", GOOD.format(name="Others"))
    registry = load(plugins)
    assert [str(fault).replace(f"{plugins}/", "") for fault in registry.faults] == [
        'a.py:2: the name "orders" is also that of b.py:2; give each projection a name of its own',
        'b.py:2: the name "orders" is also that of a.py:2; give each projection a name of its own',
    ]
    assert [definition.name for definition in registry.definitions] == ["others"]


def test_a_name_is_double_even_when_one_of_the_two_has_another_fault(plugins: Path) -> None:
    write(plugins, "a.py", GOOD.format(name="Orders"))
    write(plugins, "b.py", "class Orders(Projection):\n    pass\n")
    assert len(faults(plugins)) == 3
    assert load(plugins).definitions == ()


# ---------------------------------------------------------------------------------- faults of handlers


def handler_fault(plugins: Path, handler: str, *, before: str = "") -> str:
    body = "".join(f"    {line}\n" for line in dedent(handler).strip().splitlines())
    write(plugins, "orders.py", dedent(before) + "class Orders(Projection):\n" + body)
    return only_fault(plugins)


def test_a_projection_without_handlers_is_a_fault(plugins: Path) -> None:
    assert handler_fault(plugins, "pass") == (
        'orders.py:2: Orders has no handlers; mark a method with @handles("SomeEvent")'
    )


@pytest.mark.parametrize(
    ("parameters", "shown"),
    [
        ("self", "self"),
        ("self, event", "self, event"),
        ("self, event, db, more", "self, event, db, more"),
        ("self, event, db, more=1", "self, event, db, more"),
        ("self, event, db=None", "self, event, db"),
        ("self, *args", "self, *args"),
        ("self, event, db, *args", "self, event, db, *args"),
        ("self, event, db, **options", "self, event, db, **options"),
        ("self, event, *, db", "self, event, db"),
    ],
)
def test_a_wrong_signature_is_a_fault_at_the_handler(plugins: Path, parameters: str, shown: str) -> None:
    assert handler_fault(plugins, f'@handles("A")\ndef a({parameters}): pass') == (
        f"orders.py:3: handler Orders.a: has the parameters ({shown}); they must be exactly (self, event, db)"
    )


@pytest.mark.parametrize(
    ("handler", "fault"),
    [
        ('@handles("A")\nasync def a(self, event, db): pass', "is async; handlers are plain functions"),
        ('@handles("A")\nasync def a(self, event, db): yield', "is async; handlers are plain functions"),
        ('@handles("A")\ndef a(self, event, db): yield', "is a generator, so calling it does nothing"),
        ('@handles("A")\n@staticmethod\ndef a(event, db): pass', "is a staticmethod; make it a plain method"),
        ('@staticmethod\n@handles("A")\ndef a(event, db): pass', "is a staticmethod; make it a plain method"),
        ('@classmethod\n@handles("A")\ndef a(cls, event, db): pass', "is a classmethod; make it a plain"),
        ('@handles("")\ndef a(self, event, db): pass', "an event type is empty"),
        ('@handles("é" * 101)\ndef a(self, event, db): pass', "has 101 characters; the event store holds at"),
        ('@handles("a\\0b")\ndef a(self, event, db): pass', "has characters that PostgreSQL cannot store"),
        ('@handles("\\ud800")\ndef a(self, event, db): pass', "has characters that PostgreSQL cannot store"),
    ],
)
def test_a_handler_of_the_wrong_kind_is_a_fault(plugins: Path, handler: str, fault: str) -> None:
    found = handler_fault(plugins, handler)
    assert found.startswith("orders.py:3: handler Orders.a: ")
    assert fault in found


def test_a_marked_class_is_a_fault(plugins: Path) -> None:
    assert handler_fault(plugins, '@handles("A")\nclass a: pass') == (
        "orders.py:2: handler Orders.a: is not a method; make it one with the parameters (self, event, db)"
    )


def test_event_types_may_have_spaces_and_non_ascii_letters(plugins: Path) -> None:
    handler = '    @handles("Bestellung geändert", "x" * 100)\n    def a(self, event, db): pass\n'
    write(plugins, "orders.py", "class Orders(Projection):\n" + handler)
    (definition,) = load(plugins).definitions
    assert definition.event_types == ("Bestellung geändert", "x" * 100)


@pytest.mark.parametrize(
    ("annotation", "fault"),
    [
        ("Event[Unheard]", "cannot be imported: NameError: name 'Unheard' is not defined"),
        ("'Event[Unheard]'", "the annotation of \"event\" cannot be resolved: NameError: name 'Unheard'"),
        ("Event[object()]", "pydantic cannot validate <object object"),
        ("Event[Opaque]", "pydantic cannot validate Opaque: PydanticSchemaGenerationError: Unable to gen"),
        (
            "Event[Unfinished]",
            "pydantic cannot validate Unfinished: PydanticUndefinedAnnotation: name 'Nope'",
        ),
        ("Event[T]", "is annotated Event[T], a type variable"),
        ("dict", 'orders.py:14: handler Orders.a: "event" must be annotated Event or Event[Model], not dict'),
        ("Opaque", '"event" must be annotated Event or Event[Model], not Opaque'),
        ("Event[int] | Event[str]", '"event" must be annotated Event or Event[Model], not '),
    ],
)
def test_an_annotation_that_cannot_be_used_is_a_fault(plugins: Path, annotation: str, fault: str) -> None:
    before = """\
        from typing import TypeVar
        from pydantic import BaseModel

        T = TypeVar("T")

        class Opaque:
            pass

        class Unfinished(BaseModel):
            x: "Nope"

    """
    handler = f'@handles("A")\ndef a(self, event: {annotation}, db): pass'
    assert fault in handler_fault(plugins, handler, before=before)


@pytest.mark.parametrize(
    "annotation",
    ["", ": Event", ": Any", ": Event[Any]", ": Event[dict[str, Any]]", ": Event[dict]", ": 'Event[Any]'"],
)
def test_an_annotation_for_any_data_means_no_validation(plugins: Path, annotation: str) -> None:
    handler = f'    @handles("A")\n    def a(self, event{annotation}, db): pass\n'
    write(plugins, "orders.py", "from typing import Any\nclass Orders(Projection):\n" + handler)
    registry = load(plugins)
    assert registry.faults == ()
    assert registry.definitions[0].handlers["A"][0].adapter is None


MODELS = """
from __future__ import annotations
import dataclasses
from typing import TYPE_CHECKING
from pydantic import BaseModel
from typing_extensions import TypedDict
from projectiond import Projection, handles
if TYPE_CHECKING:
    from projectiond import Connection, Event

class Model(BaseModel):
    sku: str
    parts: list[Part] = []

class Part(BaseModel):
    sku: str

@dataclasses.dataclass
class Data:
    sku: str

class Dict(TypedDict):
    sku: str

class Orders(Projection):
    class Nested(BaseModel):
        sku: str

    @handles("A")
    def a(self, event: Event[{model}], db: Connection) -> None:
        db.append(event.data)
"""


@pytest.mark.parametrize("model", ["Model", "Data", "Dict", "Nested", "Model | Part"])
def test_models_are_resolved_from_string_annotations(plugins: Path, model: str) -> None:
    write(plugins, "orders.py", MODELS.format(model=model), head="")
    registry = load(plugins)
    assert registry.faults == ()
    db: Any = []
    call(registry.definitions[0].handlers["A"][0], Event(event_type="A", data={"sku": "A1"}), db)
    (data,) = db
    assert data == {"sku": "A1"} if model == "Dict" else data.sku == "A1"


def test_a_model_imported_for_the_type_checker_alone_is_a_fault_with_a_hint(plugins: Path) -> None:
    text = MODELS.format(model="Decimal").replace(
        "    from projectiond import Connection, Event\n", "    from decimal import Decimal\n"
    )
    write(plugins, "orders.py", text, head="")
    assert only_fault(plugins) == (
        'orders.py:28: handler Orders.a: the annotation of "event" cannot be resolved: '
        "NameError: name 'Decimal' is not defined; import it at run time, not only under TYPE_CHECKING"
    )


def test_a_decorated_handler_is_judged_by_the_function_inside(plugins: Path) -> None:
    text = """
        import functools

        def logged(function):
            @functools.wraps(function)
            def wrapper(*args):
                return function(*args)
            return wrapper

        class Orders(Projection):
            @handles("A")
            @logged
            def a(self, event: Event[int], db): db.append(event.data)
        """
    write(plugins, "orders.py", text)
    registry = load(plugins)
    assert registry.faults == ()
    db: Any = []
    call(registry.definitions[0].handlers["A"][0], Event(event_type="A", data=7), db)
    assert db == [7]


def test_two_handlers_of_one_name_are_a_fault_at_the_second(plugins: Path) -> None:
    one = '@handles("{}")\ndef a(self, event, db): pass\n'
    fault = handler_fault(plugins, one.format("A") + one.format("B"))
    assert "a second handler named 'a' would replace the first" in fault
    assert fault.startswith("orders.py:5")


INHERITANCE = """
class _Base(Projection):
    @handles("A")
    def a(self, event, db): db.append("base a")

    @handles("B")
    def b(self, event, db): db.append("base b")

    @handles("C")
    def c(self, event, db): db.append("base c")

class Orders(_Base):
    def a(self, event, db): db.append("orders a")

    @handles("D", "A")
    def b(self, event, db): db.append("orders b")

    c = None

    @handles("*")
    def all(self, event, db): db.append(event.event_type)
"""


def test_handlers_are_inherited_and_replaced(plugins: Path) -> None:
    write(plugins, "orders.py", INHERITANCE)
    registry = load(plugins)
    assert registry.faults == ()
    (definition,) = registry.definitions
    assert definition.event_types is None
    calls: dict[str, list[str]] = {}
    for event_type in "ABCD":
        db: Any = calls.setdefault(event_type, [])
        for handler in definition.handlers_for(event_type):
            call(handler, Event(event_type=event_type, data={}), db)
    assert calls == {"A": ["orders a", "orders b", "A"], "B": ["B"], "C": ["C"], "D": ["orders b", "D"]}


# ----------------------------------------------------------------------------------- faults of options


def option_fault(plugins: Path, option: str) -> str:
    handler = '\n    @handles("A")\n    def a(self, event, db): pass\n'
    write(plugins, "orders.py", f"class Orders(Projection):\n    {option}\n{handler}")
    return only_fault(plugins)


@pytest.mark.parametrize(
    ("option", "fault"),
    [
        ("name = 42", "name is 42; it must be a string"),
        ("name = ''", "name is empty"),
        ("name = '  '", "name is empty"),
        ("name = 'x' * 101", f"name {'x' * 40!r}… has 101 characters; 100 are the most"),
        (r"name = 'a\tb'", r"name 'a\tb' has control characters, or spaces at an end"),
        (r"name = 'a\0b'", r"name 'a\x00b' has control characters, or spaces at an end"),
        ("name = 'orders '", "name 'orders ' has control characters, or spaces at an end"),
        ("tables = 'orders'", "tables is the string 'orders'; write tables = ('orders',), with the comma"),
        ("tables = {'orders'}", "tables is set {'orders'}; it must be a tuple of table names"),
        ("tables = ('orders', 1)", "tables is ('orders', 1); each must be the name of a table"),
        ("tables = ('',)", "tables is ('',); each must be the name of a table"),
        ("tables = ('a', 'a')", "tables is ('a', 'a'); it names one table twice"),
        (
            "tables = ('a', 'event_store')",
            "tables names 'event_store', which is not the projection's own: a rebuild would empty it; take it out",
        ),
        (
            "tables = ('public.snapshots',)",
            "tables names 'public.snapshots', which is not the projection's own: a rebuild would empty it; take it out",
        ),
        ("schema = b'x'", "schema is b'x'; it must be a string of SQL"),
        ("schema_file = 1", "schema_file is 1; it must be the name of a file"),
        ("schema = 'x'; schema_file = 'x.sql'", "both schema and schema_file are set; keep one of them"),
        ("batch_size = 0", "batch_size is 0; it must be a whole number from 1 to 100000"),
        ("batch_size = True", "batch_size is True; it must be a whole number from 1 to 100000"),
        ("checkpoint_every = -1", "checkpoint_every is -1; it must be a whole number from 1 to 100000"),
        ("max_attempts = '3'", "max_attempts is '3'; it must be a whole number from 1 to 100"),
        ("on_error = 'ignore'", 'on_error is \'ignore\'; it must be "pause" or "skip"'),
        ("synchronous_commit = False", 'synchronous_commit is False; it must be "on" or "off", in quotes'),
        (
            "table = ('orders',)",
            "table is no option of a projection; did you mean tables? (an attribute of your own: _table)",
        ),
        (
            "on_errors = 'skip'",
            ("on_errors is no option of a projection; did you mean on_error? (an attribute of your own: _on_errors)"),
        ),
        (
            "batchsize = 10",
            ("batchsize is no option of a projection; did you mean batch_size? (an attribute of your own: _batchsize)"),
        ),
        (
            "def __init__(self, dsn): pass",
            (
                "cannot be made without arguments: TypeError: "
                "Orders.__init__() missing 1 required positional argument: 'dsn'"
            ),
        ),
        (
            "def __init__(self): raise OSError('no disk')",
            "cannot be made without arguments: OSError: no disk",
        ),
    ],
)
def test_a_wrong_option_is_a_fault(plugins: Path, option: str, fault: str) -> None:
    assert option_fault(plugins, option) == f"orders.py:2: Orders: {fault}"


def test_attributes_of_the_authors_own_are_left_alone(plugins: Path) -> None:
    write(
        plugins,
        "orders.py",
        GOOD.format(name="Orders") + "    currency = 'EUR'\n    _table = 1\n    title = 'x'\n    STATEMENT = 'x'\n",
    )
    assert names(load(plugins)) == ["orders"]


def test_a_list_of_tables_and_a_name_with_spaces_are_accepted(plugins: Path) -> None:
    write(
        plugins,
        "orders.py",
        GOOD.format(name="O") + "    tables = ['a', 's.b']\n    name = 'Größte Kunden'\n",
    )
    (definition,) = load(plugins).definitions
    assert definition.tables == ("a", "s.b")
    assert definition.name == "Größte Kunden"


def test_a_schema_file_is_read_beside_the_plugin(plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(plugins, "orders.py", GOOD.format(name="Orders") + "    schema_file = 'sql/orders.sql'\n")
    write(plugins, "sql/orders.sql", "CREATE TABLE IF NOT EXISTS größe ()", head="")
    monkeypatch.chdir("/")
    (definition,) = load(plugins).definitions
    assert definition.schema == "CREATE TABLE IF NOT EXISTS größe ()"


def test_a_schema_file_that_cannot_be_read_is_a_fault(plugins: Path) -> None:
    assert option_fault(plugins, "schema_file = 'gone.sql'") == (
        "orders.py:2: Orders: schema_file gone.sql cannot be read: No such file or directory"
    )
    (plugins / "latin.sql").write_bytes(b"-- gr\xf6\xdfe")
    assert "schema_file latin.sql is not UTF-8 text" in option_fault(plugins, "schema_file = 'latin.sql'")


def test_all_faults_of_one_class_are_reported_at_once(plugins: Path) -> None:
    text = """
        class Orders(Projection):
            tables = "orders"
            batch_size = 0
            on_error = "ignore"

            @handles("A")
            def a(self): pass

            @handles("B")
            async def b(self, event, db): pass
        """
    write(plugins, "orders.py", text)
    assert [fault.split(":")[1] for fault in faults(plugins)] == ["2", "2", "2", "7", "10"]


# ------------------------------------------------------------------------------------------ overrides


def test_settings_win_over_the_classs_attributes(plugins: Path) -> None:
    write(plugins, "orders.py", GOOD.format(name="Orders") + "    batch_size = 7\n    max_attempts = 5\n")
    registry = load(plugins, orders=ProjectionSettings(batch_size=9, on_error="skip"))
    (definition,) = registry.definitions
    assert (definition.batch_size, definition.max_attempts, definition.on_error) == (9, 5, "skip")


def test_settings_for_an_unknown_projection_name_the_nearest(plugins: Path) -> None:
    write(plugins, "orders.py", GOOD.format(name="OrderSummary") + GOOD.format(name="DailySales"))
    assert faults(plugins, order_sumary=ProjectionSettings()) == [
        ('settings: [projection.order_sumary]: no projection "order_sumary" was found; the nearest is "order_summary"')
    ]


def test_settings_for_a_projection_with_a_fault_are_no_second_fault(plugins: Path) -> None:
    write(plugins, "orders.py", "class Orders(Projection):\n    pass\n")
    (fault,) = faults(plugins, orders=ProjectionSettings())
    assert "has no handlers" in fault


def test_settings_may_be_for_a_file_that_failed_to_import(plugins: Path) -> None:
    write(plugins, "orders.py", "1 / 0\n")
    write(plugins, "sales.py", GOOD.format(name="Sales"))
    assert faults(plugins, order=ProjectionSettings())[-1] == (
        'settings: [projection.order]: no projection "order" was found; '
        "it may be in a file that could not be imported: orders.py"
    )


def test_a_fault_shows_file_line_and_message() -> None:
    assert str(Fault("orders.py", 3, "is wrong")) == "orders.py:3: is wrong"
    assert str(Fault("orders.py", None, "is wrong")) == "orders.py: is wrong"


def test_faults_show_paths_relative_to_the_current_directory(plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(plugins, "orders.py", "1 / 0\n")
    monkeypatch.chdir(plugins.parent)
    (fault,) = load(Path("projections")).faults
    assert fault.file == os.path.join("projections", "orders.py")  # noqa: PTH118 - compared as text
