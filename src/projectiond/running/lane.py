"""The lane: one thread that takes the short passes of many runners, one after the other.

When an event arrives, every projection at the head wants a transaction of its own in the same millisecond.  A thread
for each is woken, waits for the interpreter, for a connection, for its COMMIT: of fifty, that is a thousand times that
somebody falls asleep and is woken, and waking up is what takes long on an idle machine.  In the lane it is one thread,
and it does not wait for a COMMIT either before it begins the next projection's transaction::

    watcher ──summon──▶ queue ──▶ pass of a runner, up to its COMMIT ──▶ sent ──▶ the rest of the pass ──▶ given back
                          ▲                                               (the server commits meanwhile)      │
                          └───────────────────────────── the mark has moved again ────────────────────────────┘

Each pass is what the runner's own thread would do (``Runner.steps``), on a connection of its own, in a transaction of
its own: they share nothing but the thread.

*Never two at once.*  A runner's passes belong to whoever holds its lock: its thread, or the lane while that thread
sleeps at the mark.  ``Runner.lend`` takes the lock or leaves it, ``give_back`` gives it back.  Whoever wants something
else of the runner (to read its row, to end) wakes its thread as ever, and that waits for the lock.

*No wake-up is lost.*  What becomes of the mark's having moved is decided under the lane's guard, and so is giving a
runner back: either it is in the lane, and takes another pass there, or it is lent now, or its thread is told.

*One projection's trouble is its own.*  Passes come here while they are short and go as they should.  Whatever else
becomes of one is left to the runner's own thread: its errors are raised there, its backlog is worked off there.  And
whoever leads the lane is watched by a deputy.  When a step of a pass has taken ``PATIENCE_SECONDS``, for a handler that
hangs or a row that is locked, the deputy leads, and calls another; the thread that is stuck ends that one step and no
more.  The runner that it was stuck with goes on in its own thread, until its passes have been short for long.  So a
handler that turns slow, or hangs, costs the others that time once.

There is no more than one thread for each pass that is stuck, and two.  Where no more threads are to be had, whoever
leads goes on without a deputy.
"""

import threading
import time
from collections import deque
from collections.abc import Generator, Iterable
from queue import SimpleQueue
from typing import Final, Protocol

# A pass takes a millisecond; a durable commit on a slow disk may take ten.
PATIENCE_SECONDS: Final = 0.01

# More transactions under way gain little: the server commits those together that arrive while it writes.
MOST_SENT: Final = 8

# A pass: it pauses once its COMMIT has been sent, if it comes to that, and then waits for it.
Pass = Generator[None, None, object]


class Lendable(Protocol):
    """What the lane knows of a runner."""

    def wake(self) -> None:
        """Tell its own thread that the mark has moved."""

    def lend(self) -> bool:
        """Hand the next passes over, if its thread sleeps at the mark and they are likely to be short."""

    def steps(self) -> Pass:
        """Begin a pass."""

    def take_note(self, end: object, *, is_summoned: bool) -> bool:
        """Hear what a pass came to, or the error that it ended with; say whether another is to follow here.

        Args:
            end: The outcome, or the error.
            is_summoned: Whether the mark has moved since it was lent.
        """

    def overstay(self) -> None:
        """Hear that a pass in hand takes too long to be taken here."""

    def give_back(self) -> None:
        """Go on in its own thread."""


class Lane:
    """The lane of one worker."""

    def __init__(self, connections: int) -> None:
        """Make a lane; threads are started when they are needed.

        Args:
            connections: How many there are for all runners of the worker.
        """
        self._most_sent = max(1, min(MOST_SENT, connections - 1))
        self._guard = threading.Lock()
        self._lent: set[Lendable] = set()
        # Of those: the mark has moved since they were lent.
        self._again: set[Lendable] = set()
        self._queue: deque[Lendable] = deque()
        self._sent: deque[tuple[Lendable, Pass]] = deque()
        self._leader: object | None = None
        self._in_hand: Lendable | None = None
        self._since = 0.0
        # Threads that lead, or watch who leads, or are on their way to it; of these, those that sleep while they watch;
        # and threads that have nothing to do.
        self._active = 0
        self._watching = 0
        self._idle = 0
        self._threads = 0
        self._calls: SimpleQueue[None] = SimpleQueue()
        self._is_stopping = False
        # Whether no thread has ended through a fault of the lane's own, with a runner in hand.
        self.is_sound = True

    def __repr__(self) -> str:
        return f"<Lane queue={len(self._queue)} sent={len(self._sent)} threads={self._threads}>"

    def summon(self, runners: Iterable[Lendable]) -> None:
        """Say to each runner that the mark has moved; from the watcher's thread."""
        with self._guard:
            for runner in runners:
                if runner in self._lent:
                    self._again.add(runner)
                elif runner.lend():
                    self._lent.add(runner)
                    self._queue.append(runner)
                else:
                    runner.wake()
            self._call_who_is_missing()

    def stop(self) -> None:
        """End the threads that sleep, and the others when they have nothing to do."""
        self._is_stopping = True
        for _ in range(self._threads):
            self._calls.put(None)

    # --- its threads

    def _call_who_is_missing(self) -> None:
        """See that somebody leads, and that a leader who has something in hand is watched while anything waits."""
        if not self._queue and not self._sent:
            return
        # Whoever watches is of no use while nobody leads: it sleeps on.
        is_enough = self._active > self._watching if self._in_hand is None else self._active > 1
        if is_enough:
            return
        if self._idle:
            self._idle -= 1
        elif not self._start_thread():
            return
        self._active += 1
        self._calls.put(None)

    def _start_thread(self) -> bool:
        thread = threading.Thread(target=self._run, name=f"lane {self._threads + 1}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if not self._active:
                raise
            return False
        self._threads += 1
        return True

    def _run(self) -> None:
        while True:
            self._calls.get()
            if self._is_stopping:
                return
            try:
                self._serve()
            except BaseException:
                self.is_sound = False
                raise

    def _serve(self) -> None:
        """Lead, or watch who leads, until there is nothing to do, or somebody else has taken the lead."""
        me = object()
        while True:
            with self._guard:
                if not self._queue and not self._sent:
                    self._leave(me)
                    return
                patience = self._since + PATIENCE_SECONDS - time.monotonic() if self._in_hand is not None else 0.0
                if patience <= 0:
                    runner, step = self._take_lead(me)
                else:
                    self._watching += 1
            if patience > 0:
                time.sleep(patience)
                with self._guard:
                    self._watching -= 1
                continue
            is_sent, end = _go_on(step)
            with self._guard:
                self._put(runner, step, end, is_sent=is_sent)
                if self._leader is not me:
                    self._idle += 1
                    self._call_who_is_missing()
                    return
                self._in_hand = None

    def _leave(self, me: object) -> None:
        if self._leader is me:
            self._leader = None
        self._active -= 1
        self._idle += 1

    def _take_lead(self, me: object) -> tuple[Lendable, Pass]:
        is_stuck = self._in_hand is not None
        if self._in_hand is not None:
            # Whoever has it is stuck, and serves no longer.
            self._in_hand.overstay()
            self._active -= 1
        self._leader = me
        # What is stuck may wait for a connection, and what has been sent holds one.
        if self._queue and len(self._sent) < (1 if is_stuck else self._most_sent):
            runner = self._queue.popleft()
            step = runner.steps()
        else:
            runner, step = self._sent.popleft()
        self._in_hand, self._since = runner, time.monotonic()
        self._call_who_is_missing()
        return runner, step

    def _put(self, runner: Lendable, step: Pass, end: object, *, is_sent: bool) -> None:
        """Put a runner where it belongs after a step of its pass."""
        if is_sent:
            self._sent.append((runner, step))
            return
        is_summoned = runner in self._again
        self._again.discard(runner)
        if runner.take_note(end, is_summoned=is_summoned):
            self._queue.append(runner)
        else:
            self._lent.discard(runner)
            runner.give_back()


def _go_on(step: Pass) -> tuple[bool, object]:
    """Take a pass to its next pause, or to its end; say whether it pauses, and what it came to."""
    try:
        next(step)
    except StopIteration as end:
        return False, end.value
    except BaseException as error:  # noqa: BLE001 - raised again, in the runner's own thread
        return False, error
    return True, None
