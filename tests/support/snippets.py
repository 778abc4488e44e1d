"""The snippets of README and docs/, which tests execute so that none of them can rot.

What a snippet is, its first line says:

- `# file: NAME.py` (in SQL `-- file: NAME.sql`): a file of a directory of plugins. The files of a package belong
  together; a page's SQL files belong to all of its plugins.
- `# refused: MESSAGE`: a plugin that must have exactly one fault, with this message.
- anything else: other.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
FIRST_LINE = re.compile(r"\A(?:#|--) (?P<kind>file|refused): (?P<value>.+)\n")


@dataclass(frozen=True)
class Snippet:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    code: str

    @property
    def kind(self) -> str:
        """Say what it is: "file", "refused" or "other"."""
        first = FIRST_LINE.match(self.code)
        return first["kind"] if first else "other"

    @property
    def value(self) -> str:
        """Return the rest of the first line: a file's name, or a message."""
        first = FIRST_LINE.match(self.code)
        return first["value"] if first else ""

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    def write_plugin(self, directory: Path) -> None:
        """Write the plugin, with what belongs to it, into a directory of plugins."""
        package = self.value.partition("/")[0]
        for part in SNIPPETS:
            if part.page == self.page and part.kind == "file":
                is_of_package = "/" in self.value and part.value.partition("/")[0] == package
                if part.language == "sql" or is_of_package:
                    part._write(directory)
        self._write(directory)

    def _write(self, directory: Path) -> None:
        file = directory / self.value
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.code, encoding="utf-8")


def _read_snippets() -> Iterator[Snippet]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in FENCE.finditer(text):
            line = text.count("\n", 0, block.start()) + 1
            yield Snippet(page, line, block["language"], block["code"])


SNIPPETS = list(_read_snippets())


def python_snippets(kind: str) -> list[Snippet]:
    """Return the snippets in Python that are of a kind."""
    return [snippet for snippet in SNIPPETS if snippet.language == "python" and snippet.kind == kind]
