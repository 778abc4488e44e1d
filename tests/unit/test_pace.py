"""How much the next transaction takes: small at the head, by time far behind, by halves after a failure."""

from hypothesis import given
from hypothesis import strategies as st

from projectiond.plugins.limits import Limits
from projectiond.running.pace import LARGE, PATIENCE, SMALL_RANGE, Pace, Size

LIMITS = Limits(batch_size=500, checkpoint_every=100, max_attempts=3, on_error="pause", catchup_transaction_seconds=2.0)


def grown(times: int, first: int = SMALL_RANGE) -> Size:
    size = Size(2.0, first)
    for _ in range(times):
        size.note(size.value, 0.1)
    return size


# --- size


def test_it_begins_small_and_doubles_while_there_is_time() -> None:
    size = Size(2.0, 1_000)
    size.note(1_000, 0.99)
    assert size.value == 2_000
    size.note(2_000, 1.0)
    size.note(2_000, 2.0)
    assert size.value == 2_000


def test_it_never_grows_beyond_a_bound() -> None:
    assert grown(50).value == LARGE


def test_a_transaction_that_was_not_full_says_nothing_about_a_larger_one() -> None:
    size = Size(2.0, 1_000)
    size.note(999, 0.1)
    assert size.value == 1_000


def test_it_shrinks_in_proportion_when_a_transaction_took_too_long() -> None:
    size = grown(6)
    assert size.value == 64_000
    size.note(64_000, 8.0)
    assert size.value == 16_000
    # Of what was really done, should time have ended it.
    size.note(4_000, 4.0)
    assert size.value == 2_000


def test_a_slow_handler_gets_transactions_of_few_events_and_a_slow_statement_no_tiny_ranges() -> None:
    of_events, of_ranges = Size(0.5, 100), Size(0.5, SMALL_RANGE, least=SMALL_RANGE)
    for _ in range(20):
        of_events.note(of_events.value, of_events.value * 0.1)
        of_ranges.note(of_ranges.value, 30.0)
    assert of_events.value == 5
    assert of_ranges.value == SMALL_RANGE


def test_what_has_failed_is_not_tried_again_soon() -> None:
    size = grown(6)
    size.note_failure(64_000)
    assert size.value == SMALL_RANGE
    sizes = set()
    for _ in range(PATIENCE):
        size.note(size.value, 0.1)
        sizes.add(size.value)
    assert max(sizes) == 32_000
    for _ in range(2 * PATIENCE):
        size.note(size.value, 0.1)
    assert size.value > 32_000


def test_each_further_failure_halves_it() -> None:
    size = Size(2.0, 100)
    sizes = []
    for _ in range(9):
        size.note_failure(size.value)
        sizes.append(size.value)
    assert sizes == [50, 25, 12, 6, 3, 1, 1, 1, 1]


@given(st.floats(1, 1_000_000), st.floats(0, 0.4))
def test_it_settles_where_a_transaction_takes_about_the_time(events_per_second: float, overhead: float) -> None:
    size = Size(2.0, 100)
    taken = 0.0
    for _ in range(60):
        taken = overhead + size.value / events_per_second
        size.note(size.value, taken)
    assert 0.95 <= taken <= 2.01 or (size.value == LARGE and taken < 1) or size.value == 1


# --- pace


def test_at_the_head_it_takes_no_more_than_checkpoint_every_events() -> None:
    pace = Pace(LIMITS, is_by_range=False)
    for _ in range(5):
        pace.note_success(pace.most, 0.01, is_behind=True)
    assert pace.most == 3_200
    pace.note_success(10, 0.01, is_behind=False)
    assert pace.most == 100


def test_a_search_halves_down_to_one_event_and_what_succeeds_doubles_it_again() -> None:
    pace = Pace(LIMITS, is_by_range=False)
    seen = [1000]
    while seen[-1] > 1:
        pace.note_suspicion(seen[-1])
        seen.append(pace.most)
    assert seen == [1000, 500, 250, 125, 62, 31, 15, 7, 3, 1]
    assert pace.is_searching
    for expected in (2, 4, 8, 16, 32, 64, 100):
        pace.note_success(pace.most, 0.01, is_behind=False)
        assert pace.most == expected
    assert not pace.is_searching


def test_a_range_is_as_large_at_the_head_as_it_has_become() -> None:
    pace = Pace(LIMITS, is_by_range=True)
    assert pace.most == SMALL_RANGE
    pace.note_success(SMALL_RANGE, 0.01, is_behind=True)
    pace.note_success(3, 0.01, is_behind=False)
    assert pace.most == 2 * SMALL_RANGE


def test_a_single_event_that_runs_into_a_time_out_says_nothing_about_the_size() -> None:
    pace = Pace(LIMITS, is_by_range=False)
    pace.note_trouble(1)
    assert pace.most == 100
    pace.note_trouble(100)
    assert pace.most == 50
