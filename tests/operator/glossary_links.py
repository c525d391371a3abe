"""Where a page first uses a word of the glossary that a newcomer does not know, and whether it is a link there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
GLOSSARY = ROOT / "docs" / "architecture.md"
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in ("architecture.md", "cli.md")]
LINKED = (
    *("tombstone", "stale", "lens", "foreign", "lane", "order key", "high-water", "passage", "receipt"),
    *("in doubt", "residue", "pending", "undecidable", "key question", "overtaken", "fence", "base dump"),
    *("caught up", "outbox", "drain", "reconcile", "late writer", "sealed", "shadow read", "heartbeat"),
)
"""Words of the glossary that mean something of their own here, or are not everybody's."""

_NOT_PROSE = re.compile(r"```.*?^```|^#.*?$|`[^`\n]*`|\]\([^)]*\)|<[^>]*>", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\([^)]*\)")


def anchors() -> dict[str, str]:
    """Word -> anchor of the glossary's section that holds it."""
    chapter = GLOSSARY.read_text(encoding="utf-8").partition("\n## Glossary\n")[2].partition("\n## ")[0]
    found: dict[str, str] = {}
    for section in chapter.split("\n### ")[1:]:
        title, _, rows = section.partition("\n")
        anchor = re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for word in re.findall(r"^\| ([^|]+) \|", rows, re.MULTILINE):
            found.setdefault(word.strip("` "), anchor)
    return found


def first_use(text: str, word: str) -> tuple[int, int, bool] | None:
    """Start and end of the first use in prose, and whether it is inside a link; None where the page does not use it."""
    prose = _NOT_PROSE.sub(lambda found: " " * len(found[0]), text)
    use = re.search(rf"(?<![\w-]){re.escape(word)}s?(?![\w-])", prose)
    if use is None:
        return None
    is_linked = any(link.start() < use.start() < link.end() for link in _LINK.finditer(text))
    return use.start(), use.end(), is_linked


def without_links(text: str) -> str:
    """The page as it is read: the words of a link in its place."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
