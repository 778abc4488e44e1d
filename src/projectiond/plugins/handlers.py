"""Reads the methods of a projection class that the daemon is to call, and says what is wrong with them.

Called by the registry, for classes whose file has been imported. A handler is a method marked by `@handles`; its
parameters are (self, event, db), in a `RowProjection` (self, row, event). The annotation of its event decides whether
data is validated:

    event, event: Event, event: Event[Any], event: Event[dict[str, Any]]    data as the JSON has it
    event: Event[Model]                                                     data as a Model, validated

The other methods, `apply` of a `BatchProjection` and `key` of a `RowProjection`, get events of several types, so their
data is always as the JSON has it.
"""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar, get_origin

from pydantic import BaseModel, TypeAdapter

from projectiond.event import Event
from projectiond.plugins.event_types import find_fault
from projectiond.plugins.members import event_types_of
from projectiond.plugins.signature import RefusedError, Shape, check_method, line_of, resolve_annotation
from projectiond.projection import BaseProjection, BatchProjection, RowProjection

Complain: TypeAlias = Callable[[int | None, str], None]
"""Takes the line of a fault and its sentence."""

# What `Event[...]` may hold to say "any data": validating it would cost time and find nothing.
UNCHECKED: Final[tuple[object, ...]] = (Any, object, dict, dict[str, Any], dict[str, object])

HANDLER: Final = Shape(("self", "event", "db"), "handlers")
ROW_HANDLER: Final = Shape(("self", "row", "event"), "handlers")
APPLY: Final = Shape(("self", "events", "db"), "the methods of a projection")
KEY: Final = Shape(
    ("self", "event"),
    "the methods of a projection",
    instead_of_yield="and keys are returned; return a list of them where an event belongs to several rows",
)


@dataclass(frozen=True, slots=True)
class HandlerMethod:
    """A handler as the class has it, not yet bound to an instance."""

    method: str
    event_types: tuple[str, ...]
    adapter: TypeAdapter[Any] | None


def read_handlers(cls: type[BaseProjection], complain: Complain) -> list[HandlerMethod]:
    """Return the class's good handlers, inherited ones first; complain about the others."""
    methods: list[HandlerMethod] = []
    is_marked = False
    for name, attribute, event_types in _marked(cls):
        is_marked = True
        try:
            _check_event_types(event_types)
            event_parameter = _check_handler(cls, attribute)
            methods.append(HandlerMethod(name, event_types, _adapter(cls, attribute, event_parameter)))
        except RefusedError as refused:
            complain(line_of(attribute), f"handler {cls.__name__}.{name}: {refused}")
    if not is_marked:
        complain(None, f'{cls.__name__} has no handlers; mark a method with @handles("SomeEvent")')
    return methods


def refuse_handlers(cls: type[BaseProjection], kind: type[BaseProjection], complain: Complain) -> None:
    """Complain about every handler of a class whose kind calls none."""
    for name, attribute, _ in _marked(cls):
        complain(
            line_of(attribute),
            f"handler {cls.__name__}.{name}: a {kind.__name__} has no handlers; take @handles off, "
            "or subclass Projection or RowProjection instead",
        )


def check_apply(cls: type[BaseProjection], complain: Complain) -> None:
    """Complain unless a `BatchProjection` has an `apply` of its own that can be called."""
    attribute = inspect.getattr_static(cls, "apply")
    if attribute is inspect.getattr_static(BatchProjection, "apply"):
        complain(None, f"{cls.__name__} has no apply; write def apply(self, events: Sequence[Event], db: Connection)")
        return
    _check_own(cls, "apply", attribute, APPLY, complain)


def check_key(cls: type[BaseProjection], complain: Complain) -> None:
    """Complain when a `RowProjection` has a `key` of its own that cannot be called."""
    _check_own(cls, "key", inspect.getattr_static(cls, "key"), KEY, complain)


def _marked(cls: type[BaseProjection]) -> Iterator[tuple[str, object, tuple[str, ...]]]:
    """Yield name, attribute and event types of what @handles has marked, in the order of definition.

    An override without a mark of its own keeps the event types of the method that it replaces.
    """
    event_types: dict[str, tuple[str, ...]] = {}
    for base in reversed(cls.__mro__):
        for name, attribute in vars(base).items():
            mark = event_types_of(attribute)
            if mark:
                event_types[name] = mark
    for name, types in event_types.items():
        attribute = inspect.getattr_static(cls, name)
        if attribute is not None:  # `placed = None` is how a subclass drops a handler
            yield name, attribute, types


def _check_event_types(event_types: tuple[str, ...]) -> None:
    for event_type in event_types:
        fault = find_fault(event_type)
        if fault:
            raise RefusedError(fault)


def _check_handler(cls: type[BaseProjection], attribute: object) -> inspect.Parameter:
    """Return the parameter that takes the event."""
    if not issubclass(cls, RowProjection):
        event, _db = check_method(attribute, HANDLER)
        return event
    row, event = check_method(attribute, ROW_HANDLER)
    row_class = getattr(cls, "row", None)
    if isinstance(row_class, type) and row.annotation is not row.empty:
        annotation = resolve_annotation(cls, attribute, row)
        # A base class will do as well: such a handler may be inherited.
        if annotation is not Any and annotation not in row_class.__mro__:
            raise RefusedError(
                f'"{row.name}" must be annotated {row_class.__name__}, the class that `row` names, '
                f"not {_name_of(annotation)}"
            )
    return event


def _adapter(cls: type, function: Any, parameter: inspect.Parameter) -> TypeAdapter[Any] | None:  # noqa: ANN401 - any callable
    """Return what validates the event's data, or None where any data will do."""
    if parameter.annotation is parameter.empty:
        return None
    annotation = resolve_annotation(cls, function, parameter)
    if annotation in (Event, Any, object):
        return None
    if get_origin(annotation) is not Event:
        raise RefusedError(f'"{parameter.name}" must be annotated Event or Event[Model], not {_name_of(annotation)}')
    (model,) = typing.get_args(annotation)
    if model in UNCHECKED:
        return None
    if isinstance(model, TypeVar):
        raise RefusedError(f'"{parameter.name}" is annotated Event[{model.__name__}], a type variable')
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(model)
        # A model with a name that pydantic could not resolve yet; at the first event it would be too late.
        adapter.rebuild(raise_errors=True)
    except Exception as error:
        reason = str(error).split("\n", 1)[0]
        raise RefusedError(f"pydantic cannot validate {_name_of(model)}: {type(error).__name__}: {reason}") from error
    return adapter


def _check_own(cls: type, name: str, attribute: object, shape: Shape, complain: Complain) -> None:
    """Judge a method that is no handler, and gets events whose data nobody has validated."""
    try:
        parameter = check_method(attribute, shape)[0]
        model = _model_of(cls, attribute, parameter)
    except RefusedError as refused:
        complain(line_of(attribute), f"{cls.__name__}.{name}: {refused}")
        return
    if isinstance(model, type) and (issubclass(model, BaseModel) or dataclasses.is_dataclass(model)):
        complain(
            line_of(attribute),
            f'{cls.__name__}.{name}: "{parameter.name}" is annotated Event[{model.__name__}], but {name} gets data as '
            f"the JSON has it; annotate plain Event, and make the {model.__name__} of event.data yourself",
        )


def _model_of(cls: type, function: object, parameter: inspect.Parameter) -> object:
    """Return the model of `Event[Model]`, also where it stands inside `Sequence[...]`."""
    try:
        annotation = resolve_annotation(cls, function, parameter)
    except RefusedError:
        return None  # nothing depends on it
    while annotation is not None and get_origin(annotation) is not Event:
        annotation = next(iter(typing.get_args(annotation)), None)
    return None if annotation is None else typing.get_args(annotation)[0]


def _name_of(annotation: object) -> str:
    return str(getattr(annotation, "__name__", annotation))
