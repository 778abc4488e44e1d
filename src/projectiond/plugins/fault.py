"""A fault in a plugin, as `projectiond check` prints it and `projectiond run` refuses to start with it.

Faults are values, not exceptions: one file's fault must not hide the next one's.
"""

import os
from dataclasses import dataclass
from pathlib import Path

# A message may quote an exception of the plugin's, and that may quote anything.
MAX_QUOTED = 300


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, and where."""

    file: str
    line: int | None
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.message}"


def shown(path: str | os.PathLike[str]) -> str:
    """Return a path as people type it: relative where it is below the current directory."""
    absolute = Path(path).absolute()
    here = Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)


def quoted(error: BaseException) -> str:
    """Return an exception's type and text as one short line."""
    text = " ".join(str(error).split())
    text = text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
