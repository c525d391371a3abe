"""Scope paths, patterns and selectors, and which of them cover which (pure).

A path in canonical form ends with a slash (`org/acme/user/alice/`); the root is `/`. A pattern is a path (that node
alone) or a subtree (`org/acme/*`; everything: `/*`). A selector is a disjunction of clauses: a reader must cover every
path of at least one clause.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Clause = tuple[str, ...]
Selector = tuple[Clause, ...]

ROOT = "/"
EVERYTHING = "/*"
MAX_DEPTH = 32
_SEGMENT = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class BadScope(ValueError):
    """Not a valid scope path, pattern or selector; the message says why."""


def canonical_path(text: str) -> str:
    """The canonical form: `org/acme`, `/org/acme` and `org/acme/` are the same node. Raises BadScope."""
    if text == ROOT:
        return ROOT
    segments = text.removeprefix("/").removesuffix("/").split("/")
    for segment in segments:
        if not _SEGMENT.fullmatch(segment):
            raise BadScope(f"invalid scope path {_shown(text)}: segment {_shown(segment)} is not [a-z0-9][a-z0-9._-]*")
    if len(segments) > MAX_DEPTH:
        raise BadScope(f"invalid scope path {_shown(text)}: deeper than {MAX_DEPTH}")
    return "/".join(segments) + "/"


def canonical_pattern(text: str) -> str:
    """A path, or a subtree that ends in `/*`; `*` alone means everything. Raises BadScope."""
    if text in ("*", EVERYTHING):
        return EVERYTHING
    if text.endswith("/*"):
        return canonical_path(text.removesuffix("*")) + "*"
    return canonical_path(text)


def ancestors(path: str) -> Iterator[str]:
    """Every node above a path except the root, outermost first."""
    segments = path.removesuffix("/").split("/")
    for depth in range(1, len(segments)):
        yield "/".join(segments[:depth]) + "/"


def covers(pattern: str, path: str, *, root: bool = True) -> bool:
    """Whether a pattern covers a node.

    Args:
        pattern: a path or a subtree.
        path: a node.
        root: whether a subtree covers its own root; the published documents do not say.

    >>> covers("org/acme/*", "org/acme/"), covers("org/acme/", "org/acme/user/alice/")
    (True, False)
    """
    if pattern == EVERYTHING:
        return True
    if pattern.endswith("*"):
        return path.startswith(pattern[:-1]) and (root or path != pattern[:-1])
    return pattern == path


def contains(wide: str, narrow: str) -> bool:
    """Whether one pattern covers all that another covers."""
    if narrow.endswith("*"):
        return wide == EVERYTHING or (wide.endswith("*") and narrow.startswith(wide[:-1]))
    return covers(wide, narrow)


def intersection(left: Iterable[str], right: Sequence[str]) -> tuple[str, ...]:
    """What both lists cover: patterns are nested or disjoint, so it is the narrower of each nested pair."""
    both = {
        narrow
        for one in left
        for other in right
        for wide, narrow in ((one, other), (other, one))
        if contains(wide, narrow)
    }
    return tuple(sorted(both))


def within(patterns: Iterable[str], selector: Selector) -> bool:
    """Whether these patterns allow writing there: they must cover every node of every clause."""
    held = tuple(patterns)
    return all(any(covers(pattern, path) for pattern in held) for clause in selector for path in clause)


def readable(patterns: Iterable[str], selector: Selector) -> bool:
    """Whether these patterns allow reading it: they must cover every node of one clause."""
    held = tuple(patterns)
    return any(all(any(covers(pattern, path) for pattern in held) for path in clause) for clause in selector)


def involves(lens: Selector, selector: Selector, *, root: bool = True) -> bool:
    """Whether a lens shows a row: it has a node for every pattern of some clause. An empty lens shows all."""
    if not lens:
        return True
    nodes = {path for clause in selector for path in clause}
    return any(all(any(covers(pattern, node, root=root) for node in nodes) for pattern in clause) for clause in lens)


def parse_selector(value: Any, *, patterns: bool = False) -> Selector:
    """Parse `ScopeSets` from JSON; a bare string is a clause of its own. Raises BadScope.

    Args:
        value: the JSON value; null and an empty list mean no selector.
        patterns: whether subtrees are allowed, as in a lens.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise BadScope("scopes must be a list of clauses")
    canonical = canonical_pattern if patterns else canonical_path
    clauses: dict[Clause, None] = {}
    for clause in value:
        paths = [clause] if isinstance(clause, str) else clause
        if not isinstance(paths, list) or not paths or not all(isinstance(path, str) for path in paths):
            raise BadScope("a scope clause must be a non-empty list of paths")
        clauses[tuple(dict.fromkeys(canonical(path) for path in paths))] = None
    return tuple(clauses)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
