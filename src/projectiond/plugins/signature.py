"""Judges one method of a plugin: is it a plain method with the parameters that the daemon calls it with?

Called by `handlers`, for handlers, `apply` and `key`. Only annotations that mean something to the daemon are resolved:
authors like to import what the others need under TYPE_CHECKING. A method that will not do is refused with a sentence
that says what to write; who catches it knows the class and adds the place.
"""

import inspect
import typing
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from projectiond.event import Event
from projectiond.plugins.fault import quoted

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class RefusedError(Exception):
    """A sentence about a method."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a method must be like."""

    parameters: tuple[str, ...]
    """By position; authors may choose other names, but not put "event" where another parameter belongs."""

    plural: str
    """What methods like it are called: "handlers"."""

    instead_of_yield: str = "so calling it does nothing; take the yield out"

    def __str__(self) -> str:
        return f"({', '.join(self.parameters)})"


def check_method(attribute: object, shape: Shape) -> list[inspect.Parameter]:
    """Give the method's parameters without `self`.

    Raises:
        RefusedError: It is no method that can be called so.
    """
    if isinstance(attribute, (staticmethod, classmethod)):
        kind = type(attribute).__name__
        raise RefusedError(f"is a {kind}; make it a plain method with the parameters {shape}")
    if not inspect.isroutine(attribute):
        raise RefusedError(f"is not a method; make it one with the parameters {shape}")
    function = inspect.unwrap(attribute)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise RefusedError(f"is async; {shape.plural} are plain functions, write def instead of async def")
    if inspect.isgeneratorfunction(function):
        raise RefusedError(f"is a generator, {shape.instead_of_yield}")
    parameters = list(inspect.signature(attribute).parameters.values())
    are_plain = [p.kind in POSITIONAL and p.default is p.empty for p in parameters]
    if are_plain != [True] * len(shape.parameters) or _is_out_of_order(parameters, shape):
        names = ", ".join(str(p).split(":")[0].split("=")[0].strip() for p in parameters)
        raise RefusedError(f"has the parameters ({names}); they must be exactly {shape}")
    return parameters[1:]


def resolve_annotation(cls: type, function: Any, parameter: inspect.Parameter) -> Any:  # noqa: ANN401 - any callable, a type form
    """Give what a parameter is annotated with, also where that is a string.

    Raises:
        RefusedError: It names something that cannot be found at run time.
    """
    # Event is supplied, since an author may import it for the type checker alone. The names of the class and of its
    # bases are those that the class body had: a model may be nested in its projection.
    names = {"Event": Event, **inspect.unwrap(function).__globals__}
    nested = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}
    holder = SimpleNamespace(__annotations__={"it": parameter.annotation})
    try:
        return typing.get_type_hints(holder, names, nested)["it"]
    except Exception as error:
        hint = "; import it at run time, not only under TYPE_CHECKING" if isinstance(error, NameError) else ""
        raise RefusedError(f'the annotation of "{parameter.name}" cannot be resolved: {quoted(error)}{hint}') from error


def line_of(attribute: object) -> int | None:
    """Give the line where a method begins, as far as it can be known."""
    function = getattr(attribute, "__func__", attribute)
    code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    return None if code is None else int(code.co_firstlineno)


def _is_out_of_order(parameters: list[inspect.Parameter], shape: Shape) -> bool:
    """Say whether the parameter called "event" stands where another one will be passed."""
    names = [parameter.name for parameter in parameters]
    return "event" in names and "event" in shape.parameters and names.index("event") != shape.parameters.index("event")
