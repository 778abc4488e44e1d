"""Projection, handles, and the Definition that the runner gets of them."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from pydantic import BaseModel, TypeAdapter

from projectiond.errors import EventDataError
from projectiond.event import Event
from projectiond.plugins.definition import Definition, Handler
from projectiond.projection import MARK, Projection, handles, snake_case


class ItemAdded(BaseModel):
    sku: str


def marked(function: object) -> tuple[str, ...]:
    types: tuple[str, ...] = getattr(function, MARK)
    return types


def call(handler: Handler, event: Event, db: object) -> None:
    handler.function(handler.event_for(event), db)


@pytest.mark.parametrize(
    ("class_name", "name"),
    [
        ("OrderSummary", "order_summary"),
        ("Orders", "orders"),
        ("HTTPRequests", "http_requests"),
        ("OrdersByURL", "orders_by_url"),
        ("Sales2024Report", "sales2024_report"),
        ("already_snake", "already_snake"),
    ],
)
def test_a_class_name_becomes_snake_case(class_name: str, name: str) -> None:
    assert snake_case(class_name) == name


def test_the_default_name_is_the_classs_own_and_is_not_inherited() -> None:
    class OrderSummary(Projection):
        pass

    class Named(Projection):
        name = "orders"

    class LargeOrders(Named):
        pass

    assert (OrderSummary.name, Named.name, LargeOrders.name) == ("order_summary", "orders", "large_orders")


def test_every_option_has_a_default() -> None:
    assert (Projection.tables, Projection.schema, Projection.schema_file) == ((), "", "")
    assert (Projection.batch_size, Projection.checkpoint_every, Projection.max_attempts) == (None, None, None)
    assert Projection.on_error is None


def test_handles_marks_a_method_and_leaves_it_as_it_is() -> None:
    def changed() -> str:
        return "called"

    assert handles("ItemAdded", "ItemRemoved")(changed) is changed
    assert marked(changed) == ("ItemAdded", "ItemRemoved")
    assert changed() == "called"


def test_handles_can_be_stacked_and_repeats_no_type() -> None:
    class Orders(Projection):
        @handles("OrderPlaced")
        @handles("ItemAdded", "OrderPlaced", "ItemAdded")
        def changed(self, event: Event, db: object) -> None:
            """Do nothing."""

    assert marked(Orders.changed) == ("OrderPlaced", "ItemAdded")


def test_handles_without_parentheses_is_refused_with_an_example() -> None:
    with pytest.raises(TypeError, match=r'in parentheses, as in @handles\("OrderPlaced"\)'):

        @handles  # type: ignore[arg-type]
        def placed() -> None:
            """Never made."""


def test_handles_without_a_type_is_refused() -> None:
    with pytest.raises(TypeError, match="needs at least one event type"):
        handles()


def test_handles_with_something_else_than_a_string_is_refused() -> None:
    with pytest.raises(TypeError, match="takes event types as strings, not int"):
        handles(42)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="takes event types as strings, not list"):
        handles(["A", "B"])  # type: ignore[arg-type]


def test_handles_on_something_that_is_no_method_is_refused() -> None:
    with pytest.raises(TypeError, match="marks methods, not str"):
        handles("A")("placed")  # type: ignore[type-var]


def test_two_handlers_of_one_name_in_a_class_are_refused() -> None:
    with pytest.raises(TypeError, match="a second handler named 'changed' would replace the first"):

        class Orders(Projection):
            @handles("A")
            def changed(self, event: Event, db: object) -> None:
                """Be lost."""

            @handles("B")  # type: ignore[no-redef]
            def changed(self, event: Event, db: object) -> None:  # noqa: F811
                """Replace the first."""


def test_overriding_a_handler_in_a_subclass_is_no_second_handler() -> None:
    class Orders(Projection):
        @handles("A")
        def changed(self, event: Event, db: object) -> None:
            """Be replaced."""

    class OtherOrders(Orders):
        @handles("B")
        def changed(self, event: Event, db: object) -> None:
            """Replace."""

    assert marked(OtherOrders.changed) == ("B",)


def test_a_typed_handler_gets_the_model_and_an_untyped_one_the_json() -> None:
    seen: list[Any] = []
    event = Event(event_type="ItemAdded", data={"sku": "A1"})
    connection: Any = object()

    def keep(event: Event[Any], db: object) -> None:
        assert db is connection
        seen.append(event)

    call(Handler("Orders.added", keep, TypeAdapter(ItemAdded)), event, connection)
    call(Handler("Orders.added", keep, None), event, connection)
    assert seen[0].data == ItemAdded(sku="A1")
    assert seen[1].data == {"sku": "A1"}
    assert seen[1].event_id == seen[0].event_id == event.event_id


def test_what_a_handler_does_to_the_data_is_gone_when_the_event_is_applied_again() -> None:
    row = (uuid4(), uuid4(), "order", "ItemAdded", b'{"sku": "A1"}', b"{}", 1, 1, datetime.now(UTC))
    event = Event.from_row(row)
    seen: list[str] = []

    def spoil(event: Event[Any], _db: object) -> None:
        seen.append(event.data.pop("sku"))

    handler = Handler("Orders.added", spoil, None)
    connection: Any = object()
    call(handler, event, connection)
    call(handler, event, connection)
    assert seen == ["A1", "A1"]


def test_a_typed_handler_is_not_called_with_data_that_does_not_fit() -> None:
    def never(event: Event[Any], db: object) -> None:
        pytest.fail(f"called with {event} and {db}")

    handler = Handler("Orders.added", never, TypeAdapter(ItemAdded))
    connection: Any = object()
    with pytest.raises(EventDataError, match="sku: Field required"):
        call(handler, Event(event_type="ItemAdded", data={}), connection)


def test_an_event_of_a_type_without_a_handler_goes_to_those_of_all_events_only() -> None:
    def ignore(event: Event[Any], db: object) -> None:
        """Do nothing."""

    placed, any_event = Handler("O.placed", ignore, None), Handler("O.any_event", ignore, None)
    definition = Definition(
        name="o",
        projection=Projection(),
        tables=(),
        schema="",
        event_types=None,
        handlers={"OrderPlaced": (placed, any_event), "*": (any_event,)},
        source="o.py:1",
    )
    assert definition.handlers_for("OrderPlaced") == (placed, any_event)
    assert definition.handlers_for("Unheard of") == (any_event,)
