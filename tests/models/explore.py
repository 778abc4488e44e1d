"""Exploration of every state that a model of a protocol can reach.

A model gives its first state and, for each state, the steps that some process could take next, each with its name and
the state after it.  The search is breadth-first, so the story that leads to a violation is one of the shortest.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

S = TypeVar("S", bound=Hashable)

# Far beyond what the models here reach; a model that grew out of hand is to be noticed.
MOST_STATES = 2_000_000


@dataclass(frozen=True)
class Outcome(Generic[S]):
    """What came of an exploration."""

    states: int
    violation: str | None = None
    story: tuple[str, ...] = ()
    """The steps that lead to the violation."""

    def __str__(self) -> str:
        """Tell the story, a step a line."""
        return "\n".join([f"{self.states} states; {self.violation}", *self.story])


def explore(
    first: S, steps: Callable[[S], Iterable[tuple[str, S]]], violation_of: Callable[[S], str | None]
) -> Outcome[S]:
    """Go through every state that can be reached; end at the first that violates something."""
    came_from: dict[S, tuple[S, str] | None] = {first: None}
    waiting = deque([first])
    while waiting:
        state = waiting.popleft()
        if violation := violation_of(state):
            return Outcome(len(came_from), violation, tuple(reversed(list(_story(came_from, state)))))
        for name, following in steps(state):
            if following not in came_from:
                came_from[following] = (state, name)
                waiting.append(following)
        if len(came_from) > MOST_STATES:
            raise AssertionError(f"the model has more than {MOST_STATES} states")
    return Outcome(len(came_from))


def _story(came_from: dict[S, tuple[S, str] | None], state: S) -> Iterator[str]:
    while (origin := came_from[state]) is not None:
        state, name = origin
        yield name


def put(items: tuple[S, ...], place: int, item: S) -> tuple[S, ...]:
    """Give the items with one of them replaced."""
    return (*items[:place], item, *items[place + 1 :])
