"""Finds plugin files, imports them, and says what went wrong with each.

Called by the registry. A plugin is a `*.py` file or a package in one of the directories of `projections`, or
an entry point of an installed package. Importing runs the author's code, so anything may happen: a syntax
error, a missing module, an exception, sys.exit. All of it becomes a `Fault` at the line that did it, and the
next file is imported all the same.

Each file becomes a module of a name of its own, so that two directories may hold files of one name. Modules
of a package can import each other relatively; the directory itself is not on the import path.
"""

import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import inspect
import os
import pkgutil
import re
import sys
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TypeGuard

from projectiond.plugins.fault import Fault, quoted, shown
from projectiond.projection import BaseProjection

ENTRY_POINT_GROUP = "projectiond.projections"


@dataclass(slots=True)
class Plugins:
    """Everything that was found: classes to look at, and files that did not get so far."""

    classes: list[type[BaseProjection]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    """The files that could not be imported; any projection may be in there."""


def find_plugins(directories: Sequence[Path]) -> Plugins:
    """Import every plugin of the directories, and then those of installed packages."""
    plugins = Plugins()
    with _no_bytecode():
        for path in _plugin_files(directories, plugins.faults):
            _load_file(path, plugins)
        for entry_point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
            _load_entry_point(entry_point, plugins)
    plugins.classes = list(dict.fromkeys(plugins.classes))
    return plugins


def source_of(cls: type) -> tuple[str, int | None]:
    """Return the file and the line of a class, as far as they can be known."""
    try:
        return shown(inspect.getfile(cls)), inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):
        return getattr(cls, "__module__", "?"), None


@contextmanager
def _no_bytecode() -> Iterator[None]:
    # Plugins live in directories that are read-only in production and watched by people in development.
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _plugin_files(directories: Sequence[Path], faults: list[Fault]) -> Iterable[Path]:
    """Return the files to import, each once, also where two settings name one directory."""
    found: dict[Path, None] = {}
    for directory in directories:
        try:
            entries = sorted(directory.iterdir())
        except FileNotFoundError:
            faults.append(Fault(shown(directory), None, "the directory of projections does not exist"))
        except NotADirectoryError:
            faults.append(Fault(shown(directory), None, "is a file; `projections` takes directories"))
        except OSError as error:
            faults.append(Fault(shown(directory), None, f"cannot be read: {error.strerror}"))
        else:
            found |= dict.fromkeys(entry.absolute() for entry in entries if _is_plugin(entry))
    return found


def _is_plugin(entry: Path) -> bool:
    if entry.name.startswith(("_", ".")):
        return False
    return (entry / "__init__.py").is_file() if entry.is_dir() else entry.suffix == ".py"


def _load_file(path: Path, plugins: Plugins) -> None:
    """Import a file, or a package with all its modules, and add the classes that are defined there."""
    faults_before, classes_before = len(plugins.faults), len(plugins.classes)
    name = _module_name(path)
    for imported in [n for n in sys.modules if n == name or n.startswith(f"{name}.")]:
        del sys.modules[imported]  # loaded before, and possibly edited since
    module = _attempt(lambda: _import_file(name, path), path, plugins)
    if module is None:
        return
    for part in (module, *_submodules(module, path, plugins)):
        plugins.classes += [cls for cls in _projections(part) if cls.__module__ == part.__name__]
    if (faults_before, classes_before) == (len(plugins.faults), len(plugins.classes)):
        message = "no projection is defined here; subclass Projection, or begin the file's name with _"
        plugins.faults.append(Fault(shown(path), None, message))


def _module_name(path: Path) -> str:
    checksum = zlib.crc32(os.fsencode(path))
    return f"projectiond_plugin_{checksum:08x}_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}"


def _import_file(name: str, path: Path) -> ModuleType:
    file, parts = (path / "__init__.py", [str(path)]) if path.is_dir() else (path, None)
    loader = importlib.machinery.SourceFileLoader(name, str(file))
    spec = importlib.util.spec_from_file_location(name, file, loader=loader, submodule_search_locations=parts)
    if spec is None:
        raise ImportError(f"cannot make a module of {shown(file)}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs, as import does: pydantic resolves names through it
    loader.exec_module(module)
    return module


def _submodules(package: ModuleType, root: Path, plugins: Plugins) -> Iterator[ModuleType]:
    """Import and yield a package's modules, so that no projection is missed because nobody imports it."""
    for found in pkgutil.iter_modules(getattr(package, "__path__", ())):
        if not found.name.startswith("_"):
            name = f"{package.__name__}.{found.name}"
            module = _attempt(partial(importlib.import_module, name), root, plugins)
            if module is not None:
                yield module
                yield from _submodules(module, root, plugins)


def _projections(module: ModuleType) -> Iterator[type[BaseProjection]]:
    for value in list(vars(module).values()):
        if _is_projection(value) and not value.__name__.startswith("_"):
            yield value


def _is_projection(value: object) -> TypeGuard[type[BaseProjection]]:
    """Say whether it is somebody's projection: a subclass of one of our classes, and not one of them."""
    is_ours = getattr(value, "__module__", None) == BaseProjection.__module__
    return isinstance(value, type) and issubclass(value, BaseProjection) and not is_ours


def _attempt(load: Callable[[], ModuleType], root: Path, plugins: Plugins) -> ModuleType | None:
    try:
        return load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the author's code may raise anything
        file, line = _place(error, root)
        plugins.faults.append(Fault(shown(file), line, _import_message(error, root)))
        plugins.failed.append(shown(root))
        return None


def _place(error: BaseException, root: Path) -> tuple[Path, int | None]:
    """Return the file and line of the plugin that failed: the last of its own, not those it called."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_relative_to(root):
        return Path(error.filename), error.lineno
    place: tuple[Path, int | None] = root, None
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(root):
            place = file, line
    return place


def _import_message(error: BaseException, root: Path) -> str:
    if isinstance(error, SyntaxError):
        return f"syntax error: {error.msg}"
    if isinstance(error, SystemExit):
        return f"importing it calls sys.exit({error.code!r})"
    if isinstance(error, ModuleNotFoundError) and error.name:
        neighbour = root.parent / error.name.partition(".")[0]
        if neighbour.is_dir() or neighbour.with_suffix(".py").is_file():
            hint = "plugin files cannot import each other: make a package of them and import relatively"
            return f"cannot be imported: {quoted(error)}; {hint}"
    return f"cannot be imported: {quoted(error)}"


def _load_entry_point(entry_point: importlib.metadata.EntryPoint, plugins: Plugins) -> None:
    """Load an installed package's class, or the classes that a module of it defines or gathers."""
    place = f"entry point {entry_point.name} = {entry_point.value}"
    try:
        loaded = entry_point.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the author's code may raise anything
        plugins.faults.append(Fault(place, None, f"cannot be loaded: {quoted(error)}"))
        plugins.failed.append(place)
        return
    if isinstance(loaded, ModuleType):
        own = (loaded.__name__, f"{loaded.__name__}.")
        classes = [c for c in _projections(loaded) if c.__module__ == own[0] or c.__module__.startswith(own[1])]
        if not classes:
            plugins.faults.append(Fault(place, None, "the module has no projection of its own"))
        plugins.classes += classes
    elif not _is_projection(loaded):
        plugins.faults.append(Fault(place, None, "is neither a projection nor a module"))
    elif loaded.__name__.startswith("_"):
        message = f"{loaded.__name__} begins with _ and so is a base for others; name a projection, or a module of them"
        plugins.faults.append(Fault(place, None, message))
    else:
        plugins.classes.append(loaded)
