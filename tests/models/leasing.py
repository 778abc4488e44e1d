"""A model of leases: workers that take, give back and lose them, come back as zombies, and end.

One projection.  A worker's *session* holds its lease; the server may end a session at any moment, of which its worker
learns only when it next looks (the network, SIGSTOP): until then it is a zombie, whose runner goes on.  Its runner has
connections of its own, so a transaction of it may outlive the session.  A worker may be told to give the lease back,
for the share of another, or to end; it may be killed, and then its COMMIT may still be on the way to the server.

Two things must hold.  Whatever happens nothing is applied twice, or out of order: that is the compare-and-set's doing.
And as long as the server ends no session of a worker that lives, no two runners have a transaction in hand at once:
that is what leases are for.  Last, as long as a worker lives, somebody takes the lease in the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.models.explore import put

EVENTS = 2


@dataclass(frozen=True)
class Guards:
    """What the protocol is made of; each may be taken away."""

    compares_and_sets: bool = True
    """Without: the checkpoint is set to where this runner got, whatever it is now."""

    gives_back_after_the_runner: bool = True
    """Without: a lease is given back as soon as its runner has been told to end."""

    session_holds_the_lease: bool = True
    """Without: a lease is a row that says who has it, and nobody takes it from who has died."""

    stops_the_runner_of_a_lost_lease: bool = True
    """Without: who has lost its session takes leases anew, and lets its old runner go on."""


class Worker(NamedTuple):
    """One process."""

    lives: bool = True
    has_session: bool = True
    knows_lease: bool = False
    """Whether it takes itself for the holder."""
    runs: bool = False
    """Whether it has a runner that may begin transactions."""
    is_stopping: bool = False
    begun_at: int | None = None
    """Where the transaction in hand has begun; a COMMIT that has been sent survives its worker."""


class State(NamedTuple):
    """Everything."""

    workers: tuple[Worker, ...]
    holder: int | None = None
    checkpoint: int = 0
    applied: tuple[int, ...] = ()
    kills: int = 0
    losses: int = 0
    gifts: int = 0


class Leasing:
    """The model."""

    def __init__(self, guards: Guards, *, workers: int, kills: int, losses: int, gifts: int) -> None:
        self._guards = guards
        self._most = kills, losses, gifts
        self.first = State((Worker(),) * workers)

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        """Give what may happen next."""
        kills, losses, gifts = self._most
        for place, worker in enumerate(state.workers):
            if not worker.lives:
                for name, following in self._end_of_transaction(state, place):
                    yield f"the server {name}, of worker {place + 1} that is dead", following
                continue
            for name, following in self._own_steps(state, place):
                yield f"worker {place + 1} {name}", following
            if worker.runs and not worker.is_stopping and worker.has_session and state.gifts < gifts:
                stopping = _become(state, place, is_stopping=True)
                yield f"worker {place + 1} is to give its lease back", stopping._replace(gifts=state.gifts + 1)
            if worker.has_session and state.losses < losses:
                lost = _become(state, place, has_session=False)._replace(losses=state.losses + 1)
                yield f"worker {place + 1}'s session is ended", self._freed(lost, place)
            if state.kills < kills:
                gone = Worker(lives=False, has_session=False, begun_at=worker.begun_at)
                dead = state._replace(workers=put(state.workers, place, gone))
                yield f"worker {place + 1} is killed", self._freed(dead._replace(kills=state.kills + 1), place)

    def violation_of(self, state: State) -> str | None:
        """Name what does not hold."""
        if list(state.applied) != sorted(set(state.applied)):
            return f"G2: applied {state.applied}"
        if not state.losses and sum(w.lives and w.begun_at is not None for w in state.workers) > 1:
            return "two runners are at work at once, though no session was lost"
        return self._stuck(state)

    # --- a worker

    def _own_steps(self, state: State, place: int) -> Iterator[tuple[str, State]]:
        worker = state.workers[place]
        if not worker.has_session:
            yield "finds its session gone, and opens another", self._reopened(state, place)
        elif state.holder is None and not worker.runs and not worker.knows_lease:
            taken = _become(state, place, knows_lease=True, runs=True, is_stopping=False)
            yield "takes the lease", taken._replace(holder=place)
        if worker.is_stopping and worker.begun_at is None:
            ended = _become(state, place, runs=False, is_stopping=False, knows_lease=False)
            yield "ends its runner", self._freed(ended, place) if worker.has_session else ended
        elif worker.is_stopping and not self._guards.gives_back_after_the_runner and worker.knows_lease:
            yield "gives the lease back", self._freed(_become(state, place, knows_lease=False), place)
        yield from self._transaction(state, place)

    def _transaction(self, state: State, place: int) -> Iterator[tuple[str, State]]:
        worker = state.workers[place]
        if worker.begun_at is not None:
            yield from self._end_of_transaction(state, place)
        elif worker.runs and not worker.is_stopping and state.checkpoint < EVENTS:
            yield f"applies {state.checkpoint + 1}", _become(state, place, begun_at=state.checkpoint)

    def _end_of_transaction(self, state: State, place: int) -> Iterator[tuple[str, State]]:
        worker = state.workers[place]
        if worker.begun_at is None:
            return
        ended = _become(state, place, begun_at=None)
        if not self._guards.compares_and_sets or state.checkpoint == worker.begun_at:
            number = worker.begun_at + 1
            yield f"commits {number}", ended._replace(checkpoint=number, applied=(*state.applied, number))
        if not worker.lives or state.checkpoint != worker.begun_at:
            yield "rolls back", ended

    def _reopened(self, state: State, place: int) -> State:
        worker = state.workers[place]
        if self._guards.stops_the_runner_of_a_lost_lease:
            return _become(state, place, has_session=True, knows_lease=False, is_stopping=worker.runs)
        # Its runner goes on, and another may begin beside it: here they are one that never ends.
        return _become(state, place, has_session=True, knows_lease=False)

    def _freed(self, state: State, place: int) -> State:
        """The server takes a lease from whoever's session has ended, or gives it back."""
        is_free = state.holder == place and (self._guards.session_holds_the_lease or state.workers[place].lives)
        return state._replace(holder=None) if is_free else state

    # --- what must come to its end

    def _stuck(self, state: State) -> str | None:
        """Left to themselves, with nothing lost or killed any more, those who live have to apply everything."""
        if not any(worker.lives for worker in state.workers):
            return None
        seen = set()
        while state.checkpoint < EVENTS:
            following = next((after for after in self._left_alone(state) if after not in seen), None)
            if following is None:
                return f"somebody lives, and the checkpoint stays at {state.checkpoint}"
            seen.add(state := following)
        is_idle = [
            w.runs and w.has_session and not w.is_stopping and state.holder != at for at, w in enumerate(state.workers)
        ]
        return "somebody runs it without a lease, and always will" if any(is_idle) else None

    def _left_alone(self, state: State) -> Iterator[State]:
        for place, worker in enumerate(state.workers):
            if worker.lives:
                yield from (following for _, following in self._own_steps(state, place))


def _become(state: State, place: int, **changes: object) -> State:
    return state._replace(workers=put(state.workers, place, state.workers[place]._replace(**changes)))  # type: ignore[arg-type]
