"""Events that are yet to be appended, and what becomes of them: rows of text for the append's statement.

What may be appended: an instance of a registered class, a :class:`NewEvent`, or any model that carries its own envelope
(``event_type``, and where it has them ``event_id``, ``aggregate_type``, ``metadata``).  Everything that the columns
would refuse is refused here, with the event's type in the message, before a statement is sent; what only the server
knows (a NUL character, a number that is none) is translated by ``append``.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import attrgetter
from typing import Any, Final, NamedTuple, Self
from uuid import UUID, uuid4

import pydantic_core
from pydantic import BaseModel

from projectiond.errors import AppendRefusedError, EventDataError, EventIdTakenError, EventRegistryError
from projectiond.eventstore.metadata import SCHEMA_VERSION
from projectiond.eventstore.registry import EventRegistry, EventType
from projectiond.plugins.event_types import MAX_EVENT_TYPE, find_fault

# version is INT.
MAX_VERSION: Final = 2**31 - 1


class AnyVersion:
    """The type of :data:`ANY_VERSION`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "ANY_VERSION"


ANY_VERSION: Final = AnyVersion()
"""Instead of an expected version: append whatever the version is."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to append, with its envelope.

    Its id is made with it: appending the same object again writes nothing, see ``EventStore.append``.
    """

    event_type: str | None
    """None: that of the data's registered class, see :meth:`of`."""

    data: Any
    """JSON, or anything that pydantic can make JSON of."""

    event_id: UUID = field(default_factory=uuid4)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    aggregate_type: str | None = None

    @classmethod
    def of(cls, data: object, *, event_id: UUID | None = None, metadata: Mapping[str, Any] | None = None) -> Self:
        """Make an event of an instance of a registered class, with an id or metadata of your own."""
        return cls(None, data, event_id or uuid4(), {} if metadata is None else metadata)


@dataclass(frozen=True, slots=True)
class Append:
    """What ``append_many`` appends to one aggregate; the same as the arguments of ``append``."""

    aggregate_id: UUID
    events: Sequence[object]
    expected_version: int | AnyVersion
    aggregate_type: str | None = None
    metadata: Mapping[str, Any] | None = None


class Row(NamedTuple):
    """One event, as the columns take it."""

    aggregate_id: UUID
    place: int
    event_id: UUID
    aggregate_type: str
    event_type: str
    data: str
    metadata: str

    def to_json(self, ordinal: int) -> str:
        """Give the row as an element of the parameter ``events``."""
        return (
            f'{{"ordinal":{ordinal},"aggregate_id":"{self.aggregate_id}","place":{self.place},'
            f'"event_id":"{self.event_id}","aggregate_type":{json.dumps(self.aggregate_type)},'
            f'"event_type":{json.dumps(self.event_type)},"data":{self.data},"metadata":{self.metadata}}}'
        )


@dataclass(frozen=True, slots=True)
class Request:
    """All of one append, the aggregates in the order of their ids.

    Whoever appends to several takes the rows of the unique index in this order, so that two of them can wait for each
    other's commit in one direction only: no deadlock.
    """

    expected: Sequence[tuple[UUID, int | None]]
    """The aggregates, each once, with their expected versions; None for any."""

    rows: Sequence[Row]

    @classmethod
    def of(cls, appends: Iterable[Append], registry: EventRegistry | None) -> "Request":
        """Make the rows.

        Raises:
            AppendRefusedError: A version is none, an aggregate occurs twice, an aggregate type is missing.
            EventRegistryError: A class is not registered.
            EventDataError: An event's data or metadata cannot be made JSON.
        """
        expected: list[tuple[UUID, int | None]] = []
        rows: list[Row] = []
        for append in _in_order(appends):
            expected.append((append.aggregate_id, _expected_version(append.expected_version)))
            for place, event in enumerate(_as_list(append.events), 1):
                rows.append(_make_row(append, place, event, registry))
        if len(rows) > 1:
            _refuse_repeated_ids(rows)
        return cls(expected, rows)

    def single(self) -> dict[str, Any] | None:
        """Give the parameters of ``APPEND_ONE``, if this is what it is for."""
        if len(self.rows) != 1 or len(self.expected) != 1:
            return None
        ((aggregate_id, expected),) = self.expected
        if expected is None:
            return None
        (row,) = self.rows
        return {
            "event_id": row.event_id,
            "aggregate_id": aggregate_id,
            "aggregate_type": row.aggregate_type,
            "event_type": row.event_type,
            "data": row.data,
            "metadata": row.metadata,
            "expected_version": expected,
        }

    def parameters(self) -> dict[str, Any]:
        """Give the parameters of all other statements of an append."""
        aggregates = [{"aggregate_id": str(key), "expected_version": value} for key, value in self.expected]
        events = ",".join(row.to_json(ordinal) for ordinal, row in enumerate(self.rows, 1))
        return {"aggregates": json.dumps(aggregates), "events": f"[{events}]"}


def _in_order(appends: Iterable[Append]) -> Sequence[Append]:
    appends = list(appends)
    for append in appends:
        if not isinstance(append.aggregate_id, UUID):
            raise AppendRefusedError(
                f"the aggregate id {append.aggregate_id!r} is no UUID", hint="pass an instance of uuid.UUID"
            )
    if len(appends) > 1:
        appends.sort(key=attrgetter("aggregate_id"))
        for append, following in pairwise(appends):
            if append.aggregate_id == following.aggregate_id:
                raise AppendRefusedError(
                    f"aggregate {append.aggregate_id} occurs twice in one append", hint="put its events into one list"
                )
    return appends


def _as_list(events: Iterable[object]) -> Iterable[object]:
    """Refuse a single event, which may be iterable: a model gives its fields."""
    if isinstance(events, (list, tuple)):
        return events
    if isinstance(events, (NewEvent, BaseModel, Mapping, str, bytes)) or not isinstance(events, Iterable):
        raise AppendRefusedError(
            f"the events of an append are a {type(events).__name__}", hint="give a list, also of a single event"
        )
    return events


def _refuse_repeated_ids(rows: Iterable[Row]) -> None:
    seen = set()
    for row in rows:
        if row.event_id in seen:
            raise EventIdTakenError(
                f"two events of this append have the id {row.event_id}", hint="give each event an id of its own"
            )
        seen.add(row.event_id)


def _expected_version(version: object) -> int | None:
    if isinstance(version, AnyVersion):
        return None
    if not isinstance(version, int) or isinstance(version, bool) or not 0 <= version <= MAX_VERSION:
        raise AppendRefusedError(
            f"the expected version is {version!r}",
            hint="give the version that the aggregate was loaded at, 0 for a new one, or ANY_VERSION",
        )
    return version


def _make_row(append: Append, place: int, event: object, registry: EventRegistry | None) -> Row:
    new = event if isinstance(event, NewEvent) else _wrap(event)
    entry = _find_entry(new, registry)
    event_type = new.event_type if entry is None else entry.name
    if fault := find_fault(event_type):
        raise AppendRefusedError(fault, hint="nothing was appended")
    aggregate_type = append.aggregate_type or new.aggregate_type or (entry.aggregate_type if entry else None)
    if not aggregate_type or len(aggregate_type) > MAX_EVENT_TYPE:
        raise AppendRefusedError(
            f"the aggregate type of {event_type!r} is {'too long' if aggregate_type else 'not known'}",
            hint='pass aggregate_type="..." to append, of at most 100 characters, or register the class with it',
        )
    metadata = {**(append.metadata or {}), **(new.metadata or {})}
    if entry is not None and entry.version > 1:
        metadata = {SCHEMA_VERSION: entry.version, **metadata}
    return Row(
        append.aggregate_id,
        place,
        new.event_id,
        aggregate_type,
        str(event_type),
        _make_json(new.data, f"the data of {event_type!r}"),
        _make_json(metadata, f"the metadata of {event_type!r}"),
    )


def _wrap(event: object) -> NewEvent:
    """Take over the envelope that a model carries itself."""
    event_type, event_id = getattr(event, "event_type", None), getattr(event, "event_id", None)
    aggregate_type, metadata = getattr(event, "aggregate_type", None), getattr(event, "metadata", None)
    return NewEvent(
        event_type if isinstance(event_type, str) else None,
        event,
        event_id if isinstance(event_id, UUID) else uuid4(),
        metadata if isinstance(metadata, Mapping) else {},
        aggregate_type if isinstance(aggregate_type, str) else None,
    )


def _find_entry(new: NewEvent, registry: EventRegistry | None) -> EventType | None:
    """Find what is registered of this event: by its class, else by its type."""
    if registry is not None:
        entry = registry.type_of(type(new.data))
        if entry is None and new.event_type is not None:
            entry = registry.get(new.event_type)
        if entry is not None and new.event_type not in {None, entry.name}:
            raise EventRegistryError(
                f"{type(new.data).__name__} is registered as {entry.name!r}, not as {new.event_type!r}",
                hint="append it under the name that it is registered with",
            )
        if entry is not None:
            return entry
    if new.event_type is None:
        name = type(new.data).__name__
        raise EventRegistryError(
            f"{name} is not registered" + ("" if registry else ", for this event store has no registry"),
            hint=f'register it with registry.register({name}), or append NewEvent("...", data)',
        )
    return None


def _make_json(value: object, what: str) -> str:
    try:
        # NaN is no JSON: PostgreSQL refuses it, where null (what model_dump_json makes of it) would be another value
        # than the one that was appended, and one that the model may not take back.
        if isinstance(value, BaseModel):
            value = value.model_dump(mode="json", by_alias=True)
        return pydantic_core.to_json(value, by_alias=True, inf_nan_mode="constants").decode()
    except (ValueError, RecursionError) as error:  # pydantic's own are ValueErrors
        fault = f"{type(error).__name__}: {str(error)[:200]}"
    raise EventDataError(f"{what} cannot be made JSON: {fault}")
