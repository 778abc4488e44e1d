"""Every Python snippet of README and docs/ does what the page says of it; see tests/support/snippets.py.

What plugins do with events is tried in tests/integration/test_documented_projections.py.
"""

from pathlib import Path

import pytest

from projectiond.plugins.registry import Registry, load_projections
from projectiond.projection import BatchProjection, Projection, RowProjection, SqlProjection
from tests.support.snippets import Snippet, python_snippets


def load(directory: Path) -> Registry:
    return load_projections([directory], {})


def test_there_are_snippets_of_every_kind() -> None:
    assert len(python_snippets("file")) >= 5
    assert len(python_snippets("refused")) >= 5
    assert len(python_snippets("other")) >= 1


def test_the_guide_has_an_example_of_every_kind_of_projection(tmp_path: Path) -> None:
    seen = set()
    for number, snippet in enumerate(python_snippets("file")):
        if snippet.page.name == "writing-a-projection.md":
            directory = tmp_path / str(number)
            snippet.write_plugin(directory)
            seen |= {type(definition.projection).__mro__[1] for definition in load(directory).definitions}
    assert seen >= {Projection, BatchProjection, RowProjection, SqlProjection}


@pytest.mark.parametrize("snippet", python_snippets("file"), ids=str)
def test_a_plugin_snippet_loads_without_a_fault(snippet: Snippet, tmp_path: Path) -> None:
    snippet.write_plugin(tmp_path)
    registry = load(tmp_path)
    assert [str(fault) for fault in registry.faults] == []
    assert registry.definitions


@pytest.mark.parametrize("snippet", python_snippets("refused"), ids=str)
def test_a_refused_snippet_is_refused_with_the_message_that_it_shows(snippet: Snippet, tmp_path: Path) -> None:
    (tmp_path / "refused.py").write_text(snippet.code, encoding="utf-8")
    registry = load(tmp_path)
    (fault,) = registry.faults
    assert snippet.value in fault.message
    assert registry.definitions == ()


@pytest.mark.parametrize("snippet", python_snippets("other"), ids=str)
def test_any_other_snippet_compiles(snippet: Snippet) -> None:
    compile(snippet.code, str(snippet), "exec", dont_inherit=True)
