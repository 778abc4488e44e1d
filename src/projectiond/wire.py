"""What the supervisor tells a worker at its start, as one line of JSON on the worker's standard input.

Standard input, not arguments or environment: those can be read by other processes of the machine, and the settings
hold the database's password.
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
