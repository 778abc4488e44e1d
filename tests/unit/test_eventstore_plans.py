"""The event store's decisions, without a database: statements are answered by hand."""

import uuid
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import psycopg
import pytest
from pydantic import BaseModel

from projectiond.errors import ConcurrencyError, EventRegistryError
from projectiond.event import Event
from projectiond.eventstore import ANY_VERSION, Append, EventRegistry, NewEvent, caused_by, correlated, statements
from projectiond.eventstore.aggregate import Shape
from projectiond.eventstore.append import append
from projectiond.eventstore.new_event import Request
from projectiond.eventstore.plan import MAX_ATTEMPTS, Plan, Statement

ORDER = uuid.UUID(int=1)

Answer = Sequence[tuple[Any, ...]] | Exception


def request(expected: Any = 0, *events: NewEvent) -> Request:  # noqa: ANN401 -- a version or any
    new = events or (NewEvent("X", {}, aggregate_type="Order"),)
    return Request.of([Append(ORDER, new, expected)], None)


def play(plan: Plan[int], *answers: tuple[str, Answer]) -> int:
    """Run a plan whose statements must be these, with these answers."""
    step = next(plan)
    try:
        for query, answer in answers:
            assert isinstance(step, Statement)
            assert step.query == query
            step = plan.throw(answer) if isinstance(answer, Exception) else plan.send(answer)
    except StopIteration as end:
        return int(end.value)
    raise AssertionError(f"there was one more: {step}")


def test_an_append_that_goes_well_is_one_statement() -> None:
    assert play(append(request()), (statements.APPEND_ONE, [(17,)])) == 17
    events = [NewEvent("X", {}, aggregate_type="Order") for _ in range(2)]
    assert play(append(request(0, *events)), (statements.APPEND, [(18,)])) == 18
    assert play(append(request(ANY_VERSION)), (statements.APPEND, [(17,)])) == 17


def test_a_retry_is_found_before_a_conflict_is_seen() -> None:
    """What has moved the version is this very append, or its twin: no conflict."""
    refusals: list[Answer] = [[], psycopg.errors.UniqueViolation("race")]
    for refusal in refusals:
        for version in (0, 1):
            answers: list[tuple[str, Answer]] = [
                (statements.APPEND_ONE, refusal),
                (statements.LOOK_ONE, [(version, True)]),
                (statements.LOOK, [(0, ORDER, version, None, False), (1, ORDER, 1, 17, True)]),
            ]
            assert play(append(request()), *answers) == 17


def test_a_conflict_has_the_version_that_was_seen() -> None:
    with pytest.raises(ConcurrencyError) as caught:
        play(append(request(3)), (statements.APPEND_ONE, []), (statements.LOOK_ONE, [(7, False)]))
    assert caught.value.actual_version == 7


def test_a_conflict_of_several_events_has_the_version_that_was_seen() -> None:
    events = [NewEvent("X", {}, aggregate_type="Order") for _ in range(2)]
    with pytest.raises(ConcurrencyError) as caught:
        play(append(request(3, *events)), (statements.APPEND, []), (statements.LOOK, [(0, ORDER, 7, None, False)]))
    assert caught.value.actual_version == 7


def test_a_version_that_has_become_the_expected_one_is_tried_again() -> None:
    answers: list[tuple[str, Answer]] = [
        (statements.APPEND_ONE, []),
        (statements.LOOK_ONE, [(3, False)]),
        (statements.LOOK, [(0, ORDER, 3, None, False)]),
        (statements.APPEND_ONE, [(17,)]),
    ]
    assert play(append(request(3)), *answers) == 17


def test_a_writer_of_any_version_that_never_wins_gives_up_in_the_end() -> None:
    lost: list[tuple[str, Answer]] = [
        (statements.APPEND, psycopg.errors.UniqueViolation("race")),
        (statements.LOOK, [(0, ORDER, 5, None, False)]),
        (statements.INDEX_COLUMNS, [(["aggregate_id", "version"],)]),
    ]
    with pytest.raises(ConcurrencyError) as caught:
        play(append(request(ANY_VERSION)), *(lost * MAX_ATTEMPTS))
    assert (caught.value.expected_version, caught.value.actual_version) == (None, 5)
    assert play(append(request(ANY_VERSION)), *lost, (statements.APPEND, [(18,)])) == 18


def test_aggregates_are_appended_to_in_the_order_of_their_ids() -> None:
    ids = [uuid.uuid4() for _ in range(10)]
    made = Request.of([Append(each, [NewEvent("X", {})] * 1, 0, "Order") for each in ids], None)
    assert [row.aggregate_id for row in made.rows] == sorted(ids)


# --- what is appended


class OrderPlaced(BaseModel):
    customer: str


class Enveloped(BaseModel):
    event_type: str = "Enveloped"
    aggregate_type: str = "Order"
    metadata: dict[str, Any] = {"user": "a"}


@pytest.fixture
def registry() -> EventRegistry:
    registry = EventRegistry()
    registry.register(OrderPlaced, version=2, aggregate_type="Order")
    return registry


def row(event: object, registry: EventRegistry | None = None, **options: Any) -> tuple[str, str, str, str]:  # noqa: ANN401
    (made,) = Request.of([Append(ORDER, [event], 0, **options)], registry).rows
    return made.aggregate_type, made.event_type, made.data, made.metadata


def test_a_registered_class_brings_its_name_aggregate_type_and_version(registry: EventRegistry) -> None:
    expected = ("Order", "OrderPlaced", '{"customer":"Ada"}', '{"schema_version":2}')
    placed = OrderPlaced(customer="Ada")
    for event in (placed, NewEvent.of(placed), NewEvent("OrderPlaced", placed)):
        assert row(event, registry) == expected
    assert row(placed, registry, aggregate_type="Special")[0] == "Special"


def test_a_raw_event_is_of_the_registered_version_unless_it_says_otherwise(registry: EventRegistry) -> None:
    assert row(NewEvent("OrderPlaced", {}), registry)[3] == '{"schema_version":2}'
    old = NewEvent("OrderPlaced", {}, metadata={"schema_version": 1})
    assert row(old, registry)[3] == '{"schema_version":1}'
    assert row(NewEvent("Other", {}, aggregate_type="Order"), registry)[3] == "{}"


def test_a_model_with_an_envelope_brings_it() -> None:
    assert row(Enveloped())[:2] == ("Order", "Enveloped")
    assert row(Enveloped())[3] == '{"user":"a"}'


def test_a_class_is_appended_under_its_registered_name_alone(registry: EventRegistry) -> None:
    with pytest.raises(EventRegistryError, match="OrderPlaced is registered as 'OrderPlaced', not as 'Other'"):
        row(NewEvent("Other", OrderPlaced(customer="Ada")), registry)


def test_a_class_that_is_not_registered_is_refused(registry: EventRegistry) -> None:
    class OrderPlacd(BaseModel):
        customer: str = ""

    with pytest.raises(EventRegistryError, match=r"OrderPlacd is not registered; .*registry.register\(OrderPlacd\)"):
        row(OrderPlacd(), registry)


def test_metadata_tells_where_an_event_came_from() -> None:
    assert correlated("r-1") == {"correlation_id": "r-1", "causation_id": "r-1"}
    assert correlated("r-1", "c-1") == {"correlation_id": "r-1", "causation_id": "c-1"}
    first: Event[Any] = Event(event_type="X", data={}, metadata=correlated("r-1"))
    assert caused_by(first) == {"correlation_id": "r-1", "causation_id": str(first.event_id)}


# --- shapes


class Counter(BaseModel):
    count: int = 0

    def apply(self, event: Event[Any]) -> None:
        if event.event_type in {"b", "a", "c"}:
            self.count += 1


def test_a_shape_is_the_same_for_the_same_class() -> None:
    assert Shape.of(Counter).fingerprint == Shape.of(Counter).fingerprint


def test_a_shape_does_not_depend_on_the_process() -> None:
    import os  # noqa: PLC0415 -- this test alone starts processes
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    code = (
        "import importlib.util as u;"
        f"s = u.spec_from_file_location('plans', {__file__!r}); m = u.module_from_spec(s); s.loader.exec_module(m);"
        "print(m.Shape.of(m.Counter).fingerprint)"
    )
    prints = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(prints) == 1


def plain() -> type[Any]:
    class Same(BaseModel):
        count: int = 0

        def apply(self, event: Event[Any]) -> None:
            self.count += len(event.event_type)

    return Same


def recoded() -> type[Any]:
    class Same(BaseModel):
        count: int = 0

        def apply(self, event: Event[Any]) -> None:
            self.count -= len(event.event_type)

    return Same


def with_another_constant() -> type[Any]:
    class Same(BaseModel):
        count: int = 0

        def apply(self, event: Event[Any]) -> None:
            self.count += len(event.event_type) * 2

    return Same


def with_another_helper() -> type[Any]:
    class Same(BaseModel):
        count: int = 0

        def apply(self, event: Event[Any]) -> None:
            self.count += len(event.event_type)

        @property
        def double(self) -> int:
            return self.count * 2

    return Same


def with_another_base() -> type[Any]:
    class Base(BaseModel):
        def helper(self) -> int:
            return 1

    class Same(Base):
        count: int = 0

        def apply(self, event: Event[Any]) -> None:
            self.count += len(event.event_type)

    return Same


def with_another_field() -> type[Any]:
    class Same(BaseModel):
        count: int = 0
        total: int = 0

        def apply(self, event: Event[Any]) -> None:
            self.count += len(event.event_type)

    return Same


def with_a_version() -> type[Any]:
    class Same(BaseModel):
        snapshot_version: ClassVar[int] = 2
        count: int = 0

        def apply(self, event: Event[Any]) -> None:
            self.count += len(event.event_type)

    return Same


@pytest.mark.parametrize(
    "other",
    [recoded, with_another_constant, with_another_helper, with_another_base, with_another_field, with_a_version],
)
def test_a_shape_changes_with_fields_code_and_version(other: Callable[[], type[Any]]) -> None:
    assert Shape.of(plain()).fingerprint == Shape.of(plain()).fingerprint
    assert Shape.of(other()).fingerprint != Shape.of(plain()).fingerprint
