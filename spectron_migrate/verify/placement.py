"""Checks that every memory can be found in its scope, whole and once: searches for each by its rarest words.

The search covers exactly the scope that the memory was written to, by words alone (bm25), over passages, with
near-duplicates included. A memory that no wording finds there is searched for in all scopes of the migration, which
distinguishes a memory in the wrong scope from one that cannot be found at all.

What is found is compared with the text. If a passage is only a piece of the text, the words after that piece are
searched for, until all of the text is found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Literal

from spectron_migrate.judge import PASSAGE_LETTERS, plain
from spectron_migrate.keywords import WordFrequencies, words_of
from spectron_migrate.mapping import covers
from spectron_migrate.parallel import for_each
from spectron_migrate.records import Hit, Selector, counted
from spectron_migrate.reporter import Reporter
from spectron_migrate.spectron.api import MAX_K, SpectronApi
from spectron_migrate.verify.expiry import expiry_of
from spectron_migrate.verify.findings import Finding
from spectron_migrate.verify.integrity import is_masked
from spectron_migrate.verify.options import SOURCE
from spectron_migrate.verify.passages import Passages, Piece, exact_form
from spectron_migrate.verify.stored_memory import StoredMemory, selector_text
from spectron_migrate.verify.workspace import Workspace

_LONG_QUERY = 48
"""How many words the second wording has."""
_PART = 300
"""How many characters of a text provide the words that should find the passage there."""
_SHARERS = 20
"""The most memories that are compared because they have a passage in common."""
_KEPT = 1000
"""For how many texts of passages the expected number is kept."""

Presence = Literal["present", "cached", "absent"]
"""`cached`: only in an answer from a cache, which does not prove that the memory is present."""


@dataclass(frozen=True, slots=True)
class KeywordSearch:
    """A memory and the words that should find it."""

    fact: StoredMemory
    words: tuple[str, ...]
    frequencies: WordFrequencies
    """The selector of the memory's scope."""


@dataclass(frozen=True, slots=True)
class Wording:
    """One query that should find a memory, and its search mode."""

    query: str
    mode: str


async def check_placement(
    work: Workspace, api: SpectronApi, *, sample: int | None, in_flight: int, now: datetime, reporter: Reporter
) -> None:
    """Search for every current memory, or for a random sample and for all in sessions whose scopes were not echoed.

    A memory that expired before `now` is `untestable` if it is not found.
    """
    total = work.count_facts() if sample is None else sample
    reporter.stage("recallable", total)
    placement = _Placement(work, api, now)

    async def check(search: KeywordSearch) -> None:
        fact = search.fact
        is_missing = work.has_finding("missing", fact.mem0_id)  # compared by its turn, which is more exact
        if not is_missing and not work.is_done("recallable", str(fact.no)):
            work.keep("recallable", str(fact.no), await placement.findings_of(search))
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
    """Whether a hit is the memory: by its turn, then by the ids of the receipt; by text only if it is not another's."""
    own = {fact.chunk_id, fact.turn_id} - {None}
    if any(hit.turn_id in own or hit.id in own for hit in hits):
        return True
    text = plain(fact.text)
    for hit in hits:
        found = plain(hit.text)
        if found == text or (len(found) >= PASSAGE_LETTERS and found in text):
            # A full list of hits may end before the memory, after others with the same text.
            if len(hits) >= MAX_K and plain(hits[-1].text) == found:
                return True
            others = [owner.no for owner in work.owners_of(hit.id)]
            is_of_another_turn = hit.turn_id is not None and fact.turn_id is not None
            if not is_of_another_turn and (not others or fact.no in others):
                return True
    return False


def wordings(fact: StoredMemory, words: Sequence[str]) -> list[Wording]:
    """Queries for a memory, from the narrowest to the widest.

    The last one is for the case that a cache answered the others.
    """
    many, whole = " ".join(words_of(fact.text)[:_LONG_QUERY]), fact.text[:2000]
    ordered = [
        Wording(" ".join(words), "bm25"),
        Wording(many, "bm25"),
        Wording(whole, "hybrid"),
        Wording(whole, "vector"),
    ]
    return [wording for wording in ordered if wording.query.strip()]


def _searches(work: Workspace, sample: int | None) -> Iterator[KeywordSearch]:
    drawn = None if sample is None else work.drawn_of_scopes(sample)
    for scope, _ in work.scopes():
        frequencies: WordFrequencies | None = None
        some = None if drawn is None else sorted({*drawn.get(scope, ()), *work.not_echoed_in(scope)})
        for fact in work.facts_of(scope, only_expected=True) if some is None else work.numbered(some):
            frequencies = frequencies or WordFrequencies(work.texts_of(scope))
            yield KeywordSearch(fact, tuple(frequencies.rarest(fact.text)), frequencies)


class _Placement:
    """Searches for memories in their scopes, and compares what is found with their texts."""

    def __init__(self, work: Workspace, api: SpectronApi, now: datetime) -> None:
        self._work = work
        self._api = api
        self._now = now
        self._all_scopes = _all_scopes(work)
        self._expected: dict[tuple[int, str], int] = {}
        """How often a scope should hold a passage with a certain text, for the most recent questions."""

    async def findings_of(self, search: KeywordSearch) -> list[Finding]:
        """Whether the memory is found in its scope, whole and once."""
        fact = search.fact
        cached = False
        for wording in wordings(fact, search.words):
            presence, hits = await search_for(self._work, self._api, fact, fact.selector, wording)
            self._work.sightings.see(hits, fact.selector)
            if presence == "present":
                return await self._compare(search, hits)
            cached = cached or presence == "cached"
        return [await self._not_found(search, cached=cached)]

    async def _not_found(self, search: KeywordSearch, *, cached: bool) -> Finding:
        fact = search.fact
        if cached:
            return self._untestable(fact, "only a cache answers with it, which proves nothing")
        if not search.words:
            return self._untestable(fact, "it has no word to search for")
        where = f"scope {selector_text(fact.selector)}"
        texts = {"written": fact.text, "asked": " ".join(search.words)}
        for wording in wordings(fact, search.words):
            if (await search_for(self._work, self._api, fact, self._all_scopes, wording))[0] == "present":
                return Finding("misplaced", fact.mem0_id, "it is found in another scope, not in its own", where, texts)
        expiry = expiry_of(fact, self._now)
        if expiry is not None and expiry.over:
            return self._untestable(fact, str(expiry))
        return Finding("misplaced", fact.mem0_id, "its own words do not find it in its scope", where, texts)

    async def _compare(self, search: KeywordSearch, hits: Sequence[Hit]) -> list[Finding]:
        """Compare every passage with its piece of the text, and search for those that were not found yet."""
        fact = search.fact
        if self._work.has_finding("altered", fact.mem0_id):
            return []  # found by its turn, so its passages are those of the other text
        passages = Passages(fact, partial(self._is_of_another, fact))
        passages.add(hits)
        found = await self._cover(search, passages)
        if isinstance(found, Finding):
            return [found]
        if passages.first_is_wrong:
            return [self._altered(fact, 0, passages.seen[fact.chunk_id or ""])]
        stray = passages.stray()
        if stray is not None:
            texts = {"written": fact.text, "found": stray}
            reason = "a passage of its turn has another text"
            return [Finding("altered", fact.mem0_id, reason, f"scope {selector_text(fact.selector)}", texts)]
        if len(found) == 1:
            return _copies(self._work, fact, hits, f"scope {selector_text(fact.selector)}")
        self._work.claim_passages(fact.no, [(piece.id, piece.text) for piece in found])
        lacking = await self._lacking(search, passages, found)
        return [lacking] if lacking is not None else self._copies_of_pieces(fact, passages, found)

    async def _cover(self, search: KeywordSearch, passages: Passages) -> Sequence[Piece] | Finding:
        """Search until the passages cover the text; returns the finding if they do not."""
        pieces, gap = passages.pieces()
        while gap is not None and not passages.first_is_wrong:
            finding = await self._search_from(search, passages, gap)
            if finding is not None:
                return finding
            pieces, gap = passages.pieces()
        return pieces

    async def _lacking(self, search: KeywordSearch, passages: Passages, pieces: Sequence[Piece]) -> Finding | None:
        """Check whether memories with a common part need more passages with a text than there are."""
        fact = search.fact
        for piece in pieces:
            ids = passages.ids_with(piece.text)
            sharers = [each for each in self._work.with_passage(piece.text) if each.scope == fact.scope]
            if not len(ids) < len(sharers) or len(ids) >= MAX_K:
                continue
            needing = [each for each in sharers[:_SHARERS] if not await self._covers_without(search, each, ids)]
            if len(needing) > len(ids):
                where, texts = f"scope {selector_text(fact.selector)}", {"written": piece.text}
                need = counted(len(needing), "memory needs", "memories need")
                reason = f"{need} a passage of this text each; there: {len(ids)}"
                return Finding("missing", fact.mem0_id, reason, where, texts)
        return None

    async def _covers_without(self, search: KeywordSearch, fact: StoredMemory, ids: Collection[str]) -> bool:
        words = tuple(search.frequencies.rarest(fact.text))
        others = Passages(fact, lambda hit_id: hit_id in ids or self._is_of_another(fact, hit_id))
        found = await self._cover(KeywordSearch(fact, words, search.frequencies), others)
        return not isinstance(found, Finding)

    async def _search_from(self, search: KeywordSearch, passages: Passages, gap: int) -> Finding | None:
        """Search for the passage at this letter of the text; None if it is found, and added to the passages."""
        fact = search.fact
        part = passages.whole[gap : gap + _PART]
        words = search.frequencies.rarest(part)
        cached = hidden = False
        for wording in _wordings_of(part, passages.whole[gap : gap + 2000], words):
            recall = await self._api.query(
                wording.query,
                lens=fact.selector,
                k=MAX_K,
                mode=wording.mode,
                include=("passages",),
                include_duplicates=True,
                source=SOURCE,
            )
            self._work.sightings.see(recall.hits, fact.selector)
            if recall.tier == "cache":
                cached = True
                continue
            is_full = len(recall.hits) >= MAX_K
            passages.add(recall.hits)
            still = passages.pieces()[1]
            if still is None or still > gap:
                return None
            # A passage with all the words may come after fifty others that also have them all.
            hidden = hidden or (is_full and all(set(words) <= set(words_of(hit.text)) for hit in recall.hits))
        found = passages.altered(gap)
        if found is not None:
            return self._altered(fact, gap, found)
        if cached:
            return self._untestable(fact, "only a cache answers with one of its passages, which proves nothing")
        if hidden:
            return self._untestable(fact, "more than 50 passages have the words of one of its passages")
        expiry = expiry_of(fact, self._now)
        if expiry is not None and expiry.over:
            return self._untestable(fact, str(expiry))
        where = f"scope {selector_text(fact.selector)}"
        texts = {"written": passages.whole[gap:], "asked": " ".join(words)}
        reason = f"no passage holds its text from letter {gap + 1:,} on"
        return Finding("missing", fact.mem0_id, reason, where, texts)

    def _copies_of_pieces(self, fact: StoredMemory, passages: Passages, pieces: Sequence[Piece]) -> list[Finding]:
        """A `doubled` finding if the scope has a passage more often than the texts that were written there have it."""
        where = f"scope {selector_text(fact.selector)}"
        for text, needed in Counter(piece.text for piece in pieces).items():
            found = len(passages.ids_with(text))
            if found > needed and found > self._times_expected(fact, text, needed):
                if self._work.has_finding("doubled", fact.mem0_id):
                    return []  # the listing of turns has already shown it
                reason = f"a passage of its text is stored {counted(found, 'time')}, more often than it was written"
                return [Finding("doubled", fact.mem0_id, reason, where, {"found": text})]
        return []

    def _times_expected(self, fact: StoredMemory, text: str, needed: int) -> int:
        key = (fact.scope, text)
        if key not in self._expected:
            if len(self._expected) >= _KEPT:
                self._expected.clear()
            scopes = [no for no, _ in self._work.scopes_covered(fact.selector)]
            texts = (written for scope in scopes for written in self._work.texts_of(scope))
            self._expected[key] = sum(exact_form(written).count(text) for written in texts)
        return self._expected[key] + needed * self._work.leftovers(fact.text, fact.scope)

    def _is_of_another(self, fact: StoredMemory, hit_id: str) -> bool:
        owners = self._work.owners_of(hit_id)
        return bool(owners) and all(owner.no != fact.no for owner in owners)

    def _altered(self, fact: StoredMemory, gap: int, found: str) -> Finding:
        masked = is_masked(found, fact.text)
        reason = f"its passage at letter {gap + 1:,} was {'masked' if masked else 'changed'}"
        texts = {"written": exact_form(fact.text)[gap : gap + max(_PART, len(found))], "found": found}
        return Finding("altered", fact.mem0_id, reason, f"scope {selector_text(fact.selector)}", texts)

    def _untestable(self, fact: StoredMemory, reason: str) -> Finding:
        texts = {"written": fact.text}
        return Finding("untestable", fact.mem0_id, reason, f"scope {selector_text(fact.selector)}", texts)


def _wordings_of(part: str, rest: str, words: Sequence[str]) -> list[Wording]:
    """Queries for the passage that begins with `part`, from the narrowest to the widest."""
    ordered = [
        Wording(" ".join(words), "bm25"),
        Wording(" ".join(words_of(part)[:_LONG_QUERY]), "bm25"),
        Wording(part, "hybrid"),
        Wording(rest, "vector"),
    ]
    return [wording for wording in ordered if wording.query.strip()]


def _copies(work: Workspace, fact: StoredMemory, hits: Sequence[Hit], where: str) -> list[Finding]:
    """A `doubled` finding if the scope has more passages with exactly this text than were written there."""
    text = plain(fact.text)
    passages = Counter(hit.source for hit in {hit.id: hit for hit in hits}.values() if plain(hit.text) == text)
    found = max(passages.values(), default=0)
    same_text = [same for same in work.with_text(fact.text) if covers(fact.selector, same.selector)]
    if any(work.has_finding("doubled", same.mem0_id) for same in same_text):
        return []  # the listing of turns has already shown it, for this memory or for one with the same text
    if found <= len(same_text) + work.leftovers(fact.text, fact.scope):
        return []
    reason = f"its text is stored {counted(found, 'time')}, but was written {counted(len(same_text), 'time')}"
    return [Finding("doubled", fact.mem0_id, reason, where, {"found": fact.text})]


def _all_scopes(work: Workspace) -> Selector:
    """A lens over every root that the migration wrote under."""
    roots = {path.split("/")[0] for _, selector in work.scopes() for clause in selector for path in clause}
    return tuple((path,) for root in sorted(roots) for path in (root, f"{root}/*"))
