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


TEST_FILES = sorted(Path(__file__).parents[1].rglob("*.py"))
TO_MOVE = {
    "adapter/test_adversary_adapter.py",
    "adapter/test_adversary_messages.py",
    "adapter/test_draining.py",
    "adapter/test_held_drains.py",
    "adapter/test_messages.py",
    "adapter/test_messages_verified.py",
}
"""Files that still import from a test module; no other one may."""


def imports_of_test_modules(tree: ast.AST) -> list[str]:
    """Test modules from which a file imports: their helpers belong into a support module."""
    imported = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            imported += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
    return [name for name in imported if name.startswith("tests.") and ".test_" in name]


def test_nobody_imports_from_a_test_module() -> None:
    tests = Path(__file__).parents[1]
    found = {
        str(file.relative_to(tests)): names
        for file in TEST_FILES
        if (names := imports_of_test_modules(ast.parse(file.read_text(encoding="utf-8"))))
    }
    assert {} == {name: names for name, names in found.items() if name not in TO_MOVE}


def test_no_assert_compares_a_tuple_of_five() -> None:
    """One fact an assert: of a long tuple nobody sees which part is wrong."""
    long = [
        f"{file.name}:{node.lineno}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assert) and isinstance(node.test, ast.Compare) and isinstance(node.test.ops[0], ast.Eq)
        for side in (node.test.left, *node.test.comparators)
        if isinstance(side, ast.Tuple) and len(side.elts) > 4 and not is_literal(side)
    ]
    assert [] == long
