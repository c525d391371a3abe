"""Puts together one page about a memory, or about a user: Mem0, mapping, ledger, Spectron, and both searches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from spectron_migrate.dump import Dump
from spectron_migrate.errors import MigrateError
from spectron_migrate.explain.fates import Fate, fate_of
from spectron_migrate.explain.spectron_side import QUERY_LETTERS, SHOWN, read_spectron, search_spectron
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.pending import find_pending
from spectron_migrate.ledger.read import memories
from spectron_migrate.ledger.read.story import VersionStory, memories_of_user, memory_row, versions_of
from spectron_migrate.mapping import NotServable, ScopeMapping
from spectron_migrate.records import Json, Memory, Placement, Skipped
from spectron_migrate.spectron.api import SpectronApi

MOST_HISTORY = 20
MOST_MEMORIES = 100
NOT_ASKED = "not asked: the settings name no Spectron"
SearchMem0 = Callable[[str, Memory, int], list[Any]]
"""Text, memory and number of hits -> what Mem0's own search finds."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where to look. A source that is None is not read, and the page says so."""

    dump: Dump | None
    ledger: Ledger | None
    mapping: ScopeMapping
    api: SpectronApi | None
    search_mem0: SearchMem0 | None = None


async def explain_memory(sources: Sources, mem0_id: str) -> dict[str, Json]:
    """One page about one memory. If a system does not answer, the page says so; nothing is raised."""
    in_dump = next((each for each in sources.dump.memories() if each.id == mem0_id), None) if sources.dump else None
    ledger = sources.ledger
    known = memory_row(ledger, mem0_id) if ledger is not None else None
    recorded = memories.memory_of(ledger, mem0_id) if ledger is not None else None
    memory = in_dump or recorded
    versions = versions_of(ledger, mem0_id) if ledger is not None else []
    pending = find_pending(ledger, mem0_id) if ledger is not None else None
    mapped = sources.mapping.map_memory(memory) if memory is not None else None
    place = mapped if mapped is None or isinstance(mapped, Placement | Skipped) else mapped.why
    stored = [each for each in versions if each.state in ("written", "stored_not_extracted")]
    found, problem = await _spectron(sources, mem0_id, stored[-1] if stored else None)
    fate = fate_of(versions, known, place, is_pending=pending is not None, found=found)
    stone = sources.dump.tombstones.get(mem0_id) if sources.dump else None
    return {
        "id": mem0_id,
        "kind": "memory",
        "fate": fate.name,
        "why": fate.why,
        "mem0": {
            "in_dump": in_dump is not None,
            "record": memory.to_json() if memory is not None else None,
            "gone_since": stone.first_missed if stone else known.tombstoned_at if known else None,
            "history": _history(sources.dump, mem0_id),
        },
        "mapping": _mapping(place),
        "versions": [_version(each) for each in versions],
        "pending": pending.memory.memory if pending is not None else None,
        "spectron": found,
        "spectron_problem": problem,
        "search": await _searches(sources, memory, mem0_id),
    }


async def explain_user(sources: Sources, user: str) -> dict[str, Json] | None:
    """One page about a user: how many memories have which fate, and the first of them; None for an unknown user."""
    ids = set(memories_of_user(sources.ledger, user)) if sources.ledger is not None else set()
    ids |= {each.id for each in sources.dump.memories() if each.user_id == user} if sources.dump else set()
    if not ids:
        return None
    in_dump = {each.id: each for each in sources.dump.memories() if each.id in ids} if sources.dump else {}
    fates: Counter[str] = Counter()
    rows: list[dict[str, Json]] = []
    scopes: set[str] = set()
    for mem0_id in sorted(ids):
        fate, place = _fate_by_ledger(sources, mem0_id, in_dump.get(mem0_id))
        fates[fate.name] += 1
        if isinstance(place, Placement):
            scopes |= {path for clause in place.selector for path in clause}
        if len(rows) < MOST_MEMORIES:
            known = in_dump.get(mem0_id) or _by_ledger(sources, mem0_id)
            text = known.memory if known is not None else None
            rows.append({"id": mem0_id, "fate": fate.name, "why": fate.why, "text": text})
    return {
        "id": user,
        "kind": "user",
        "memories": len(ids),
        "fates": dict(fates.most_common()),
        "scopes": sorted(scopes),
        "rows": rows,
    }


def _by_ledger(sources: Sources, mem0_id: str) -> Memory | None:
    return memories.memory_of(sources.ledger, mem0_id) if sources.ledger is not None else None


def _fate_by_ledger(
    sources: Sources, mem0_id: str, in_dump: Memory | None
) -> tuple[Fate, Placement | Skipped | str | None]:
    """The fate without asking Spectron, so that neither superseded nor altered is known."""
    ledger = sources.ledger
    memory = in_dump or _by_ledger(sources, mem0_id)
    mapped = sources.mapping.map_memory(memory) if memory is not None else None
    place = mapped if mapped is None or isinstance(mapped, Placement | Skipped) else mapped.why
    versions = versions_of(ledger, mem0_id) if ledger is not None else []
    known = memory_row(ledger, mem0_id) if ledger is not None else None
    is_pending = ledger is not None and find_pending(ledger, mem0_id) is not None
    return fate_of(versions, known, place, is_pending=is_pending, found=None), place


async def _spectron(sources: Sources, mem0_id: str, version: VersionStory | None) -> tuple[dict[str, Json] | None, str]:
    if sources.api is None:
        return None, NOT_ASKED
    if version is None:
        return None, "no text of it is in Spectron"
    try:
        return await read_spectron(sources.api, sources.ledger, mem0_id, version, sources.mapping.id_label), ""
    except MigrateError as error:
        return None, error.message


async def _searches(sources: Sources, memory: Memory | None, mem0_id: str) -> dict[str, Json]:
    """What a search for the memory's own words finds in each system."""
    missing: dict[str, Json] = {"rank": None, "hits": [], "error": "nothing to ask for: no text is known"}
    if memory is None or not memory.memory.strip():
        return {"mem0": missing, "spectron": missing}
    return {"mem0": _in_mem0(sources, memory), "spectron": await _in_spectron(sources, memory, mem0_id)}


def _in_mem0(sources: Sources, memory: Memory) -> dict[str, Json]:
    if sources.search_mem0 is None:
        return {"rank": None, "hits": [], "error": "not asked: no Mem0 that can be searched is in the settings"}
    try:
        hits = sources.search_mem0(memory.memory[:QUERY_LETTERS], memory, 50)
    except MigrateError as error:
        return {"rank": None, "hits": [], "error": error.message}
    ids = [hit.id for hit in hits]
    shown = [{"memory": hit.id, "text": hit.text} for hit in hits[:SHOWN]]
    return {"rank": ids.index(memory.id) + 1 if memory.id in ids else None, "hits": shown, "error": None}


async def _in_spectron(sources: Sources, memory: Memory, mem0_id: str) -> dict[str, Json]:
    if sources.api is None:
        return {"rank": None, "hits": [], "error": NOT_ASKED}
    ids = {name: value for name, value in memory.entity_ids.items() if name in ("user_id", "agent_id")}
    try:
        lens = sources.mapping.lens(**(ids or memory.entity_ids))
        return await search_spectron(sources.api, sources.ledger, memory.memory, lens, mem0_id)
    except (MigrateError, NotServable) as error:
        return {"rank": None, "hits": [], "error": str(error)}


def _history(dump: Dump | None, mem0_id: str) -> list[dict[str, Json]]:
    """What Mem0's own history says about it, if it was exported."""
    rows: list[dict[str, Json]] = []
    with suppress(OSError):
        for row in dump.history() if dump is not None else ():
            if row.get("memory_id") == mem0_id and len(rows) < MOST_HISTORY:
                rows.append({name: row.get(name) for name in ("event", "old_memory", "new_memory", "created_at")})
    return rows


def _mapping(place: Placement | Skipped | str | None) -> dict[str, Json] | None:
    if place is None:
        return None
    if isinstance(place, Placement):
        scopes = [list(clause) for clause in place.selector]
        how = {"infer": place.infer, "category": place.category, "labels": list(place.labels), "run": place.run}
        return {"skipped": None, "scopes": scopes, "lane": place.lane, "rule": place.rule, **how}
    return {"skipped": place.reason if isinstance(place, Skipped) else place}


def _version(each: VersionStory) -> dict[str, Json]:
    names = (name for name in VersionStory.__slots__ if name not in ("selector", "labels", "made"))
    row: dict[str, Json] = {name: getattr(each, name) for name in names}
    return {
        **row,
        "scopes": [list(clause) for clause in each.selector],
        "labels": list(each.labels),
        "made": len(each.made),
    }
