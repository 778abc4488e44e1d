"""The name of a space: found again by the projection's name alone, and never cut off by PostgreSQL."""

from hypothesis import given
from hypothesis import strategies as st

from projectiond.rebuild.space import LONGEST_IDENTIFIER, space_name


def test_a_space_is_called_by_its_projection() -> None:
    assert space_name("order_summary") == "projectiond_rebuild_order_summary"
    assert space_name("order_summary", "projectiond_retired_") == "projectiond_retired_order_summary"


@given(st.text(min_size=1, max_size=100))
def test_no_name_is_longer_than_an_identifier(name: str) -> None:
    assert len(space_name(name).encode()) <= LONGEST_IDENTIFIER


def test_long_names_that_begin_alike_have_different_spaces() -> None:
    assert len({space_name("ä" * 60 + end) for end in "abc"}) == 3
