"""One meaning a name: a class name that occurs twice in the package means the same thing in both places."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "spectron_migrate"
SPECTRON = "what Spectron's API calls so: served by local/, read by spectron/"
MEANT = {
    "Entity": SPECTRON,
    "ScopeNode": SPECTRON,
    "Session": SPECTRON,
    "Turn": SPECTRON,
    "Hit": SPECTRON,
}
"""Class names that occur more than once, and the one thing that they mean."""


def class_names() -> dict[str, list[str]]:
    """Class name -> the modules that define one, all classes of the package, private and nested ones too."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(str(path.relative_to(PACKAGE)))
    return found


def test_a_class_name_that_occurs_twice_means_the_same() -> None:
    twice = {name: modules for name, modules in class_names().items() if len(modules) > 1}
    assert {} == {name: modules for name, modules in twice.items() if name not in MEANT}
