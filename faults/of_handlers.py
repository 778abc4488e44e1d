"""Faults of handlers: each does something wrong, once each time, and the same event succeeds when it is tried again.

What a handler does is in ``mischief``, by the names that stand in the table here.
"""

import random
import time
from typing import Final

from faults import mischief
from faults.expected import READ_MODELS
from faults.kinds import Fault, Kind
from faults.scene import DRAIN_SECONDS, HANDLER_TIMEOUT_SECONDS, Scene

# Without an event nobody calls a handler, and in a crash of everything there are none.
PATIENCE_SECONDS: Final = 3.0

_KILLED = f"its worker is killed after handler_timeout_seconds ({HANDLER_TIMEOUT_SECONDS:g} here), then as any other"
_ALONE = "a worker without a supervisor has drain_seconds to end, then ends itself, whatever its handlers do"
_AGAIN = "the event is tried again; a runner that SystemExit has ended is started again within a second or two"
_REFUSED = "it is refused and the projection paused, whatever its policy; the harness resumes it as its operator"
_REPLACED = "nobody else gets that connection; if its own next event fails for it, the harness resumes the projection"


def _do(*deeds: str, most: int = 1, may_pause: bool = False) -> Fault:
    """Have some projections' handlers do one of these, up to so often, one after the other."""

    def inject(scene: Scene, chance: random.Random, seconds: float) -> None:
        times = chance.randint(1, most)
        for _ in range(times):
            _have_done(scene, chance, chance.choice(deeds), may_pause=may_pause)
            scene.sleep(seconds / times)

    return inject


def _hang_alone(scene: Scene, chance: random.Random, seconds: float) -> None:
    culprit = _have_done(scene, chance, "hang")
    for daemon in scene.daemons:
        if culprit in {worker.pid for worker in daemon.workers()}:
            scene.tell(f"SIGKILL to the supervisor of {daemon}, whose handler hangs")
            scene.kill(daemon)
            scene.sleep(seconds)
            daemon.start()


def _kind(name: str, told: str, inject: Fault, bound_seconds: float, because: str, touches: str = "handlers") -> Kind:
    return Kind(name, touches, told, bound_seconds, because, inject, (0.0, 1.0))


KINDS: Final = (
    _kind("handler-hangs", "Does not return.", _do("hang"), HANDLER_TIMEOUT_SECONDS + 5, _KILLED),
    _kind(
        "handler-hangs-alone",
        "Does not return, and its supervisor is killed, so that nobody can kill its worker.",
        _hang_alone,
        HANDLER_TIMEOUT_SECONDS + DRAIN_SECONDS + 8,
        _ALONE,
        touches="processes",
    ),
    _kind("handler-exits", "Ends the process with os._exit.", _do("exit"), 5, "as when a worker is killed"),
    _kind(
        "handler-raises",
        "Raises an exception, or SystemExit, or swallows a statement's error.",
        _do("fail", "raise SystemExit", "swallow an error", most=3),
        5,
        _AGAIN,
    ),
    _kind(
        "handler-leaks",
        "Keeps ten megabytes and two connections for ever.",
        _do("leak"),
        5,
        "memory and connections that a handler keeps are its process's",
    ),
    _kind(
        "handler-drops-connection",
        "Closes the connection's socket under the daemon's feet.",
        _do("drop the connection", most=3),
        5,
        "as when its session is ended",
    ),
    _kind(
        "handler-takes-transaction",
        "Closes the connection, or sends COMMIT.",
        _do("close the connection", "COMMIT", may_pause=True),
        8,
        _REFUSED,
    ),
    _kind(
        "handler-changes-session",
        "Changes search_path, role or isolation level of the session.",
        _do("change search_path", "change the role", "change the isolation", most=3, may_pause=True),
        8,
        _REPLACED,
    ),
)


def _have_done(scene: Scene, chance: random.Random, deed: str, *, may_pause: bool = False) -> int | None:
    """Have a handler of some projection do it; give the process that did."""
    needs_connection = deed in mischief.DEEDS_WITH_CONNECTION
    able = [
        name
        for name, model in sorted(READ_MODELS.items())
        if model.has_handlers and (model.has_connection or not needs_connection)
    ]
    projection = chance.choice(able)
    if may_pause:
        scene.may_pause.add(projection)
    mischief.take_culprit(scene.mischief_at, projection)
    mischief.ask(scene.mischief_at, projection, deed)
    until = time.monotonic() + PATIENCE_SECONDS
    while mischief.is_asked(scene.mischief_at, projection) and time.monotonic() < until:
        scene.sleep(0.02)
    is_done = not mischief.is_asked(scene.mischief_at, projection)
    mischief.call_off(scene.mischief_at, projection)
    scene.tell(f"handler of {projection}: {deed}{'' if is_done else ' (no handler came by)'}")
    return mischief.take_culprit(scene.mischief_at, projection) if is_done else None
