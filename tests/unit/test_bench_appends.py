"""What the writers of bench.appends decide: orders of eight events, and a share of appends that are refused."""

from collections import Counter

import pytest

from bench.appends import EVENTS_OF_ORDER, STALE_EVERY, Decisions


@pytest.mark.parametrize("stale_every", STALE_EVERY.values(), ids=str)
def test_an_order_gets_its_events_one_by_one_whatever_is_refused_in_between(stale_every: int | None) -> None:
    decisions = Decisions(stale_every)
    versions: Counter[object] = Counter()
    refused = 0
    for _ in range(200):
        order_id, expected, is_stale = decisions.decide()
        if is_stale:
            refused += 1
            assert expected == versions[order_id] - 1
        else:
            assert expected == versions[order_id]
            versions[order_id] += 1
    assert refused == (200 // stale_every if stale_every else 0)
    assert set(list(versions.values())[:-1]) == {EVENTS_OF_ORDER}
