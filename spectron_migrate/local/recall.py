"""Queries: which passages and facts answer a question, within what the caller may see."""

from __future__ import annotations

import heapq
import re
from dataclasses import replace

from spectron_migrate.local.auth import Caller
from spectron_migrate.local.bodies import MAX_HITS, QueryRequest
from spectron_migrate.local.engine import Engine
from spectron_migrate.local.errors import bad_request
from spectron_migrate.local.results import MemoryHit, QueryResult
from spectron_migrate.local.storage import Entity, Region, ScoredItem, SearchFilter

POOL = 256
"""How many candidates each signal gives, whatever `k` is."""
RANK_CONSTANT = 60
WORDS_WEIGHT = 0.5
"""What a rank by words counts beside a rank by meaning."""
LEAST_WORD_SCORE = 1e-3
"""BM25 gives a word in half of all texts next to nothing; such a hit says nothing about the question."""
MAX_WORDS = 64

STOP_WORDS = frozenset(
    """
    a about above after again all also am an and any are as at be because been before being below between both
    but by can could did do does doing down during each few for from further had has have having he her here
    hers herself him himself his how i if in into is it its itself just know me more most my myself no nor not
    now of off on once only or other our ours ourselves out over own s same she should so some such t tell than
    that the their theirs them themselves then there these they this those through to too under until up user
    very was we were what when where which while who whom why will with would you your yours yourself yourselves
    """.split()  # noqa: SIM905 - a column of words reads worse
)
_WORD = re.compile(r"[^\W_]+")


def recall_cached(engine: Engine, caller: Caller, question: QueryRequest) -> QueryResult:
    """Answer a caller's question, from an earlier one where that asked with the same words in the same place."""
    place = () if engine.reading.shared_cache else (caller.patterns("memory:read"), question.lens)
    words = tuple(sorted(_WORD.findall(question.query.casefold())))
    asked = (place, words, replace(question, query="", lens=()))
    earlier = engine.cache.get(asked, engine.store.revision()) if words and question.mode == "hybrid" else None
    if earlier is not None:
        return replace(earlier, tier="cache", reason="answered from an earlier question")
    found = recall(engine, question, engine.region(caller, question.lens))
    engine.cache.put(asked, engine.store.revision(), found)
    return found


def recall(engine: Engine, question: QueryRequest, region: Region) -> QueryResult:
    """Answer a question from the rows of a region.

    Raises:
        ApiError: 400 for what the local Spectron does not keep: system time, valid time, places. To ignore a
            filter would be to answer another question; the document declares no 501 here.
    """
    if question.at_instant or question.valid_from or question.valid_until or question.located:
        raise bad_request("atInstant, validFrom, validUntil and location are not served by the local Spectron")
    want = SearchFilter(region, question.kinds, question.duplicates, question.as_of, question.labels)
    seeds = _seeds(engine, question.query, region)
    if question.mode == "graph":
        hits = _neighbourhood(engine, seeds, want, question.k)
    else:
        hits = _hits(engine, _ranked(engine, question, want)[: question.k])
    return QueryResult(tuple(hits), tuple(seed.name for seed in seeds))


def content_words(text: str) -> list[str]:
    """The words that a search is about; all of them where the text has nothing but stop words."""
    words = list(dict.fromkeys(_WORD.findall(text.casefold())))
    telling = [word for word in words if word not in STOP_WORDS]
    return (telling or words)[:MAX_WORDS]


def _ranked(engine: Engine, question: QueryRequest, want: SearchFilter) -> list[ScoredItem]:
    by_meaning: list[ScoredItem] = []
    by_words: list[ScoredItem] = []
    if question.mode != "bm25":
        by_meaning = engine.store.nearest(engine.embedder.embed([question.query])[0], want, POOL)
    if question.mode != "vector":
        found = engine.store.matching(content_words(question.query), want, POOL)
        by_words = [hit for hit in found if hit.score >= LEAST_WORD_SCORE or question.mode == "bm25"]
    if question.mode == "hybrid":
        return _fused(by_meaning, by_words)
    return by_meaning or by_words


def _fused(by_meaning: list[ScoredItem], by_words: list[ScoredItem]) -> list[ScoredItem]:
    """Reciprocal ranks: scores of the two signals cannot be compared, their orders can."""
    scores = {hit.number: 1 / (RANK_CONSTANT + rank) for rank, hit in enumerate(by_meaning, 1)}
    for rank, hit in enumerate(by_words, 1):
        scores[hit.number] = scores.get(hit.number, 0.0) + WORDS_WEIGHT / (RANK_CONSTANT + rank)
    ranked = heapq.nsmallest(MAX_HITS, scores.items(), key=lambda entry: (-entry[1], entry[0]))
    return [ScoredItem(number, score) for number, score in ranked]


def _hits(engine: Engine, found: list[ScoredItem]) -> list[MemoryHit]:
    items = engine.store.items(hit.number for hit in found)
    return [
        MemoryHit(item.id, item.text, item.kind, hit.score, item.known_at)
        for hit in found
        for item in [items[hit.number]]
    ]


def _seeds(engine: Engine, query: str, region: Region) -> list[Entity]:
    """Entities whose whole name occurs in the question."""
    words = _WORD.findall(query)[:MAX_WORDS]
    names = {" ".join(words[at : at + length]) for at in range(len(words)) for length in range(1, 4)}
    return engine.store.entities_named(sorted(names), region) if names else []


def _neighbourhood(engine: Engine, seeds: list[Entity], want: SearchFilter, k: int) -> list[MemoryHit]:
    """The entities that the question names, their facts, then the facts of their neighbours."""
    hits: dict[str, MemoryHit] = {}
    scores = {seed.id: 1.0 for seed in seeds}
    for seed in seeds:
        hits[seed.id] = MemoryHit(seed.id, f"{seed.type} {seed.name}", "entity", 1.0, seed.created_at)
        for edge in engine.store.relations(want.region, entity=seed.id):
            scores.setdefault(edge.object if edge.subject == seed.id else edge.subject, 0.5)
    for entity, score in scores.items():
        facts = [fact.id for fact in engine.store.attributes(want.region, entity=entity, history=bool(want.as_of))]
        numbers = engine.store.item_numbers(facts)
        seen = engine.store.visible(numbers.values(), replace(want, kinds=frozenset({"attribute"})))
        for item in engine.store.items(seen).values():
            hits.setdefault(item.id, MemoryHit(item.id, item.text, "attribute", score * 0.9, item.known_at))
    return sorted(hits.values(), key=lambda hit: -hit.score)[:k]


def as_prompt(hits: tuple[MemoryHit, ...]) -> str:
    """Hits as text for a language model's prompt; empty where there is none."""
    facts = [f"- {hit.text}" for hit in hits if hit.source != "memory_chunk"]
    passages = [f"- {hit.text}" for hit in hits if hit.source == "memory_chunk"]
    parts = []
    if facts:
        parts.append("\n".join(["Known facts:", *facts]))
    if passages:
        parts.append("\n".join(["From earlier conversations:", *passages]))
    return "\n\n".join(parts)
