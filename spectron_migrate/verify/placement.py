"""Whether every memory can be found in its scope: searches for each by its rarest words.

The search covers exactly the scope that the memory was written to, by words alone (bm25), over passages, with
near-duplicates included. A memory that no wording finds there is searched for in all scopes of the migration, which
distinguishes a memory in the wrong scope from one that cannot be found at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from spectron_migrate.judge import PASSAGE_LETTERS, plain
from spectron_migrate.mapping import covers
from spectron_migrate.records import Hit, Reporter, Selector
from spectron_migrate.spectron.api import MAX_K, SpectronApi
from spectron_migrate.verify.expiry import expiry_of
from spectron_migrate.verify.findings import Finding
from spectron_migrate.verify.keywords import WordFrequencies, words_of
from spectron_migrate.verify.parallel import for_each
from spectron_migrate.verify.stored_memory import StoredMemory, selector_text
from spectron_migrate.verify.workspace import Workspace

SOURCE = "mem0-migration-verify"
"""Marks our queries on the server, because recall reinforces what it finds."""
_LONG_QUERY = 48
"""Words of the second wording."""

Presence = Literal["present", "cached", "absent"]
"""`cached`: only in an answer from a cache, which does not prove that the memory is present."""


@dataclass(frozen=True, slots=True)
class KeywordSearch:
    """A memory and the words that should find it."""

    fact: StoredMemory
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wording:
    """One query that should find a memory, and its search mode."""

    query: str
    mode: str


async def check_placement(
    work: Workspace, api: SpectronApi, *, sample: int | None, in_flight: int, now: datetime, reporter: Reporter
) -> None:
    """Search for every current memory, or for a random sample and all whose session's scopes were not echoed.

    A memory that expired before `now` is `untestable` if it is not found.
    """
    total = work.count_facts() if sample is None else sample
    reporter.stage("recallable", total)
    all_scopes = _all_scopes(work)

    async def check(search: KeywordSearch) -> None:
        is_missing = work.has_finding("missing", search.fact.mem0_id)  # by its turn, which is more exact
        if not is_missing and not work.is_done("recallable", str(search.fact.no)):
            work.keep("recallable", str(search.fact.no), await _findings(work, api, search, all_scopes, now))
        reporter.advance(1)

    await for_each(_searches(work, sample), check, in_flight=in_flight)


async def search_for(
    work: Workspace, api: SpectronApi, fact: StoredMemory, lens: Selector, wording: Wording
) -> tuple[Presence, Sequence[Hit]]:
    """Whether the memory is among the hits, and the hits."""
    recall = await api.query(
        wording.query,
        lens=lens,
        k=MAX_K,
        mode=wording.mode,
        include=("passages",),
        include_duplicates=True,
        source=SOURCE,
    )
    if not is_among(work, fact, recall.hits):
        return "absent", recall.hits
    return "cached" if recall.tier == "cache" else "present", recall.hits


def is_among(work: Workspace, fact: StoredMemory, hits: Sequence[Hit]) -> bool:
    """Whether a hit is the memory: by the ids of its receipt; by text only if the hit is not another memory's."""
    own = {fact.chunk_id, fact.turn_id}
    if any(hit.id in own for hit in hits):
        return True
    text = plain(fact.text)
    for hit in hits:
        found = plain(hit.text)
        if found == text or (len(found) >= PASSAGE_LETTERS and found in text):
            others = [owner.no for owner in work.owners_of(hit.id)]
            # A full list of hits may have cut the memory off behind others with the same text.
            if not others or fact.no in others or len(hits) >= MAX_K:
                return True
    return False


def wordings(fact: StoredMemory, words: Sequence[str]) -> list[Wording]:
    """Queries for a memory, from the narrowest to the widest; the last is for a cache that answered the others."""
    many, whole = " ".join(words_of(fact.text)[:_LONG_QUERY]), fact.text[:2000]
    ordered = [
        Wording(" ".join(words), "bm25"),
        Wording(many, "bm25"),
        Wording(whole, "hybrid"),
        Wording(whole, "vector"),
    ]
    return [wording for wording in ordered if wording.query.strip()]


def _searches(work: Workspace, sample: int | None) -> Iterator[KeywordSearch]:
    drawn = None if sample is None else _sample(work, sample)
    for scope, _ in work.scopes():
        frequencies: WordFrequencies | None = None
        for fact in work.facts_of(scope, standing=True):
            if drawn is None or fact.no in drawn or not fact.echoed:
                frequencies = frequencies or WordFrequencies(work.texts_of(scope))
                yield KeywordSearch(fact, tuple(frequencies.rarest(fact.text)))


def _sample(work: Workspace, sample: int) -> set[int]:
    return {fact.no for fact in work.drawn(sample)}


async def _findings(
    work: Workspace, api: SpectronApi, search: KeywordSearch, all_scopes: Selector, now: datetime
) -> list[Finding]:
    fact = search.fact
    where = f"scope {selector_text(fact.selector)}"
    cached = False
    for wording in wordings(fact, search.words):
        presence, hits = await search_for(work, api, fact, fact.selector, wording)
        if presence == "present":
            return _copies(work, fact, hits, where)
        cached = cached or presence == "cached"
    texts = {"written": fact.text, "asked": " ".join(search.words)}
    if cached:
        reason = "only a cache answers with it, which proves nothing"
        return [Finding("untestable", fact.mem0_id, reason, where, texts)]
    if not search.words:
        return [Finding("untestable", fact.mem0_id, "it has no word to search for", where, texts)]
    for wording in wordings(fact, search.words):
        if (await search_for(work, api, fact, all_scopes, wording))[0] == "present":
            return [Finding("misplaced", fact.mem0_id, "it is found in another scope, not in its own", where, texts)]
    expiry = expiry_of(fact, now)
    if expiry is not None and expiry.over:
        return [Finding("untestable", fact.mem0_id, str(expiry), where, texts)]
    return [Finding("misplaced", fact.mem0_id, "its own words do not find it in its scope", where, texts)]


def _copies(work: Workspace, fact: StoredMemory, hits: Sequence[Hit], where: str) -> list[Finding]:
    """A `doubled` finding if the scope has more passages with exactly this text than were written there."""
    text = plain(fact.text)
    passages = Counter(hit.source for hit in {hit.id: hit for hit in hits}.values() if plain(hit.text) == text)
    found = max(passages.values(), default=0)
    same_text = [same for same in work.with_text(fact.text) if covers(fact.selector, same.selector)]
    if any(work.has_finding("doubled", same.mem0_id) for same in same_text):
        return []  # the listing of turns has already found it, for this memory or for one with the same text
    if found <= len(same_text) + work.leftovers(fact.text, fact.scope):
        return []
    reason = f"its text is stored {found} times, but was written {len(same_text)} times"
    return [Finding("doubled", fact.mem0_id, reason, where, {"found": fact.text})]


def _all_scopes(work: Workspace) -> Selector:
    """A lens over every root that the migration wrote under."""
    roots = {path.split("/")[0] for _, selector in work.scopes() for clause in selector for path in clause}
    return tuple((path,) for root in sorted(roots) for path in (root, f"{root}/*"))
