"""Reading the project's own Markdown pages."""

import re
from pathlib import Path


def anchors_of(page: Path) -> set[str]:
    """Return what a link to a heading of the page may end with, as the usual hosts of Markdown make it."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
