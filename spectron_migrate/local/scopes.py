"""Scope paths, patterns and selectors: who covers what. Pure.

A path is canonical with a trailing slash (`org/acme/user/alice/`), the root is `/`. A pattern is a path
(that node alone) or a subtree (`org/acme/*`, everything: `/*`). A selector is a disjunction of clauses:
any clause is enough, and a reader must cover every path of it.
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
    """Not a scope path, pattern or selector; the message says which part and why."""


def canonical_path(text: str) -> str:
    """`org/acme`, `/org/acme` and `org/acme/` are the same node. Raises BadScope."""
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
    """Every node above a path, the root left out, outermost first."""
    segments = path.removesuffix("/").split("/")
    for depth in range(1, len(segments)):
        yield "/".join(segments[:depth]) + "/"


def covers(pattern: str, path: str, *, root: bool = True) -> bool:
    """Does a pattern take in a node?

    Args:
        pattern: a path or a subtree.
        path: a node.
        root: whether a subtree takes in the node it starts from; the published documents do not say.

    >>> covers("org/acme/*", "org/acme/"), covers("org/acme/", "org/acme/user/alice/")
    (True, False)
    """
    if pattern == EVERYTHING:
        return True
    if pattern.endswith("*"):
        return path.startswith(pattern[:-1]) and (root or path != pattern[:-1])
    return pattern == path


def contains(wide: str, narrow: str) -> bool:
    """Does one pattern take in all that another does?"""
    if narrow.endswith("*"):
        return wide == EVERYTHING or (wide.endswith("*") and narrow.startswith(wide[:-1]))
    return covers(wide, narrow)


def intersection(left: Iterable[str], right: Sequence[str]) -> tuple[str, ...]:
    """What both lists of patterns take in. Patterns of a tree nest or are apart, so the narrower of each pair."""
    both = {
        narrow
        for one in left
        for other in right
        for wide, narrow in ((one, other), (other, one))
        if contains(wide, narrow)
    }
    return tuple(sorted(both))


def within(patterns: Iterable[str], selector: Selector) -> bool:
    """May somebody who holds these patterns write there? Every node of every clause must be covered."""
    held = tuple(patterns)
    return all(any(covers(pattern, path) for pattern in held) for clause in selector for path in clause)


def readable(patterns: Iterable[str], selector: Selector) -> bool:
    """May somebody who holds these patterns read it? All nodes of one clause are enough."""
    held = tuple(patterns)
    return any(all(any(covers(pattern, path) for pattern in held) for path in clause) for clause in selector)


def involves(lens: Selector, selector: Selector, *, root: bool = True) -> bool:
    """Is a row seen through a lens? It must involve every pattern of some clause; an empty lens shows all."""
    if not lens:
        return True
    nodes = {path for clause in selector for path in clause}
    return any(all(any(covers(pattern, node, root=root) for node in nodes) for pattern in clause) for clause in lens)


def parse_selector(value: Any, *, patterns: bool = False) -> Selector:
    """Read `ScopeSets` as JSON has it; a bare string is a clause of its own. Raises BadScope.

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
