"""A round: some faults at once, then quiet until all is up to date, then the comparison.

Called by ``__main__``, one round after the other.  What is done in a round, and for how long, depends on the seed and
on the round's number alone, so that one round can be had again without those before it.  When exactly a fault meets
what the daemons do is for the machine to say: the same seed is the same story, not the same instant.
"""

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import psycopg

from faults.expected import READ_MODELS, Verdict, compare
from faults.kinds import Kind
from faults.scene import Scene
from faults.writers import Writers
from projectiond.rebuild.marker import RETRYING

# Faults in one round: at times one alone, so that its own bound can be told.
AT_ONCE: Final = (1, 2, 3, 3, 4, 4)

LOOK_SECONDS: Final = 0.05

# Beyond its bound a projection is late; beyond this it is given up.
GIVEN_UP_SECONDS: Final = 150.0

# A transaction of a writer, which may have to find a new connection first.
WRITERS_SECONDS: Final = 30.0

ORPHANS_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done in a round."""

    number: int
    faults: tuple[tuple[Kind, float, float], ...]
    """Each with when it begins and how long it lasts, in seconds."""

    @property
    def bound_seconds(self) -> float:
        """How long projections may need afterwards: recovery from one fault may have to wait for that from another."""
        return sum(kind.bound_seconds for kind, _, _ in self.faults)

    def __str__(self) -> str:
        return " + ".join(kind.name for kind, _, _ in self.faults)


@dataclass(slots=True)
class Outcome:
    """What a round came to."""

    plan: Plan
    stall_seconds: float = 0.0
    verdict: Verdict | None = None
    problems: list[str] = field(default_factory=list)


def plan_round(seed: int, number: int, kinds: Sequence[Kind]) -> Plan:
    """Choose what is done in a round: each kind once before any is done again, and others beside it."""
    deck = list(kinds)
    random.Random(f"{seed}/deck/{number // len(deck)}").shuffle(deck)
    chance = random.Random(f"{seed}/round/{number}")
    chosen = [deck[number % len(deck)]]
    for other in chance.sample(deck, len(deck)):
        if other.touches not in {kind.touches for kind in chosen}:
            chosen.append(other)
    del chosen[chance.choice(AT_ONCE) :]
    faults = [
        (kind, chance.uniform(0.0, 1.0) if place else 0.0, chance.uniform(*kind.lasts_seconds))
        for place, kind in enumerate(chosen)
    ]
    return Plan(number, tuple(faults))


def await_begin(scene: Scene) -> list[str]:
    """Wait until the daemons have begun with all projections; say what is wrong if they do not."""
    return _wait(scene, 0, time.monotonic())


def play(scene: Scene, writers: Writers, seed: int, plan: Plan) -> Outcome:
    """Do what is planned, wait until all is up to date, and compare."""
    scene.tell(f"round {plan.number}: {plan}")
    scene.may_pause.clear()
    scene.problems.clear()
    outcome = Outcome(plan)
    writers.go_on()
    scene.sleep(random.Random(f"{seed}/begin/{plan.number}").uniform(0.1, 0.5))
    _inject(scene, seed, plan)
    began = time.monotonic()
    try:
        writers.hold_still(WRITERS_SECONDS)
        head = _read_head(scene)
        outcome.problems += _wait(scene, head, began)
        outcome.stall_seconds = time.monotonic() - began
        if not outcome.problems:
            with scene.session() as db:
                outcome.verdict = compare(db, head)
            outcome.problems += outcome.verdict.differences
    except (psycopg.Error, TimeoutError) as error:
        # The server is to be up, and nobody to be in its way.
        outcome.problems.append(f"{type(error).__name__}: {error}")
    outcome.problems += _look_after_processes(scene)
    outcome.problems += scene.problems
    return outcome


def _inject(scene: Scene, seed: int, plan: Plan) -> None:
    threads = [
        threading.Thread(target=_inject_one, args=(scene, seed, plan.number, *fault), name=fault[0].name)
        for fault in plan.faults
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _inject_one(scene: Scene, seed: int, number: int, kind: Kind, begins: float, lasts: float) -> None:
    chance = random.Random(f"{seed}/{number}/{kind.name}")
    scene.sleep(begins)
    try:
        kind.inject(scene, chance, lasts)
    except psycopg.Error as error:
        # Another fault has ended what this one needed.
        scene.tell(f"{kind.name} ended early: {' '.join(str(error).split())[:120]}")
    except Exception as error:  # noqa: BLE001 - the round has to end, and its story to be told
        scene.problems.append(f"the harness failed at {kind.name}: {type(error).__name__}: {error}")


def _read_head(scene: Scene) -> int:
    with scene.session() as db:
        row = db.execute("SELECT coalesce(max(sequence_number), 0) FROM event_store").fetchone()
        return 0 if row is None else int(row[0])


def _wait(scene: Scene, head: int, began: float) -> list[str]:
    """Wait until all projections are at the head, running and without an error; say what is wrong with the others."""
    resumed: set[str] = set()
    with scene.session() as db:
        while True:
            rows = db.execute(
                "SELECT projection_name, last_sequence_number, status, error_message FROM projection_checkpoints"
            ).fetchall()
            behind = [row for row in rows if row[1:] != (head, "running", None)]
            if not behind and len(rows) == len(READ_MODELS):
                return []
            unexpected = []
            for name, position, status, error in rows:
                if status == "paused" and error is not None:
                    if name not in scene.may_pause:
                        unexpected.append(f"{name} is paused at {position}, and should not be: {error}")
                    scene.tell(f"{name} is paused ({error[:160]}), and resumed")
                    resumed.add(name)
                    db.execute(
                        "UPDATE projection_checkpoints SET status = 'running' WHERE projection_name = %s", (name,)
                    )
            if unexpected:
                return unexpected
            _ask_anew(scene, db)
            if time.monotonic() - began > GIVEN_UP_SECONDS:
                told = "; ".join(f"{name} is {status} at {at}: {error}" for name, at, status, error in behind)
                return [f"not up to date ({head}) after {GIVEN_UP_SECONDS:g} s: {told}"]
            if scene.stopping.is_set():
                return []
            scene.restart_ended()
            scene.sleep(LOOK_SECONDS)


def _ask_anew(scene: Scene, db: psycopg.Connection) -> None:
    """Ask again for rebuilds that a fault has made fail, as an operator does who does not wait for a minute."""
    failed = db.execute(
        "SELECT projection_name, error_message FROM projection_rebuilds "
        "WHERE mode = 'beside' AND error_message IS NOT NULL AND NOT starts_with(error_message, %s)",
        (RETRYING,),
    ).fetchall()
    for name, error in failed:
        scene.tell(f"the rebuild of {name} has failed ({error[:160]}), and is asked for anew")
        with db.transaction():
            for status in ("running", "rebuilding"):
                db.execute(
                    "UPDATE projection_checkpoints SET status = %s WHERE projection_name = %s AND status = %s",
                    (status, name, "rebuilding" if status == "running" else "running"),
                )


def _look_after_processes(scene: Scene) -> list[str]:
    scene.restart_ended()
    deadline = time.monotonic() + ORPHANS_SECONDS
    while (orphans := scene.living_orphans()) and time.monotonic() < deadline:
        scene.sleep(LOOK_SECONDS)
    problems = [f"worker {orphan.pid} has outlived its supervisor" for orphan in orphans]
    for orphan in orphans:
        orphan.kill()
    return problems
