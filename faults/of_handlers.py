"""Faults of handlers: each does something wrong once, and the same event succeeds when it is tried again."""

import random
import time
from typing import Final

from faults import mischief
from faults.expected import READ_MODELS
from faults.kinds import kind
from faults.scene import DRAIN_SECONDS, HANDLER_TIMEOUT_SECONDS, Scene

# Without an event nobody calls a handler, and in a crash of everything there are none.
PATIENCE_SECONDS: Final = 3.0

_ANY: Final = sorted(name for name, model in READ_MODELS.items() if model.has_handlers)
_WITH_CONNECTION: Final = sorted(name for name in _ANY if READ_MODELS[name].has_connection)


def _have_done(scene: Scene, projection: str, what: str) -> int | None:
    """Have it done; give the process that did it."""
    mischief.take_culprit(scene.mischief_at, projection)
    mischief.ask(scene.mischief_at, projection, what)
    until = time.monotonic() + PATIENCE_SECONDS
    while mischief.is_asked(scene.mischief_at, projection) and time.monotonic() < until:
        scene.sleep(0.02)
    is_done = not mischief.is_asked(scene.mischief_at, projection)
    mischief.call_off(scene.mischief_at, projection)
    scene.tell(f"handler of {projection}: {what}{'' if is_done else ' (no handler came by)'}")
    return mischief.take_culprit(scene.mischief_at, projection) if is_done else None


@kind(
    "handler-hangs",
    touches="handlers",
    bound_seconds=HANDLER_TIMEOUT_SECONDS + 5,
    because=f"its worker is killed after handler_timeout_seconds ({HANDLER_TIMEOUT_SECONDS:g} here), then as any other",
    lasts_seconds=(0.0, 0.0),
)
def hang(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Does not return."""
    del seconds
    _have_done(scene, chance.choice(_ANY), "hang")


@kind(
    "handler-hangs-alone",
    touches="processes",
    bound_seconds=HANDLER_TIMEOUT_SECONDS + DRAIN_SECONDS + 8,
    because="a worker without a supervisor has drain_seconds to end, then ends itself, whatever its handlers do",
    lasts_seconds=(0.0, 1.0),
)
def hang_alone(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Does not return, and its supervisor is killed, so that nobody can kill its worker."""
    culprit = _have_done(scene, chance.choice(_ANY), "hang")
    for daemon in scene.daemons:
        if culprit in {worker.pid for worker in daemon.workers()}:
            scene.tell(f"SIGKILL to the supervisor of {daemon}, whose handler hangs")
            scene.kill(daemon)
            scene.sleep(seconds)
            daemon.start()


@kind(
    "handler-exits",
    touches="handlers",
    bound_seconds=5,
    because="as when a worker is killed",
    lasts_seconds=(0.0, 0.0),
)
def end_process(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Ends the process with os._exit."""
    del seconds
    _have_done(scene, chance.choice(_ANY), "exit")


@kind(
    "handler-raises",
    touches="handlers",
    bound_seconds=5,
    because="the event is tried again; a runner that SystemExit has ended is started again within a second or two",
    lasts_seconds=(0.0, 1.0),
)
def fail(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Raises an exception, or SystemExit, or swallows a statement's error."""
    for _ in range(chance.randint(1, 3)):
        what = chance.choice(("fail", "raise SystemExit", "swallow an error"))
        _have_done(scene, chance.choice(_WITH_CONNECTION if what == "swallow an error" else _ANY), what)
        scene.sleep(seconds / 3)


@kind(
    "handler-leaks",
    touches="handlers",
    bound_seconds=5,
    because="memory and connections that a handler keeps are its process's",
    lasts_seconds=(0.0, 0.0),
)
def leak(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Keeps ten megabytes and two connections for ever."""
    del seconds
    _have_done(scene, chance.choice(_ANY), "leak")


@kind(
    "handler-drops-connection",
    touches="handlers",
    bound_seconds=5,
    because="as when its session is ended",
    lasts_seconds=(0.0, 0.0),
)
def drop_connection(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Closes the connection's socket under the daemon's feet."""
    del seconds
    _have_done(scene, chance.choice(_WITH_CONNECTION), "drop the connection")


@kind(
    "handler-takes-transaction",
    touches="handlers",
    bound_seconds=8,
    because="it is refused and the projection paused, whatever its policy; the harness resumes it as its operator",
    lasts_seconds=(0.0, 0.0),
)
def take_transaction(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Closes the connection, or sends COMMIT."""
    del seconds
    projection = chance.choice(_WITH_CONNECTION)
    scene.may_pause.add(projection)
    _have_done(scene, projection, chance.choice(("close the connection", "COMMIT")))


@kind(
    "handler-changes-session",
    touches="handlers",
    bound_seconds=8,
    because="nobody else gets that connection; if its own next event fails for it, the harness resumes the projection",
    lasts_seconds=(0.0, 1.0),
)
def change_session(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Changes search_path, role or isolation level of the session."""
    for _ in range(chance.randint(1, 3)):
        projection = chance.choice(_WITH_CONNECTION)
        scene.may_pause.add(projection)
        _have_done(scene, projection, chance.choice(("change search_path", "change the role", "change the isolation")))
        scene.sleep(seconds / 3)
