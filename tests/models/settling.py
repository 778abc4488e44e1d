"""A model of the way of an event: high-water mark, runner and checkpoint, with crashes at every step.

Writers take the table's lock, draw a number, and commit or roll back; a commit is visible before its lock is given
back.  Workers have a watcher, which moves the mark by separate statements, and a runner, which reads what the mark
covers and commits it with the checkpoint.  There are no leases here: two workers always run the same projection.  An
operator pauses and resumes.  What is one statement, or one COMMIT, of the real thing is one step here.

Each guard of the protocol can be taken away, see `Guards`: then the exploration has to find what goes wrong.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.models.explore import put

# Phases of a writer.  Its lock is held in the first four but `idle`; the number is drawn under it.
IDLE, LOCKED, DRAWN, VISIBLE, ENDED, DEAD = range(6)
HOLDING = frozenset({LOCKED, DRAWN, VISIBLE})
COMMITTED = frozenset({VISIBLE, ENDED})


@dataclass(frozen=True)
class Guards:
    """What the protocol is made of; each may be taken away."""

    waits_at_gaps: bool = True
    """Without: a gap is taken for a number that will never come."""

    sees_before_it_asks: bool = True
    """Without: the transactions that hold the table are read before the numbers, not after."""

    reads_after_the_proof: bool = True
    """Without: one combined statement, so events are those that were visible when it began."""

    compares_and_sets: bool = True
    """Without: the checkpoint is set to where this runner got, whatever it is now."""

    looks_at_the_status: bool = True
    """Without: the compare-and-set asks for the position alone."""


class Writer(NamedTuple):
    """One transaction with one event."""

    phase: int = IDLE
    number: int = 0


class Watcher(NamedTuple):
    """The mark of one worker."""

    settled: int = 0
    windows: tuple[tuple[int, frozenset[int], frozenset[int]], ...] = ()
    """(upper end, writers that can fill it, what was visible when it was seen)"""
    gap: int | None = None
    """The largest number beyond a gap that has been seen, before it is asked who can fill it."""
    sighted: frozenset[int] = frozenset()
    """What was visible then; this and `seen` only without `reads_after_the_proof`."""
    seen: frozenset[int] = frozenset()
    """What was visible to the statements that have settled it."""
    asked: frozenset[int] | None = None
    """Who held the table when it was asked too early; only without `sees_before_it_asks`."""


class Runner(NamedTuple):
    """A transaction of the runner, while there is one."""

    begin: int = 0
    end: int = 0
    events: tuple[int, ...] = ()


class State(NamedTuple):
    """Everything."""

    writers: tuple[Writer, ...]
    watchers: tuple[Watcher, ...]
    runners: tuple[Runner | None, ...]
    drawn: int = 0
    checkpoint: int = 0
    applied: tuple[int, ...] = ()
    is_paused: bool = False
    pauses: int = 0
    crashes: int = 0
    committed_while_paused: bool = False


class Settling:
    """The model."""

    def __init__(self, guards: Guards, *, writers: int, workers: int, pauses: int = 0, crashes: int = 0) -> None:
        self._guards = guards
        self._pauses = pauses
        self._crashes = crashes
        self.first = State((Writer(),) * writers, (Watcher(),) * workers, (None,) * workers)

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        """Give what may happen next."""
        for place, writer in enumerate(state.writers):
            for name, now, drawn in _writer_steps(writer, state.drawn):
                yield f"writer {place + 1} {name}", state._replace(writers=put(state.writers, place, now), drawn=drawn)
        for place in range(len(state.watchers)):
            for name, after in self._watcher_steps(state, state.watchers[place]):
                yield f"watcher {place + 1} {name}", state._replace(watchers=put(state.watchers, place, after))
            for name, following in self._runner_steps(state, place):
                yield f"runner {place + 1} {name}", following
            if state.crashes < self._crashes:
                yield (
                    f"worker {place + 1} crashes",
                    state._replace(
                        watchers=put(state.watchers, place, Watcher()),
                        runners=put(state.runners, place, None),
                        crashes=state.crashes + 1,
                    ),
                )
        if state.is_paused:
            yield "the operator resumes", state._replace(is_paused=False)
        elif state.pauses < self._pauses:
            yield "the operator pauses", state._replace(is_paused=True, pauses=state.pauses + 1)

    def violation_of(self, state: State) -> str | None:
        """Name the guarantee that does not hold."""
        if len(set(state.applied)) < len(state.applied):
            return f"G2: applied twice: {state.applied}"
        if list(state.applied) != sorted(state.applied):
            return f"G3: out of order: {state.applied}"
        if state.committed_while_paused:
            return "G4: a batch was committed after the pause"
        for writer in state.writers:
            if writer.number and writer.number <= state.checkpoint and writer.number not in state.applied:
                if writer.phase in COMMITTED:
                    return f"G1: {writer.number} is lost, the checkpoint is {state.checkpoint}"
                if writer.phase == DRAWN:
                    return f"G1: {writer.number} is passed while in flight, the checkpoint is {state.checkpoint}"
        return self._stuck(state)

    # --- the watcher

    def _watcher_steps(self, state: State, watcher: Watcher) -> Iterator[tuple[str, Watcher]]:
        holders = frozenset(place for place, writer in enumerate(state.writers) if writer.phase in HOLDING)
        visible = frozenset(writer.number for writer in state.writers if writer.phase in COMMITTED)
        if watcher.gap is not None:
            # The later statement: who can still fill the gap.
            windows = (*watcher.windows, (watcher.gap, holders, watcher.sighted))
            yield f"asks who can fill it: {_told(holders)}", _settle(watcher._replace(gap=None, windows=windows))
        elif self._guards.sees_before_it_asks:
            yield from self._sight(watcher, visible, None)
        elif watcher.asked is None:
            yield f"asks who holds the table: {_told(holders)}", watcher._replace(asked=holders)
        else:
            yield from self._sight(watcher._replace(asked=None), visible, watcher.asked)
        left = tuple((upper, lockers & holders, seen) for upper, lockers, seen in watcher.windows)
        if left != watcher.windows:
            yield "asks which of them are left", _settle(watcher._replace(windows=left))

    def _sight(
        self, watcher: Watcher, visible: frozenset[int], asked: frozenset[int] | None
    ) -> Iterator[tuple[str, Watcher]]:
        largest = max(visible, default=0)
        run_end = watcher.settled
        while run_end + 1 in visible:
            run_end += 1
        after = watcher._replace(settled=run_end, seen=self._kept(watcher.seen, visible, run_end))
        if largest > max([run_end, *(upper for upper, _, _ in watcher.windows)]):
            if not self._guards.waits_at_gaps:
                after = after._replace(settled=largest)
            elif asked is None:
                after = after._replace(gap=largest, sighted=self._kept(frozenset(), visible, largest))
            else:
                after = _settle(after._replace(windows=(*after.windows, (largest, asked, frozenset()))))
        if after != watcher:
            yield f"sees {_told(visible)}", after

    def _kept(self, seen: frozenset[int], visible: frozenset[int], upper: int) -> frozenset[int]:
        """What was seen matters only where nothing is read afterwards."""
        if self._guards.reads_after_the_proof:
            return frozenset()
        return seen | {number for number in visible if number <= upper}

    # --- the runner

    def _runner_steps(self, state: State, place: int) -> Iterator[tuple[str, State]]:
        runner, watcher = state.runners[place], state.watchers[place]
        if runner is None:
            if watcher.settled > state.checkpoint and not state.is_paused:
                visible = {writer.number for writer in state.writers if writer.phase in COMMITTED}
                if not self._guards.reads_after_the_proof:
                    visible &= watcher.seen
                events = tuple(sorted(n for n in visible if state.checkpoint < n <= watcher.settled))
                begun = Runner(state.checkpoint, watcher.settled, events)
                yield f"applies {events}", state._replace(runners=put(state.runners, place, begun))
            return
        ended = state._replace(runners=put(state.runners, place, None))
        is_moved = self._guards.compares_and_sets and state.checkpoint != runner.begin
        is_refused = self._guards.looks_at_the_status and state.is_paused
        if is_moved or is_refused:
            yield "rolls back", ended
            return
        yield (
            f"commits up to {runner.end}",
            ended._replace(
                checkpoint=runner.end,
                applied=state.applied + runner.events,
                committed_while_paused=state.is_paused,
            ),
        )

    # --- what must come to its end

    def _stuck(self, state: State) -> str | None:
        """Once every writer has ended, a worker left to itself has to apply everything."""
        if state.is_paused or any(writer.phase not in {ENDED, DEAD} for writer in state.writers):
            return None
        wanted = sorted(writer.number for writer in state.writers if writer.phase == ENDED)
        while state.checkpoint < max(wanted, default=0):
            following = next(iter(self._of_first_worker(state)), None)
            if following is None:
                return f"G1: {wanted} are there, the checkpoint stays at {state.checkpoint}"
            state = following
        return None if list(state.applied) == wanted else f"G1: of {wanted} only {state.applied} were applied"

    def _of_first_worker(self, state: State) -> Iterator[State]:
        for _, following in self._runner_steps(state, 0):
            yield following
        for _, after in self._watcher_steps(state, state.watchers[0]):
            yield state._replace(watchers=put(state.watchers, 0, after))


def _writer_steps(writer: Writer, drawn: int) -> Iterator[tuple[str, Writer, int]]:
    match writer.phase:
        case 0:
            yield "takes the table's lock", writer._replace(phase=LOCKED), drawn
        case 1:
            yield f"draws {drawn + 1}", Writer(DRAWN, drawn + 1), drawn + 1
            yield "rolls back", writer._replace(phase=DEAD), drawn
        case 2:
            yield f"commits {writer.number}", writer._replace(phase=VISIBLE), drawn
            yield f"rolls {writer.number} back", writer._replace(phase=DEAD), drawn
        case 3:
            yield "gives its lock back", writer._replace(phase=ENDED), drawn


def _told(numbers: frozenset[int]) -> str:
    return ", ".join(map(str, sorted(numbers))) or "nothing"


def _settle(watcher: Watcher) -> Watcher:
    """Drop the windows that nobody holds any more; the mark is at the end of the last of them."""
    while watcher.windows and not watcher.windows[0][1]:
        upper, _, seen = watcher.windows[0]
        watcher = watcher._replace(
            settled=max(watcher.settled, upper),
            windows=watcher.windows[1:],
            seen=watcher.seen | seen,
        )
    return watcher
