"""The guard: which statements a handler may not send, and which leave something behind in the session.

Called by the connection for each statement of a handler.  It looks at the beginning of the text only, so what hides
behind another statement gets past it; ``checkpoint`` finds that out afterwards.  It must be fast on every text, a
hostile one too: it runs for each statement of each event.
"""

import re
from functools import lru_cache
from typing import Final

from psycopg.abc import AdaptContext, Query
from psycopg.sql import Composable

# How much of a statement is looked at, and kept for the next time; handlers may send literals of megabytes.
LOOKED_AT: Final = 1000

# Possessive: what precedes the verb is never tried in another way, however long it is.
_TRANSACTION_CONTROL: Final = re.compile(
    r"""(?: [\s;]++ | --[^\n]*+ (?: \n | \Z ) | /\*.*?\*/ )*+
    (?: begin | commit | end | abort | start\s+transaction | prepare\s+transaction
      | rollback (?! \s+ (?: (?:work|transaction) \s+ )? to\b ) )
    \b""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)


# What outlives the transaction; SET LOCAL, SET CONSTRAINTS and set_config(..., true) do not, whose value may be a
# parameter, %(name)s.
_SESSION_CHANGE: Final = re.compile(
    r"""\s*+ (?: set (?! \s+ (?: local | constraints | transaction ) \b) | reset | discard | listen
              | create \s+ (?: (?: local | global ) \s+ )? temp (?: orary )? ) \b
    | .*? \b set_config \s* \( (?! (?: [^()%] | % (?: \( [^()]* \) )? )* , \s* true \s* \) )""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)


# What psycopg reads values by.  In a pipeline a result may be read long after it was made, when another one holds.
_CONVERSION_CHANGE: Final = re.compile(
    r"""\b set \s+ (?: (?: local | session ) \s+ )?
        (?: names | "? (?: client_encoding | datestyle | intervalstyle ) ) \b
    | \b set_config \s* \( \s* ' (?: client_encoding | datestyle | intervalstyle ) '""",
    re.VERBOSE | re.IGNORECASE,
)


@lru_cache(maxsize=1024)
def is_conversion_change(statement: str) -> bool:
    """Say whether it changes how the server writes values that psycopg is to read."""
    return _CONVERSION_CHANGE.search(statement) is not None


@lru_cache(maxsize=1024)
def is_session_change(statement: str) -> bool:
    """Say whether it changes what the next to use the connection would find."""
    return _SESSION_CHANGE.match(statement) is not None


@lru_cache(maxsize=1024)
def is_transaction_control(statement: str) -> bool:
    """Say whether it begins or ends a transaction; savepoints do not."""
    return _TRANSACTION_CONTROL.match(statement) is not None


def beginning_of(query: Query, context: AdaptContext) -> str:
    """Give as much of a statement's text as is looked at."""
    match query:
        case str():
            statement = query
        case bytes():
            statement = query[:LOOKED_AT].decode(errors="replace")
        case Composable():
            statement = query.as_string(context)
        case _:
            # A template string (Python 3.14): its first literal part holds the verb.
            statement = "".join(getattr(query, "strings", ())[:1])
    return statement[:LOOKED_AT]
