"""Reads the handlers of a projection class, and says what is wrong with them.

Called by the registry, for classes whose file has been imported. A handler is a method marked by `@handles`
with the signature (self, event, db); the annotation of its event decides whether data is validated:

    event, event: Event, event: Event[Any], event: Event[dict[str, Any]]    data as the JSON has it
    event: Event[Model]                                                     data as a Model, validated

Only that annotation is resolved: authors like to import what `db` is annotated with under TYPE_CHECKING.
"""

import inspect
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeAlias, TypeVar, get_origin

from pydantic import TypeAdapter

from projectiond.event import Event
from projectiond.fault import quoted
from projectiond.projection import MARK, Projection

# event_type is VARCHAR(100): a longer one can never arrive.
MAX_EVENT_TYPE = 100

Complain: TypeAlias = Callable[[int | None, str], None]
"""Takes the line of a fault and its sentence."""

# What `Event[...]` may hold to say "any data": validating it would cost time and find nothing.
UNCHECKED: tuple[object, ...] = (Any, object, dict, dict[str, Any], dict[str, object])


@dataclass(frozen=True, slots=True)
class HandlerMethod:
    """A handler as the class has it, not yet bound to an instance."""

    method: str
    event_types: tuple[str, ...]
    adapter: TypeAdapter[Any] | None


class _RefusedError(Exception):
    """A sentence about a handler; never leaves this module."""


def read_handlers(cls: type[Projection], complain: Complain) -> list[HandlerMethod]:
    """Return the class's good handlers, inherited ones first; complain about the others."""
    methods: list[HandlerMethod] = []
    is_marked = False
    for name, attribute, event_types in _marked(cls):
        is_marked = True
        line = _line(attribute)
        said = f"handler {cls.__name__}.{name}"
        try:
            _check_event_types(event_types)
            event_parameter = _check_signature(attribute)
            methods.append(HandlerMethod(name, event_types, _adapter(cls, attribute, event_parameter)))
        except _RefusedError as refused:
            complain(line, f"{said}: {refused}")
    if not is_marked:
        complain(None, f'{cls.__name__} has no handlers; mark a method with @handles("SomeEvent")')
    return methods


def _marked(cls: type[Projection]) -> Iterator[tuple[str, object, tuple[str, ...]]]:
    """Yield name, attribute and event types of what @handles has marked, in the order of definition.

    An override without a mark of its own keeps the event types of the method that it replaces.
    """
    event_types: dict[str, tuple[str, ...]] = {}
    for base in reversed(cls.__mro__):
        for name, attribute in vars(base).items():
            mark = getattr(attribute, MARK, None) or getattr(getattr(attribute, "__func__", None), MARK, None)
            if isinstance(mark, tuple):
                event_types[name] = mark
    for name, types in event_types.items():
        attribute = inspect.getattr_static(cls, name)
        if attribute is not None:  # `placed = None` is how a subclass drops a handler
            yield name, attribute, types


def _check_event_types(event_types: tuple[str, ...]) -> None:
    for event_type in event_types:
        if not event_type:
            raise _RefusedError("an event type is empty")
        if len(event_type) > MAX_EVENT_TYPE:
            raise _RefusedError(
                f"event type {event_type[:40]!r}… has {len(event_type)} characters; "
                f"the event store holds at most {MAX_EVENT_TYPE}"
            )
        if "\0" in event_type or _is_unencodable(event_type):
            raise _RefusedError(f"event type {event_type!r} has characters that PostgreSQL cannot store")


def _is_unencodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _check_signature(attribute: object) -> inspect.Parameter:
    """Return the parameter that takes the event."""
    if isinstance(attribute, (staticmethod, classmethod)):
        kind = type(attribute).__name__
        raise _RefusedError(f"is a {kind}; make it a plain method with the parameters (self, event, db)")
    if not inspect.isroutine(attribute):
        raise _RefusedError("is not a method; make it one with the parameters (self, event, db)")
    function = inspect.unwrap(attribute)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise _RefusedError("is async; handlers are plain functions, write def instead of async def")
    if inspect.isgeneratorfunction(function):
        raise _RefusedError("is a generator, so calling it does nothing; take the yield out")
    signature = inspect.signature(attribute)
    parameters = list(signature.parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if [p.kind in positional and p.default is p.empty for p in parameters] != [True, True, True]:
        names = ", ".join(str(p).split(":")[0].split("=")[0].strip() for p in parameters)
        raise _RefusedError(f"has the parameters ({names}); they must be exactly (self, event, db)")
    return parameters[1]


def _adapter(cls: type[Projection], function: Any, parameter: inspect.Parameter) -> TypeAdapter[Any] | None:  # noqa: ANN401 - any callable
    """Return what validates the event's data, or None where any data will do."""
    if parameter.annotation is parameter.empty:
        return None
    annotation = _resolved(cls, function, parameter)
    if annotation in (Event, Any, object):
        return None
    if get_origin(annotation) is not Event:
        shown = getattr(annotation, "__name__", annotation)
        raise _RefusedError(f'"{parameter.name}" must be annotated Event or Event[Model], not {shown}')
    (model,) = typing.get_args(annotation)
    if model in UNCHECKED:
        return None
    if isinstance(model, TypeVar):
        raise _RefusedError(f'"{parameter.name}" is annotated Event[{model.__name__}], a type variable')
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(model)
        # A model with a name that pydantic could not resolve yet; at the first event it would be too late.
        adapter.rebuild(raise_errors=True)
    except Exception as error:
        shown = getattr(model, "__name__", model)
        reason = str(error).split("\n", 1)[0]
        raise _RefusedError(f"pydantic cannot validate {shown}: {type(error).__name__}: {reason}") from error
    return adapter


def _resolved(cls: type[Projection], function: Any, parameter: inspect.Parameter) -> Any:  # noqa: ANN401 - a type form
    # Event is supplied, since an author may import it for the type checker alone. The class's own names come
    # last, as they would in the class body: a model may be nested in its projection.
    names = {"Event": Event, **inspect.unwrap(function).__globals__}
    holder = SimpleNamespace(__annotations__={"event": parameter.annotation})
    try:
        return typing.get_type_hints(holder, names, dict(vars(cls)))["event"]
    except Exception as error:
        hint = "; import it at run time, not only under TYPE_CHECKING" if isinstance(error, NameError) else ""
        raise _RefusedError(
            f'the annotation of "{parameter.name}" cannot be resolved: {quoted(error)}{hint}'
        ) from error


def _line(attribute: object) -> int | None:
    function = getattr(attribute, "__func__", attribute)
    code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    return None if code is None else int(code.co_firstlineno)
