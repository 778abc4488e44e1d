"""The author's modules as source: what each name of a module's top level is, and where an import leads.

Called by `reach`. Nothing is imported or run: the text comes from the loader that has loaded the module, or would load
it. *Own* is what belongs to the same plugin: its file, or all modules of its package. Everything else is a library.
"""

import ast
import importlib.machinery
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Final, TypeAlias

from projectiond.plugins.digest import PLAIN_DECORATORS, Reading, decorator_name, is_handles

Import: TypeAlias = tuple[str, str | None]
"""The module that an import names, and the name in it; None stands for the module itself."""

# Texts whose names were looked up last: of one load of all plugins, each is asked for by several projections.
MOST_OUTLINES: Final = 16


@dataclass(frozen=True, slots=True)
class Outline:
    """A module's top level."""

    body: list[ast.stmt]
    statements: dict[str, list[ast.stmt]]
    """Every statement that gives a name its meaning, or changes what it stands for: `RATES = {}`, `RATES["EU"] = 20`,
    `register(RATES)`."""
    defined: set[str]
    """The names that get their meaning here; the others are imported, and changed here at most."""
    imports: list[ast.Import | ast.ImportFrom]


@dataclass(frozen=True, slots=True)
class Module:
    """One of the author's modules."""

    name: str
    package: str
    outline: Outline
    imports: dict[str, Import]
    stars: list[str]
    """The modules of which it imports everything."""

    def with_imports(self, statements: Sequence[ast.Import | ast.ImportFrom]) -> "Module":
        """Return the module as a function sees it that has imports of its own."""
        if not statements:
            return self
        names, stars = _resolve(statements, self.package)
        return replace(self, imports={**self.imports, **names}, stars=[*self.stars, *stars])


class Sources:
    """The modules that belong to one plugin, each read when it is first asked for."""

    def __init__(self, module_name: str) -> None:
        self.root = _root_of(module_name)
        self._modules: dict[str, Module | None] = {}

    def is_own(self, module_name: str) -> bool:
        """Say whether a module belongs to the plugin."""
        return module_name == self.root or module_name.startswith(f"{self.root}.")

    def is_above(self, module_name: str) -> bool:
        """Say whether a module is a namespace package that the plugin stands in."""
        return self.root.startswith(f"{module_name}.")

    def find(self, module_name: str) -> Module | None:
        """Return a module of the plugin; None when there is none of the name, or its source cannot be read."""
        if module_name not in self._modules:
            self._modules[module_name] = self._load(module_name) if self.is_own(module_name) else None
        return self._modules[module_name]

    def _load(self, name: str) -> Module | None:
        loaded = sys.modules.get(name)
        spec = getattr(loaded, "__spec__", None)
        if loaded is None:
            parent = sys.modules.get(name.rpartition(".")[0])
            spec = importlib.machinery.PathFinder.find_spec(name, getattr(parent, "__path__", []))
        text = _text_of(name, spec, loaded)
        if text is None:
            return None
        try:
            outline = _outline(text)
        except (SyntaxError, ValueError, RecursionError):
            return None
        is_package = spec is not None and spec.submodule_search_locations is not None
        package = name if is_package else name.rpartition(".")[0]
        return Module(name, package, outline, *_resolve(outline.imports, package))


def is_registered(statement: ast.stmt) -> bool:
    """Say whether a definition may be known elsewhere than by its name, since a decorator has seen it."""
    decorators = getattr(statement, "decorator_list", [])
    return any(not is_handles(d) and decorator_name(d) not in PLAIN_DECORATORS for d in decorators)


def _resolve(statements: Iterable[ast.Import | ast.ImportFrom], package: str) -> tuple[dict[str, Import], list[str]]:
    """Say where the names of import statements lead, and of which modules everything is imported."""
    names: dict[str, Import] = {}
    stars: list[str] = []
    for statement in statements:
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                # `import shop.pricing` binds `shop`; the attributes that follow lead on.
                name = alias.name.partition(".")[0]
                names[alias.asname or name] = (alias.name if alias.asname else name, None)
            continue
        base = statement.module or ""
        if statement.level:
            above = package.split(".")[: len(package.split(".")) - statement.level + 1]
            base = ".".join([*above, *([statement.module] if statement.module else [])])
        for alias in statement.names:
            if alias.name == "*":
                stars.append(base)
            else:
                names[alias.asname or alias.name] = (base, alias.name)
    return names, stars


def _root_of(module_name: str) -> str:
    """Return the topmost package that has a file; namespace packages above it may be shared by distributions."""
    parts = module_name.split(".")
    names = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return next((name for name in names if getattr(sys.modules.get(name), "__file__", None)), module_name)


def _text_of(name: str, spec: importlib.machinery.ModuleSpec | None, loaded: ModuleType | None) -> str | None:
    loader = getattr(spec, "loader", None) or getattr(loaded, "__loader__", None)
    read = getattr(loader, "get_source", None)
    try:
        if read is not None:
            text = read(name)
            return None if text is None else str(text)
        # A loader of its own kind: a test runner's, which rewrites what it loads.
        file = Path(str(getattr(loaded, "__file__", "")))
        return file.read_text(encoding="utf-8") if file.suffix == ".py" else None
    except (ImportError, OSError, SyntaxError, UnicodeDecodeError):
        return None


@lru_cache(maxsize=MOST_OUTLINES)
def _outline(text: str) -> Outline:
    body = ast.parse(text).body
    statements: defaultdict[str, list[ast.stmt]] = defaultdict(list)
    defined: set[str] = set()
    imports: list[ast.Import | ast.ImportFrom] = []
    for statement in body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            imports.append(statement)
            continue
        if isinstance(statement, (ast.If, ast.Try, ast.With)):
            imports += [node for node in ast.walk(statement) if isinstance(node, (ast.Import, ast.ImportFrom))]
        made, changed = _touched(statement)
        defined |= made
        for name in made | changed:
            statements[name].append(statement)
    return Outline(body, dict(statements), defined, imports)


def _touched(statement: ast.stmt) -> tuple[set[str], set[str]]:
    """Return the names that a statement gives a meaning, and those whose meaning it may change."""
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            decorators = statement.decorator_list if is_registered(statement) else []
            return {statement.name}, {chain[0] for chain in Reading(decorators).chains}
        case ast.Expr(value=ast.Constant()):
            return set(), set()
        case ast.Assign(targets=targets) if all(isinstance(target, ast.Name) for target in targets):
            return {target.id for target in targets if isinstance(target, ast.Name)}, set()
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}, set()
        case _ if _is_for_imports(statement):
            return set(), set()
    reading = Reading([statement])
    return reading.bound, {chain[0] for chain in reading.chains}


def _is_for_imports(statement: ast.stmt) -> bool:
    """Say whether a block does nothing but import, as under `if TYPE_CHECKING`."""
    inner = [node for node in ast.walk(statement) if isinstance(node, ast.stmt) and node is not statement]
    return bool(inner) and all(isinstance(node, (ast.Import, ast.ImportFrom, ast.Pass)) for node in inner)
