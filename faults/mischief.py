"""Mischief: what a handler does wrong, once, because the harness has told it to.

Two sides of a directory that :data:`VARIABLE` names.  The harness puts a file there (:func:`ask`), named after the
projection, its text what to do.  The handler of that projection which comes next takes the file away and does it
(:func:`meet`); so the same event succeeds when it is tried again, as with a fault of the world outside.

Handlers call it when their own statements are done: what is changed in the session then is for the next to meet.
"""

import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import psycopg

from projectiond import Connection

VARIABLE: Final = "FAULTS_MISCHIEF"

# Longer than any handler_timeout_seconds.
FOR_EVER: Final = 3600.0

EXIT_CODE: Final = 3

_LEAKED_BYTES: Final = 10_000_000
_LEAKED_CONNECTIONS: Final = 2
# Of one process, so that leaks alone do not take all connections that there are.
_MOST_LEAKS: Final = 3

_leaks: list[Any] = []


def ask(directory: Path, projection: str, what: str) -> None:
    """Have the next handler of a projection do something wrong."""
    unseen = directory / f"{uuid.uuid4().hex}.new"
    unseen.write_text(what)
    unseen.rename(directory / projection)


def is_asked(directory: Path, projection: str) -> bool:
    """Say whether no handler has come by yet."""
    return (directory / projection).exists()


def take_culprit(directory: Path, projection: str) -> int | None:
    """Give the process that has done it, once."""
    for taken in directory.glob(f"{projection}.*.taken"):
        pid = int(taken.name.split(".")[1])
        taken.unlink()
        return pid
    return None


def call_off(directory: Path, projection: str) -> None:
    """Ask no more."""
    (directory / projection).unlink(missing_ok=True)


def meet(projection: str, db: Connection | None = None) -> None:
    """Do what the harness has asked for, if anything."""
    asked = Path(os.environ[VARIABLE]) / projection
    if not asked.exists():
        return
    taken = asked.with_name(f"{projection}.{os.getpid()}.taken")
    try:
        # One handler gets it, of however many processes.
        asked.rename(taken)
    except FileNotFoundError:
        return
    what = taken.read_text()
    if what in DEEDS:
        DEEDS[what]()
    elif db is not None:
        DEEDS_WITH_CONNECTION[what](db)


def _hang() -> None:
    time.sleep(FOR_EVER)


def _exit() -> None:
    os._exit(EXIT_CODE)


def _raise_system_exit() -> None:
    raise SystemExit(EXIT_CODE)


def _fail() -> None:
    raise ValueError("something that the handler needs was not there for a moment")


def _leak() -> None:
    if len(_leaks) >= _MOST_LEAKS:
        return
    dsn = os.environ["PROJECTIOND_DATABASE_URL"]
    connections = [psycopg.connect(dsn, application_name="leak") for _ in range(_LEAKED_CONNECTIONS)]
    _leaks.append((bytes(_LEAKED_BYTES), connections))


def _drop_connection(db: Connection) -> None:
    db.pgconn.finish()


def _close(db: Connection) -> None:
    db.close()


def _commit(db: Connection) -> None:
    db.execute("COMMIT")


def _change_search_path(db: Connection) -> None:
    db.execute("SET search_path = pg_catalog")


def _change_role(db: Connection) -> None:
    db.execute("SET ROLE somebody_else")


def _change_isolation(db: Connection) -> None:
    db.execute("SELECT set_config('default_transaction_isolation', 'serializable', false)")


def _swallow(db: Connection) -> None:
    try:
        db.execute("SELECT 1 / 0").fetchone()
    except psycopg.Error:
        return


DEEDS: Final[dict[str, Callable[[], None]]] = {
    "hang": _hang,
    "exit": _exit,
    "raise SystemExit": _raise_system_exit,
    "fail": _fail,
    "leak": _leak,
}

DEEDS_WITH_CONNECTION: Final[dict[str, Callable[[Connection], None]]] = {
    "drop the connection": _drop_connection,
    "close the connection": _close,
    "COMMIT": _commit,
    "change search_path": _change_search_path,
    "change the role": _change_role,
    "change the isolation": _change_isolation,
    "swallow an error": _swallow,
}
