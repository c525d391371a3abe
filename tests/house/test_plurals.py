"""A count and its noun agree: `counted` writes both, so that nobody reads "1 memories"."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PACKAGE = Path(__file__).parents[2] / "spectron_migrate"
NOUNS = (
    "memories|turns|scopes|sessions|users|rows|requests|processes|gates|shards|queries|questions|files|ids|texts"
    "|passages|lanes|pages|tries|times|messages|owners|ledgers|hits|rounds|reads|writes"
)
_PLURAL = re.compile(rf" (?:more |other |new )?(?:{NOUNS})\b")


def written_out(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of each plural behind a count that an f-string writes by itself. Constants are not 1."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            for value, after in zip(node.values, node.values[1:], strict=False):
                if not isinstance(value, ast.FormattedValue):
                    continue
                count, form = ast.unparse(value.value), value.format_spec
                is_count = count.startswith("len(") or (form is not None and "','" in ast.unparse(form))
                is_plural = isinstance(after, ast.Constant) and _PLURAL.match(str(after.value)) is not None
                if is_count and not count.isupper() and isinstance(after, ast.Constant) and is_plural:
                    yield value.lineno, str(after.value)


def test_a_count_and_its_noun_agree() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {text!r}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, text in written_out(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert [] == found


def test_a_plural_that_is_written_out_is_found() -> None:
    assert [(1, " memories")] == list(written_out(ast.parse('f"{len(found)} memories"')))
    assert [(1, " rows left")] == list(written_out(ast.parse('f"{rows:,} rows left"')))
    assert [] == list(written_out(ast.parse("f\"{counted(rows, 'row')} left\"")))
