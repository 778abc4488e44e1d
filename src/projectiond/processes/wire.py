"""What the supervisor tells a worker, line by line on the worker's standard input.

First a :class:`Briefing`; later, when a worker has died, :class:`Care` with the events to be careful at; at last the
line ``drain``, or the end of the input.  Standard input, not arguments or environment: those can be read by other
processes of the machine, and the settings hold the database's password.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from projectiond.settings import Settings


@dataclass(frozen=True, slots=True)
class Briefing:
    """The settings, and up to where to be careful with which projection."""

    settings: Settings
    careful_upto: Mapping[str, int]

    def to_wire(self) -> str:
        """Give the line, with its newline; it holds the database's password."""
        return json.dumps({"settings": self.settings.to_wire(), "careful_upto": dict(self.careful_upto)}) + "\n"

    @classmethod
    def from_wire(cls, line: str) -> Self:
        """Read the line."""
        told = json.loads(line)
        return cls(Settings.from_wire(told["settings"]), told["careful_upto"])


@dataclass(frozen=True, slots=True)
class Care:
    """Up to where to be careful with which projection, from now on."""

    careful_upto: Mapping[str, int]

    def to_wire(self) -> str:
        """Give the line, with its newline."""
        return json.dumps({"careful_upto": dict(self.careful_upto)}) + "\n"

    @classmethod
    def from_wire(cls, line: str) -> Self | None:
        """Read the line; ``None`` when it is another: the one that ends the worker."""
        return cls(json.loads(line)["careful_upto"]) if line.startswith("{") else None
