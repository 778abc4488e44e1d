"""A handler's statement as the server wants it, and which statements the server has been made to keep.

Called by ``express``.  psycopg's own conversion of a statement begins anew each time, and remembers what it has
prepared where nobody else may look.  This is the same for the statements that make up a handler's day: plain text with
psycopg's placeholders.  What is out of the ordinary in any way gives ``None``, and psycopg does it, or says what is
wrong with it, in its own words.

A statement is prepared when it comes for the sixth time with parameters of the same types, as psycopg does it
(``Connection.prepare_threshold``), under a name of ours.  Nobody tells us when the server no longer has it, so all are
given up (:meth:`Plans.forget`) whenever that may be: after a rollback, because psycopg may have deallocated everything
then, and after whatever is not ordinary.  ``DISCARD_PLANS`` then removes what is still there, so that a session does
not collect them.
"""

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from psycopg.abc import Params
from psycopg.adapt import PyFormat

from projectiond.postgres.guard import LOOKED_AT, is_conversion_change, is_session_change, is_transaction_control

# Longer ones are made by programs and rarely come again; neither their conversion nor a plan is kept.
LONGEST_KEPT: Final = 4096

# Conversions of this process, and statements of a connection.
_MOST_CONVERTED: Final = 256
MOST_PLANS: Final = 200

# The last alternative is what psycopg has an error for.
_PLACEHOLDER: Final = re.compile(r"%(?:(?P<percent>%)|(?P<kind>[sbt])|\((?P<name>[^)]+)\)(?P<named>[sbt])|)")
_FORMATS: Final = {"s": PyFormat.AUTO, "b": PyFormat.BINARY, "t": PyFormat.TEXT}

# Neither COPY nor anything that is not about rows; SET LOCAL, for the daemon itself has uses for it.
_ORDINARY: Final = re.compile(
    r"(?: \s++ | --[^\n]*+ (?: \n | \Z ) | /\* [^*]*+ \*/ )*+"
    r"(?: select | insert | update | delete | merge | with | values | table | set \s+ local ) \b",
    re.VERBOSE | re.IGNORECASE,
)
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")

# What the daemon sends and a handler must not.
CONTROL: Final = frozenset({"BEGIN", "COMMIT"})

Key = tuple[bytes, Sequence[int]]
"""A statement's text and the types of its parameters."""


class Statement:
    """The conversion of a statement's text."""

    __slots__ = ("_names", "formats", "text")

    def __init__(self, text: str, formats: list[PyFormat], names: Sequence[str] | None) -> None:
        self.text = text.encode()
        self.formats = formats
        self._names = names

    def arrange(self, parameters: Params) -> Sequence[Any] | None:
        """Give the parameters in the order of the placeholders, or ``None`` if they are not what it takes."""
        names = self._names
        # A plain dict first: what else is a sequence or a mapping takes long to find out.
        if type(parameters) is not dict and (
            isinstance(parameters, (tuple, list))
            or (isinstance(parameters, Sequence) and not isinstance(parameters, (str, bytes)))
        ):
            return parameters if names is None and len(parameters) == len(self.formats) else None
        if (type(parameters) is not dict and not isinstance(parameters, Mapping)) or (names is None and self.formats):
            return None
        try:
            return [*map(parameters.__getitem__, names or ())]
        except KeyError:
            return None


@lru_cache(maxsize=_MOST_CONVERTED)
def convert(query: str) -> Statement | None:
    """Convert a statement that comes with parameters, if it is an ordinary one."""
    if not is_ordinary(query):
        return None
    parts: list[str] = []
    places: dict[str, tuple[int, PyFormat]] = {}
    formats: list[PyFormat] = []
    end = 0
    is_positional = False
    for found in _PLACEHOLDER.finditer(query):
        parts.append(query[end : found.start()])
        end = found.end()
        percent, kind, name, named = found.groups()
        if percent:
            parts.append("%")
        elif kind:
            is_positional = True
            formats.append(_FORMATS[kind])
            parts.append(f"${len(formats)}")
        elif name:
            if name not in places:
                formats.append(_FORMATS[named])
                places[name] = len(formats), _FORMATS[named]
            place, format_before = places[name]
            if format_before is not _FORMATS[named]:
                return None
            parts.append(f"${place}")
        else:
            return None
    if places and is_positional:
        return None
    text = "".join([*parts, query[end:]])
    return Statement(text, formats, list(places) or None)


@lru_cache(maxsize=_MOST_CONVERTED)
def encode(query: str) -> bytes | None:
    """Give a statement that comes without parameters, if it is an ordinary one."""
    return query.encode() if is_ordinary(query) or query in CONTROL else None


def is_ordinary(query: str) -> bool:
    """Say whether a statement reads or writes rows and leaves the session as it is."""
    beginning = query[:LOOKED_AT]
    return (
        _ORDINARY.match(beginning) is not None
        and not is_session_change(beginning)
        and not is_conversion_change(beginning)
        and not is_transaction_control(beginning)
        # What has no place in UTF-8 is for psycopg to refuse.
        and _LONE_SURROGATE.search(query) is None
        # Texts would be converted into another one than they were announced in.
        and "client_encoding" not in query.lower()
    )


class Plan:
    """A statement of a connection: how often it came, and what the server calls it if it is prepared."""

    __slots__ = ("name", "uses")

    def __init__(self) -> None:
        self.name: bytes | None = None
        self.uses = 0


class Plans:
    """The statements that came last on a connection."""

    def __init__(self) -> None:
        self._plans: OrderedDict[Key, Plan] = OrderedDict()
        self._names = 0
        self.has_any = False
        self.has_left_some = False

    def find(self, key: Key) -> Plan:
        """Give the plan of a statement, a new one if need be."""
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = Plan()
        else:
            self._plans.move_to_end(key)
        return plan

    def name(self, plan: Plan) -> bytes:
        """Give the statement a name that no other of this connection ever had."""
        self._names += 1
        self.has_any = True
        plan.name = b"projectiond_plan_%d" % self._names
        return plan.name

    def evict(self) -> bytes | None:
        """Let the statement go that was not used for longest, if they are too many; give its name if it had one."""
        if len(self._plans) <= MOST_PLANS:
            return None
        return self._plans.popitem(last=False)[1].name

    def forget(self) -> None:
        """Begin anew: what has been prepared may be gone, or may no longer fit."""
        self._plans.clear()
        self.has_left_some = self.has_left_some or self.has_any
        self.has_any = False
