"""The layout is the architecture: imports go one way."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "spectron_migrate"

# A module may import those of its own layer's row or of a lower row. The first prefix that fits decides.
LAYERS: list[tuple[str, ...]] = [
    ("errors", "records"),
    (
        "backoff",
        "clocks",
        "fast_json",
        "files",
        "garbage",
        "judge",
        "keywords",
        "parallel",
        "quantiles",
        "reporter",
        "rising",
        "scrubbing",
    ),
    ("database",),
    ("state",),
    ("settings", "mapping"),
    ("spectron", "mem0", "dump", "ledger"),
    ("delivery",),
    ("migration", "verify", "init", "doctor", "rehearsal", "explain"),
    ("cutover", "adapter"),
    ("metrics",),
    ("cli", "__main__"),
]
# Libraries that only one part may know.
OWNERS = {
    "typer": ("cli",),
    "rich": ("cli",),
    "tqdm": ("cli",),
    "aiohttp": ("spectron",),
    "yaml": ("settings", "mem0"),
    "starlette": ("local",),
    "uvicorn": ("local",),
    "wordllama": ("local", "mem0"),
    "qdrant_client": (),
    "prometheus_client": ("metrics",),
    "psycopg": ("database", "mem0"),
    "orjson": ("fast_json",),
}
STEPS = ("migration", "verify", "init", "doctor", "rehearsal", "explain")


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


def imports(path: Path, name: str) -> Iterator[str]:
    """Full dotted names that a module imports, also inside functions; not those for type checking alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    package = ["spectron_migrate", *name.split(".")] if name else ["spectron_migrate"]
    if path.name != "__init__.py":
        package.pop()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield stem
            if stem == "spectron_migrate":
                yield from (f"{stem}.{alias.name}" for alias in node.names)


def part_of(name: str) -> str:
    return name.split(".")[0]


def layer_of(part: str) -> int:
    return next(place for place, parts in enumerate(LAYERS) if part in parts)


@pytest.mark.parametrize(("name", "path"), [pytest.param(*each, id=each[0] or "package") for each in modules()])
def test_imports_go_one_way(name: str, path: Path) -> None:
    """No module imports from a higher layer, nor a library that belongs to another part."""
    part = part_of(name)
    wrong = []
    for imported in imports(path, name):
        root, _, rest = imported.partition(".")
        if root in OWNERS and part not in OWNERS[root]:
            wrong.append(f"{imported} belongs to {OWNERS[root]}")
        if root != "spectron_migrate" or not rest or not part or rest == "__version__":
            continue
        theirs = part_of(rest)
        if part == "local" or theirs == "local":
            if part != theirs and part != "cli":
                wrong.append(f"{imported}: the local Spectron and the migration share nothing")
        elif theirs != part and layer_of(theirs) > layer_of(part):
            wrong.append(f"{imported} is above {part}")
        elif theirs != part and theirs in STEPS and part in STEPS:
            wrong.append(f"{imported}: steps do not import each other")
    assert [] == wrong


TO_CUT: list[list[str]] = [
    ["adapter.core", "adapter.shadow"],
]
"""Circles that are there still; nobody adds one."""


def all_imports(path: Path, name: str, known: set[str]) -> set[str]:
    """Modules of the package that a module imports, inside functions and for type checking alone included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ["spectron_migrate", *name.split(".")]
    if path.name != "__init__.py":
        package.pop()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            full = {f"{stem}.{alias.name}" for alias in node.names}
            names = {each.removeprefix("spectron_migrate.") for each in full if each.startswith("spectron_migrate.")}
            # A name that is no module is taken from the package or module before it.
            found |= {each if each in known else each.rpartition(".")[0] for each in names}
    return {each for each in found if each in known and each != name}


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that can all reach each other."""
    reach: dict[str, set[str]] = {}
    for start in edges:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for after in edges.get(todo.pop(), ()):
                if after not in seen:
                    seen.add(after)
                    todo.append(after)
        reach[start] = seen
    groups = {frozenset({each, *(other for other in reach[each] if each in reach[other])}) for each in edges}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Neither files nor packages, imports inside functions and for type checking alone included."""
    paths = {name: path for name, path in modules() if name}
    edges = {name: all_imports(path, name, set(paths)) for name, path in paths.items()}
    assert [] == [circle for circle in circles(edges) if circle not in TO_CUT]
    between_parts: dict[str, set[str]] = {part_of(name): set() for name in edges}
    for name, imported in edges.items():
        between_parts[part_of(name)] |= {part_of(each) for each in imported} - {part_of(name)}
    assert [] == circles(between_parts)


def test_no_module_is_imported_by_a_string() -> None:
    """A module named in a string escapes the checks above."""
    wrong = [
        name
        for name, path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name | ast.Attribute)
        and ast.unparse(node).rpartition(".")[2] in ("import_module", "__import__")
    ]
    assert [] == wrong


def test_no_file_grows_beyond_what_one_reads_in_a_sitting() -> None:
    """About 400 lines; a longer one needs a reason, named here."""
    reasons = {"local.sqlite": "one storage, one file: its statements are read side by side"}
    long = {name for name, path in modules() if len(path.read_text().splitlines()) > 420}
    assert set() == long - set(reasons)
