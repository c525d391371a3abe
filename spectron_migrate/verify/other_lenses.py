"""Checks that no memory is visible in a lens that must not see it: asks for each once in another reader's lens.

Pairs of scopes (`isolation`) find a server that confuses scopes, but a single leaked memory only by chance.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from random import Random

from spectron_migrate.keywords import WordFrequencies
from spectron_migrate.mapping import covers
from spectron_migrate.parallel import for_each
from spectron_migrate.reporter import Reporter
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.verify.findings import Finding
from spectron_migrate.verify.isolation import ScopeReader, ask, settle, suspicions, words_seen_by
from spectron_migrate.verify.stored_memory import StoredMemory
from spectron_migrate.verify.workspace import Workspace

_PART = 2000
"""One question is asked for each piece of this many characters of a long text."""
_KNOWN = 500_000
"""How many ids of hits that a reader may see are remembered."""

_Question = tuple[StoredMemory, list[str], ScopeReader]
"""A memory, queries that name it, and a reader that must not see it."""


async def check_other_lenses(
    work: Workspace,
    api: SpectronApi,
    readers: Sequence[ScopeReader],
    *,
    sample: int | None,
    rng: Random,
    in_flight: int,
    reporter: Reporter,
) -> int:
    """Ask for every stored text, or those of a random sample, in the lens of a reader that must not see it.

    Returns for how many texts this was possible: 0 if no two scopes are separate. Check placement before: the owner has
    to ask first, so that a cache shared across scopes would answer the other reader with the owner's hits.
    """
    others = OtherReaders(readers, rng)
    reporter.stage("other lenses", work.count_facts() if sample is None else sample)
    asked = 0

    async def check(question: _Question) -> None:
        nonlocal asked
        fact, queries, other = question
        asked += 1
        if not work.is_done("isolation", f"memory {fact.no}"):
            findings = await _ask_as_other(work, api, fact, queries, other, others.known_to(other))
            work.keep("isolation", f"memory {fact.no}", findings)
        reporter.advance(1)

    await for_each(_questions(work, others, sample), check, in_flight=in_flight)
    return asked


class OtherReaders:
    """Assigns other readers to the memories of a scope in rotation, so that a sample covers all pairs of scopes.

    Call it for the memories of one scope after the other. The same seed gives the same readers.
    """

    def __init__(self, readers: Sequence[ScopeReader], rng: Random) -> None:
        self._readers = rng.sample(readers, len(readers))
        self._index = {reader.scope: index for index, reader in enumerate(self._readers)}
        self._last = (-1, 0)
        """The last scope, and the distance from it of its last reader."""
        self._known: dict[int, set[str]] = defaultdict(set)

    def known_to(self, reader: ScopeReader) -> set[str]:
        """Ids of hits that this reader may see, as judged before: most questions to a lens have the same answers."""
        if sum(map(len, self._known.values())) > _KNOWN:
            self._known.clear()
        return self._known[reader.scope]

    def next_for(self, fact: StoredMemory) -> ScopeReader | None:
        """The next reader that must not see the memory; None if every reader may."""
        scope, distance = self._last if self._last[0] == fact.scope else (fact.scope, 0)
        own = self._index.get(scope, 0)
        for _ in self._readers:
            distance += 1
            reader = self._readers[(own + distance) % len(self._readers)]
            if not covers(reader.lens, fact.selector):
                self._last = (scope, distance)
                return reader
        return None


def _questions(work: Workspace, others: OtherReaders, sample: int | None) -> Iterator[_Question]:
    drawn = None if sample is None else work.drawn_of_scopes(sample)
    for scope, _ in work.scopes():
        frequencies: WordFrequencies | None = None
        for fact in work.facts_of(scope) if drawn is None else work.numbered(drawn.get(scope, ())):
            other = others.next_for(fact)
            if other is None:
                break
            frequencies = frequencies or WordFrequencies(work.texts_of(scope))
            yield fact, _queries_for(fact.text, frequencies), other


def _queries_for(text: str, frequencies: WordFrequencies) -> list[str]:
    """The rarest words of a text, or of each part of a long text."""
    parts = [text[start : start + _PART] for start in range(0, len(text), _PART)]
    queries = [" ".join(frequencies.rarest(part)) for part in parts]
    return [query for query in queries if query] or [text[:_PART]]


async def _ask_as_other(
    work: Workspace,
    api: SpectronApi,
    fact: StoredMemory,
    queries: Iterable[str],
    other: ScopeReader,
    known: set[str],
) -> list[Finding]:
    """Ask through the lens of a reader that must not see the memory, and judge every hit, not only this memory's.

    The search is by words and by meaning, so in a small scope all rows are among the hits, whatever the words are.
    `known`: ids that the reader may see, which are not judged again; those of this answer are added.
    """
    other_words = words_seen_by(work, other)
    found: dict[tuple[str, str], Finding] = {}
    for query in queries:
        hits = await ask(work, api, query, other.lens, "hybrid")
        new = [hit for hit in hits if hit.id not in known]
        suspected = suspicions(work, new, fact, other)
        known.update({hit.id for hit in new} - {suspicion.hit.id for suspicion in suspected})
        for suspicion in suspected:
            finding = await settle(work, api, suspicion, other, other_words)
            found.setdefault((finding.kind, suspicion.hit.id), finding)
    return list(found.values())
