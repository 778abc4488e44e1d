"""Every Python snippet of README and docs/ is executed, so that none of them can rot.

- `# file: NAME.py` in the first line: written into a plugin directory, which must load without a fault. The
  files of a package are loaded together, and with the files of the page's SQL snippets (`-- file: NAME.sql`).
- `# refused: MESSAGE` in the first line: a plugin that must have exactly one fault, with this message.
- any other Python block: must compile.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from projectiond.registry import Registry, load_projections

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
FIRST_LINE = re.compile(r"\A(?:#|--) (?P<kind>file|refused): (?P<value>.+)\n")


@dataclass(frozen=True)
class Snippet:
    page: Path
    line: int
    language: str
    code: str

    @property
    def kind(self) -> str:
        first = FIRST_LINE.match(self.code)
        return first["kind"] if first else "other"

    @property
    def value(self) -> str:
        first = FIRST_LINE.match(self.code)
        return first["value"] if first else ""

    @property
    def plugin(self) -> str:
        """The file, or the package, that it belongs to."""
        return self.value.partition("/")[0]

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    def write(self, directory: Path) -> None:
        file = directory / self.value
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.code, encoding="utf-8")


def read_snippets() -> Iterator[Snippet]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in FENCE.finditer(text):
            line = text.count("\n", 0, block.start()) + 1
            yield Snippet(page, line, block["language"], block["code"])


SNIPPETS = list(read_snippets())
PYTHON = [snippet for snippet in SNIPPETS if snippet.language == "python"]


def having(kind: str) -> list[Snippet]:
    return [snippet for snippet in PYTHON if snippet.kind == kind]


def load(directory: Path) -> Registry:
    return load_projections([directory], {})


def test_there_are_snippets_of_every_kind() -> None:
    assert len(having("file")) >= 5
    assert len(having("refused")) >= 5
    assert len(having("other")) >= 1


@pytest.mark.parametrize("snippet", having("file"), ids=str)
def test_a_plugin_snippet_loads_without_a_fault(snippet: Snippet, tmp_path: Path) -> None:
    is_package = "/" in snippet.value
    parts = [other for other in SNIPPETS if other.page == snippet.page and other.kind == "file"]
    for part in parts:
        if part.language == "sql" or (is_package and part.plugin == snippet.plugin):
            part.write(tmp_path)
    snippet.write(tmp_path)
    registry = load(tmp_path)
    assert [str(fault) for fault in registry.faults] == []
    assert registry.definitions


@pytest.mark.parametrize("snippet", having("refused"), ids=str)
def test_a_refused_snippet_is_refused_with_the_message_that_it_shows(snippet: Snippet, tmp_path: Path) -> None:
    (tmp_path / "refused.py").write_text(snippet.code, encoding="utf-8")
    registry = load(tmp_path)
    (fault,) = registry.faults
    assert snippet.value in fault.message
    assert registry.definitions == ()


@pytest.mark.parametrize("snippet", having("other"), ids=str)
def test_any_other_snippet_compiles(snippet: Snippet) -> None:
    compile(snippet.code, str(snippet), "exec", dont_inherit=True)
