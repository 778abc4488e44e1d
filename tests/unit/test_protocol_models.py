"""Every state that the protocols' models can reach: the guarantees hold, and without any one guard they do not."""

import os
from dataclasses import fields

import pytest

from tests.models import leasing, settling, waking
from tests.models.explore import explore

# More writers and workers take minutes; for a long run by hand.
IS_LARGE = bool(os.environ.get("PROJECTIOND_TEST_LARGE_MODELS"))


def guards_of(guards: type[settling.Guards | waking.Guards | leasing.Guards]) -> list[str]:
    return [field.name for field in fields(guards)]


@pytest.mark.parametrize(
    ("writers", "workers", "pauses", "crashes"),
    [(2, 2, 1, 1), (3, 1, 0, 1), *([(3, 2, 0, 0), (2, 3, 1, 1), (3, 1, 1, 1), (4, 1, 0, 0)] if IS_LARGE else [])],
)
@pytest.mark.timeout(1800 if IS_LARGE else 120)
def test_no_event_is_lost_repeated_out_of_order_or_applied_after_a_pause(
    writers: int, workers: int, pauses: int, crashes: int
) -> None:
    model = settling.Settling(settling.Guards(), writers=writers, workers=workers, pauses=pauses, crashes=crashes)
    outcome = explore(model.first, model.steps, model.violation_of)
    assert outcome.violation is None, str(outcome)
    assert outcome.states > 10_000


# What goes wrong without each guard.
SETTLING_FAULTS = {
    "waits_at_gaps": "G1",
    "sees_before_it_asks": "G1",
    "reads_after_the_proof": "G1",
    "compares_and_sets": "G2",
    "looks_at_the_status": "G4",
}


@pytest.mark.parametrize("guard", guards_of(settling.Guards))
def test_a_guarantee_breaks_without_a_guard_of_the_mark_or_the_checkpoint(guard: str) -> None:
    model = settling.Settling(settling.Guards(**{guard: False}), writers=2, workers=2, pauses=1)
    outcome = explore(model.first, model.steps, model.violation_of)
    assert outcome.violation is not None
    assert outcome.violation.startswith(SETTLING_FAULTS[guard])


@pytest.mark.parametrize(
    ("writers", "watchers", "crashes"), [(2, 2, 1), (3, 1, 1), *([(1, 3, 1), (3, 2, 0)] if IS_LARGE else [])]
)
@pytest.mark.timeout(1800 if IS_LARGE else 120)
def test_no_wake_up_is_lost(writers: int, watchers: int, crashes: int) -> None:
    model = waking.Waking(waking.Guards(), writers=writers, watchers=watchers, crashes=crashes)
    outcome = explore(model.first, model.steps, model.violation_of)
    assert outcome.violation is None, str(outcome)
    assert outcome.states > 10_000


# Writers, watchers and crashes, where others than these show it.  A third watcher arms the bell anew that a second had
# armed which crashed: the first relied on the second.
WAKING_SIZES = {"looks_at_the_locks": (1, 2, 1), "knows_who_is_relied_on": (1, 3, 1)}


@pytest.mark.parametrize("guard", guards_of(waking.Guards))
def test_a_wake_up_is_lost_without_a_guard_of_the_doorbell(guard: str) -> None:
    writers, watchers, crashes = WAKING_SIZES.get(guard, (2, 2, 0))
    model = waking.Waking(waking.Guards(**{guard: False}), writers=writers, watchers=watchers, crashes=crashes)
    outcome = explore(model.first, model.steps, model.violation_of)
    assert outcome.violation is not None
    assert "sleeps" in outcome.violation


@pytest.mark.parametrize(("workers", "kills", "losses", "gifts"), [(2, 1, 2, 2), (3, 1, 1, 1)])
def test_leases_keep_runners_apart_and_a_zombie_applies_nothing(
    workers: int, kills: int, losses: int, gifts: int
) -> None:
    model = leasing.Leasing(leasing.Guards(), workers=workers, kills=kills, losses=losses, gifts=gifts)
    outcome = explore(model.first, model.steps, model.violation_of)
    assert outcome.violation is None, str(outcome)
    assert outcome.states > 1_000


LEASING_FAULTS = {
    "compares_and_sets": "G2",
    "gives_back_after_the_runner": "two runners are at work at once",
    "session_holds_the_lease": "somebody lives, and the checkpoint stays",
    "stops_the_runner_of_a_lost_lease": "somebody runs it without a lease",
}


@pytest.mark.parametrize("guard", guards_of(leasing.Guards))
def test_leases_fail_without_each_of_their_guards(guard: str) -> None:
    model = leasing.Leasing(leasing.Guards(**{guard: False}), workers=2, kills=1, losses=1, gifts=1)
    outcome = explore(model.first, model.steps, model.violation_of)
    assert outcome.violation is not None
    assert outcome.violation.startswith(LEASING_FAULTS[guard])
