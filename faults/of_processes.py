"""Faults of the daemon's processes, its directory, and its plugins."""

import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from faults.kinds import kind
from faults.scene import Daemon, Scene, describe

# How long the next daemon waits for this one to be at work.
ROLLING_SECONDS: Final = 15.0

# Nobody makes a file there.
NOWHERE: Final = Path("/proc")

_BROKEN: Final = "from projectiond import Projection\n\nclass Broken(Projection:\n"


def _some_worker(scene: Scene, chance: random.Random) -> psutil.Process | None:
    workers = [worker for daemon in scene.daemons for worker in daemon.workers()]
    return chance.choice(workers) if workers else None


@kind(
    "worker-killed",
    touches="processes",
    bound_seconds=5,
    because="the server ends its sessions at once; another worker looks for free leases each second",
    lasts_seconds=(0.5, 3.0),
)
def kill_worker(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Kills a worker, or a builder, with SIGKILL; at times another one a moment later."""
    for number in range(chance.choice((1, 1, 2))):
        scene.sleep(seconds if number else 0.0)
        _kill_worker(scene, chance)


def _kill_worker(scene: Scene, chance: random.Random) -> None:
    worker = _some_worker(scene, chance)
    if worker is not None:
        scene.tell(f"SIGKILL to {describe(worker)}")
        with suppress(psutil.NoSuchProcess):
            worker.kill()


@kind(
    "supervisor-killed",
    touches="processes",
    bound_seconds=8,
    because="its workers see their input end, finish and give their leases back; others look each second",
    lasts_seconds=(0.0, 2.0),
)
def kill_supervisor(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Kills a supervisor with SIGKILL, and starts the daemon again a moment later."""
    daemon = chance.choice(scene.daemons)
    scene.tell(f"SIGKILL to the supervisor of {daemon}")
    scene.kill(daemon)
    scene.sleep(seconds)
    daemon.start()


@kind(
    "daemon-restarted",
    touches="processes",
    bound_seconds=8,
    because="a drained daemon has given its leases back before it exits; a new one needs a second or two to start",
    lasts_seconds=(0.0, 2.0),
)
def restart_daemon(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Ends a daemon with SIGTERM, as a deployment does, and starts it again."""
    daemon = chance.choice(scene.daemons)
    scene.tell(f"SIGTERM to {daemon}")
    _restart(scene, daemon, seconds)


def _restart(scene: Scene, daemon: Daemon, seconds: float) -> None:
    # From here on, that it ends is nobody's fault.
    scene.orphans += daemon.workers()
    scene.tell(f"{daemon} ended with exit code {daemon.end()}")
    scene.sleep(seconds)
    daemon.start()


@kind(
    "worker-stopped",
    touches="processes",
    bound_seconds=5,
    because="who has taken over goes on; the transaction that the stopped worker had open, and its locks, end with it",
    lasts_seconds=(1.5, 4.0),
)
def stop_worker(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Stops a worker with SIGSTOP, ends its lease's session so that another takes over, and lets it go on."""
    worker = _some_worker(scene, chance)
    if worker is None:
        return
    with suppress(psutil.NoSuchProcess):
        worker.suspend()
        scene.tell(f"SIGSTOP to {describe(worker)}")
        try:
            scene.sleep(seconds / 3)
            ended = scene.end_sessions(worker, "leases")
            scene.tell(f"ended {ended} session of its leases")
            scene.sleep(seconds * 2 / 3)
        finally:
            scene.tell(f"SIGCONT to worker {worker.pid}")
            worker.resume()


@kind(
    "supervisor-stopped",
    touches="processes",
    bound_seconds=5,
    because="workers need their supervisor only to be started again and to be killed",
    lasts_seconds=(1.0, 3.0),
)
def stop_supervisor(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Stops a supervisor with SIGSTOP, kills one of its workers meanwhile, and lets it go on."""
    daemon = chance.choice(scene.daemons)
    supervisor = psutil.Process(daemon.pid)
    supervisor.suspend()
    scene.tell(f"SIGSTOP to the supervisor of {daemon}")
    try:
        scene.sleep(seconds / 2)
        workers = daemon.workers()
        if workers:
            worker = chance.choice(workers)
            scene.tell(f"SIGKILL to {describe(worker)}")
            with suppress(psutil.NoSuchProcess):
                worker.kill()
        scene.sleep(seconds / 2)
    finally:
        scene.tell(f"SIGCONT to the supervisor of {daemon}")
        supervisor.resume()


def _needs_daemons_disk(scene: Scene) -> str:
    return "" if scene.daemons_disk.is_mounted else "mounting a small disk takes root and the privilege to mount"


@kind(
    "daemon-disk-full",
    touches="processes",
    bound_seconds=8,
    because="the daemon keeps nothing there but its log; a worker that dies meanwhile is started without it",
    refuse=_needs_daemons_disk,
)
def fill_daemons_disk(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Fills the file system that has the daemons' directories, temporary files and logs, and kills a worker."""
    scene.tell("the daemons' disk is full")
    scene.daemons_disk.fill()
    try:
        scene.sleep(seconds / 2)
        _kill_worker(scene, chance)
        scene.sleep(seconds / 2)
    finally:
        scene.daemons_disk.free()
        scene.tell("the daemons' disk has room again")


@kind(
    "daemon-directory-read-only",
    touches="processes",
    bound_seconds=8,
    because="the daemon needs no file of its own, only its plugins' and Python's",
)
def withhold_directory(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Starts a daemon where nobody can write, not even root: working directory, home and temporary files."""
    daemon = chance.choice(scene.daemons)
    scene.kill(daemon)
    scene.tell(f"{daemon} starts in {NOWHERE}")
    daemon.start(directory=NOWHERE)
    try:
        scene.sleep(seconds)
    finally:
        scene.kill(daemon)
        scene.tell(f"{daemon} gets its directory back")
        daemon.start()


@kind(
    "plugins-changed",
    touches="processes",
    bound_seconds=8,
    because="code is loaded when a worker starts; at the end daemons are restarted one after the other",
)
def change_plugins(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Breaks one plugin file, adds another and removes them all, kills a worker each time, then deploys anew."""
    file = scene.plugins / "tallies.py"
    good = file.read_text()
    changes: dict[str, Callable[[], object]] = {
        "a file that cannot be imported appears": lambda: (scene.plugins / "broken.py").write_text(_BROKEN),
        "a plugin is half written": lambda: file.write_text(good[: len(good) // 2]),
        "the directory is empty": lambda: file.unlink(missing_ok=True),
        "a plugin is touched": lambda: file.write_text(f"{good}\n# Touched.\n"),
    }
    chosen = chance.sample(sorted(changes), 2)
    try:
        for change in chosen:
            scene.tell(f"plugins: {change}")
            changes[change]()
            _kill_worker(scene, chance)
            scene.sleep(seconds / 2)
    finally:
        file.write_text(good)
        (scene.plugins / "broken.py").unlink(missing_ok=True)
        scene.tell("plugins: as they were")
        for daemon in scene.daemons:
            _restart(scene, daemon, 0.0)
            # One after the other, so that there always is one; another fault may keep it from starting.
            until = time.monotonic() + ROLLING_SECONDS
            while not daemon.is_at_work() and time.monotonic() < until:
                scene.sleep(0.1)


KINDS: Final = (
    kill_worker,
    kill_supervisor,
    restart_daemon,
    stop_worker,
    stop_supervisor,
    fill_daemons_disk,
    withhold_directory,
    change_plugins,
)
