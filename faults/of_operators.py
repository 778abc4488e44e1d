"""What operators do in the middle of all this: they pause, resume, rebuild both ways, and call a rebuild off."""

import random
from contextlib import suppress
from typing import Final, LiteralString

import psycopg

from faults.expected import READ_MODELS
from faults.kinds import kind
from faults.scene import Scene
from faults.server import DATABASE
from projectiond.errors import DatabaseUnavailableError
from projectiond.operating import steering
from projectiond.postgres.database import connect

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

_PAUSED_IN_PLACE: Final = 0.3


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
    lasts_seconds=(0.5, 3.0),
)
def pause(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Pauses up to four projections, one after the other, holds the daemon to each, and resumes it."""
    times = chance.randint(1, 4)
    for _ in range(times):
        _pause(scene, chance.choice(sorted(READ_MODELS)), seconds / times)


def _pause(scene: Scene, name: str, seconds: float) -> None:
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
    bound_seconds=25,
    because="a rebuild that a fault has made fail is asked for anew by the harness; the live tables go on meanwhile",
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


@kind(
    "operator-rebuilds-in-place",
    touches="operators",
    bound_seconds=25,
    because="the tables are emptied and filled again by the runner itself, which tries again as ever",
)
def rebuild_in_place(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Has a projection's own tables emptied and filled again; at times pauses it in the middle, or asks again."""
    name = chance.choice(_REBUILT)
    for _ in range(chance.choice((1, 1, 2))):
        _ask_in_place(scene, name)
        scene.sleep(seconds / 4)
        if chance.random() < _PAUSED_IN_PLACE:
            _set_status(scene, name, "paused")
            scene.sleep(seconds / 4)
            _set_status(scene, name, "rebuilding")


def _ask_in_place(scene: Scene, name: str) -> None:
    """Do what ``projectiond rebuild --in-place`` does, until the server has answered."""
    while not scene.stopping.is_set():
        with suppress(DatabaseUnavailableError, psycopg.OperationalError):
            with connect(scene.server.dsn(DATABASE), role="fault", statement_timeout_seconds=10) as db:
                steering.rebuild(db, name, is_in_place=True)
            scene.tell(f"{name} is to be rebuilt in place")
            return
        scene.sleep(_AGAIN_SECONDS)


KINDS: Final = (pause, rebuild, rebuild_in_place)
