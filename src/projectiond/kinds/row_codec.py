"""A codec: how values travel between one field of a dataclass and its column.

The rows of a batch stay in memory from its first event to its last, so a field holds what a handler put there, or what
the database made of it in between, depending on where a batch happened to end.  Nobody may be able to tell.  Three
rules see to that:

* A pair of annotation and column type is taken only if it brings back what was written; all others are refused.
* What PostgreSQL changes without a word when it stores it (a scale, a time zone, padding) is changed in the same way
  after each handler: that is ``settle``.
* What would come back as something else (a list for a tuple, an integer for a ``bool``) is refused when the row is
  written, so it fails however small the batch is.

What is left is JSON's: ``jsonb`` forgets the order of keys, and gives back floats from 1e16 on as integers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, TypeAlias
from uuid import UUID

Change: TypeAlias = Callable[[Any], Any]
"""Takes a value that is not None, and gives one."""

_MAX_SHOWN: Final = 60


class UnfitError(Exception):
    """Why a value does not fit ("is 5, which is no str"), or what to write instead of an annotation or a type."""


@dataclass(frozen=True, slots=True)
class Codec:
    """How values travel between one field and its column."""

    types: frozenset[type] | None
    """What a value's type may be, exactly; None leaves it to ``dump``.  None as a value always passes."""

    suffix: str = ""
    """Behind the column where it is read: "::text"."""

    load: Change | None = None
    """From what psycopg gives."""

    settle: Change | None = None
    """To what would come back after a round trip; it leaves alone what does not fit."""

    dump: Change | None = None
    """To what JSON can hold; raises UnfitError."""

    is_loaded_plain: bool = True
    """Whether what psycopg gives can be compared with what the field holds."""

    def dumped(self, value: Any) -> Any:  # noqa: ANN401 - whatever the field holds
        """Give what is written for a value.

        Raises:
            UnfitError: It is of no type that fits, or cannot be written.
        """
        if value is None:
            return None
        if self.types is not None and type(value) not in self.types:
            wanted = " or ".join(sorted(kind.__name__ for kind in self.types))
            raise UnfitError(f"is {described(value)}, which is no {wanted}")
        return value if self.dump is None else self.dump(value)


def described(value: object) -> str:
    """Name a value in an error, briefly; what an author's class says of itself is not asked for."""
    if type(value) in {str, int, float, bool, UUID, Decimal, date, datetime, type(None)}:
        text = repr(value)
        return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
    if type(value) is tuple:
        return f"({', '.join(map(described, value))})"
    return f"a {type(value).__name__}"
