"""What the annotation of a dataclass's field says: its type, and whether it may be None."""

import enum
import types
import typing
from typing import Annotated, Any, Literal, NewType

import typing_extensions


def split_optional(annotation: Any) -> tuple[Any, bool]:  # noqa: ANN401 - a type form
    """Take None out of an annotation; say whether it was there."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        core, is_optional = split_optional(annotation.__origin__)
        return (Annotated[core, *annotation.__metadata__], True) if is_optional else (annotation, False)
    if _is_alias(annotation):
        core, is_optional = split_optional(annotation.__value__)
        return (core, True) if is_optional else (annotation, False)
    if origin in {typing.Union, types.UnionType}:
        parts = [part for part in typing.get_args(annotation) if part is not types.NoneType]
        has_none = len(parts) < len(typing.get_args(annotation))
        return (typing.Union[tuple(parts)], True) if has_none else (annotation, False)  # noqa: UP007 - of a tuple
    return annotation, annotation in {None, types.NoneType}


def unwrap(annotation: Any) -> Any:  # noqa: ANN401 - a type form
    """Take off what only names a type or adds to it."""
    while True:
        if typing.get_origin(annotation) is Annotated:
            annotation = annotation.__origin__
        elif isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        elif _is_alias(annotation):
            annotation = annotation.__value__
        else:
            return annotation


def _is_alias(annotation: object) -> bool:
    return isinstance(annotation, typing_extensions.TypeAliasType)


def members_of(core: Any) -> tuple[Any, ...]:  # noqa: ANN401 - a type form
    """Give the values that an Enum or a Literal stands for; none of other annotations."""
    if isinstance(core, type) and issubclass(core, enum.Enum):
        return tuple(member.value for member in core)
    return typing.get_args(core) if typing.get_origin(core) is Literal else ()
