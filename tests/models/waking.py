"""A model of the doorbell: writers that notify only while somebody sleeps, and watchers that fall asleep.

The poll that the real thing has as a backstop is left out, for it would hide every wake-up that is lost.  A watcher may
crash with the bell armed, and then cannot ring.  Whoever relied on it is told by the next look at the locks, which is a
step that may come at any time, or late.

The mark is taken for granted (`settling` is about it): a look gives how far everything is settled, and whether
something is visible beyond.  Who is asleep takes no step but to hear a notification.  So a wake-up is lost when all
writers have ended, every watcher that is left sleeps with nothing to hear, and one of them has not seen the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.models.explore import put

# Phases of a writer: the number is drawn before the trigger runs; what it tried to lock is held until the end.
IDLE, DRAWN, TRIED, VISIBLE, ENDED, DEAD = range(6)

# What a watcher is about to do.
LOOK, HEAR, ARM, LOOK_AGAIN, ASLEEP, GONE = range(6)


@dataclass(frozen=True)
class Guards:
    """What the protocol is made of; each may be taken away."""

    looks_again: bool = True
    """Without: who has armed the bell sleeps at once."""

    stays_awake_while_held: bool = True
    """Without: a watcher sleeps though something visible is not settled yet."""

    rings_when_disarming: bool = True
    """Without: who gives the bell back says nothing."""

    notifies_at_commit: bool = True
    """Without: the notification goes out when the trigger runs, before the event can be read."""

    knows_who_is_relied_on: bool = True
    """Without: a watcher is told only when nobody has the bell armed, not when another has than it had found."""

    looks_at_the_locks: bool = True
    """Without: a watcher is not told that whoever had armed the bell is gone."""

    locks_until_the_end: bool = True
    """Without: a writer gives the bell back before its event is visible."""


class Writer(NamedTuple):
    """One transaction with one event."""

    phase: int = IDLE
    number: int = 0
    has_bell: bool = False
    is_to_notify: bool = False


class Watcher(NamedTuple):
    """One worker's watcher."""

    does: int = LOOK
    seen: int = 0
    is_armed: bool = False
    hears: bool = False
    """Whether a notification waits to be read."""
    relied_on: int | None = None
    """Who has it armed instead, while it sleeps."""
    is_held: bool = False
    """Whether the last look saw something that was not settled."""


class State(NamedTuple):
    """Everything."""

    writers: tuple[Writer, ...]
    watchers: tuple[Watcher, ...]
    drawn: int = 0
    crashes: int = 0


class Waking:
    """The model."""

    def __init__(self, guards: Guards, *, writers: int, watchers: int, crashes: int = 0) -> None:
        self._guards = guards
        self._crashes = crashes
        self.first = State((Writer(),) * writers, (Watcher(),) * watchers)

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        """Give what may happen next."""
        for place in range(len(state.writers)):
            for name, following in self._writer_steps(state, place):
                yield f"writer {place + 1} {name}", following
        for place in range(len(state.watchers)):
            for name, following in self._watcher_steps(state, place):
                yield f"watcher {place + 1} {name}", following

    def violation_of(self, state: State) -> str | None:
        """Say who sleeps for ever."""
        if any(writer.phase not in {ENDED, DEAD} for writer in state.writers):
            return None
        alive = [watcher for watcher in state.watchers if watcher.does != GONE]
        if any(watcher.does != ASLEEP or watcher.hears or self._is_told(state, watcher) for watcher in alive):
            return None
        settled, _ = _look(state)
        sleepers = [watcher for watcher in alive if watcher.seen < settled]
        return (
            f"everything up to {settled} is settled, and a watcher sleeps that has seen {sleepers[0].seen}"
            if sleepers
            else None
        )

    # --- a writer

    def _writer_steps(self, state: State, place: int) -> Iterator[tuple[str, State]]:
        writer = state.writers[place]

        def become(**changes: object) -> State:
            return state._replace(writers=put(state.writers, place, writer._replace(**changes)))  # type: ignore[arg-type]

        match writer.phase:
            case 0:
                yield (
                    f"draws {state.drawn + 1}",
                    become(phase=DRAWN, number=state.drawn + 1)._replace(drawn=state.drawn + 1),
                )
            case 1:
                if any(watcher.is_armed for watcher in state.watchers):
                    tried = become(phase=TRIED, is_to_notify=self._guards.notifies_at_commit)
                    yield "finds the bell armed", tried if self._guards.notifies_at_commit else _ring(tried)
                else:
                    yield "shares the bell", become(phase=TRIED, has_bell=self._guards.locks_until_the_end)
                yield "rolls back", become(phase=DEAD)
            case 2:
                yield f"commits {writer.number}", become(phase=VISIBLE)
                yield f"rolls {writer.number} back", become(phase=DEAD, has_bell=False, is_to_notify=False)
            case 3:
                ended = become(phase=ENDED, has_bell=False, is_to_notify=False)
                yield "ends", _ring(ended) if writer.is_to_notify else ended

    # --- a watcher

    def _watcher_steps(self, state: State, place: int) -> Iterator[tuple[str, State]]:  # noqa: C901, PLR0912 - a case a state
        watcher = state.watchers[place]
        settled, is_held = _look(state)
        is_held = is_held and self._guards.stays_awake_while_held

        def become(**changes: object) -> State:
            return state._replace(watchers=put(state.watchers, place, watcher._replace(**changes)))  # type: ignore[arg-type]

        looked = f"looks, up to {settled}{', held' if is_held else ''}"
        match watcher.does:
            case 0:
                yield looked, become(seen=settled, is_held=is_held, does=HEAR)
            case 1:
                # It has been quiet for a while, or not: either may be.
                yield "goes on looking", become(hears=False, does=LOOK)
                if not watcher.is_held:
                    yield "has had no news for a while", become(hears=False, does=ARM)
            case 2:
                if watcher.is_armed:
                    yield "has the bell armed", become(does=LOOK_AGAIN)
                elif (holder := _holder(state)) is not None:
                    yield "finds the bell armed by another", become(does=LOOK_AGAIN, relied_on=holder)
                elif any(writer.has_bell for writer in state.writers):
                    yield "is refused the bell", become(does=LOOK)
                else:
                    does = LOOK_AGAIN if self._guards.looks_again else ASLEEP
                    yield "arms the bell", become(does=does, is_armed=True, relied_on=None)
            case 3:
                following = become(seen=settled, is_held=is_held, does=ASLEEP)
                yield f"{looked}, before it sleeps", self._disarm(following, place, LOOK) if is_held else following
            case 4:
                if watcher.hears:
                    # A lone ring: look, still armed.  The second within a short while: give the bell back.
                    yield "hears a ring", become(hears=False, does=ARM)
                    heard = become(hears=False, seen=settled)
                    yield "hears a second ring", self._disarm(heard, place, LOOK)
                elif self._is_told(state, watcher):
                    yield "is told that nobody has the bell armed whom it knows", become(does=ARM)
        if watcher.does != GONE:
            yield "shuts down", self._disarm(state, place, GONE)
            if state.crashes < self._crashes:
                yield "crashes", become(does=GONE, is_armed=False)._replace(crashes=state.crashes + 1)

    def _is_told(self, state: State, watcher: Watcher) -> bool:
        """Say whether a look at the locks would wake who sleeps, for the bell is not with whom it relies on."""
        if watcher.does != ASLEEP or watcher.is_armed or not self._guards.looks_at_the_locks:
            return False
        holder = _holder(state)
        return holder is None or (self._guards.knows_who_is_relied_on and holder != watcher.relied_on)

    def _disarm(self, state: State, place: int, does: int) -> State:
        watcher = state.watchers[place]
        was_armed = watcher.is_armed
        state = state._replace(watchers=put(state.watchers, place, watcher._replace(is_armed=False, does=does)))
        return _ring(state, but=place) if was_armed and self._guards.rings_when_disarming else state


def _holder(state: State) -> int | None:
    return next((place for place, watcher in enumerate(state.watchers) if watcher.is_armed), None)


def _look(state: State) -> tuple[int, bool]:
    """Give how far everything is settled, and whether something visible lies beyond."""
    by_number = {writer.number: writer.phase for writer in state.writers if writer.number}
    settled = 0
    while by_number.get(settled + 1) in {VISIBLE, ENDED, DEAD}:
        settled += 1
    # Numbers of transactions that were rolled back are known to be dead only below a visible one.
    visible = [number for number, phase in by_number.items() if phase in {VISIBLE, ENDED}]
    settled = max((number for number in visible if number <= settled), default=0)
    return settled, max(visible, default=0) > settled


def _ring(state: State, but: int | None = None) -> State:
    """Notify every listener that is left; one's own notification is told apart."""
    return state._replace(
        watchers=tuple(
            watcher if place == but or watcher.does == GONE else watcher._replace(hears=True)
            for place, watcher in enumerate(state.watchers)
        )
    )
