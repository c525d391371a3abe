"""Checks whether users see each other's memories: sends a query through the owner's lens and another reader's.

This module tries pairs of scopes in both directions, by words and by meaning; `other_lenses` asks for every memory
once.

A leak is a hit that came from a memory of scope A and appears in B's lens, although B's lens covers no memory that
it could have come from. An equal text or a shared entity alone is no leak: the query is repeated with words that only
A has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from random import Random

from spectron_migrate.judge import PASSAGE_LETTERS, plain
from spectron_migrate.keywords import WordFrequencies, words_of
from spectron_migrate.mapping import ScopeMapping, covers
from spectron_migrate.parallel import for_each
from spectron_migrate.records import Hit, Selector
from spectron_migrate.reporter import Reporter
from spectron_migrate.spectron.api import MAX_K, SpectronApi
from spectron_migrate.verify.expected import lens_of
from spectron_migrate.verify.findings import Finding
from spectron_migrate.verify.options import SOURCE
from spectron_migrate.verify.stored_memory import StoredMemory, selector_text
from spectron_migrate.verify.workspace import Workspace

MEMORIES_PER_DIRECTION = 3
"""Memories of A that are searched for in each direction of a pair."""
EDITED_PERCENT = 85.0
"""A passage this much like a memory (rapidfuzz ratio, 0-100), and less like any other, counts as made from it."""
MOST_COMPARED = 20
"""The most passages without a receipt that are compared with all memories in one verification."""
_LONG_QUERY = 48
"""How many words a query has that decides whether a suspect is a leak."""


@dataclass(frozen=True, slots=True)
class ScopeReader:
    """A scope, with the lens through which its owner searches."""

    scope: int
    selector: Selector
    lens: Selector

    @property
    def name(self) -> str:
        """The scope's name, for reports."""
        return selector_text(self.selector)


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A hit in B's lens that looks like A's memory."""

    fact: StoredMemory
    hit: Hit
    certain: bool
    """Whether a receipt names the hit, rather than only an equal text or a shared entity."""


async def check_isolation(
    work: Workspace,
    api: SpectronApi,
    readers: Sequence[ScopeReader],
    *,
    pairs: int,
    rng: Random,
    in_flight: int,
    reporter: Reporter,
) -> int:
    """Try pairs of scopes in both directions; returns how many (0 if no two scopes are separate)."""
    chosen = choose_pairs(readers, pairs, rng)
    reporter.stage("isolation", len(chosen))

    async def check(pair: tuple[ScopeReader, ScopeReader]) -> None:
        subject = f"{pair[0].scope}-{pair[1].scope}"
        if not work.is_done("isolation", subject):
            findings = [
                *await _search_as_other(work, api, owner=pair[0], other=pair[1]),
                *await _search_as_other(work, api, owner=pair[1], other=pair[0]),
            ]
            work.keep("isolation", subject, findings)
        reporter.advance(1)

    await for_each(chosen, check, in_flight=in_flight)
    return len(chosen)


def scope_readers(work: Workspace, mapping: ScopeMapping) -> list[ScopeReader]:
    """Every scope with the lens of the owner of one of its memories, by path."""
    found = []
    for scope, selector in work.scopes():
        fact = next(work.facts_of(scope, only_expected=True, limit=1), None)
        if fact is not None:
            lens = lens_of(dict(fact.owners), mapping)
            found.append(ScopeReader(scope, selector, lens.selector if lens is not None else selector))
    return found


def choose_pairs(known: Sequence[ScopeReader], n: int, rng: Random) -> list[tuple[ScopeReader, ScopeReader]]:
    """Up to `n` pairs whose lenses do not cover each other's scope: up to half neighbours by name, the rest random.

    Neighbours (`user/anna`, `user/anna2`) would reveal a server that compares path prefixes wrongly.
    """
    chosen: dict[tuple[int, int], tuple[ScopeReader, ScopeReader]] = {}
    neighbours = list(pairwise(known))
    rng.shuffle(neighbours)
    for left, right in neighbours:
        if len(chosen) >= (n + 1) // 2:
            break
        if _separate(left, right):
            chosen[left.scope, right.scope] = (left, right)
    for left, right in _random_pairs(known, n, rng):
        if len(chosen) >= n:
            break
        if _separate(left, right) and (right.scope, left.scope) not in chosen:
            chosen.setdefault((left.scope, right.scope), (left, right))
    return list(chosen.values())


def _random_pairs(known: Sequence[ScopeReader], n: int, rng: Random) -> Iterable[tuple[ScopeReader, ScopeReader]]:
    if len(known) ** 2 <= 50 * n:
        every = [(left, right) for place, left in enumerate(known) for right in known[place + 1 :]]
        rng.shuffle(every)
        return every
    return ((rng.choice(known), rng.choice(known)) for _ in range(20 * n))


def _separate(left: ScopeReader, right: ScopeReader) -> bool:
    return left.scope != right.scope and not covers(left.lens, right.selector) and not covers(right.lens, left.selector)


async def _search_as_other(
    work: Workspace, api: SpectronApi, *, owner: ScopeReader, other: ScopeReader
) -> list[Finding]:
    """Search for memories of `owner` through its own lens first, then with the same words through `other`'s."""
    own_words = WordFrequencies(work.texts_of(owner.scope))
    other_words = words_seen_by(work, other)
    found: dict[tuple[str, str], Finding] = {}
    for fact in list(work.facts_of(owner.scope, only_expected=True, limit=MEMORIES_PER_DIRECTION)):
        query = " ".join(own_words.rarest(fact.text)) or fact.text
        for mode in ("hybrid", "bm25"):
            # The owner must ask first, so that a cache shared across scopes would answer the other with the owner's
            # hits.
            await ask(work, api, query, owner.lens, mode)
            hits = await ask(work, api, query, other.lens, mode)
            for suspicion in suspicions(work, hits, fact, other):
                finding = await settle(work, api, suspicion, other, other_words)
                found.setdefault((finding.kind, suspicion.hit.id), finding)
    return list(found.values())


def words_seen_by(work: Workspace, reader: ScopeReader) -> Callable[[], WordFrequencies]:
    """The words of everything that a reader's lens covers; counted when first needed."""
    return cache(lambda: WordFrequencies(_texts_covered(work, reader.lens)))


def suspicions(work: Workspace, hits: Sequence[Hit], fact: StoredMemory, other: ScopeReader) -> list[Suspicion]:
    """Hits in `other`'s lens that, by ids and texts, came from a memory that `other` must not see."""
    suspected = []
    behind = work.selectors_behind([hit.id for hit in hits])
    for hit in hits:
        if any(covers(other.lens, selector) for selector in behind[hit.id]):
            continue
        of_id = work.owners_of(hit.id) if behind[hit.id] else []
        sources = of_id or (work.owners_of(hit.turn_id) if hit.turn_id is not None else [])
        if sources:
            if not any(covers(other.lens, source.selector) for source in sources):
                certain = hit.source != "entity" if of_id else hit.source == "memory_chunk"
                suspected.append(Suspicion(sources[0], hit, certain=certain))
            continue
        same_text = [*work.with_text(hit.text), *work.with_passage(hit.text)]
        if any(covers(other.lens, same.selector) for same in same_text):
            continue
        piece = plain(hit.text)
        if not same_text and len(piece) >= PASSAGE_LETTERS and piece in plain(fact.text):
            same_text = [fact]
        if not same_text and hit.source == "memory_chunk":
            same_text = _edited(work, piece, other)
        if same_text:
            suspected.append(Suspicion(same_text[0], hit, certain=False))
    return suspected


def _edited(work: Workspace, piece: str, other: ScopeReader) -> list[StoredMemory]:
    """The memory that a passage without a receipt nearly equals, if it is not nearer to one of `other`'s.

    Only in scopes that this migration made, because elsewhere somebody else may say nearly the same.
    """
    from rapidfuzz import fuzz

    if work.compared >= MOST_COMPARED or not work.is_ours(other.selector):
        return []
    work.compared += 1
    best, found = EDITED_PERCENT, None
    for scope, selector in work.scopes():
        is_seen = covers(other.lens, selector)
        for fact in work.facts_of(scope):
            whole = plain(fact.text)
            is_part = len(whole) > 2 * len(piece) > 2 * PASSAGE_LETTERS
            likeness = (fuzz.partial_ratio if is_part else fuzz.ratio)(piece, whole, score_cutoff=best)
            if likeness > best or (is_seen and likeness == best):
                best, found = likeness, None if is_seen else fact
    return [found] if found is not None else []


async def settle(
    work: Workspace,
    api: SpectronApi,
    suspicion: Suspicion,
    other: ScopeReader,
    other_words: Callable[[], WordFrequencies],
) -> Finding:
    """Decide about a suspicion: an uncertain hit is searched for again with words that `other` does not have."""
    fact, hit = suspicion.fact, suspicion.hit
    where = f"written to {selector_text(fact.selector)}, seen by a reader of {other.name}"
    texts = {"written": fact.text, "seen": hit.text}
    if suspicion.certain:
        reason = f"{hit.source} {hit.id} came from it and is visible in another user's lens"
        return Finding("leak", fact.mem0_id, reason, where, texts)
    of_both = words_of(hit.text) if hit.source not in ("attribute", "entity") else words_of(fact.text)
    only_here = [word for word in of_both if word not in other_words()][:_LONG_QUERY]
    if not only_here:
        reason = f"{hit.source} {hit.id} resembles it, and the reader has every word of it too"
        return Finding("suspect", fact.mem0_id, reason, where, texts)
    for mode in ("bm25", "hybrid"):
        hits = await ask(work, api, " ".join(only_here), other.lens, mode)
        if any(again.id == hit.id for again in hits) and hit.source != "entity":
            reason = f"{hit.source} {hit.id} has its text, and words that only it has find it in another user's lens"
            return Finding("leak", fact.mem0_id, reason, where, texts)
    reason = f"{hit.source} {hit.id} resembles it, but words that only it has do not find it"
    return Finding("suspect", fact.mem0_id, reason, where, texts)


async def ask(work: Workspace, api: SpectronApi, query: str, lens: Selector, mode: str) -> Sequence[Hit]:
    """The hits of a query through a lens, near-duplicates included."""
    recall = await api.query(query, lens=lens, k=MAX_K, mode=mode, include_duplicates=True, source=SOURCE)
    work.sightings.see(recall.hits, lens)
    return recall.hits


def _texts_covered(work: Workspace, lens: Selector) -> Iterable[str]:
    for scope, _ in work.scopes_covered(lens):
        yield from work.texts_of(scope)
