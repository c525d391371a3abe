"""The tests keep their own habits: nobody sleeps, everybody proves something, and what is expected stands first."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

FILES = sorted(Path(__file__).parents[1].rglob("test_*.py"))
PROOFS = {"raises", "warns", "wait_until", "validate"}
"""Calls that fail by themselves."""


def called(tree: ast.AST) -> set[str]:
    """Names of what is called, without what they belong to."""
    return {ast.unparse(node.func).rpartition(".")[2] for node in ast.walk(tree) if isinstance(node, ast.Call)}


def asserts(tree: ast.AST) -> bool:
    return any(isinstance(node, ast.Assert) for node in ast.walk(tree))


def is_literal(value: ast.expr) -> bool:
    try:
        ast.literal_eval(value)
    except ValueError:
        return False
    return True


def found_first(test: ast.expr) -> bool:
    """Whether a comparison has what is expected on its right."""
    return (
        isinstance(test, ast.Compare)
        and isinstance(test.ops[0], ast.Eq)
        and is_literal(test.comparators[0])
        and not is_literal(test.left)
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_of_tests_keeps_the_habits(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    proofs = PROOFS | {each.name for each in functions if asserts(each)}
    tests = [each for each in functions if each.name.startswith("test_")]
    assert [] == [each.name for each in tests if not asserts(each) and not called(each) & proofs], "proves nothing"
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Assert) and found_first(node.test)]
    assert [] == [node.lineno for node in found], "what is expected comes first"
    sleeps = [
        node.lineno for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "time.sleep"
    ]
    assert [] == sleeps, "tests.support.waiting waits for what happens"
