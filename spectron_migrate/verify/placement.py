"""Are they in their place, and can they be found there: each memory is asked for by its rarest words.

The question goes to the exact scope that the memory was written to, by words alone, among passages, near-duplicates
shown. A memory that another wording does not find there either is looked for everywhere, so that one which lies in
another scope is told from one which cannot be found at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from spectron_migrate.judge import plain
from spectron_migrate.mapping import covers
from spectron_migrate.records import Reporter, Selector
from spectron_migrate.spectron.api import MAX_K, Hit, SpectronApi
from spectron_migrate.verify.expiry import expiry_of
from spectron_migrate.verify.findings import Finding
from spectron_migrate.verify.keywords import WordFrequencies, words_of
from spectron_migrate.verify.parallel import for_each
from spectron_migrate.verify.stored_memory import StoredMemory
from spectron_migrate.verify.workspace import Workspace

SOURCE = "mem0-migration-verify"
"""Tags our questions on the server: recall reinforces what it finds."""
_PIECE = 40
"""A passage at least so long that stands in a memory is a piece of it."""
_LONG_QUESTION = 48
"""Words of the second wording."""


Presence = Literal["present", "cached", "absent"]
"""`cached`: in an answer out of a cache, which proves no presence."""


@dataclass(frozen=True, slots=True)
class KeywordSearch:
    """A memory and the words that should find it."""

    fact: StoredMemory
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wording:
    """One way to ask for a memory."""

    query: str
    mode: str


async def check_placement(
    work: Workspace, api: SpectronApi, *, sample: int | None, in_flight: int, now: datetime, reporter: Reporter
) -> None:
    """Ask for every standing memory, or for a sample by lot and all whose session's scopes were not echoed.

    What expired before `now` cannot be asked for.
    """
    total = work.count("fact") if sample is None else sample
    reporter.stage("recallable", total)
    wide = _everywhere(work)

    async def check(probe: KeywordSearch) -> None:
        gone = work.has_finding("missing", probe.fact.mem0_id)  # said already, and more exactly
        if not gone and not work.is_done("recallable", str(probe.fact.no)):
            work.keep("recallable", str(probe.fact.no), await _findings(work, api, probe, wide, now))
        reporter.advance(1)

    await for_each(_probes(work, sample), check, in_flight=in_flight)


async def found_in(
    work: Workspace, api: SpectronApi, fact: StoredMemory, lens: Selector, wording: Wording
) -> tuple[Presence, Sequence[Hit]]:
    """Whether the memory is among the answers, and these."""
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
    """By the ids of its receipt; by its text only where the hit is not another memory's."""
    own = {fact.chunk_id, fact.turn_id}
    if any(hit.id in own for hit in hits):
        return True
    text = plain(fact.text)
    for hit in hits:
        found = plain(hit.text)
        if found == text or (len(found) >= _PIECE and found in text):
            others = [owner.no for owner in work.owners_of(hit.id)]
            # With as many hits as can be asked for, the memory may be behind its twins.
            if not others or fact.no in others or len(hits) >= MAX_K:
                return True
    return False


def wordings(fact: StoredMemory, words: Sequence[str]) -> list[Wording]:
    """From the narrowest to the widest; the last one is for what only a cache answered so far."""
    many, whole = " ".join(words_of(fact.text)[:_LONG_QUESTION]), fact.text[:2000]
    told = [Wording(" ".join(words), "bm25"), Wording(many, "bm25"), Wording(whole, "hybrid"), Wording(whole, "vector")]
    return [wording for wording in told if wording.query.strip()]


def _probes(work: Workspace, sample: int | None) -> Iterator[KeywordSearch]:
    drawn = None if sample is None else _lot(work, sample)
    for scope, _ in work.scopes():
        rarity: WordFrequencies | None = None
        for fact in work.facts_of(scope, standing=True):
            if drawn is None or fact.no in drawn or not fact.echoed:
                rarity = rarity or WordFrequencies(work.texts_of(scope))
                yield KeywordSearch(fact, tuple(rarity.rarest(fact.text)))


def _lot(work: Workspace, sample: int) -> set[int]:
    return {fact.no for fact in work.drawn("1", sample)}


async def _findings(
    work: Workspace, api: SpectronApi, probe: KeywordSearch, wide: Selector, now: datetime
) -> list[Finding]:
    fact = probe.fact
    where = f"scope {_named(fact.selector)}"
    cached = False
    for wording in wordings(fact, probe.words):
        found, hits = await found_in(work, api, fact, fact.selector, wording)
        if found == "present":
            return _copies(work, fact, hits, where)
        cached = cached or found == "cached"
    texts = {"written": fact.text, "asked": " ".join(probe.words)}
    if cached:
        reason = "only a cache answers with it, which proves nothing"
        return [Finding("untestable", fact.mem0_id, reason, where, texts)]
    if not probe.words:
        return [Finding("untestable", fact.mem0_id, "it has no word to ask for", where, texts)]
    for wording in wordings(fact, probe.words):
        if (await found_in(work, api, fact, wide, wording))[0] == "present":
            return [Finding("misplaced", fact.mem0_id, "it is found in another scope, not in its own", where, texts)]
    expiry = expiry_of(fact, now)
    if expiry is not None and expiry.over:
        return [Finding("untestable", fact.mem0_id, str(expiry), where, texts)]
    return [Finding("misplaced", fact.mem0_id, "its own words do not find it in its scope", where, texts)]


def _copies(work: Workspace, fact: StoredMemory, hits: Sequence[Hit], where: str) -> list[Finding]:
    """Passages with exactly its text, more than were written there: somebody wrote it twice."""
    text = plain(fact.text)
    seen = Counter(hit.source for hit in {hit.id: hit for hit in hits}.values() if plain(hit.text) == text)
    twins = [twin for twin in work.with_text(fact.text) if covers(fact.selector, twin.selector)]
    written, left = len(twins), work.leftovers(fact.text, fact.scope)
    if any(work.has_finding("doubled", twin.mem0_id) for twin in twins):
        return []  # already said, of this memory or of one that cannot be told from it
    if max(seen.values(), default=0) <= written + left:
        return []
    reason = f"its text is there {max(seen.values())} times, written {written} times"
    return [Finding("doubled", fact.mem0_id, reason, where, {"found": fact.text})]


def _everywhere(work: Workspace) -> Selector:
    """A lens over every root that the migration wrote under."""
    roots = {path.split("/")[0] for _, selector in work.scopes() for clause in selector for path in clause}
    return tuple((path,) for root in sorted(roots) for path in (root, f"{root}/*"))


def _named(selector: Selector) -> str:
    return " or ".join(" and ".join(clause) for clause in selector)
