"""Does anybody see what is another's: pairs of scopes, asked the same question through both lenses.

A leak is a row that came out of a memory of A and appears in B's lens, though B's lens covers no memory that the
row could come from. Equal sentences and shared entities are no leak in themselves: they are asked about again with
words that only A has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from spectron_migrate.judge import plain
from spectron_migrate.mapping import ScopeMapping, covers
from spectron_migrate.records import Reporter, Selector
from spectron_migrate.spectron.api import MAX_K, Hit, SpectronApi
from spectron_migrate.verify.expected import lens_of
from spectron_migrate.verify.findings import Finding
from spectron_migrate.verify.keywords import WordFrequencies, words_of
from spectron_migrate.verify.parallel import for_each
from spectron_migrate.verify.placement import SOURCE
from spectron_migrate.verify.stored_memory import StoredMemory
from spectron_migrate.verify.workspace import Workspace

QUESTIONS = 3
"""Memories of A that are asked for, in each direction of a pair."""
_PIECE = 40


@dataclass(frozen=True, slots=True)
class ScopeReader:
    """A scope, and the lens with which its owner reads."""

    scope: int
    selector: Selector
    lens: Selector

    @property
    def name(self) -> str:
        """For reports."""
        return " or ".join(" and ".join(clause) for clause in self.selector)


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A hit in B's lens that looks like A's memory."""

    fact: StoredMemory
    hit: Hit
    sure: bool
    """By an id of a receipt, not by text or a shared entity alone."""


async def check_isolation(
    work: Workspace,
    api: SpectronApi,
    mapping: ScopeMapping,
    *,
    pairs: int,
    rng: Random,
    in_flight: int,
    reporter: Reporter,
) -> int:
    """Try pairs in both directions; how many pairs were tried (0 where no two scopes are apart)."""
    chosen = choose_pairs(scope_readers(work, mapping), pairs, rng)
    reporter.stage("isolation", len(chosen))

    async def check(pair: tuple[ScopeReader, ScopeReader]) -> None:
        subject = f"{pair[0].scope}-{pair[1].scope}"
        if not work.is_done("isolation", subject):
            findings = [
                *await _try(work, api, asked=pair[0], reader=pair[1]),
                *await _try(work, api, asked=pair[1], reader=pair[0]),
            ]
            work.keep("isolation", subject, findings)
        reporter.advance(1)

    await for_each(chosen, check, in_flight=in_flight)
    return len(chosen)


def scope_readers(work: Workspace, mapping: ScopeMapping) -> list[ScopeReader]:
    """Every scope with the lens of an owner of its memories, by path."""
    found = []
    for scope, selector in work.scopes():
        fact = next(work.facts_of(scope, standing=True, limit=1), None)
        if fact is not None:
            lens = lens_of(dict(fact.owners), mapping)
            found.append(ScopeReader(scope, selector, lens.selector if lens is not None else selector))
    return found


def choose_pairs(known: Sequence[ScopeReader], n: int, rng: Random) -> list[tuple[ScopeReader, ScopeReader]]:
    """Pairs whose lenses do not reach each other's scope: neighbours by name first, then any.

    Neighbours (`user/anna`, `user/anna2`) are where a prefix that is compared wrongly would show.
    """
    chosen: dict[tuple[int, int], tuple[ScopeReader, ScopeReader]] = {}
    neighbours = list(pairwise(known))
    rng.shuffle(neighbours)
    for left, right in neighbours:
        if len(chosen) >= (n + 1) // 2:
            break
        if _apart(left, right):
            chosen[left.scope, right.scope] = (left, right)
    for left, right in _random_pairs(known, n, rng):
        if len(chosen) >= n:
            break
        if _apart(left, right) and (right.scope, left.scope) not in chosen:
            chosen.setdefault((left.scope, right.scope), (left, right))
    return list(chosen.values())


def _random_pairs(known: Sequence[ScopeReader], n: int, rng: Random) -> Iterable[tuple[ScopeReader, ScopeReader]]:
    if len(known) ** 2 <= 50 * n:
        every = [(left, right) for place, left in enumerate(known) for right in known[place + 1 :]]
        rng.shuffle(every)
        return every
    return ((rng.choice(known), rng.choice(known)) for _ in range(20 * n))


def _apart(left: ScopeReader, right: ScopeReader) -> bool:
    return left.scope != right.scope and not covers(left.lens, right.selector) and not covers(right.lens, left.selector)


async def _try(work: Workspace, api: SpectronApi, *, asked: ScopeReader, reader: ScopeReader) -> list[Finding]:
    """Ask for memories of `asked`, first as their owner, then, word for word the same, as `reader`."""
    rarity = WordFrequencies(work.texts_of(asked.scope))
    theirs = WordFrequencies(_texts_covered(work, reader.lens))
    found: dict[tuple[str, str], Finding] = {}
    for fact in list(work.facts_of(asked.scope, standing=True, limit=QUESTIONS)):
        query = " ".join(rarity.rarest(fact.text)) or fact.text
        for mode in ("hybrid", "bm25"):
            # In this order on purpose: a cache that does not know scopes answers the second with the first.
            await _ask(api, query, asked.lens, mode)
            for suspicion in suspicions(work, await _ask(api, query, reader.lens, mode), fact, asked, reader):
                finding = await _settle(work, api, suspicion, asked, reader, theirs)
                found.setdefault((finding.kind, suspicion.hit.id), finding)
    return list(found.values())


def suspicions(
    work: Workspace, hits: Sequence[Hit], fact: StoredMemory, asked: ScopeReader, reader: ScopeReader
) -> list[Suspicion]:
    """Hits in the reader's lens that come from a memory it must not see, as far as ids and texts tell."""
    told = []
    for hit in hits:
        owners = work.owners_of(hit.id)
        if owners:
            if not any(covers(reader.lens, owner.selector) for owner in owners):
                told.append(Suspicion(owners[0], hit, hit.source != "entity"))
            continue
        twins = work.with_text(hit.text)
        if any(covers(reader.lens, twin.selector) for twin in twins):
            continue
        theirs = [twin for twin in twins if covers(asked.lens, twin.selector)]
        piece = plain(hit.text)
        if not theirs and len(piece) >= _PIECE and piece in plain(fact.text):
            theirs = [fact]
        if theirs:
            told.append(Suspicion(theirs[0], hit, False))
    return told


async def _settle(
    work: Workspace,
    api: SpectronApi,
    suspicion: Suspicion,
    asked: ScopeReader,
    reader: ScopeReader,
    theirs: WordFrequencies,
) -> Finding:
    fact, hit = suspicion.fact, suspicion.hit
    where = f"written to {_path(fact.selector)}, seen by a reader of {reader.name}"
    texts = {"written": fact.text, "seen": hit.text}
    if suspicion.sure:
        reason = f"{hit.source} {hit.id}, which came from it, is in another's lens"
        return Finding("leak", fact.mem0_id, reason, where, texts)
    only = [word for word in words_of(fact.text) if word not in theirs]
    if not only:
        reason = f"{hit.source} {hit.id} looks like it, and every word of it is the reader's too"
        return Finding("suspect", fact.mem0_id, reason, where, texts)
    for mode in ("bm25", "hybrid"):
        again = await _ask(api, " ".join(only), reader.lens, mode)
        if any(one.id == hit.id for one in again) and hit.source != "entity":
            reason = f"{hit.source} {hit.id} has its text, and answers in another's lens to words that only it has"
            return Finding("leak", fact.mem0_id, reason, where, texts)
    reason = f"{hit.source} {hit.id} looks like it, and does not answer to words that only it has"
    return Finding("suspect", fact.mem0_id, reason, where, texts)


async def _ask(api: SpectronApi, query: str, lens: Selector, mode: str) -> Sequence[Hit]:
    return (await api.query(query, lens=lens, k=MAX_K, mode=mode, include_duplicates=True, source=SOURCE)).hits


def _texts_covered(work: Workspace, lens: Selector) -> Iterable[str]:
    for scope, _ in work.scopes_covered(lens):
        yield from work.texts_of(scope)


def _path(selector: Selector) -> str:
    return " or ".join(" and ".join(clause) for clause in selector)
