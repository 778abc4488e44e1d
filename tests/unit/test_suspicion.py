"""Suspicion: which projection do workers die over?"""

from projectiond.processes.recorder import InHand
from projectiond.processes.suspicion import Suspicion, Verdict


def death_over(suspicion: Suspicion, **numbers: int) -> list[Verdict]:
    return suspicion.note_death([InHand(name, number, 1.0) for name, number in numbers.items()], "signal 9")


def test_a_projection_is_guilty_after_as_many_deaths_over_one_event_as_attempts_are_allowed() -> None:
    suspicion = Suspicion(max_attempts=3)
    assert death_over(suspicion, orders=7) == []
    assert death_over(suspicion, orders=7) == []
    assert death_over(suspicion, orders=7) == [Verdict("orders", 7, 3, "signal 9")]


def test_a_bystander_that_moves_on_is_never_guilty() -> None:
    suspicion = Suspicion(max_attempts=2)
    found = [death_over(suspicion, orders=7, sales=number) for number in range(1, 3)]
    assert [verdict.projection for verdicts in found for verdict in verdicts] == ["orders"]


def test_two_projections_may_be_guilty_at_once() -> None:
    suspicion = Suspicion(max_attempts=1)
    assert {verdict.projection for verdict in death_over(suspicion, orders=7, sales=9)} == {"orders", "sales"}


def test_a_suspect_is_run_carefully_up_to_its_event_and_no_longer_after_the_verdict() -> None:
    suspicion = Suspicion(max_attempts=2)
    death_over(suspicion, orders=7)
    assert suspicion.careful_upto == {"orders": 7}
    death_over(suspicion, orders=7)
    assert suspicion.careful_upto == {}


def test_deaths_are_counted_anew_after_a_verdict() -> None:
    suspicion = Suspicion(max_attempts=2)
    death_over(suspicion, orders=7)
    death_over(suspicion, orders=7)
    assert death_over(suspicion, orders=7) == []


def test_a_death_over_nothing_accuses_nobody() -> None:
    suspicion = Suspicion(max_attempts=1)
    assert suspicion.note_death([], "exit code 1") == []
