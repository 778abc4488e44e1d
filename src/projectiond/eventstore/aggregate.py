"""Aggregates: what ``load`` folds events into, and how the shape of one is told from another's.

An aggregate is a pydantic model (or a dataclass) that can be made without arguments and has ``apply``.  A snapshot is
its JSON.  Whether a snapshot still means the same is decided by a fingerprint: of the model's JSON schema, of the code
of its own methods, and of ``snapshot_version``, which an author raises when code that they call has changed its
meaning.  A fingerprint that differs without need costs a replay; one that does not differ though it should would be a
wrong state.  So everything that is cheap to know goes in.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any, Generic, Protocol, Self, TypeVar
from uuid import UUID

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from projectiond.errors import ConfigurationError
from projectiond.event import Event


class Aggregate(Protocol):
    """What can be loaded."""

    def apply(self, event: Event[Any], /) -> Self | None:
        """Take in one event: change the aggregate and return None, or return the next state."""


A = TypeVar("A", bound=Aggregate)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[A]):
    """An aggregate as of its last event."""

    aggregate_id: UUID
    version: int
    """What ``append`` expects; 0 when there are no events."""

    state: A

    aggregate_type: str
    """That of its last event; empty when there are none."""

    last_event_id: UUID | None


@dataclass(frozen=True, slots=True)
class Shape(Generic[A]):
    """A class of aggregates, as snapshots need it."""

    fingerprint: str
    adapter: TypeAdapter[A]

    @classmethod
    def of(cls, aggregate: type[A]) -> "Shape[A]":
        """Find out the shape of a class.

        Raises:
            ConfigurationError: It cannot be restored from JSON as it was.
        """
        name = aggregate.__name__
        if not callable(getattr(aggregate, "apply", None)):
            raise ConfigurationError(f"{name} has no method apply", hint="write def apply(self, event: Event) -> None")
        hidden = [*getattr(aggregate, "__private_attributes__", ())]
        hidden += [key for key, field in getattr(aggregate, "model_fields", {}).items() if field.exclude]
        if hidden:
            raise ConfigurationError(
                f"{name}.{hidden[0]} would be missing in a snapshot", hint="make it a field that is not excluded"
            )
        try:
            adapter = TypeAdapter(aggregate)
            schema = adapter.json_schema()
        except PydanticUserError as error:
            raise ConfigurationError(
                f"{name} has no JSON schema: {error.message[:200]}",
                hint="make it a pydantic model or a dataclass of fields that have one",
            ) from None
        digest = hashlib.sha256(json.dumps(schema, sort_keys=True).encode())
        digest.update(repr(getattr(aggregate, "snapshot_version", None)).encode())
        for part in _code_of(aggregate):
            digest.update(part.encode())
        return cls(digest.hexdigest()[:32], adapter)


def _code_of(cls: type) -> Iterator[str]:
    """Give the code of the class's own methods and of its bases', those of libraries excepted."""
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] in {"builtins", "pydantic", "typing", "abc", "projectiond"}:
            continue
        for name, attribute in sorted(vars(base).items()):
            function = getattr(attribute, "__func__", getattr(attribute, "fget", attribute))
            if isinstance(function, FunctionType):
                yield name
                yield from _parts_of(function.__code__)


def _parts_of(code: CodeType) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr((code.co_names, code.co_varnames, code.co_freevars))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _parts_of(constant)
        elif isinstance(constant, frozenset):  # whose order differs from process to process
            yield repr(sorted(map(repr, constant)))
        else:
            yield repr(constant)
