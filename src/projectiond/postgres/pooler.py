"""Whether a pooler stands between, and whether it hands sessions on from one transaction to the next.

Called by the commands, before they do anything else with a database that is not the embedded one.  Leases are locks of
a session, LISTEN is one's, and the mark is proven for a connection that has lived since before the look.  A pooler that
gives each transaction another session takes all three away, and does so without an error: two workers would run the
same projection, and nobody would be woken.  So it is refused.

There is nobody to ask.  But a pooler makes up the process id that a client is given for cancelling, so it differs from
what the session itself says; without a pooler that is all, one short connection.  And it shows when a transaction is
open beside us: that must not be in our session, and we must be in the same one as before.  A session of our own always
passes that; one that is shared passes it only by a coincidence of others' work, each time anew.

No setting of a session is touched, for it would stay behind in somebody else's.
"""

from typing import Final

import psycopg

from projectiond import sql
from projectiond.errors import ConfigurationError
from projectiond.postgres.database import CONNECT_TIMEOUT_SECONDS, describe_target

# An idle pooler gives us away at the first look; others' work can hide it for one, hardly for so many.
LOOKS: Final = 5


def refuse_shared_sessions(dsn: str) -> None:
    """Refuse an address behind which sessions are handed on from one transaction to the next.

    What keeps a connection from being made is left to whoever connects next, and has words for it.

    Raises:
        ConfigurationError: There is a pooler in transaction or statement mode.
    """
    try:
        is_shared = _is_shared(dsn)
    except psycopg.OperationalError:
        return
    if is_shared:
        raise ConfigurationError(
            f"{describe_target(dsn)} is reached through a pooler that hands sessions on from one transaction to the "
            "next, which neither leases nor LISTEN survive",
            hint="point database_url at the server itself, or at a pool in session mode (PgBouncer: pool_mode = "
            "session); PROJECTIOND_DATABASE_URL prevails over DATABASE_URL, which may stay the application's",
        )


def _is_shared(dsn: str) -> bool:
    with _connect(dsn) as mine:
        own = _session_of(mine)
        if own == mine.info.backend_pid:
            return False
        try:
            with mine.transaction():
                pass
        except psycopg.errors.ProtocolViolation:  # no transactions at all: statement mode
            return True
        # A pool that has no second session for us ends this with an error, and has proven nothing.
        with _connect(dsn) as other:
            for _ in range(LOOKS):
                with other.transaction():
                    if _session_of(other) == own or _session_of(mine) != own:
                        return True
    return False


def _connect(dsn: str) -> "psycopg.Connection[tuple[int]]":
    return psycopg.connect(
        dsn,
        autocommit=True,
        prepare_threshold=None,
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        application_name="projectiond/pooler",
    )


def _session_of(db: "psycopg.Connection[tuple[int]]") -> int:
    row = db.execute(sql.session.SESSION).fetchone()
    return int(row[0]) if row else 0
