"""The registry of event types: which class an event type is, in which version, and how older versions become it.

An application makes one and gives it to its event stores; nothing is global.  Events keep the version of their schema
in their metadata (``schema_version``, absent in version 1).  An event of an older version goes through the upcasters,
one version at a time, as plain JSON, and is validated by the class only then: the code knows one version.

What it may assume: nothing about the JSON.  What can go wrong is told with the event's name, never with its data.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final, TypeVar, overload

from pydantic import TypeAdapter

from projectiond.errors import EventDataError, EventRegistryError
from projectiond.event import Event
from projectiond.eventstore.metadata import SCHEMA_VERSION
from projectiond.plugins.event_types import find_fault

Model = TypeVar("Model", bound=type)
Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
AnyUpcaster = TypeVar("AnyUpcaster", bound=Upcaster)

# Below this likeness (difflib's ratio) the nearest name would mislead.
MIN_LIKENESS: Final = 0.5


@dataclass(frozen=True, slots=True)
class EventType:
    """One registered event type."""

    name: str
    version: int
    model: type
    aggregate_type: str | None
    adapter: TypeAdapter[Any] = field(repr=False)


class EventRegistry:
    """Knows the classes of events, by name."""

    def __init__(self) -> None:
        self._by_name: dict[str, EventType] = {}
        self._by_model: dict[type, EventType] = {}
        self._upcasters: dict[tuple[str, int], Upcaster] = {}

    def __repr__(self) -> str:
        return f"<EventRegistry of {len(self._by_name)} event types>"

    @overload
    def register(
        self, model: Model, /, *, name: str | None = None, version: int = 1, aggregate_type: str | None = None
    ) -> Model: ...

    @overload
    def register(
        self, /, *, name: str | None = None, version: int = 1, aggregate_type: str | None = None
    ) -> Callable[[Model], Model]: ...

    def register(
        self,
        model: Any = None,
        /,
        *,
        name: str | None = None,
        version: int = 1,
        aggregate_type: str | None = None,
    ) -> Any:
        """Register the class of an event type; also a decorator, with or without arguments.

        Args:
            model: A pydantic model, a dataclass or a TypedDict.
            name: The event type; the class's name by default.
            version: The version of the schema that the class has, from 1.
            aggregate_type: What its events belong to, where ``append`` is not told.

        Raises:
            EventRegistryError: The name or the class is registered already, or the name cannot be an event type.
        """
        if model is None:
            return lambda model: self.register(model, name=name, version=version, aggregate_type=aggregate_type)
        event_type = model.__name__ if name is None else name
        if fault := find_fault(event_type):
            raise EventRegistryError(fault, hint=f"register {model.__name__} under another name")
        if version < 1:
            raise EventRegistryError(f"{event_type!r} has the version {version}", hint="versions begin at 1")
        if event_type in self._by_name:
            other = self._by_name[event_type].model
            raise EventRegistryError(
                f"event type {event_type!r} is registered twice, as {_path(other)} and as {_path(model)}",
                hint="register one of them under another name",
            )
        if model in self._by_model:
            raise EventRegistryError(
                f"{_path(model)} is registered twice, as {self._by_model[model].name!r} and as {event_type!r}",
                hint="make a subclass for the second event type",
            )
        self._refuse_upcaster_beyond(event_type, version)
        entry = EventType(event_type, version, model, aggregate_type, TypeAdapter(model))
        self._by_name[event_type] = self._by_model[model] = entry
        return model

    def upcast(self, event_type: str, *, from_version: int) -> Callable[[AnyUpcaster], AnyUpcaster]:
        """Register the function that makes data of ``from_version`` into data of the version after it.

        It gets the data as a dict of its own, and returns a dict.

        Raises:
            EventRegistryError: There is one already, or the class has no later version.
        """
        if from_version < 1:
            raise EventRegistryError(f"an upcaster of {event_type!r} has from_version {from_version}, which is below 1")

        def add(upcaster: AnyUpcaster) -> AnyUpcaster:
            if (event_type, from_version) in self._upcasters:
                raise EventRegistryError(f"there are two upcasters of {event_type!r} from version {from_version}")
            self._upcasters[event_type, from_version] = upcaster
            try:
                if entry := self._by_name.get(event_type):
                    self._refuse_upcaster_beyond(event_type, entry.version)
            except EventRegistryError:
                del self._upcasters[event_type, from_version]
                raise
            return upcaster

        return add

    def get(self, event_type: str) -> EventType | None:
        """Give the event type of a name."""
        return self._by_name.get(event_type)

    def type_of(self, model: type) -> EventType | None:
        """Give the event type of a class."""
        return self._by_model.get(model)

    def decode(self, event: Event[Any]) -> Event[Any]:
        """Give the event with its data as the registered class, brought up to the class's version.

        Raises:
            EventRegistryError: The type is not registered, or a step between two versions is missing.
            EventDataError: The data does not fit.
        """
        entry = self._by_name.get(event.event_type)
        if entry is None:
            raise EventRegistryError(
                f"{event.described()} is of a type that is not registered", hint=self._advice(event)
            )
        version = _schema_version(event)
        if version == entry.version:
            return event.typed(entry.adapter)
        if version > entry.version:
            raise EventRegistryError(
                f"{event.described()} has schema version {version}, but {_path(entry.model)} has {entry.version}",
                hint="update this application: a newer one has written the event",
            )
        return self._upcast(event, version, entry).typed(entry.adapter)

    def _upcast(self, event: Event[Any], version: int, entry: EventType) -> Event[Any]:
        data = event.pristine().data
        for step in range(version, entry.version):
            upcaster = self._upcasters.get((entry.name, step))
            if upcaster is None:
                raise EventRegistryError(
                    f"{event.described()} has schema version {version} of {entry.version}, and nothing upcasts it from "
                    f"version {step}",
                    hint=f'write @registry.upcast("{entry.name}", from_version={step})',
                )
            if not isinstance(data, dict):
                raise EventDataError(f"{event.described()}: its data is no JSON object, which upcasters need")
            try:
                data = upcaster(data)
            except Exception as error:
                raise EventDataError(
                    f"{event.described()}: its upcaster from version {step} raised {type(error).__name__}"
                ) from error
            if not isinstance(data, dict):
                raise EventDataError(
                    f"{event.described()}: its upcaster from version {step} returned {type(data).__name__}, not a dict"
                )
        return Event(
            event_type=event.event_type,
            data=data,
            sequence_number=event.sequence_number,
            event_id=event.event_id,
            aggregate_id=event.aggregate_id,
            aggregate_type=event.aggregate_type,
            metadata=event.metadata,
            version=event.version,
            created_at=event.created_at,
        )

    def _refuse_upcaster_beyond(self, event_type: str, version: int) -> None:
        late = [step for name, step in self._upcasters if name == event_type and step >= version]
        if late:
            raise EventRegistryError(
                f"an upcaster of {event_type!r} goes from version {late[0]}, but its class has version {version}",
                hint="raise the version that the class is registered with",
            )

    def _advice(self, event: Event[Any]) -> str:
        nearest = get_close_matches(event.event_type, self._by_name, n=1, cutoff=MIN_LIKENESS)
        return f"register its class; the nearest that is known is {nearest[0]!r}" if nearest else "register its class"


def _schema_version(event: Event[Any]) -> int:
    version = event.metadata.get(SCHEMA_VERSION, 1)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise EventDataError(f"{event.described()}: the {SCHEMA_VERSION} in its metadata is no number from 1")
    return version


def _path(model: type) -> str:
    return f"{model.__module__}.{model.__qualname__}"
