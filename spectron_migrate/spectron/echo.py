"""Compares the scopes that a server echoes for a new session with those that were asked for."""

from __future__ import annotations

from spectron_migrate.errors import NotLegal
from spectron_migrate.records import Selector, canonical_json


def check_echo(echo: Selector | None, asked: Selector) -> None:
    """Raises NotLegal for a session in other scopes than asked for: it would put memories where others read them."""
    if echo is None or _as_sets(echo) == _as_sets(asked):
        return
    raise NotLegal(
        f"Spectron opened a session in {canonical_json(echo)} instead of {canonical_json(asked)}",
        hint="nothing was written to it; check the grants of the key against the mapping",
    )


def _as_sets(selector: Selector) -> set[frozenset[str]]:
    return {frozenset(path.strip("/") for path in clause) for clause in selector}
