"""Spectron's hits as Mem0's callers know them (pure but for the catalogue that is given).

A hit becomes the memory it was made of: its id, its literal text, its metadata and times, each memory once, in the
order of the hits. Old texts, deleted and expired memories are hidden. A hit that is no single memory of Mem0's is
left out; after `complete`, a passage that nobody knows is a memory written since, and is given under its own id.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spectron_migrate.adapter.catalogue import Catalogue, StoredVersion
from spectron_migrate.judge import (
    PASSAGE_LETTERS,
    HitMatch,
    Ignored,
    KnownMemory,
    Matched,
    MemoryIndex,
    judge_hit,
    plain,
)
from spectron_migrate.mapping import Lens, covers
from spectron_migrate.records import Hit, Memory, Selector

HIDDEN = ("stale", "run_filtered", "other owner", "expired")
"""Why a memory that Spectron answers with is not shown: Mem0 would not show it either."""
_PASSAGES = frozenset({"memory_chunk", "turn"})


class TooManyHidden(Exception):
    """An answer is as long as Spectron gives any, and too much of it is not to be shown."""


class SearchResults(dict[str, Any]):
    """An answer in Mem0's shape, `{"results": […]}`, that can also be printed as the guide prints Spectron's."""

    @property
    def formatted(self) -> str:
        """The texts for a prompt, one a line."""
        return "\n".join(f"- {' '.join(str(row['memory']).split())}" for row in self.get("results", ()))


@dataclass(frozen=True, slots=True)
class RenderedHits:
    """What an application is shown, and what was left out."""

    rows: tuple[dict[str, Any], ...]
    left_out: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class SpectronHit:
    """One hit of Spectron's."""

    id: str
    text: str
    source: str
    score: float


def render_hits(
    hits: Sequence[SpectronHit],
    lens: Lens,
    catalogue: Catalogue | None,
    *,
    query: str,
    ids: Mapping[str, str],
    top_k: int,
    today: str,
    added: Callable[[Sequence[str]], Mapping[str, Memory]] | None = None,
    owners: Mapping[str, str] | None = None,
) -> RenderedHits:
    """The memories of an answer, best first, at most `top_k`.

    `ids`: what was asked for; `today`: YYYY-MM-DD. Once Spectron is the truth, `added` names memories that were
    written since by the ids of their rows, and `owners`, what was asked for, says whose the passages are that nobody
    knows. Raises NoCatalogue.
    """
    made_of = catalogue.made_of(lens.selector, [hit.id for hit in hits]) if catalogue is not None else {}
    unnamed = [hit for hit in hits if hit.id not in made_of]
    newer = added([hit.id for hit in unnamed]) if added is not None and unnamed else {}
    live = _live(made_of, [hit for hit in unnamed if hit.id not in newer], lens, catalogue)
    candidates = MemoryIndex(
        KnownMemory(name, each.text, each.turn_id, each.chunk_id, each.ids) for name, each in live.items()
    )
    rows: dict[str, dict[str, Any]] = {}
    left_out: Counter[str] = Counter()
    for hit in hits:
        if len(rows) >= top_k:
            break
        found = made_of.get(hit.id)
        if found and not any(each.live for each in found):
            left_out["stale"] += 1
            continue
        verdict = judge_hit(Hit(hit.id, hit.text, hit.source), candidates)
        stored = _next_of(verdict, live, rows) if isinstance(verdict, Matched) else None
        if owners is not None and stored is not None and _says_something_else(hit, stored, verdict):
            stored = None
        own = newer.get(hit.id)
        memories = (own,) if own is not None else _nearest_first(stored.memories, query) if stored is not None else ()
        for memory in memories:
            elsewhere = stored is not None and _is_elsewhere(memory, stored.selector, lens, ids)
            hidden = "other owner" if elsewhere else _hidden(memory, lens, today)
            if hidden:
                left_out[hidden] += 1
            else:
                rows.setdefault(memory.id, as_mem0(memory, score=hit.score))
        if memories:
            continue
        if owners is not None and hit.source in _PASSAGES:
            hidden = _why_not_new(hit, lens, catalogue)
            if hidden:
                left_out[hidden] += 1
            else:
                rows[hit.id] = as_added_elsewhere(hit, owners)
        else:
            left_out["no memory" if isinstance(verdict, Ignored) else "unknown"] += 1
    return RenderedHits(tuple(rows.values())[:top_k], left_out)


def _live(
    made_of: Mapping[str, Sequence[StoredVersion]],
    unnamed: Sequence[SpectronHit],
    lens: Lens,
    catalogue: Catalogue | None,
) -> dict[str, StoredVersion]:
    """What an answer may be about: what its receipts name, and where a passage is not named, all of the lens."""
    known = {each.no: each for found in made_of.values() for each in found}
    if catalogue is not None and any(hit.source in _PASSAGES for hit in unnamed):
        known.update({each.no: each for each in catalogue.all_in(lens.selector)})
    return {f"{no[0]}.{no[1]}": each for no, each in known.items() if each.live}


def as_mem0(memory: Memory, *, score: float | None = None) -> dict[str, Any]:
    """A memory as `search` and `get` of Mem0 give it."""
    row: dict[str, Any] = {"id": memory.id, "memory": memory.memory, "hash": memory.hash}
    row["metadata"] = dict(memory.metadata) or None
    if score is not None:
        row["score"] = score
    row["created_at"], row["updated_at"] = as_mem0_time(memory.created_at), as_mem0_time(memory.updated_at)
    optional = {
        **memory.entity_ids,
        "actor_id": memory.actor_id,
        "role": memory.role,
        "expiration_date": memory.expiration_date,
        "categories": list(memory.categories) or None,
    }
    return {**row, **{name: value for name, value in optional.items() if value is not None}}


def as_added_elsewhere(hit: SpectronHit, owners: Mapping[str, str]) -> dict[str, Any]:
    """A memory that was written after the migration ended: Spectron's own id is all it has."""
    text_hash = hashlib.md5(hit.text.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()
    row = {"id": hit.id, "memory": hit.text, "hash": text_hash, "metadata": None, "score": hit.score}
    return {**row, "created_at": None, "updated_at": None, **owners}


def as_mem0_time(text: str | None) -> str | None:
    """Mem0 spells the zone out."""
    return f"{text[:-1]}+00:00" if text is not None and text.endswith("Z") else text


def is_expired(memory: Memory, today: str) -> bool:
    """Mem0 hides a memory from the day after its expiry on."""
    return memory.expiration_date is not None and memory.expiration_date[:10] < today


def _why_not_new(hit: SpectronHit, lens: Lens, catalogue: Catalogue | None) -> str:
    """Why a passage that nobody knows is no memory written since; empty where it is one."""
    if lens.run_filter is not None:
        return "run_filtered"  # of which run it is nobody knows either
    in_parts = len(hit.text) >= PASSAGE_LETTERS
    is_old = catalogue is not None and catalogue.was_in_old_text(lens.selector, hit.text, in_parts=in_parts)
    return "stale" if is_old else ""


def _says_something_else(hit: SpectronHit, stored: StoredVersion, verdict: HitMatch) -> bool:
    """Whether a text is only like a memory's, and no passage of it: once Spectron is the truth, it is another one."""
    return isinstance(verdict, Matched) and verdict.by == "similar" and plain(hit.text) not in plain(stored.text)


def _next_of(verdict: Matched, live: Mapping[str, StoredVersion], rows: Mapping[str, Any]) -> StoredVersion:
    """Where several memories have one text, each further hit of it is the next of them."""
    choices = [live[name] for name in (verdict.mem0_id, *sorted(verdict.also))]
    return next((each for each in choices if any(one.id not in rows for one in each.memories)), choices[0])


def _nearest_first(memories: Sequence[Memory], query: str) -> Sequence[Memory]:
    """Of a message an application that asks for few is shown those that it asks about."""
    if len(memories) < 2:
        return memories
    from rapidfuzz import fuzz

    asked = plain(query)
    return sorted(memories, key=lambda memory: -fuzz.token_set_ratio(asked, plain(memory.memory)))


def _is_elsewhere(memory: Memory, selector: Selector, lens: Lens, ids: Mapping[str, str]) -> bool:
    """Whether Mem0 would not show it for these ids: by now it is somebody else's, or the lens is wider than the filter.

    What lies in a node that is shared on purpose is everybody's, whoever wrote it.
    """
    known = memory.entity_ids
    differs = any(known.get(name) != value for name, value in ids.items() if name != "run_id" or len(ids) == 1)
    return differs and covers(lens.own, selector)


def _hidden(memory: Memory, lens: Lens, today: str) -> str:
    if lens.run_filter is not None and memory.run_id != lens.run_filter:
        return "run_filtered"
    return "expired" if is_expired(memory, today) else ""
