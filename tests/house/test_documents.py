"""The protocol and the architecture name files and functions: each one is there, and each link leads to a heading."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

from spectron_migrate.ledger.schema import DDL

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "spectron_migrate"
PAGES = (ROOT / "docs" / "architecture.md", ROOT / "docs" / "protocol.md", ROOT / "CONTRIBUTING.md")
REFERENCE = re.compile(r"([\w./-]+\.py)(?::([\w.]+))?")
"""`delivery/lane.py`, `delivery/lane.py:deliver_lane` or `ledger/merge.py:Merge.add`."""


def code_spans(page: Path) -> Iterator[str]:
    """What a page sets in backticks, outside of blocks."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`([^`\n]+)`", text)


def file_of(name: str) -> Path:
    """A file of the package, or one that is named from the root of the repository."""
    return ROOT / name if name.startswith(("tests/", "configs/")) else PACKAGE / name


@lru_cache
def names_in(file: Path) -> frozenset[str]:
    """Functions, classes, methods and constants of a module; those of a class with its name before them."""
    found: set[str] = set()

    def collect(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found.update(prefix + target.id for target in targets if isinstance(target, ast.Name))
            if isinstance(node, ast.ClassDef):
                collect(node.body, f"{prefix}{node.name}.")

    collect(ast.parse(file.read_text(encoding="utf-8")).body, "")
    return frozenset(found)


def broken_references(page: Path) -> list[str]:
    """References of a page to files or functions that are not there."""
    broken = []
    for span in code_spans(page):
        match = REFERENCE.fullmatch(span)
        if match is None or "<" in span:
            continue
        file, name = file_of(match[1]), match[2]
        if not file.is_file() or (name is not None and name not in names_in(file)):
            broken.append(span)
    return broken


def headings(page: Path) -> set[str]:
    """Anchors of a page's headings, as they are made by those who show Markdown."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_function_that_a_page_names_exists(page: Path) -> None:
    assert [] == broken_references(page)


@pytest.mark.parametrize("page", PAGES[:2], ids=lambda page: page.name)
def test_a_page_names_functions_at_all(page: Path) -> None:
    named = [span for span in code_spans(page) if (match := REFERENCE.fullmatch(span)) and match[2]]
    assert len(named) > 30


def test_a_reference_to_something_that_is_gone_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("`delivery/gone.py`, `ledger/merge.py:Merge.add`, `ledger/merge.py:Merge.gone`, `full` and `a.b`\n")
    assert ["delivery/gone.py", "ledger/merge.py:Merge.gone"] == broken_references(page)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_every_link_to_a_heading_leads_to_one(page: Path) -> None:
    links = re.findall(r"\]\(([\w./-]*\.md)?#([\w…-]+)\)", page.read_text(encoding="utf-8"))
    targets = {(page.parent / name if name else page, anchor) for name, anchor in links}
    assert [] == [f"{target.name}#{anchor}" for target, anchor in sorted(targets) if anchor not in headings(target)]


def test_every_package_is_on_the_map_and_none_that_is_gone() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.search(r"## Map of the packages\n(.*?)\n## ", text, re.DOTALL)
    assert rows is not None
    first_cells = re.findall(r"^\| (`[^|]+`) \|", rows[1], re.MULTILINE)
    mapped = {name for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)}
    folders = {f"{path.name}/" for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    modules = {path.name for path in PACKAGE.glob("*.py") if not path.name.startswith("__")}
    assert folders | modules == mapped


def references_to_the_protocol() -> Iterator[tuple[str, str]]:
    """Chapters and invariants of the protocol that docstrings and comments name, each with its file."""
    for path in [*sorted(PACKAGE.rglob("*.py")), *sorted((ROOT / "tests").rglob("*.py"))]:
        text = " ".join(re.sub(r"^\s*#", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE).split())
        for name in re.findall(r"docs/protocol\.md, ((?:[A-Z][a-z]+\b ?)+|invariants? I\d+)", text):
            yield str(path.relative_to(ROOT)), name.strip()


def test_every_chapter_or_invariant_that_the_code_names_is_in_the_protocol() -> None:
    page = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    chapters = {title.lower() for title in re.findall(r"^#+ (.+)$", page, re.MULTILINE)}
    invariants = {f"invariant {name.lower()}" for name in re.findall(r"^\| (I\d+) \|", page, re.MULTILINE)}
    found = list(references_to_the_protocol())
    assert [] == [each for each in found if each[1].lower() not in chapters | invariants]
    assert found


def test_every_table_of_the_ledger_is_described_and_none_that_is_gone() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    chapter = re.search(r"## Tables of the ledger\n(.*?)\n## ", text, re.DOTALL)
    assert chapter is not None
    first_cells = re.findall(r"^\| (`[^|]+`) \|", chapter[1], re.MULTILINE)
    described = {name for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)}
    assert set(re.findall(r"CREATE TABLE (\w+)", DDL)) == described
