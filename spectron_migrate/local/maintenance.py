"""Forget, expire, erase, and check for problems."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from spectron_migrate.local.auth import Caller
from spectron_migrate.local.engine import Engine
from spectron_migrate.local.errors import bad_request
from spectron_migrate.local.rows import Region, SearchFilter
from spectron_migrate.local.scopes import contains, covers
from spectron_migrate.local.times import stamp

CONTEXT_LIFETIME = timedelta(days=7)
"""Facts of category `context` expire this long after their known time, even if it is backdated."""
FORGET_SIMILARITY = 0.7
"""`/forget` deletes memories with at least this cosine to its query."""
MAX_FORGOTTEN = 1000

INJECTIONS: dict[str, re.Pattern[str]] = {
    kind: re.compile(pattern, re.I)
    for kind, pattern in {
        "instruction_override": (
            r"(?:ignore|disregard|forget) (?:all |any |the |your )*(?:previous|prior|above|earlier) "
            r"(?:instructions|rules|messages)"
        ),
        "role_override": r"you are (?:now|no longer) (?:an?|the|in)\b",
        "tool_override": r"(?:call|use|run|invoke) the \w+ tool (?:with|to)\b",
        "system_prompt_leak": r"(?:reveal|print|show|repeat) (?:your|the) (?:system )?prompt",
        "prompt_template_injection": r"<\|(?:im_start|system|endoftext)\|>|\[/?INST\]",
        "base64_instruction": r"(?:decode|execute)[^\n]{0,40}[A-Za-z0-9+/]{40,}={0,2}",
    }.items()
}
CHECKS = ("duplicates", "contradictions", "injection", "unscoped_content")


@dataclass(frozen=True, slots=True)
class InjectionFinding:
    """A passage that looks like a prompt injection."""

    id: str
    kind: str
    snippet: str


@dataclass(frozen=True, slots=True)
class FsckReport:
    """Problems that a check found."""

    duplicates: tuple[tuple[str, str, float], ...] = ()
    """Two entities of one scope, and the cosine of their names."""
    contradictions: tuple[tuple[str, str, list[str]], ...] = ()
    """Entity, key, and values that are live at the same time in one scope."""
    injection: tuple[InjectionFinding, ...] = ()
    unscoped: tuple[tuple[str, int, list[str]], ...] = ()
    """Table, number of rows written without a scope, and a sample of their ids."""


def fsck(engine: Engine, region: Region, *, check: str | None, threshold: float, most: int) -> FsckReport:
    """Check a region for problems; changes nothing.

    Args:
        engine: the context.
        region: the region to check.
        check: one of `CHECKS`; None runs all.
        threshold: entities with at least this cosine are reported as duplicates.
        most: at most this many findings of each kind.

    Raises:
        ApiError: 400 for an unknown check.
    """
    if check is not None and check not in CHECKS:
        raise bad_request(f"check must be one of {', '.join(CHECKS)}")
    wanted = CHECKS if check is None else (check,)
    return FsckReport(
        duplicates=tuple(_duplicates(engine, region, threshold)[:most]) if "duplicates" in wanted else (),
        contradictions=tuple(_contradictions(engine, region)[:most]) if "contradictions" in wanted else (),
        injection=tuple(_injections(engine, region)[:most]) if "injection" in wanted else (),
        unscoped=tuple(_unscoped(engine, region, most)) if "unscoped_content" in wanted else (),
    )


def _duplicates(engine: Engine, region: Region, threshold: float) -> list[tuple[str, str, float]]:
    """Pairs of entities of the same type and scope whose names are similar."""
    import numpy as np

    rows = engine.store.entities(region)
    if not rows:
        return []
    vectors = np.array(engine.embedder.embed([row.name for row in rows]))
    scopes = engine.store.entity_selectors([row.id for row in rows])
    pairs = []
    for at, first in enumerate(rows):
        similarity = vectors[at + 1 :] @ vectors[at]
        for other in np.flatnonzero(similarity >= threshold) + at + 1:
            second = rows[other]
            if first.type == second.type and scopes[first.id] & scopes[second.id]:
                names = (f"{first.type}/{first.name}", f"{second.type}/{second.name}")
                pairs.append((*names, float(similarity[other - at - 1])))
    return pairs


def _contradictions(engine: Engine, region: Region) -> list[tuple[str, str, list[str]]]:
    live: dict[tuple[str, str, int], list[str]] = {}
    for fact in engine.store.attributes(region):
        live.setdefault((fact.entity, fact.key, fact.selector), []).append(fact.value)
    clashes = {fact: values for fact, values in live.items() if len(set(values)) > 1}
    named = engine.store.entities_by_id({entity for entity, _, _ in clashes})
    return [(f"{named[id_].type}/{named[id_].name}", key, values) for (id_, key, _), values in clashes.items()]


def _injections(engine: Engine, region: Region) -> list[InjectionFinding]:
    findings = []
    for item in engine.store.passages(region):
        for kind, pattern in INJECTIONS.items():
            match = pattern.search(item.text)
            if match:
                findings.append(InjectionFinding(item.id, kind, match[0][:120]))
    return findings


def _unscoped(engine: Engine, region: Region, sample: int) -> list[tuple[str, int, list[str]]]:
    found = engine.store.unscoped(region, min(sample, 10))
    return [(table, count, ids) for table, (count, ids) in found.items()]


def forget(engine: Engine, caller: Caller, query: str, *, dry_run: bool, purge: bool) -> int:
    """Soft-delete memories similar to a query, wherever the caller may forget; returns how many.

    It cannot be narrowed: a key that covers several users forgets for all of them.
    """
    filter_ = SearchFilter(engine.region(caller, verb="memory:forget"), duplicates=True)
    found = engine.store.nearest(engine.embedder.embed([query])[0], filter_, MAX_FORGOTTEN)
    close = [hit.number for hit in found if hit.score >= FORGET_SIMILARITY]
    ids = [item.id for item in engine.store.items(close).values()]
    if dry_run:
        return len(ids)
    with engine.store.transaction():
        if engine.settings.is_at_least("0.3.0"):
            engine.store.hide_items(ids)  # withheld from point-in-time reads as well
        else:
            engine.store.close_items(ids, engine.now())
        if purge:
            engine.store.purge(ids)
    return len(ids)


def forget_scope(engine: Engine, path: str) -> int:
    """Permanently erase all rows that have a node of a subtree, even among other scopes; returns how many."""
    subtree = path if path == "/" else path + "*"
    inside = [
        number
        for number, selector in engine.store.selectors().items()
        if path == "/" or any(covers(subtree, node) for clause in selector for node in clause)
    ]
    with engine.store.transaction():
        return engine.store.erase(inside).total


def expire(engine: Engine) -> int:
    """Close expired facts; returns how many."""
    now = engine.clock()
    with engine.store.transaction():
        return engine.store.expire(stamp(now - CONTEXT_LIFETIME), stamp(now))


def subtree_of(path: str) -> str:
    """The pattern of a node and all nodes below it."""
    return "/*" if path == "/" else path + "*"


def holds_subtree(patterns: tuple[str, ...], path: str) -> bool:
    """Whether one of the patterns covers a node and all nodes below it."""
    return any(contains(pattern, subtree_of(path)) for pattern in patterns)
