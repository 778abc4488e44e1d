"""Event: immutable, lazy about JSON, and short-spoken about data that does not fit."""

import dataclasses
import json
import time
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from projectiond.errors import EventDataError, PoisonError
from projectiond.event import Event

EVENT_ID = UUID("11111111-1111-4111-8111-111111111111")
ORDER_ID = UUID("22222222-2222-4222-8222-222222222222")
NOON = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)


class ItemAdded(BaseModel):
    sku: str
    quantity: int


@dataclasses.dataclass
class ItemAddedDataclass:
    sku: str
    quantity: int


class ItemAddedDict(TypedDict):
    sku: str
    quantity: int


ITEM_ADDED = TypeAdapter(ItemAdded)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), children, max_size=4)
    ),
    max_leaves=10,
)


def stored(
    data: bytes, metadata: bytes | None = None, *, event_type: str = "ItemAdded", created_at: datetime = NOON
) -> Event[Any]:
    return Event.from_row(
        (EVENT_ID, ORDER_ID, "order", event_type, data, metadata, 3, 41, created_at),
    )


def test_an_event_from_a_row_has_every_column_of_the_row() -> None:
    event = stored(b'{"sku": "A1", "quantity": 2}', b'{"user": "ann"}')
    assert event.event_id == EVENT_ID
    assert event.aggregate_id == ORDER_ID
    assert event.aggregate_type == "order"
    assert event.event_type == "ItemAdded"
    assert event.data == {"sku": "A1", "quantity": 2}
    assert event.metadata == {"user": "ann"}
    assert event.version == 3
    assert event.sequence_number == 41
    assert event.created_at == NOON


@pytest.mark.parametrize("name", ["data", "metadata", "sequence_number", "created_at", "unheard_of"])
def test_an_event_cannot_be_changed(name: str) -> None:
    event = stored(b"{}")
    with pytest.raises(AttributeError, match="immutable"):
        setattr(event, name, 1)
    with pytest.raises(AttributeError, match="immutable"):
        delattr(event, name)
    assert event.sequence_number == 41


def test_json_is_decoded_at_the_first_use_and_only_once() -> None:
    event = stored(b"this is not JSON", b"nor is this")
    assert event.sequence_number == 41  # building it has not looked inside
    with pytest.raises(EventDataError, match=r"event 41 \('ItemAdded', id 1111.*its data cannot be decoded"):
        _ = event.data
    with pytest.raises(EventDataError, match="its metadata cannot be decoded"):
        _ = event.metadata
    good = stored(b'{"sku": "A1"}', b'{"user": "ann"}')
    assert good.data is good.data
    assert good.metadata is good.metadata


@pytest.mark.parametrize("metadata", [None, b"null", b"{}"])
def test_missing_metadata_is_an_empty_mapping(metadata: bytes | None) -> None:
    assert stored(b"{}", metadata).metadata == {}


def test_metadata_that_is_no_object_is_refused() -> None:
    with pytest.raises(EventDataError, match="its metadata is a JSON array, not an object"):
        _ = stored(b"{}", b"[1]").metadata


def test_a_naive_timestamp_of_the_store_is_taken_as_utc() -> None:
    assert stored(b"{}", created_at=NOON.replace(tzinfo=None)).created_at == NOON


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"[" * 200_000 + b"]" * 200_000, "nested too deeply"),
        (b'{"n": ' + b"9" * 100_000 + b"}", "4300 digits"),
        (b'"\xff"', "utf-8"),
    ],
)
def test_json_that_python_cannot_represent_is_an_error_that_names_the_event(data: bytes, fault: str) -> None:
    with pytest.raises(EventDataError) as caught:
        _ = stored(data).data
    assert "event 41" in str(caught.value)
    assert fault in str(caught.value)
    assert len(str(caught.value)) < 500


# No zero below zero, more digits than a float has, more than one can hold, integers of any size.
@pytest.mark.parametrize(
    "data", [b"-0", b"-0.0", b"0.30000000000000004", b"9007199254740993.0", b"5e-324", b"1e400", b"1E5", b"1" * 4_300]
)
def test_numbers_are_what_python_makes_of_them(data: bytes) -> None:
    assert repr(stored(data).data) == repr(json.loads(data))


@given(JSON)
def test_data_are_what_python_makes_of_them(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        assert repr(stored(text.encode()).data) == repr(json.loads(text))


def test_nesting_that_python_follows_is_decoded() -> None:
    assert str(stored(b"[" * 300 + b"]" * 300).data) == "[" * 300 + "]" * 300


def test_escaped_null_bytes_and_lone_surrogates_are_decoded() -> None:
    assert stored(rb'{"a": "x\u0000y", "b": "\ud800"}').data == {"a": "x\0y", "b": "\ud800"}


@pytest.mark.parametrize("model", [ItemAdded, ItemAddedDataclass, ItemAddedDict])
def test_typed_data_comes_from_the_json_as_the_model(model: type[Any]) -> None:
    event: Event[Any] = stored(b'{"sku": "A1", "quantity": 2}', b'{"user": "ann"}').typed(TypeAdapter(model))
    assert event.data == model(sku="A1", quantity=2)
    assert (event.event_id, event.aggregate_id, event.aggregate_type) == (EVENT_ID, ORDER_ID, "order")
    assert (event.version, event.sequence_number, event.created_at) == (3, 41, NOON)
    assert event.metadata == {"user": "ann"}


def test_an_event_made_by_hand_is_validated_in_the_same_way() -> None:
    event = Event(event_type="ItemAdded", data={"sku": "A1", "quantity": 2}, metadata={"user": "ann"})
    typed = event.typed(ITEM_ADDED)
    assert typed.data == ItemAdded(sku="A1", quantity=2)
    assert typed.metadata == {"user": "ann"}
    with pytest.raises(EventDataError, match="quantity: Field required"):
        Event(event_type="ItemAdded", data={"sku": "A1"}).typed(ITEM_ADDED)


def test_data_that_does_not_fit_names_event_type_model_path_and_reason() -> None:
    with pytest.raises(EventDataError) as caught:
        stored(b'{"sku": "A1", "quantity": "many"}').typed(ITEM_ADDED)
    assert isinstance(caught.value, PoisonError)
    assert str(caught.value) == (
        "event 41 ('ItemAdded', id 11111111-1111-4111-8111-111111111111): its data does not fit ItemAdded: "
        "quantity: Input should be a valid integer, unable to parse string as an integer"
    )


def test_a_fault_of_the_data_as_a_whole_has_a_path_too() -> None:
    with pytest.raises(EventDataError, match="does not fit ItemAdded: data: Input should be an object"):
        stored(b"[]").typed(ITEM_ADDED)


@pytest.mark.parametrize(
    "data",
    [
        json.dumps({"sku": "A1", "quantity": "x" * 5_000_000}).encode(),
        json.dumps({"sku": {"k" * 1_000_000: 1}, "quantity": 1}).encode(),
        b"{" + b"9" * 5_000_000,
        b"[" * 200_000,
        json.dumps({"sku": "A1"}).encode()[:-1] + b', "quantity": ' + b"9" * 1_000_000 + b"}",
        rb'{"sku": "\ud800", "quantity": 1}',
        b"",
    ],
)
def test_hostile_data_gives_a_short_message(data: bytes) -> None:
    with pytest.raises(EventDataError) as caught:
        stored(data, event_type="T" * 1_000).typed(ITEM_ADDED)
    assert "event 41" in str(caught.value)
    assert len(str(caught.value)) < 1_200


def test_a_huge_key_in_the_path_is_cut() -> None:
    data = json.dumps({"k" * 1_000_000: "x"}).encode()
    with pytest.raises(EventDataError) as caught:
        stored(data).typed(TypeAdapter(dict[str, int]))
    assert "kkk" in str(caught.value)
    assert len(str(caught.value)) < 1_000


def test_many_faults_are_counted_not_listed() -> None:
    few, many = json.dumps(["x"] * 10).encode(), json.dumps(["x"] * 200_000).encode()
    with pytest.raises(EventDataError, match=r"0: .*; 1: .*; 2: .*; and 7 more$"):
        stored(few).typed(TypeAdapter(list[int]))
    with pytest.raises(EventDataError, match="200000 faults, too many to list"):
        stored(many).typed(TypeAdapter(list[int]))


def test_the_error_does_not_keep_the_events_data_alive() -> None:
    with pytest.raises(EventDataError) as caught:
        stored(b'{"sku": "A1"}').typed(ITEM_ADDED)
    assert caught.value.__cause__ is None
    assert not isinstance(caught.value.__context__, ValidationError)


def test_a_validator_that_raises_anything_else_is_reported_with_the_event() -> None:
    def explode(value: str) -> str:
        raise KeyError(value)

    with pytest.raises(EventDataError, match=r"event 41 .* validation raised KeyError: 'A1'"):
        stored(b'"A1"').typed(TypeAdapter(Annotated[str, AfterValidator(explode)]))


def test_a_pristine_event_has_lost_what_a_handler_did_to_its_data() -> None:
    event = stored(b'{"sku": "A1", "quantity": 2}', b'{"user": "ann"}')
    event.data.pop("sku")
    assert event.pristine().data == {"sku": "A1", "quantity": 2}
    assert event.pristine().metadata == {"user": "ann"}
    assert event.pristine().sequence_number == 41
    by_hand = Event(event_type="ItemAdded", data={"sku": "A1"})
    assert by_hand.pristine().data == {"sku": "A1"}


def test_an_event_made_by_hand_has_sensible_defaults() -> None:
    before = datetime.now(UTC)
    event = Event(event_type="OrderPlaced", data={"customer": "Ann"})
    assert event.event_id != event.aggregate_id
    assert (event.version, event.sequence_number, event.metadata) == (1, 1, {})
    assert before <= event.created_at <= datetime.now(UTC)
    named: Event[Any] = Event(
        event_type="OrderPlaced", data={}, event_id=EVENT_ID, aggregate_id=ORDER_ID, sequence_number=7
    )
    assert (named.event_id, named.aggregate_id, named.sequence_number) == (EVENT_ID, ORDER_ID, 7)


def test_an_events_repr_is_short_and_keeps_its_data_private() -> None:
    event = stored(b'{"secret": "' + b"x" * 100_000 + b'"}')
    assert repr(event) == f"<Event 41 'ItemAdded' of order {ORDER_ID}>"


def test_a_hundred_thousand_events_are_built_within_a_second() -> None:
    row = (uuid4(), ORDER_ID, "order", "ItemAdded", b"{}", None, 1, 1, NOON)
    started = time.perf_counter()
    for _ in range(100_000):
        Event.from_row(row)
    assert time.perf_counter() - started < 1.0
