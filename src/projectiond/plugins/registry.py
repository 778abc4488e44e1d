"""Loads all projections: from files to definitions, with every fault of every file in one go.

Called by `projectiond check`, and at the start of the supervisor and of each worker. It needs no database
and changes nothing. A projection with any fault is not defined; whether to start with the others is up to the
caller. Two projections of one name would share a checkpoint, so neither of them is defined.

    plugin.py    files and entry points  ->  classes
    members.py   a class                 ->  its kind
    options.py   class attributes        ->  options
    handlers.py  methods                 ->  handlers
"""

import difflib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

from projectiond.errors import ConfigurationError
from projectiond.plugins.definition import Definition, Handler
from projectiond.plugins.fault import Fault, quoted
from projectiond.plugins.fingerprint import take_fingerprint
from projectiond.plugins.handlers import Complain as ComplainAt
from projectiond.plugins.handlers import HandlerMethod, check_apply, check_key, read_handlers, refuse_handlers
from projectiond.plugins.members import find_kind, look_for_strays
from projectiond.plugins.options import Complain, Options, read_name, read_options
from projectiond.plugins.plugin import Plugins, find_plugins, source_of
from projectiond.projection import ANY_EVENT, BaseProjection, BatchProjection, RowProjection, SqlProjection
from projectiond.settings import ProjectionSettings

__all__ = ["Fault", "Registry", "define", "load_projections"]

V = TypeVar("V")

# What a SqlProjection has no use for.
SIZES: Final = ("batch_size", "checkpoint_every")
SIZELESS: Final = "means nothing in a SqlProjection, where a transaction takes what its time allows; take it out"


@dataclass(frozen=True, slots=True)
class Registry:
    """What was found: projections fit to run, by name, and everything that is wrong."""

    definitions: tuple[Definition, ...]
    faults: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A class that was looked at; its name counts even when the rest of it is no good."""

    name: str | None
    definition: Definition | None
    file: str
    line: int | None


def load_projections(directories: Sequence[Path], overrides: Mapping[str, ProjectionSettings]) -> Registry:
    """Load the projections of the directories and of installed packages.

    Args:
        directories: where plugins stand, as the setting `projections` has it.
        overrides: settings by projection name; they win over the class's attributes.

    Returns:
        The definitions sorted by name, and the faults in the order in which they were found.
    """
    plugins = find_plugins(directories)
    faults = plugins.faults
    candidates = [_candidate(cls, overrides, faults) for cls in plugins.classes]
    names = {candidate.name for candidate in candidates if candidate.name is not None}
    doubles = _doubles(candidates, faults)
    _check_overrides(overrides, names, plugins, faults)
    definitions = [c.definition for c in candidates if c.definition is not None and c.name not in doubles]
    return Registry(
        definitions=tuple(sorted(definitions, key=lambda definition: definition.name)),
        faults=tuple(dict.fromkeys(faults)),
    )


def define(cls: type[BaseProjection]) -> Definition:
    """Define a class by itself, with a new instance of it, as a test does.

    Raises:
        ConfigurationError: It has faults; the message has each.
    """
    faults: list[Fault] = []
    definition = _candidate(cls, {}, faults).definition
    if definition is None:
        raise ConfigurationError("; ".join(map(str, faults)))
    return definition


def _candidate(
    cls: type[BaseProjection], overrides: Mapping[str, ProjectionSettings], faults: list[Fault]
) -> _Candidate:
    """Look at one class; define it if nothing is wrong with it."""
    file, line = source_of(cls)
    found: list[Fault] = []

    def complain(message: str) -> None:
        found.append(Fault(file, line, f"{cls.__name__}: {message}"))

    def complain_at(handler_line: int | None, message: str) -> None:
        found.append(Fault(file, handler_line or line, message))

    name = read_name(cls, complain)
    kind = find_kind(cls, complain)
    if kind is not None:
        look_for_strays(cls, kind, complain)
    options = read_options(cls, complain)
    methods = [] if kind is None else _read_methods(cls, kind, complain_at)
    if kind is SqlProjection:
        _refuse_sizes(options, complain)
        faults += _stray_overrides(name, overrides)
    projection = _instance(cls, complain)
    faults += found
    if found or name is None or projection is None:
        return _Candidate(name, None, file, line)
    source = file if line is None else f"{file}:{line}"
    settings = overrides.get(name, ProjectionSettings())
    return _Candidate(name, _define(name, projection, options, methods, settings, source), file, line)


def _read_methods(cls: type[BaseProjection], kind: type[BaseProjection], complain: ComplainAt) -> list[HandlerMethod]:
    """Judge the methods that the daemon will call; return the handlers among them."""
    if issubclass(kind, (BatchProjection, SqlProjection)):
        refuse_handlers(cls, kind, complain)
        if issubclass(kind, BatchProjection):
            check_apply(cls, complain)
        return []
    if issubclass(kind, RowProjection):
        check_key(cls, complain)
    return read_handlers(cls, complain)


def _refuse_sizes(options: Options, complain: Complain) -> None:
    for option in SIZES:
        if getattr(options, option) is not None:
            complain(f"{option} {SIZELESS}")


def _stray_overrides(name: str | None, overrides: Mapping[str, ProjectionSettings]) -> list[Fault]:
    settings = overrides.get(name or "", ProjectionSettings())
    strays = [option for option in SIZES if getattr(settings, option) is not None]
    return [Fault("settings", None, f"[projection.{name}]: {option} {SIZELESS}") for option in strays]


def _instance(cls: type[BaseProjection], complain: Complain) -> BaseProjection | None:
    try:
        return cls()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the author's code may raise anything
        complain(f"cannot be made without arguments: {quoted(error)}")
        return None


def _define(
    name: str,
    projection: BaseProjection,
    options: Options,
    methods: Sequence[HandlerMethod],
    settings: ProjectionSettings,
    source: str,
) -> Definition:
    handlers = _by_event_type(projection, methods)
    event_types = {*options.event_types, *handlers}
    fingerprint = take_fingerprint(
        type(projection),
        tables=options.tables,
        schema=options.schema,
        event_types=None if ANY_EVENT in event_types else tuple(event_types),
        handlers=_names_by_event_type(methods),
        version=options.version,
    )
    return Definition(
        name=name,
        projection=projection,
        tables=options.tables,
        schema=options.schema,
        event_types=None if ANY_EVENT in event_types else tuple(sorted(event_types)),
        handlers=handlers,
        source=source,
        batch_size=_first(settings.batch_size, options.batch_size),
        checkpoint_every=_first(settings.checkpoint_every, options.checkpoint_every),
        max_attempts=_first(settings.max_attempts, options.max_attempts),
        on_error=_first(settings.on_error, options.on_error),
        on_change=_first(settings.on_change, options.on_change),
        synchronous_commit=_first(settings.synchronous_commit, options.synchronous_commit),
        fingerprint=fingerprint,
    )


def _by_event_type(projection: BaseProjection, methods: Sequence[HandlerMethod]) -> Mapping[str, tuple[Handler, ...]]:
    """Bind the handlers, and file each under every type that it is to be called for."""
    class_name = type(projection).__name__
    handlers = {
        method.method: Handler(f"{class_name}.{method.method}", getattr(projection, method.method), method.adapter)
        for method in methods
    }
    by_type = _names_by_event_type(methods)
    return MappingProxyType({kind: tuple(handlers[name] for name in names) for kind, names in by_type.items()})


def _names_by_event_type(methods: Sequence[HandlerMethod]) -> Mapping[str, Sequence[str]]:
    by_type: dict[str, list[str]] = {kind: [] for method in methods for kind in method.event_types}
    for method in methods:
        for kind in by_type if ANY_EVENT in method.event_types else method.event_types:
            by_type[kind].append(method.method)
    return by_type


def _first(one: V | None, other: V | None) -> V | None:
    return other if one is None else one


def _doubles(candidates: Iterable[_Candidate], faults: list[Fault]) -> set[str]:
    """Return the names that several classes have, and complain at each of the classes."""
    by_name: defaultdict[str, list[_Candidate]] = defaultdict(list)
    for candidate in candidates:
        if candidate.name is not None:
            by_name[candidate.name].append(candidate)
    doubles = {name: holders for name, holders in by_name.items() if len(holders) > 1}
    for name, holders in doubles.items():
        for holder in holders:
            others = ", ".join(
                str(other.file) if other.line is None else f"{other.file}:{other.line}"
                for other in holders
                if other is not holder
            )
            message = f'the name "{name}" is also that of {others}; give each projection a name of its own'
            faults.append(Fault(holder.file, holder.line, message))
    return set(doubles)


def _check_overrides(
    overrides: Mapping[str, ProjectionSettings], names: set[str], plugins: Plugins, faults: list[Fault]
) -> None:
    for name in overrides:
        if name in names:
            continue
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
        if plugins.failed:
            hint = f"it may be in a file that could not be imported: {', '.join(plugins.failed)}"
        elif nearest:
            hint = f'the nearest is "{nearest[0]}"'
        else:
            hint = "there are no projections at all"
        faults.append(Fault("settings", None, f'[projection.{name}]: no projection "{name}" was found; {hint}'))
