"""Faults of the server: it ends, has no connection left, its disk is full, others lock what projections write."""

import os
import random
import signal
import time
from contextlib import ExitStack, suppress
from typing import Final

import psycopg
from psycopg import sql

from faults.expected import READ_MODELS
from faults.kinds import kind
from faults.scene import STATEMENT_TIMEOUT_SECONDS, Scene
from faults.server import DAEMON_ROLE

# Longer than a statement of the daemons may wait, at times three times as long.
_LOCKED_SECONDS: Final = (STATEMENT_TIMEOUT_SECONDS, 3 * STATEMENT_TIMEOUT_SECONDS)

_RECONNECTS: Final = "projections, watchers and pools try again after growing pauses, of 5 s at most"


@kind(
    "sessions-ended",
    touches="sessions",
    bound_seconds=8,
    because="runners try again at once; a worker without its lease's session takes leases anew within a second or two",
    lasts_seconds=(0.2, 2.0),
)
def end_sessions(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Ends sessions of the daemons with pg_terminate_backend: some, or all of one purpose, several times."""
    for _ in range(chance.randint(1, 4)):
        with scene.session() as db:
            sessions = db.execute(
                "SELECT pid, application_name FROM pg_stat_activity WHERE application_name LIKE 'projectiond/%' "
                "ORDER BY application_name, backend_start"
            ).fetchall()
            if not sessions:
                continue
            role = chance.choice(sorted({name for _, name in sessions}))
            is_by_role = chance.random() < 0.5
            chosen = [pid for pid, name in sessions if (name == role if is_by_role else chance.random() < 0.5)]
            scene.tell(f"pg_terminate_backend of {len(chosen)} of {len(sessions)} sessions")
            db.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", (chosen,))
        scene.sleep(seconds / 4)


@kind(
    "statements-cancelled",
    touches="sessions",
    bound_seconds=5,
    because="a statement that is cancelled is tried again after growing pauses",
    lasts_seconds=(1.0, 3.0),
)
def cancel_statements(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Cancels whatever statements the daemons run, ten times a second, with pg_cancel_backend."""
    scene.tell("pg_cancel_backend of all sessions, again and again")
    until = time.monotonic() + seconds
    with scene.session() as db:
        while time.monotonic() < until and not scene.stopping.is_set():
            db.execute(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity "
                "WHERE application_name LIKE 'projectiond/%' AND state <> 'idle'"
            )
            scene.sleep(chance.uniform(0.02, 0.2))


@kind("server-crashed", touches="server", bound_seconds=15, because=_RECONNECTS, lasts_seconds=(0.0, 2.0))
def crash_server(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Stops the server immediately, so that it has to recover when it is started again; at times twice."""
    for _ in range(chance.choice((1, 1, 2))):
        with scene.server.lock:
            scene.tell("the server is stopped immediately")
            scene.server.stop("immediate")
            scene.sleep(seconds)
            scene.server.start()
            scene.tell("the server is back")
        scene.sleep(chance.uniform(0.0, 1.0))


@kind("backend-killed", touches="server", bound_seconds=15, because=_RECONNECTS)
def kill_backend(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Kills the server process of a daemon's session with SIGKILL: the server ends all sessions, and recovers."""
    for _ in range(chance.choice((1, 2))):
        with scene.server.lock:
            with scene.session() as db:
                sessions = db.execute(
                    "SELECT pid, application_name FROM pg_stat_activity WHERE application_name LIKE 'projectiond/%' "
                    "ORDER BY application_name, backend_start"
                ).fetchall()
            if sessions:
                pid, name = chance.choice(sessions)
                scene.tell(f"SIGKILL to the server process of {name}")
                os.kill(pid, signal.SIGKILL)
                scene.sleep(0.05)
                scene.server.bring_back()
        scene.sleep(seconds / 2)


@kind("server-restarted", touches="server", bound_seconds=15, because=_RECONNECTS, lasts_seconds=(0.0, 2.0))
def restart_server(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Shuts the server down (fast), and starts it again."""
    del chance
    with scene.server.lock:
        scene.tell("the server is shut down")
        scene.server.stop("fast")
        scene.sleep(seconds)
        scene.server.start()
        scene.tell("the server is back")


def _needs_server_disk(scene: Scene) -> str:
    return "" if scene.server_disk.is_mounted else "mounting a small disk takes root and the privilege to mount"


@kind(
    "server-disk-full",
    touches="server",
    bound_seconds=20,
    because=f"where it has to crash for it, the server recovers first; {_RECONNECTS}",
    refuse=_needs_server_disk,
)
def fill_server_disk(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Fills the server's disk; at times it also needs a new file for its log, and crashes."""
    with scene.server.lock:
        needs_log = chance.random() < 0.4
        scene.tell(f"the server's disk is full{', and its log is switched' if needs_log else ''}")
        scene.server_disk.fill()
        try:
            scene.sleep(seconds / 2)
            if needs_log:
                with suppress(psycopg.Error), scene.session() as db:
                    for _ in range(8):
                        db.execute("SELECT pg_switch_wal()")
                        scene.sleep(0.1)
            scene.sleep(seconds / 2)
        finally:
            scene.server_disk.free()
            scene.tell("the server's disk has room again")
            if scene.server.bring_back():
                scene.tell("the server had given up, and was started")


@kind("out-of-connections", touches="sessions", bound_seconds=15, because=_RECONNECTS)
def take_all_connections(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Takes every connection that the server has left, and ends some of the daemons'."""
    with ExitStack() as stack:
        taken = 0
        with scene.session() as db:
            until = time.monotonic() + seconds
            while time.monotonic() < until and not scene.stopping.is_set():
                try:
                    while True:
                        stack.enter_context(scene.server.connect(user=DAEMON_ROLE, name="taker"))
                        taken += 1
                except psycopg.OperationalError:
                    pass
                db.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name LIKE 'projectiond/%%' AND random() < %s",
                    (chance.choice((0.0, 0.1, 0.5)),),
                )
                scene.sleep(0.2)
        scene.tell(f"{taken} connections were taken until now, and are given back")


@kind(
    "read-model-locked",
    touches="locks",
    bound_seconds=8,
    because="the statement that waited is tried again after growing pauses, of 5 s at most",
    lasts_seconds=_LOCKED_SECONDS,
)
def lock_read_model(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Locks a read model's table against everybody, for longer than a statement of the daemon may wait."""
    name = chance.choice(sorted(READ_MODELS))
    with scene.session() as db, db.transaction():
        db.execute("SET LOCAL lock_timeout = '5s'")
        db.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(name)))
        scene.tell(f"{name} is locked")
        scene.sleep(seconds)
    scene.tell(f"{name} is free")


@kind(
    "checkpoint-locked",
    touches="locks",
    bound_seconds=8,
    because="as with a read model that is locked",
    lasts_seconds=_LOCKED_SECONDS,
)
def lock_checkpoint(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Locks a projection's row in projection_checkpoints, or the whole table."""
    name = chance.choice(sorted(READ_MODELS))
    is_whole = chance.random() < 0.3
    with scene.session() as db, db.transaction():
        db.execute("SET LOCAL lock_timeout = '5s'")
        if is_whole:
            db.execute("LOCK TABLE projection_checkpoints IN ACCESS EXCLUSIVE MODE")
        else:
            db.execute("SELECT FROM projection_checkpoints WHERE projection_name = %s FOR UPDATE", (name,))
        scene.tell("projection_checkpoints is locked" if is_whole else f"the checkpoint of {name} is locked")
        scene.sleep(seconds)
    scene.tell("the checkpoints are free")


@kind(
    "deadlocks",
    touches="locks",
    bound_seconds=8,
    because="the transaction that the server ends is tried again after growing pauses, of 5 s at most",
)
def provoke_deadlocks(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Locks checkpoints and read models in the other order than the daemon does, again and again."""
    until = time.monotonic() + seconds
    met = 0
    with scene.session() as db:
        # The other side finds the deadlock, and is ended for it.
        db.execute("SET deadlock_timeout = '1s'")
        db.execute("SET lock_timeout = '3s'")
        while time.monotonic() < until and not scene.stopping.is_set():
            name = chance.choice(sorted(READ_MODELS))
            with suppress(psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable), db.transaction():
                db.execute("SELECT FROM projection_checkpoints WHERE projection_name = %s FOR UPDATE", (name,))
                scene.sleep(0.1)
                db.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(sql.Identifier(name)))
                met += 1
            scene.sleep(0.05)
    scene.tell(f"{met} times locks were taken the other way round")


def _needs_pooler(scene: Scene) -> str:
    return "" if scene.pooler is not None else "there is no PgBouncer"


@kind(
    "pooler-restarted",
    touches="pooler",
    bound_seconds=5,
    because="writers alone go through it; what they had not committed never was",
    refuse=_needs_pooler,
)
def restart_pooler(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Ends the PgBouncer that some writers go through, in the middle of transactions, and starts it again."""
    del chance
    if scene.pooler is not None:
        scene.pooler.stop()
        scene.tell("PgBouncer has ended")
        scene.sleep(seconds)
        # It is at work only once it has found the server.
        with scene.server.lock:
            scene.pooler.start()
        scene.tell("PgBouncer is back")


KINDS: Final = (
    end_sessions,
    cancel_statements,
    crash_server,
    kill_backend,
    restart_server,
    fill_server_disk,
    take_all_connections,
    lock_read_model,
    lock_checkpoint,
    provoke_deadlocks,
    restart_pooler,
)
