"""What of an author's code decides what a projection does: its methods, and everything that they reach by name.

Called by `fingerprint`. From the handlers on, every name is followed to what it stands for: another method, also of the
author's own base classes, a function or constant of the module, something imported from a module of the same plugin.
Each is a *part*, with a digest of its own, so that a difference can be named. Libraries are not followed: a name that
leads out of the plugin is only a name.

It rather takes too much than too little: of an attribute that is mentioned every member of that name counts, whosever
attribute it is. Where names cannot tell what is reached (`globals()`, `exec`, `getattr` with a name made up at run
time), the whole module counts as one part.
"""

import ast
import builtins
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

from projectiond.plugins.digest import Reading
from projectiond.plugins.source import Module, Sources, is_registered

_OUR_PACKAGE: Final = "projectiond"


def read_reach(cls: type, methods: Collection[str], options: Collection[str]) -> dict[str, str] | None:
    """Return the digest of each part that a projection's methods reach, by the part's name.

    Args:
        cls: The projection.
        methods: The methods that the daemon calls, and attributes that are code.
        options: Attributes whose values are compared by themselves.

    Returns:
        None when the class's source cannot be read.
    """
    sources = Sources(cls.__module__)
    home = sources.find(cls.__module__)
    return None if home is None else _Reach(cls, home, sources, options).follow(methods)


class _Reach:
    """The parts found so far, and what is still to be read."""

    def __init__(self, cls: type, home: Module, sources: Sources, options: Collection[str]) -> None:
        self._home = home
        self._sources = sources
        self._options = options
        self._parts: dict[str, str] = {}
        # By name of the member: each class's label, its module, and the statements that make the member.
        self._members: dict[str, dict[str, tuple[Module, list[ast.stmt]]]] = {}
        self._classes: set[tuple[str, str]] = set()
        # Of a class inside a function, the function: what it closes over has no other name.
        self._around = cls.__qualname__.partition(".")[0] if "<locals>" in cls.__qualname__ else ""
        self._seen: set[tuple[str, str]] = set()
        self._followed: set[tuple[str, ...]] = set()
        self._pending: list[tuple[Module, Reading]] = []
        self._always: list[str] = []
        for base in cls.__mro__:
            self._take_class(base)

    def follow(self, methods: Collection[str]) -> dict[str, str]:
        """Read these methods, and whatever they lead to."""
        for name in (*methods, *self._always):
            self._take_member(name)
        while self._pending:
            module, reading = self._pending.pop()
            for name in reading.attributes:
                self._take_member(name)
            place = module.with_imports(reading.imports)
            for chain in reading.chains:
                self._take_chain(place, chain, reading.bound)
            if reading.is_dynamic:
                self._take_module(module)
                for name in self._members:
                    self._take_member(name)
        return self._parts

    # --- classes

    def _take_class(self, cls: type) -> None:
        if cls is object or cls.__module__.partition(".")[0] == _OUR_PACKAGE:
            return
        module = self._sources.find(cls.__module__)
        if module is None:
            return
        node = _find_class(module.outline.body, cls.__qualname__.split("."))
        if node is None:
            # Made by a call of type(), or the file is another one by now.
            self._take_module(module)
            return
        label = self._label(module, cls.__name__)
        self._classes.add((module.name, cls.__name__))
        head = [*node.bases, *node.keywords, *node.decorator_list]
        self._take(module, label, head)
        for name, statement in _members(node):
            if name not in self._options:
                of_class = self._members.setdefault(name, {})
                # Of one name there are several where a property has a setter.
                of_class.setdefault(label, (module, []))[1].append(statement)
                if not name or (name.startswith("__") and name.endswith("__")) or is_registered(statement):
                    self._always.append(name)

    def _take_member(self, name: str) -> None:
        for label, (module, statements) in self._members.get(name, {}).items():
            self._take(module, f"{label}.{name}" if name else f"{label} (body)", statements)

    # --- names

    def _take_chain(self, module: Module, chain: Sequence[str], bound: Collection[str] = ()) -> None:
        """Follow a name, and the attributes behind it as long as they are modules."""
        name, *attributes = chain
        self._take_member(name)
        self._take_name(module, name, attributes)
        is_known = name in bound or name in self._members or name in self._options or hasattr(builtins, name)
        if is_known or name.startswith("__") or name in self._names_of(module.name) or name in module.imports:
            return
        if any(not self._sources.is_own(star) for star in module.stars):
            return
        if self._around and module.name == self._home.name:
            self._take_name(module, self._around)
        else:
            self._take_module(module)

    def _take_name(self, module: Module, name: str, attributes: Sequence[str] = ()) -> None:
        if (module.name, name) in self._classes or (module.name, name, *attributes) in self._followed:
            return
        self._followed.add((module.name, name, *attributes))
        if name in module.outline.statements and self._is_own_name(module, name):
            self._take(module, self._label(module, name), module.outline.statements[name])
        if name in module.imports:
            self._take_import(*module.imports[name], attributes)
        for star in module.stars:
            if name in self._names_of(star):
                self._take_import(star, name, attributes)

    def _take_import(self, module_name: str, name: str | None, attributes: Sequence[str]) -> None:
        if self._sources.is_above(module_name):
            # A namespace package: what is the plugin's stands further down.
            path = [*attributes] if name is None else [name, *attributes]
            if path:
                self._take_import(f"{module_name}.{path[0]}", None, path[1:])
            return
        if not self._sources.is_own(module_name):
            return
        if name is not None and name not in self._names_of(module_name):
            module_name, name = f"{module_name}.{name}", None
        module = self._sources.find(module_name)
        if module is None:
            self._parts[f"{self._path(module_name)} (its source cannot be read)"] = ""
        elif name is not None:
            self._take_name(module, name, attributes)
        elif not attributes or attributes[0].startswith("__"):
            self._take_module(module)
        else:
            self._take_import(module_name, attributes[0], attributes[1:])

    def _names_of(self, module_name: str, seen: frozenset[str] = frozenset()) -> set[str]:
        """Return the names of a module's top level, as far as they are the author's."""
        module = None if module_name in seen else self._sources.find(module_name)
        if module is None:
            return set()
        found = {*module.outline.defined, *module.imports}
        return found.union(*(self._names_of(star, seen | {module_name}) for star in module.stars))

    def _take_module(self, module: Module) -> None:
        is_home = module.name == self._home.name
        label = "its whole module" if is_home else f"the whole module {self._path(module.name)}"
        self._take(module, label, module.outline.body)

    # --- parts

    def _take(self, module: Module, label: str, nodes: Iterable[ast.AST]) -> None:
        if (module.name, label) in self._seen:
            return
        self._seen.add((module.name, label))
        reading = Reading(nodes, lambda name: self._is_own_name(module, name))
        self._parts[label] = reading.digest
        self._pending.append((module, reading))

    def _is_own_name(self, module: Module, name: str) -> bool:
        """Say whether a name is the author's, and not a library's that the module imports, or Python's own."""
        is_imported = name in module.imports and self._sources.is_own(module.imports[name][0])
        return is_imported or name in module.outline.defined

    def _label(self, module: Module, name: str) -> str:
        return name if module.name == self._home.name else f"{self._path(module.name)}.{name}"

    def _path(self, module_name: str) -> str:
        """Return a module's name within its plugin; the name of a plugin's root depends on its directory."""
        return module_name.removeprefix(self._sources.root).removeprefix(".") or "__init__"


def _find_class(body: list[ast.stmt], path: list[str]) -> ast.ClassDef | None:
    """Find a class by its qualified name; the last of that name, as in Python."""
    found: ast.ClassDef | None = None
    name, *rest = [part for part in path if part != "<locals>"]
    for node in _definitions(body):
        if node.name == name:
            inner = _find_class(node.body, rest) if rest else node
            found = inner if isinstance(inner, ast.ClassDef) else found
    return found


def _definitions(body: list[ast.stmt]) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    for statement in body:
        if isinstance(statement, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield statement
        else:
            for field in ("body", "orelse", "finalbody", "handlers"):
                for inner in getattr(statement, field, ()):
                    yield from _definitions([inner])


def _members(node: ast.ClassDef) -> Iterator[tuple[str, ast.stmt]]:
    """Yield the statements of a class body by the name that they make; by the empty name when they make none."""
    for statement in node.body:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield statement.name, statement
            case ast.Assign(targets=targets) if all(isinstance(target, ast.Name) for target in targets):
                yield from ((target.id, statement) for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name, statement
            case ast.Expr(value=ast.Constant()) | ast.Pass():
                pass
            case _:
                yield "", statement
