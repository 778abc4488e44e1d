"""An event as handlers see it: one immutable row of the event store.

The reader builds events with `Event.from_row`, hundreds of thousands a second, so the JSON columns stay the
bytes that the server sent until somebody wants them: `data` and `metadata` decode on first use, and `typed`
validates the bytes straight into the author's model. Tests build events with keywords.

What it may assume: the columns come in the order of `from_row`. What it may not assume is anything about the
JSON inside them. It can be 50 MB, nested ten thousand deep, or hold a number of 100,000 digits; whatever
cannot be read becomes an `EventDataError` that names the event and stays short.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Generic, NoReturn, Self
from uuid import UUID, uuid4

import pydantic_core
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypeVar  # for `default=`, which typing has from Python 3.13 on only

from projectiond.errors import EventDataError

# Covariant because events are immutable; the default lets authors write plain `Event` under mypy --strict.
D_co = TypeVar("D_co", covariant=True, default=Any)
T = TypeVar("T")

# Enough to find the fault; the rest of a message may come from the event, which may be hostile.
MAX_FAULTS_SHOWN = 3
MAX_TEXT_SHOWN = 200
MAX_PATH_SHOWN = 120
# Above this many faults pydantic's list of them is not even asked for: it takes about 0.5 kB a fault.
MAX_FAULTS_LISTED = 1_000


class Event(Generic[D_co]):
    """One event; `data` is a dict, or the model in `Event[Model]`."""

    __slots__ = (
        "_data",
        "_data_json",
        "_metadata",
        "_metadata_json",
        "aggregate_id",
        "aggregate_type",
        "created_at",
        "event_id",
        "event_type",
        "sequence_number",
        "version",
    )

    event_id: UUID
    aggregate_id: UUID
    aggregate_type: str
    event_type: str
    version: int
    sequence_number: int
    created_at: datetime  # always aware
    is_replay: ClassVar[bool] = False
    """Whether it is applied to build tables anew: for what must not happen twice, like an e-mail."""
    _data: D_co
    _data_json: bytes | None
    _metadata: Mapping[str, Any]
    _metadata_json: bytes | None

    def __init__(  # noqa: PLR0913 - an event has nine attributes, and every one of them may matter to a test
        self,
        *,
        event_type: str,
        data: D_co,
        sequence_number: int = 1,
        event_id: UUID | None = None,
        aggregate_id: UUID | None = None,
        aggregate_type: str = "aggregate",
        metadata: Mapping[str, Any] | None = None,
        version: int = 1,
        created_at: datetime | None = None,
    ) -> None:
        """Build an event by hand, as tests do; the daemon builds them with `from_row`."""
        object.__setattr__(self, "event_id", event_id or uuid4())
        object.__setattr__(self, "aggregate_id", aggregate_id or uuid4())
        object.__setattr__(self, "aggregate_type", aggregate_type)
        object.__setattr__(self, "event_type", event_type)
        object.__setattr__(self, "_data_json", None)
        object.__setattr__(self, "_metadata_json", None)
        object.__setattr__(self, "version", version)
        object.__setattr__(self, "sequence_number", sequence_number)
        object.__setattr__(self, "created_at", _aware(created_at or datetime.now(UTC)))
        _set_data(self, data)
        _set_metadata(self, {} if metadata is None else metadata)

    @classmethod
    def from_row(cls, row: tuple[Any, ...]) -> "Event[Any]":
        """Build an event from a row of the reader, without looking into its JSON.

        Args:
            row: event_id, aggregate_id, aggregate_type, event_type, event_data as JSON bytes, metadata as
                JSON bytes or None, version, sequence_number, created_at.
        """
        return _Draft(*row)

    @classmethod
    def from_row_of_replay(cls, row: tuple[Any, ...]) -> "Event[Any]":
        """Do as `from_row`, for tables that are built anew."""
        return _as_replay(_Draft(*row))

    @property
    def data(self) -> D_co:
        """The event's data, decoded on first use.

        Raises:
            EventDataError: the JSON cannot be represented in Python (nesting, digits).
        """
        try:
            return self._data
        except AttributeError:  # first use; cheaper than asking before every use
            pass
        data: D_co = self._decoded(self._data_json, "data")
        _set_data(self, data)
        return data

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The event's metadata, decoded on first use; empty where the row has none.

        Raises:
            EventDataError: it is not a JSON object, or cannot be represented in Python.
        """
        try:
            return self._metadata
        except AttributeError:
            pass
        metadata = self._decoded(self._metadata_json, "metadata")
        if metadata is None:
            metadata = {}
        if not isinstance(metadata, dict):
            raise EventDataError(f"{self.described()}: its metadata is a JSON {_json_kind(metadata)}, not an object")
        _set_metadata(self, metadata)
        return metadata

    def typed(self, adapter: TypeAdapter[T]) -> "Event[T]":
        """Return this event with its data as the adapter's type, validated from the JSON bytes.

        Raises:
            EventDataError: the data does not fit the type; the message says where and why.
        """
        try:
            data_json = self._data_json
            # Not the adapter's own method, which does nothing but look at options that we have none of.
            data = adapter.validator.validate_json(
                pydantic_core.to_json(self._data) if data_json is None else data_json
            )
        except ValidationError as error:
            fault = _validation_fault(error)
        except Exception as error:  # noqa: BLE001 - validators are the author's code and may raise anything
            fault = f"validation raised {_cut(f'{type(error).__name__}: {error}', MAX_TEXT_SHOWN)}"
        else:
            event: Event[T] = self._copy()
            _set_data(event, data)
            return event
        # Raised out here, because an exception raised inside `except` keeps the one it replaces as its
        # context, and pydantic's holds the whole input: 50 MB of it, in every error that is kept or logged.
        raise EventDataError(f"{self.described()}: its data does not fit {_adapter_name(adapter)}: {fault}")

    def pristine(self) -> Self:
        """Return this event as the store has it, whatever has been done to its decoded data.

        A dict is mutable: a handler that popped a key must find it again when the event is applied again.
        """
        event: Self = self._copy()
        if self._data_json is None:
            _set_data(event, self._data)
        return event

    def __setattr__(self, name: str, value: object) -> NoReturn:
        """Refuse: events are facts."""
        raise AttributeError(f"cannot set {name!r}: events are immutable")

    def __delattr__(self, name: str) -> NoReturn:
        """Refuse: events are facts."""
        raise AttributeError(f"cannot delete {name!r}: events are immutable")

    def __repr__(self) -> str:
        """Name the event; never its data, which may be huge or private."""
        return f"<Event {self.sequence_number} {self.event_type!r} of {self.aggregate_type} {self.aggregate_id}>"

    def _copy(self) -> Any:  # noqa: ANN401 - the copy's data may be of another type
        """Give another event with everything that this one has, except its decoded data."""
        event = _Draft(
            self.event_id,
            self.aggregate_id,
            self.aggregate_type,
            self.event_type,
            self._data_json,
            self._metadata_json,
            self.version,
            self.sequence_number,
            self.created_at,
        )
        if self._data_json is None:
            # Made by hand: there is no JSON to decode again.
            _set_metadata(event, self.metadata)
        return _as_replay(event) if self.is_replay else event

    def _decoded(self, text: bytes | None, what: str) -> Any:  # noqa: ANN401 - JSON is any value
        """Decode one JSON column; a fault becomes an EventDataError that names the event."""
        if text is None:
            return None
        try:
            # The same values in a quarter of the time.
            return pydantic_core.from_json(text)
        except ValueError:  # nesting of more than 200, half a pair of surrogates: Python's own parser takes more
            pass
        try:
            return json.loads(text)
        except RecursionError:  # jsonb stores deeper nesting than Python's parser follows
            fault = "it is nested too deeply"
        except ValueError as error:  # not JSON at all, or a number of more than 4,300 digits
            fault = _cut(str(error), MAX_TEXT_SHOWN)
        raise EventDataError(f"{self.described()}: its {what} cannot be decoded: {fault}")

    def described(self) -> str:
        """The event in the words of an error message."""
        return f"event {self.sequence_number} ({_cut(self.event_type, MAX_PATH_SHOWN)!r}, id {self.event_id})"


class _Draft(Event[Any]):
    """An event while it is being made: it can be written to, and becomes an :class:`Event` when it is complete.

    Of all ways to fill the slots of an immutable object plain assignments are the fastest by far, and this happens a
    hundred thousand times a second.
    """

    __slots__ = ()

    __setattr__ = object.__setattr__  # type: ignore[assignment]
    __delattr__ = object.__delattr__  # type: ignore[assignment]

    def __init__(  # noqa: PLR0913, PLR0917 - the columns of a row
        self,
        event_id: UUID,
        aggregate_id: UUID,
        aggregate_type: str,
        event_type: str,
        data_json: bytes | None,
        metadata_json: bytes | None,
        version: int,
        sequence_number: int,
        created_at: datetime,
    ) -> None:
        self.event_id = event_id
        self.aggregate_id = aggregate_id
        self.aggregate_type = aggregate_type
        self.event_type = event_type
        self._data_json = data_json
        self._metadata_json = metadata_json
        self.version = version
        self.sequence_number = sequence_number
        self.created_at = created_at if created_at.tzinfo else _aware(created_at)
        self.__class__ = Event  # type: ignore[assignment]


class _ReplayedEvent(Event[D_co]):
    """An event that builds tables anew; a class, so that events at the head cost nothing more."""

    __slots__ = ()
    is_replay = True


def _as_replay(event: Event[Any]) -> Event[Any]:
    object.__setattr__(event, "__class__", _ReplayedEvent)
    return event


# Slots are filled by their descriptors: `object.__setattr__` looks the name up each time, at twice the cost.
_set_data = Event.__dict__["_data"].__set__
_set_metadata = Event.__dict__["_metadata"].__set__


def _aware(moment: datetime) -> datetime:
    """A store made by an ORM may have `timestamp` without a zone; its values are UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _adapter_name(adapter: TypeAdapter[Any]) -> str:
    kind = adapter._type  # noqa: SLF001 - pydantic has no public way to ask; only the message depends on it
    return str(getattr(kind, "__name__", kind))


def _json_kind(value: object) -> str:
    names = {list: "array", str: "string", bool: "boolean"}
    return names.get(type(value), "number")


def _validation_fault(error: ValidationError) -> str:
    """Say what pydantic found, in one line: paths and reasons, never the values."""
    count = error.error_count()
    if count > MAX_FAULTS_LISTED:
        return f"{count} faults, too many to list"
    faults = error.errors(include_url=False, include_context=False, include_input=False)[:MAX_FAULTS_SHOWN]
    shown = "; ".join(f"{_path(fault['loc'])}: {_cut(fault['msg'], MAX_TEXT_SHOWN)}" for fault in faults)
    return shown if count <= MAX_FAULTS_SHOWN else f"{shown}; and {count - MAX_FAULTS_SHOWN} more"


def _path(steps: tuple[int | str, ...]) -> str:
    # Each step is cut before they are joined: a key of the event can be as long as the event.
    return _cut(".".join(_cut(str(step), MAX_PATH_SHOWN) for step in steps), MAX_PATH_SHOWN) or "data"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}…"
