"""Renders Spectron's hits as results of Mem0 (pure, except that it reads the given catalogue).

A hit becomes the memory from which it was made: its id, literal text, metadata and times; each memory once, in the
order of the hits. Old texts and deleted or expired memories are hidden. A hit that is not one memory is left out. After
`complete`, a passage that neither the ledger nor the state directory knows must have been added since. It is shown
under its own id.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

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

T = TypeVar("T")

HIDDEN = ("stale", "run_filtered", "other owner", "expired")
"""Reasons for which a memory among Spectron's hits is not shown: Mem0 would not show it either."""
_PASSAGES = frozenset({"memory_chunk", "turn"})


class TooManyHidden(Exception):
    """An answer has as many hits as Spectron gives at most, and too many of them are hidden."""


class SearchResults(dict[str, Any]):
    """An answer in Mem0's form, `{"results": […]}`, with `formatted` as Spectron's guide uses it."""

    @property
    def formatted(self) -> str:
        """The texts for a prompt, one on each line."""
        return "\n".join(f"- {' '.join(str(row['memory']).split())}" for row in self.get("results", ()))


@dataclass(frozen=True, slots=True)
class RenderedHits:
    """The results that an application is shown, and how many hits were left out, by reason."""

    rows: tuple[dict[str, Any], ...]
    left_out: Mapping[str, int]


def render_hits(
    hits: Sequence[Hit],
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

    `ids`: those that the search names; `today`: YYYY-MM-DD. After `complete`, `added` finds memories added since by the
    ids of Spectron's rows, and `owners` are the ids given to passages that neither ledger nor `added` knows. Raises
    NoCatalogue.
    """
    # The turn of a hit says more than its id, because a receipt names only the first passage of a long text.
    rows_behind = [row for hit in hits for row in (hit.turn_id, hit.id) if row is not None]
    made_of = catalogue.made_of(lens.selector, rows_behind) if catalogue is not None else {}
    unnamed = [hit for hit in hits if not _behind(hit, made_of)]
    asked = [row for hit in unnamed for row in (hit.turn_id, hit.id) if row is not None]
    newer = added(asked) if added is not None and unnamed else {}
    live = _live(made_of, [hit for hit in unnamed if not _behind(hit, newer)], lens, catalogue)
    candidates = MemoryIndex(_as_known(name, each) for name, each in live.items())
    rows: dict[str, dict[str, Any]] = {}
    left_out: Counter[str] = Counter()
    for hit in hits:
        if len(rows) >= top_k:
            break
        found = _behind(hit, made_of)
        if found and not any(each.live for each in found):
            left_out["stale"] += 1
            continue
        verdict = judge_hit(hit, candidates)
        stored = _next_of(verdict, live, rows) if isinstance(verdict, Matched) else None
        if owners is not None and stored is not None and _is_another_text(hit, stored, verdict):
            stored = None
        own = _behind(hit, newer)
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


def _behind(hit: Hit, rows: Mapping[str, T]) -> T | None:
    """What the catalogue knows about the hit's turn, or else about its own id."""
    found = rows.get(hit.turn_id) if hit.turn_id is not None else None
    return found if found is not None else rows.get(hit.id)


def _live(
    made_of: Mapping[str, Sequence[StoredVersion]],
    unnamed: Sequence[Hit],
    lens: Lens,
    catalogue: Catalogue | None,
) -> dict[str, StoredVersion]:
    """Current versions that hits may be: those that receipts name, or the whole lens if a passage has no receipt."""
    known = {each.no: each for found in made_of.values() for each in found}
    if catalogue is not None and any(hit.source in _PASSAGES for hit in unnamed):
        known.update({each.no: each for each in catalogue.all_in(lens.selector)})
    return {str(number): each for number, each in known.items() if each.live}


def _as_known(name: str, each: StoredVersion) -> KnownMemory:
    return KnownMemory(name, each.text, each.turn_id, each.chunk_id, each.ids)


def ranked(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with their rank as the score: 1.0 for the first, falling evenly to 1/n for the last of n.

    Spectron's own scores are far below Mem0's; an application that compares them with a number would find nothing.
    """
    return [{**row, "score": (len(rows) - place) / len(rows)} for place, row in enumerate(rows)]


def as_mem0(memory: Memory, *, score: float | None = None) -> dict[str, Any]:
    """A memory as Mem0's `search` and `get` return it."""
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


def as_added_elsewhere(hit: Hit, owners: Mapping[str, str]) -> dict[str, Any]:
    """A memory that another host added after `complete`. Only its text and Spectron's id are known."""
    text_hash = hashlib.md5(hit.text.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()
    row = {"id": hit.id, "memory": hit.text, "hash": text_hash, "metadata": None, "score": hit.score}
    return {**row, "created_at": None, "updated_at": None, **owners}


def as_mem0_time(text: str | None) -> str | None:
    """A time as Mem0 spells it: with the offset in place of `Z`."""
    return f"{text[:-1]}+00:00" if text is not None and text.endswith("Z") else text


def is_expired(memory: Memory, today: str) -> bool:
    """Whether Mem0 hides the memory, which it does from the day after its expiration date."""
    return memory.expiration_date is not None and memory.expiration_date[:10] < today


def _why_not_new(hit: Hit, lens: Lens, catalogue: Catalogue | None) -> str:
    """Why an unknown passage is not shown as an added memory; empty if it is shown."""
    if lens.run_filter is not None:
        return "run_filtered"  # its run is unknown too
    in_parts = len(hit.text) >= PASSAGE_LETTERS
    is_old = catalogue is not None and catalogue.was_in_old_text(lens.selector, hit.text, in_parts=in_parts)
    return "stale" if is_old else ""


def _is_another_text(hit: Hit, stored: StoredVersion, verdict: HitMatch) -> bool:
    """Whether a text is only similar to a memory's text and no passage of it.

    After `complete` that is another memory.
    """
    return isinstance(verdict, Matched) and verdict.by == "similar" and plain(hit.text) not in plain(stored.text)


def _next_of(verdict: Matched, live: Mapping[str, StoredVersion], rows: Mapping[str, Any]) -> StoredVersion:
    """The memory that a hit stands for. If several memories have the text, the next one that is not shown yet."""
    choices = [live[name] for name in (verdict.mem0_id, *sorted(verdict.also))]
    return next((each for each in choices if any(one.id not in rows for one in each.memories)), choices[0])


def _nearest_first(memories: Sequence[Memory], query: str) -> Sequence[Memory]:
    """The memories of a message, the most similar to the query first, in case only a few are shown."""
    if len(memories) < 2:
        return memories
    from rapidfuzz import fuzz

    asked = plain(query)
    return sorted(memories, key=lambda memory: -fuzz.token_set_ratio(asked, plain(memory.memory)))


def _is_elsewhere(memory: Memory, selector: Selector, lens: Lens, ids: Mapping[str, str]) -> bool:
    """Whether Mem0 would not show it for these ids: its owner changed, or the lens is wider than the filter.

    Memories in a node that is shared on purpose are shown to everybody.
    """
    known = memory.entity_ids
    differs = any(known.get(name) != value for name, value in ids.items() if name != "run_id" or len(ids) == 1)
    return differs and covers(lens.own, selector)


def _hidden(memory: Memory, lens: Lens, today: str) -> str:
    if lens.run_filter is not None and memory.run_id != lens.run_filter:
        return "run_filtered"
    return "expired" if is_expired(memory, today) else ""
