"""What README and docs/operations.md say of events, settings and commands is what the code has."""

import re
from pathlib import Path

from projectiond import logs
from projectiond.cli.application import app
from projectiond.settings import Settings
from tests.support.pages import anchors_of

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def rows_of(section: str) -> dict[str, str]:
    """Return the table rows of a section by their first cell, the backquotes taken off."""
    text = OPERATIONS.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return {row[1]: row[0] for row in re.finditer(r"^\| `([^`]+)` \|.*$", text, re.MULTILINE)}


def commands() -> set[str]:
    single = {str(command.name or getattr(command.callback, "__name__", "")) for command in app.registered_commands}
    return single | {str(group.name) for group in app.registered_groups}


def test_the_table_of_log_events_is_that_of_the_code() -> None:
    rows = rows_of("Log events")
    assert list(rows) == list(logs.EVENTS)
    for event, meaning in logs.EVENTS.items():
        assert rows[event] == f"| `{event}` | {meaning} |"


def test_the_table_of_settings_is_that_of_the_code() -> None:
    rows = rows_of("Settings")
    assert list(rows) == list(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        assert rows[name].endswith(f"| {field.description} |")
        if isinstance(field.default, (int, float)) and not isinstance(field.default, bool):
            assert rows[name].startswith(f"| `{name}` | `{field.default:g}` |")


def test_every_command_stands_in_both_tables() -> None:
    assert {row.split()[0] for row in rows_of("Commands")} == commands()
    in_readme = re.findall(r"^\| `projectiond ([\w-]+)", README, re.MULTILINE)
    assert set(in_readme) == commands()


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([\w-]+))?\)", page.read_text(encoding="utf-8")):
            linked = page.parent / target if target else page
            assert linked.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in anchors_of(linked), f"{page.name} links to {target}#{anchor}"
