"""The registry refuses what would go wrong later, and says of an event what is wrong with it, not what is in it."""

from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from projectiond.errors import ConfigurationError, EventDataError, EventRegistryError
from projectiond.event import Event
from projectiond.eventstore import EventRegistry


class OrderPlaced(BaseModel):
    customer: str


class ItemAdded(BaseModel):
    sku: str
    quantity: int


@pytest.fixture
def registry() -> EventRegistry:
    registry = EventRegistry()
    registry.register(OrderPlaced)
    return registry


def event(event_type: str, data: Any, version: Any = None) -> Event[Any]:  # noqa: ANN401 -- JSON is any value
    return Event(event_type=event_type, data=data, metadata={} if version is None else {"schema_version": version})


# --- registering


def test_a_class_is_registered_under_its_name_or_another(registry: EventRegistry) -> None:
    registry.register(ItemAdded, name="item-added", version=2, aggregate_type="Order")
    entry = registry.get("item-added")
    assert entry is not None
    assert (entry.model, entry.version, entry.aggregate_type) == (ItemAdded, 2, "Order")
    assert registry.type_of(ItemAdded) is entry
    assert registry.get("ItemAdded") is None


def test_register_is_a_decorator_with_and_without_arguments() -> None:
    registry = EventRegistry()

    @registry.register
    class One(BaseModel):
        a: int

    @registry.register(name="second", version=2)
    @dataclass
    class Two:
        a: int

    assert registry.decode(event("One", {"a": 1})).data == One(a=1)
    assert registry.decode(event("second", {"a": 1}, 2)).data == Two(1)


def test_two_registries_know_nothing_of_each_other(registry: EventRegistry) -> None:
    assert EventRegistry().get("OrderPlaced") is None
    assert registry.get("OrderPlaced") is not None


def test_a_name_is_registered_once(registry: EventRegistry) -> None:
    with pytest.raises(
        EventRegistryError, match=r"event type 'OrderPlaced' is registered twice, as .*OrderPlaced and as"
    ):
        registry.register(ItemAdded, name="OrderPlaced")


def test_a_class_is_registered_once(registry: EventRegistry) -> None:
    with pytest.raises(EventRegistryError, match="is registered twice, as 'OrderPlaced' and as 'Other'"):
        registry.register(OrderPlaced, name="Other")


@pytest.mark.parametrize("name", ["", "X" * 101, "a\0b"])
def test_a_name_must_be_one_that_an_event_can_have(registry: EventRegistry, name: str) -> None:
    with pytest.raises(EventRegistryError, match="register ItemAdded under another name"):
        registry.register(ItemAdded, name=name)


def test_versions_begin_at_1(registry: EventRegistry) -> None:
    with pytest.raises(EventRegistryError, match="versions begin at 1"):
        registry.register(ItemAdded, version=0)
    with pytest.raises(EventRegistryError, match="from_version 0"):
        registry.upcast("ItemAdded", from_version=0)


def test_an_upcaster_is_registered_once(registry: EventRegistry) -> None:
    registry.upcast("ItemAdded", from_version=1)(dict)
    with pytest.raises(EventRegistryError, match="two upcasters of 'ItemAdded' from version 1"):
        registry.upcast("ItemAdded", from_version=1)(dict)


def test_an_upcaster_beyond_the_class_s_version_is_refused_whichever_comes_first(registry: EventRegistry) -> None:
    with pytest.raises(EventRegistryError, match="goes from version 1, but its class has version 1; raise the version"):
        registry.upcast("OrderPlaced", from_version=1)(dict)
    registry.upcast("ItemAdded", from_version=2)(dict)
    with pytest.raises(EventRegistryError, match="goes from version 2, but its class has version 2"):
        registry.register(ItemAdded, version=2)
    # What was refused is not there.
    registry.register(ItemAdded, version=3)


def test_its_errors_are_the_author_s_to_mend() -> None:
    assert issubclass(EventRegistryError, ConfigurationError)


# --- decoding


def test_upcasters_are_applied_one_after_the_other(registry: EventRegistry) -> None:
    registry.register(ItemAdded, version=3)

    @registry.upcast("ItemAdded", from_version=1)
    def _named(data: dict[str, Any]) -> dict[str, Any]:
        return {"code": data["id"]}

    @registry.upcast("ItemAdded", from_version=2)
    def _counted(data: dict[str, Any]) -> dict[str, Any]:
        return {"sku": data["code"], "quantity": 1}

    for old in (event("ItemAdded", {"id": "TEA"}), event("ItemAdded", {"code": "TEA"}, 2)):
        new = registry.decode(old)
        assert new.data == ItemAdded(sku="TEA", quantity=1)
        for name in ("event_id", "aggregate_id", "aggregate_type", "version", "sequence_number", "created_at"):
            assert getattr(new, name) == getattr(old, name)
        assert new.metadata == old.metadata
    with pytest.raises(EventDataError):
        registry.decode(event("ItemAdded", {"id": "TEA"}, 3))


def test_an_upcaster_gets_a_copy_of_its_own(registry: EventRegistry) -> None:
    registry.register(ItemAdded, version=2)

    @registry.upcast("ItemAdded", from_version=1)
    def _pop(data: dict[str, Any]) -> dict[str, Any]:
        return {"sku": data.pop("id"), "quantity": data.pop("n")}

    row = (
        *(event("ItemAdded", {}).event_id, event("ItemAdded", {}).aggregate_id, "Order", "ItemAdded"),
        *(b'{"id": "TEA", "n": 2}', b"{}", 1, 7, event("ItemAdded", {}).created_at),
    )
    stored: Event[Any] = Event.from_row(row)
    assert stored.data == {"id": "TEA", "n": 2}
    for _ in range(2):
        assert registry.decode(stored).data == ItemAdded(sku="TEA", quantity=2)
    assert stored.data == {"id": "TEA", "n": 2}


def test_a_missing_step_is_named(registry: EventRegistry) -> None:
    registry.register(ItemAdded, version=3)
    registry.upcast("ItemAdded", from_version=1)(dict)
    with pytest.raises(EventRegistryError) as caught:
        registry.decode(event("ItemAdded", {"secret": 1}))
    assert "has schema version 1 of 3, and nothing upcasts it from version 2" in str(caught.value)
    assert 'write @registry.upcast("ItemAdded", from_version=2)' in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_unknown_type_is_named_with_the_nearest_known_one(registry: EventRegistry) -> None:
    with pytest.raises(EventRegistryError, match=r"'OrderPlace', id .*the nearest that is known is 'OrderPlaced'"):
        registry.decode(event("OrderPlace", {}))
    with pytest.raises(EventRegistryError, match=r"register its class$"):
        registry.decode(event("Zebra", {}))


def test_an_event_of_a_later_version_is_not_guessed_at(registry: EventRegistry) -> None:
    with pytest.raises(
        EventRegistryError, match=r"has schema version 2, but .*OrderPlaced has 1; update this application"
    ):
        registry.decode(event("OrderPlaced", {"customer": "Ada"}, 2))


@pytest.mark.parametrize("version", ["1", 0, -1, 1.5, True, [], None])
def test_a_schema_version_that_is_none_is_refused(registry: EventRegistry, version: Any) -> None:  # noqa: ANN401
    broken = Event(event_type="OrderPlaced", data={"customer": "A"}, metadata={"schema_version": version})
    with pytest.raises(EventDataError, match="the schema_version in its metadata is no number from 1"):
        registry.decode(broken)


def test_data_that_does_not_fit_is_told_by_the_event_and_the_path(registry: EventRegistry) -> None:
    with pytest.raises(
        EventDataError, match=r"event 1 \('OrderPlaced', id .*does not fit OrderPlaced: customer"
    ) as caught:
        registry.decode(event("OrderPlaced", {"customer": {"secret": "x" * 100}}))
    assert "secret" not in str(caught.value)


def test_what_an_upcaster_does_wrong_is_told_by_the_event(registry: EventRegistry) -> None:
    registry.register(ItemAdded, version=3)
    registry.upcast("ItemAdded", from_version=1)(lambda data: data["secret"])
    registry.upcast("ItemAdded", from_version=2)(list)  # type: ignore[type-var]
    with pytest.raises(EventDataError, match="its upcaster from version 1 raised KeyError"):
        registry.decode(event("ItemAdded", {}))
    with pytest.raises(EventDataError, match="its upcaster from version 2 returned list, not a dict"):
        registry.decode(event("ItemAdded", {}, 2))
    with pytest.raises(EventDataError, match="its data is no JSON object"):
        registry.decode(event("ItemAdded", [1]))
