"""What of a plugin's files counts as a change of the projection, and what does not."""

import dataclasses
import importlib
import importlib.machinery
import importlib.util
import json
import py_compile
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from projectiond.event import Event
from projectiond.plugins.digest import digest_of_sql
from projectiond.plugins.fingerprint import Difference, Fingerprint, compare
from projectiond.plugins.registry import define, load_projections
from projectiond.postgres.database import Connection
from projectiond.projection import Projection, handles

PLUGIN = {
    "__init__.py": "",
    "pricing.py": '''
"""Prices."""
from .rates import RATES, TABLE

TABLE["FR"] = 20

def gross(cents, country):
    return cents * (100 + RATES[country]) // 100

def unused(cents):
    return cents

def from_table(name):
    return TABLE[name]
''',
    "rates.py": """
RATES = {"DE": 19}
TABLE = {}
""",
    "base.py": """
from projectiond import Projection

class _Audited(Projection):
    def _who(self, event):
        return event.metadata.get("user")

    def _unused(self):
        return 1
""",
    "orders.py": '''
from typing import Any, Final
from pydantic import BaseModel
from projectiond import Event, Connection, handles
from . import pricing
from .base import _Audited
from .pricing import gross

LIMIT: Final = 100
ELSEWHERE = 1

class Placed(BaseModel):
    country: str

def clip(cents: int) -> int:
    """Keep it small."""
    return min(cents, LIMIT)

class Orders(_Audited):
    """Orders."""
    tables = ("orders",)
    schema = """
        CREATE TABLE IF NOT EXISTS orders (id uuid, cents int, who text);
    """
    _factor = 2

    @handles("OrderPlaced")
    def placed(self, event: Event[Placed], db: Connection) -> None:
        """Note an order."""
        # In cents.
        total = clip(event.data.country * self._factor)
        db.execute(f"INSERT INTO orders VALUES ({total})", (gross(total, event.data.country), self._who(event)))

    @handles("OrderShipped", "OrderPaid")
    def moved(self, event: Event, db: Connection) -> None:
        self._note(pricing.from_table("DE"))

    def _note(self, text: str) -> None:
        print(text)

    def describe(self) -> str:
        return "orders"
''',
}

Edit = tuple[str, str, str]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[[dict[str, str]], Fingerprint]]:
    """Write a plugin's files, load it, and give the fingerprint of its only projection."""

    def write_and_load(files: dict[str, str]) -> Fingerprint:
        plugin = tmp_path / "shop"
        plugin.mkdir(exist_ok=True)
        for name, text in files.items():
            (plugin / name).write_text(text)
        registry = load_projections([tmp_path], {})
        assert registry.faults == ()
        (definition,) = (found for found in registry.definitions if found.name == "orders")
        return definition.fingerprint

    yield write_and_load
    for name in [name for name in sys.modules if name.startswith("projectiond_plugin_") and "_shop" in name]:
        del sys.modules[name]


def edited(*edits: Edit) -> dict[str, str]:
    files = dict(PLUGIN)
    for name, old, new in edits:
        assert old in files[name]
        files[name] = files[name].replace(old, new)
    return files


@pytest.mark.parametrize(
    "edits",
    [
        pytest.param([("orders.py", "# In cents.", "# In whole cents.")], id="comment"),
        pytest.param([("orders.py", '"""Note an order."""', '"""Note it."""')], id="docstring"),
        pytest.param([("orders.py", '"""Note an order."""', "")], id="no docstring any more"),
        pytest.param([("orders.py", '"""Keep it small."""', "...")], id="docstring of a function"),
        pytest.param([("orders.py", '"""Orders."""', '"""All orders."""')], id="docstring of the class"),
        pytest.param(
            [("orders.py", "min(cents, LIMIT)", "(min(\n        cents,\n        LIMIT,\n    ))")], id="format"
        ),
        pytest.param([("orders.py", '"DE"', "'DE'")], id="quotes"),
        pytest.param([("orders.py", "(cents: int) -> int", "(cents)")], id="annotations of a function"),
        pytest.param([("orders.py", "LIMIT: Final = 100", "LIMIT = 100")], id="annotation of a constant"),
        pytest.param([("orders.py", "total = clip", "total: int = clip")], id="annotation of a local"),
        pytest.param([("orders.py", "(self, event: Event, db: Connection)", "(self, event, db)")], id="plain event"),
        pytest.param([("orders.py", "Event[Placed]", '"Event[Placed]"')], id="annotation in quotes"),
        pytest.param([("orders.py", "ELSEWHERE = 1", "ELSEWHERE = 2")], id="constant that no handler uses"),
        pytest.param([("orders.py", 'return "orders"', 'return "all"')], id="method that no handler uses"),
        pytest.param([("pricing.py", "    return cents\n", "    return 2 * cents\n")], id="function nobody uses"),
        pytest.param([("base.py", "return 1", "return 2")], id="inherited method that no handler uses"),
        pytest.param(
            [("orders.py", '"OrderShipped", "OrderPaid"', '"OrderPaid", "OrderShipped"')], id="order of types"
        ),
        pytest.param(
            [("orders.py", "(id uuid, cents int,", "(id uuid, -- of the order\n cents  int,")], id="schema's form"
        ),
        pytest.param(
            [("orders.py", "    _factor = 2", "    _factor = 2\n    batch_size = 7\n    on_error = 'skip'")], id="sizes"
        ),
    ],
)
def test_what_changes_nothing_is_no_change(load: Callable[[dict[str, str]], Fingerprint], edits: list[Edit]) -> None:
    assert compare(load(PLUGIN), load(edited(*edits))) == Difference()


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ([("orders.py", "INSERT INTO orders", "INSERT INTO  orders")], "Orders.placed changed"),
        ([("orders.py", "min(cents", "max(cents")], "clip changed"),
        ([("orders.py", "LIMIT: Final = 100", "LIMIT: Final = 200")], "LIMIT changed"),
        ([("orders.py", "country: str", "country: str | None")], "Placed changed"),
        ([("orders.py", "Event[Placed]", "Event[Any]")], "Orders.placed changed, Placed is gone"),
        ([("orders.py", "_factor = 2", "_factor = 3")], "Orders._factor changed"),
        ([("orders.py", "print(text)", "print(text, text)")], "Orders._note changed"),
        ([("base.py", '"user"', '"actor"')], "base._Audited._who changed"),
        ([("pricing.py", "// 100", "/ 100")], "pricing.gross changed"),
        ([("pricing.py", "return TABLE[name]", "return TABLE.get(name)")], "pricing.from_table changed"),
        ([("rates.py", "19", "20")], "rates.RATES changed"),
        ([("pricing.py", 'TABLE["FR"] = 20', 'TABLE["FR"] = 21')], "pricing.TABLE changed"),
        ([("orders.py", '("OrderPlaced")', '("OrderPlaced", "OrderSent")')], "now reads OrderSent"),
        ([("orders.py", '"OrderShipped", ', "")], "no longer reads OrderShipped"),
        (
            [("orders.py", 'tables = ("orders",)', 'tables = ("orders", "lines")')],
            "tables orders are now lines, orders",
        ),
        ([("orders.py", "who text);", "who text, paid bool);")], "schema changed"),
        ([("orders.py", "(_Audited):", "(_Audited, metaclass=type(_Audited)):")], "Orders changed"),
        (
            [("orders.py", "print(text)", "globals()[text]()")],
            "Orders._note changed, Orders.describe is new, base._Audited._unused is new, its whole module is new",
        ),
    ],
)
def test_what_changes_something_is_named(
    load: Callable[[dict[str, str]], Fingerprint], edits: list[Edit], said: str
) -> None:
    difference = compare(load(PLUGIN), load(edited(*edits)))
    assert ", ".join(difference.parts) == said
    assert difference.is_schema_same == ("schema" not in said)


def test_the_order_of_methods_matters_only_between_those_of_one_event_type(
    load: Callable[[dict[str, str]], Fingerprint],
) -> None:
    placed = PLUGIN["orders.py"][PLUGIN["orders.py"].index('    @handles("OrderPlaced")') :]
    first = placed.split("\n\n")[0]
    swap = [("orders.py", f"{first}\n\n", ""), ("orders.py", "    def _note", f"{first}\n\n    def _note")]
    assert not compare(load(PLUGIN), load(edited(*swap)))
    share = ("orders.py", '"OrderShipped"', '"OrderPlaced"')
    before, after = load(edited(share)), load(edited(*swap, share))
    assert str(compare(before, after)) == "other methods handle the same events, schema unchanged"


def test_what_is_only_moved_is_no_change(load: Callable[[dict[str, str]], Fingerprint]) -> None:
    who = PLUGIN["base.py"][PLUGIN["base.py"].index("    def _who") : PLUGIN["base.py"].index("    def _unused")]
    moved = edited(("base.py", who, ""), ("orders.py", "    def describe", f"{who}    def describe"))
    assert load(moved).code != load(PLUGIN).code
    assert not compare(load(PLUGIN), load(moved))


def test_a_version_stands_for_the_code_and_for_nothing_else(load: Callable[[dict[str, str]], Fingerprint]) -> None:
    def versioned(version: str, *edits: Edit) -> Fingerprint:
        return load(edited(("orders.py", "_factor = 2", f"version = {version!r}\n    _factor = 2"), *edits))

    changed: Edit = ("orders.py", "min(cents", "max(cents")
    assert not compare(versioned("1"), versioned("1", changed))
    assert compare(versioned("1"), versioned("2")).parts == ("version 1 is now 2",)
    assert compare(versioned("1"), versioned("1", ("orders.py", "who text", "who uuid"))).parts == ("schema changed",)
    # Where only one of the two has a version, the code says whether it is the same.
    assert not compare(load(PLUGIN), versioned("1"))
    assert compare(load(PLUGIN), versioned("1", changed)).parts == ("clip changed",)
    assert compare(versioned("1"), load(edited(changed))).parts == ("clip changed",)


def test_it_survives_being_kept_as_json(load: Callable[[dict[str, str]], Fingerprint]) -> None:
    taken = load(PLUGIN)
    kept = json.loads(json.dumps(taken.as_object()))
    again = Fingerprint.from_object(kept, None)
    assert again is not None
    assert not compare(again, taken)
    assert again.digest == taken.digest
    assert Fingerprint.from_object({**kept, "format": 0}, None) is None


def test_the_directory_of_the_plugins_does_not_matter(tmp_path: Path) -> None:
    taken = []
    for place in ("here", "there"):
        plugin = tmp_path / place / "shop"
        plugin.mkdir(parents=True)
        for name, text in PLUGIN.items():
            (plugin / name).write_text(text)
        taken.append(load_projections([tmp_path / place], {}).definitions[0].fingerprint)
    assert taken[0] == taken[1]


FILE = """
from projectiond import {kind}, handles
{above}

class Orders({kind}):
    tables = ("orders",)
    schema = "CREATE TABLE orders (n int)"
{body}
"""

ONE_FILE: dict[str, tuple[str, str, str, str, str, str]] = {
    "a decorator of the author's own": (
        "Projection",
        "def twice(f):\n    return f",
        '    @handles("A")\n    @twice\n    def a(self, event, db): pass',
        "return f",
        "return f if f else f",
        "twice changed",
    ),
    "a default": (
        "Projection",
        "RATE = 1",
        '    @handles("A")\n    def a(self, event, db): self.b()\n    def b(self, rate=RATE): pass',
        "RATE = 1",
        "RATE = 2",
        "RATE changed",
    ),
    "a function that is registered": (
        "Projection",
        "RULES = []\n@RULES.append\ndef rule(x):\n    return x",
        '    @handles("A")\n    def a(self, event, db): RULES[0](event)',
        "return x",
        "return -x",
        "RULES changed",
    ),
    "a constant that depends on a condition": (
        "Projection",
        "import os\nif os.name == 'posix':\n    RATE = 1\nelse:\n    RATE = 2",
        '    @handles("A")\n    def a(self, event, db): print(RATE)',
        "RATE = 2",
        "RATE = 3",
        "RATE changed",
    ),
    "a method that is found by a made-up name": (
        "Projection",
        "",
        '    @handles("A")\n    def a(self, event, db): getattr(self, "do_" + "a")()\n    def do_a(self): return 1',
        "return 1",
        "return 2",
        "Orders.do_a changed, its whole module changed",
    ),
    "a constructor": (
        "Projection",
        "",
        '    def __init__(self): self.rate = 1\n    @handles("A")\n    def a(self, event, db): print(self.rate)',
        "self.rate = 1",
        "self.rate = 2",
        "Orders.__init__ changed",
    ),
    "apply": (
        "BatchProjection",
        "",
        '    event_types = ("A",)\n    def apply(self, events, db): print(1)',
        "print(1)",
        "print(2)",
        "Orders.apply changed",
    ),
    "the types of a batch": (
        "BatchProjection",
        "",
        '    event_types = ("A",)\n    def apply(self, events, db): print(1)',
        '("A",)',
        '("*",)',
        "now reads *, no longer reads A",
    ),
    "the class of the rows": (
        "RowProjection",
        "from dataclasses import dataclass\n@dataclass\nclass Row:\n    n: int\n    total: int = 0",
        '    row = Row\n    @handles("A")\n    def a(self, row, event): row.total += 1',
        "total: int = 0",
        "total: int = 1",
        "Row changed",
    ),
    "the key": (
        "RowProjection",
        "from dataclasses import dataclass\n@dataclass\nclass Row:\n    n: int",
        '    row = Row\n    def key(self, event): return 1\n    @handles("A")\n    def a(self, row, event): pass',
        "return 1",
        "return 2",
        "Orders.key changed",
    ),
    "a statement": (
        "SqlProjection",
        'TABLE = "orders"',
        '    sql = f"INSERT INTO {TABLE} SELECT 1 FROM events"',
        "SELECT 1",
        "SELECT 2",
        "sql changed",
    ),
}


@pytest.mark.parametrize("case", ONE_FILE)
def test_of_a_file_all_that_is_reached_counts(tmp_path: Path, case: str) -> None:
    kind, above, body, old, new, said = ONE_FILE[case]
    taken = []
    before = FILE.format(kind=kind, above=above, body=body)
    for text in (before, before.replace(old, new)):
        (tmp_path / "orders.py").write_text(text)
        registry = load_projections([tmp_path], {})
        assert registry.faults == ()
        taken.append(registry.definitions[0].fingerprint)
    assert ", ".join(compare(*taken).parts) == said


def test_without_source_the_handlers_are_unknown_and_the_rest_is_not(tmp_path: Path) -> None:
    text = FILE.format(kind="Projection", above="", body='    @handles("A")\n    def a(self, event, db): pass')
    file = tmp_path / "gone.py"
    file.write_text(text)
    py_compile.compile(str(file), cfile=str(tmp_path / "gone.pyc"))
    loader = importlib.machinery.SourcelessFileLoader("gone", str(tmp_path / "gone.pyc"))
    spec = importlib.util.spec_from_loader("gone", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    taken = define(module.Orders).fingerprint
    assert taken.code is None
    assert not compare(dataclasses.replace(taken, code={"Orders.a": "0"}), taken)
    assert compare(dataclasses.replace(taken, schema="0"), taken).parts == ("schema changed",)


def test_a_class_inside_a_function_counts_with_the_function() -> None:
    def make(rate: int) -> Fingerprint:
        class Orders(Projection):
            tables = ("orders",)

            @handles("A")
            def a(self, event: Event, db: Connection) -> None:
                db.execute("SELECT %s", (event.sequence_number * rate,))

        return define(Orders).fingerprint

    assert set(make(1).code or ()) == {
        "Orders",
        "Orders.a",
        "test_a_class_inside_a_function_counts_with_the_function",
    }


@pytest.mark.parametrize(
    ("text", "is_same"),
    [
        ("SELECT 1, 'a  b' -- one\n", True),
        ("SELECT  1 ,/* two */'a  b'", True),
        ("SELECT 1, 'a b'", False),
        ("SELECT 1, 'a  -- b'", False),
        ("SELECT 1, E'a  b'", False),
        ("SELECT1, 'a  b'", False),
    ],
)
def test_sql_is_the_same_however_it_is_laid_out(text: str, is_same: bool) -> None:  # noqa: FBT001 - a table's column
    assert (digest_of_sql(text) == digest_of_sql("SELECT 1, 'a  b'")) == is_same


def test_what_stands_between_quotes_counts_as_it_is() -> None:
    for quoted in (r"E'it\'s  --'", "'it''s  --'", '"a  b"', "$x$ a  -- b $x$", "$$ a  b $$"):
        assert digest_of_sql(f"SELECT {quoted}") != digest_of_sql(f"SELECT {quoted.replace('  ', ' ')}")
        assert digest_of_sql(f"SELECT {quoted} -- all") == digest_of_sql(f"SELECT   {quoted}")


INSTALLED = {
    "acme/shop/__init__.py": "from .money import cents",
    "acme/shop/money.py": "def cents(x):\n    return 100 * x\n",
    "acme/shop/rates.py": "VAT = 19\nDUTY = 1\n",
    "acme/shop/later.py": "from .later_still import late\n",
    "acme/shop/later_still.py": "def late(x):\n    return x\n",
    "acme/shop/stars.py": "from .money import *\nALL = 1\n",
    "acme/other/lib.py": "def elsewhere(x):\n    return x\n",
    "acme/shop/projections/__init__.py": "",
    "acme/shop/projections/orders.py": """
import acme.shop.rates
from acme import shop
from acme.other.lib import elsewhere
from acme.shop import cents
from projectiond import Projection, handles
from ..stars import *

class Orders(Projection):
    tables = ("orders",)

    @handles("A")
    def a(self, event, db):
        from ..later import late
        print(cents(acme.shop.rates.VAT), late(shop.rates.DUTY), ALL, elsewhere(1))
""",
}


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("acme/shop/money.py", "100 * x", "x", ("money.cents changed",)),
        ("acme/shop/rates.py", "VAT = 19", "VAT = 20", ("rates.VAT changed",)),
        ("acme/shop/rates.py", "DUTY = 1", "DUTY = 2", ("rates.DUTY changed",)),
        ("acme/shop/later_still.py", "return x", "return -x", ("later_still.late changed",)),
        ("acme/shop/stars.py", "ALL = 1", "ALL = 2", ("stars.ALL changed",)),
        ("acme/shop/projections/orders.py", "ALL, ", "ALL, 2, ", ("Orders.a changed",)),
        # Another distribution's, whatever namespace it shares.
        ("acme/other/lib.py", "return x", "return -x", ()),
    ],
)
def test_of_an_installed_package_all_its_modules_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, old: str, new: str, said: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    taken = []
    for version in ("before", "after"):
        root = tmp_path / version
        for name, text in INSTALLED.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text.replace(old, new) if (name, version) == (file, "after") else text)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(root)
            for imported in [name for name in sys.modules if name.partition(".")[0] == "acme"]:
                del sys.modules[imported]
            taken.append(define(importlib.import_module("acme.shop.projections.orders").Orders).fingerprint)
    assert compare(*taken).parts == said


def test_a_long_chain_of_functions_is_followed_to_its_end(tmp_path: Path) -> None:
    helpers = (
        "\n".join(f"def h{n}(x):\n    return h{n + 1}(x) + {n}" for n in range(300)) + "\ndef h300(x):\n    return x"
    )
    text = FILE.format(kind="Projection", above=helpers, body='    @handles("A")\n    def a(self, event, db): h0(1)')
    (tmp_path / "orders.py").write_text(text)
    code = load_projections([tmp_path], {}).definitions[0].fingerprint.code
    assert code is not None
    assert len(code) == 303
