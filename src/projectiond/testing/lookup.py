"""Finding the projection that a test is about: a class, or a plugin's file.

A plugin's file cannot be imported by its name, since its directory is not on the import path.  So a test may name the
file, and it is loaded as the daemon loads it.  The path is looked for in the directory of the test and in those above
it, so that it does not matter where the tests are started.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

from projectiond.errors import ConfigurationError
from projectiond.plugins.fault import shown
from projectiond.plugins.registry import Registry, load_projections
from projectiond.projection import BaseProjection

# Between a file and a class in it, where it has several.
SEPARATOR: Final = "::"


def find_projection(wanted: type[BaseProjection] | str | Path, start: Path) -> type[BaseProjection]:
    """Find a projection.

    Args:
        wanted: The class itself, or the path of a plugin's file or package; ``path::Class`` where it has several.
        start: The directory from which a relative path is looked for.

    Raises:
        ConfigurationError: It is not there, or has a fault.
    """
    if isinstance(wanted, type):
        return wanted
    path, _, class_name = str(wanted).partition(SEPARATOR)
    plugin = _find_file(Path(path), start)
    found = _classes_of(plugin)
    chosen = [cls for cls in found if class_name in {"", cls.__name__}]
    if len(chosen) != 1:
        names = ", ".join(cls.__name__ for cls in found)
        what = f"no {class_name}" if class_name else f"{len(found)} projections"
        raise ConfigurationError(
            f"{shown(plugin)} has {what}", hint=f"say which: {path}{SEPARATOR} and one of {names}" if names else ""
        )
    return chosen[0]


def _find_file(path: Path, start: Path) -> Path:
    for directory in (start, *start.parents):
        if (directory / path).exists():
            return (directory / path).resolve()
    raise ConfigurationError(
        f"there is no {path} in {shown(start)} or a directory above it",
        hint="name the plugin's file, or give its class",
    )


def _classes_of(plugin: Path) -> Sequence[type[BaseProjection]]:
    registry = _load(plugin.parent)
    faults = [fault for fault in registry.faults if _is_of(fault.file, plugin)]
    if faults:
        raise ConfigurationError("; ".join(map(str, faults)))
    definitions = registry.definitions
    return [type(d.projection) for d in definitions if _is_of(d.source.rpartition(":")[0], plugin)]


def _is_of(file: str, plugin: Path) -> bool:
    return Path(file).resolve().is_relative_to(plugin)


@cache
def _load(directory: Path) -> Registry:
    return load_projections([directory], {})
