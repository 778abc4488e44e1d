"""What operators do in the middle of all this: they pause, resume, rebuild, and call a rebuild off."""

import random
from contextlib import suppress
from typing import Final, LiteralString

import psycopg

from faults.expected import READ_MODELS
from faults.kinds import kind
from faults.scene import Scene

_REBUILT: Final = sorted(name for name, model in READ_MODELS.items() if model.is_rebuilt)


_SET_STATUS: LiteralString = """
UPDATE projection_checkpoints
SET status = %(status)s
WHERE projection_name = %(name)s
RETURNING last_sequence_number
"""

_READ: LiteralString = """
SELECT last_sequence_number, status FROM projection_checkpoints WHERE projection_name = %(name)s
"""

_AGAIN_SECONDS: Final = 0.2


def _set_status(scene: Scene, name: str, status: str) -> int:
    """Set it, give the position that it had then; an operator whom the server does not answer tries again."""
    while not scene.stopping.is_set():
        with suppress(psycopg.OperationalError), scene.session() as db:
            row = db.execute(_SET_STATUS, {"name": name, "status": status}).fetchone()
            scene.tell(f"{name} is set to {status}")
            return 0 if row is None else int(row[0])
        scene.sleep(_AGAIN_SECONDS)
    return 0


@kind(
    "operator-pauses",
    touches="operators",
    bound_seconds=5,
    because="a change of the status is notified; without LISTEN it is seen within a second",
    lasts_seconds=(1.0, 4.0),
)
def pause(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Pauses a projection, holds the daemon to it, and resumes it."""
    name = chance.choice(sorted(READ_MODELS))
    before = _set_status(scene, name, "paused")
    try:
        scene.sleep(seconds)
        # Whoever cannot be asked now has not been seen to break his word.
        with suppress(psycopg.OperationalError), scene.session() as db:
            after, status = db.execute(_READ, {"name": name}).fetchone() or (0, "")
            if (after, status) != (before, "paused"):
                scene.problems.append(f"{name} was paused at {before}, and is {status} at {after}")
    finally:
        _set_status(scene, name, "running")


@kind(
    "operator-rebuilds",
    touches="operators",
    bound_seconds=75,
    because="a rebuild that a fault has made fail is tried again after a minute; the live tables are kept up to date",
    lasts_seconds=(1.0, 4.0),
)
def rebuild(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Has one or two projections rebuilt beside their live tables; at times holds it, calls it off or asks again."""
    for name in chance.sample(_REBUILT, chance.choice((1, 1, 2))):
        _set_status(scene, name, "rebuilding")
        scene.sleep(seconds / 2)
        afterwards = chance.choice(((), (), ("paused", "rebuilding"), ("running",), ("running", "rebuilding")))
        for status in afterwards:
            _set_status(scene, name, status)
            scene.sleep(seconds / 4)
