"""``rebuild NAME --rollback`` and ``rebuild NAME --forget``: what becomes of the tables that a swap has retired.

Each projection in a transaction of its own; where readers are in the way it is tried again for a while.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_after_delay
from tenacity.wait import wait_random

from projectiond.cli.output import tell
from projectiond.cli.target import say
from projectiond.postgres.database import Connection
from projectiond.rebuild import retired
from projectiond.rebuild.tables import TablesBusyError

PATIENCE_SECONDS: Final = 30

Result = TypeVar("Result")


def roll_back(db: Connection, names: Iterable[str]) -> None:
    """Serve the retired tables of projections again.

    Raises:
        TablesBusyError: The tables are in use all the time.
        ConfigurationError: There is nothing to go back to, or something is in the way.
    """
    for name in names:
        gone = _patiently(db, partial(retired.roll_back, db, name))
        tell(
            f"{name} is back at {gone.position}, with the tables {', '.join(gone.tables)} of that time; what was "
            f'served until now, at {gone.left}, is kept: "projectiond rebuild {name} --rollback" takes it up again'
        )
        say(f"the daemon applies what has happened since to them; its handlers of {name} have to fit these tables")


def forget(db: Connection, names: Iterable[str]) -> None:
    """Drop the retired tables of projections.

    Raises:
        ConfigurationError: Something else depends on them.
    """
    for name in names:
        if _patiently(db, partial(retired.forget, db, name)):
            tell(f"dropped the retired tables of {name}")
        else:
            tell(f"{name} has no retired tables")


def _patiently(db: Connection, action: Callable[[], Result]) -> Result:
    def attempt() -> Result:
        with db.transaction():
            return action()

    retrying = Retrying(
        retry=retry_if_exception_type(TablesBusyError),
        wait=wait_random(0.05, 0.3),
        stop=stop_after_delay(PATIENCE_SECONDS),
        reraise=True,
    )
    return retrying(attempt)
