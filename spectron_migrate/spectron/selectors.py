"""Selectors as a server repeats them."""

from __future__ import annotations

from spectron_migrate.records import Json, Selector


def selector_of(value: Json) -> Selector | None:
    """The selector in an answer, its paths without outer slashes; None for anything that is not a selector."""
    if not isinstance(value, list):
        return None
    clauses = [[clause] if isinstance(clause, str) else clause for clause in value]
    if not all(isinstance(clause, list) and all(isinstance(path, str) for path in clause) for clause in clauses):
        return None
    return tuple(tuple(path.strip("/") for path in clause) for clause in clauses)
