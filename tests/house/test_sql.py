"""SQL on the ledger's tables stands in `ledger/` alone, in words that SQLite and Postgres share."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from spectron_migrate.ledger.schema import DDL

pytestmark = pytest.mark.slow

PACKAGE = Path(__file__).parents[2] / "spectron_migrate"
TABLES = re.findall(r"CREATE (?:TABLE|VIEW) (\w+)", DDL)
OF_OTHERS = {
    "adapter": {"memory"},
    "verify": {"fact", "scope"},
    "mem0": {"memory", "scan"},
}
"""Names that a part uses for tables of its own."""
ON_A_TABLE = re.compile(rf"\b(?:FROM|JOIN|INTO|UPDATE)\s+({'|'.join(TABLES)})\b")
SQLITE_ONLY = {
    "INSERT OR": r"\bINSERT OR\b",
    "json functions": r"\bjson_(?:extract|each|array|object|group_array)\b",
    "numbered marks": r"\?\d",
    "GLOB": r"\bGLOB\b",
    "instr": r"\binstr\s*\(",
    "rowid": r"\browid\b",
    "last_insert_rowid": r"\blast_insert_rowid\b",
    "max of several": r"\bmax\([^()]*,",
    "IS ?": r"\bIS \?",
}


def strings(path: Path) -> Iterator[str]:
    """Every string literal of a module that is no docstring; of an f-string its fixed parts."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


def parts_and_paths() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).parts[0], path


def test_nobody_else_asks_the_ledgers_tables() -> None:
    wrong = []
    for part, path in parts_and_paths():
        if part in ("ledger", "local"):
            continue
        named = {table for text in strings(path) for table in ON_A_TABLE.findall(text)}
        wrong += [f"{path.relative_to(PACKAGE)}: {table}" for table in sorted(named - OF_OTHERS.get(part, set()))]
    assert [] == wrong


def test_nobody_else_holds_the_ledgers_connection() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for part, path in parts_and_paths()
        if part not in ("ledger", "local")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "execute" and ast.unparse(node.value).endswith("ledger.db")
    ]
    assert [] == wrong


@pytest.mark.parametrize("words", SQLITE_ONLY)
def test_the_ledgers_statements_keep_to_what_both_engines_understand(words: str) -> None:
    wrong = [
        f"{path.name}: {text[:80]}"
        for part, path in parts_and_paths()
        if part == "ledger" and path.name not in ("sqlite.py", "upgrade.py")
        for text in strings(path)
        if re.search(SQLITE_ONLY[words], text)
    ]
    assert [] == wrong
