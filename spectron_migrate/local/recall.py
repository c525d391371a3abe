"""Queries: passages and facts that answer a question, from what the caller may read."""

from __future__ import annotations

import heapq
import re
from dataclasses import replace

from spectron_migrate.local.auth import Caller
from spectron_migrate.local.bodies import MAX_HITS, QueryRequest
from spectron_migrate.local.engine import Engine
from spectron_migrate.local.errors import bad_request
from spectron_migrate.local.results import MemoryHit, QueryResult
from spectron_migrate.local.rows import Entity, Region, ScoredItem, SearchFilter

CANDIDATES = 256
"""Candidates of each signal, whatever `k` is."""
NEXT_RANKS = 5
"""Ranks beyond `k` that an answer of 0.3.0 shows beside its hits."""
RANK_CONSTANT = 60
WORDS_WEIGHT = 0.5
"""Weight of a rank by words, relative to a rank by meaning."""
MIN_WORD_SCORE = 1e-3
"""Hits below are dropped: BM25 gives them for words that half of all texts contain."""
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


def recall_cached(engine: Engine, caller: Caller, request: QueryRequest) -> QueryResult:
    """Answer a question of a caller, from the cache if it was asked before with the same words and lens."""
    access = () if engine.reading.shared_cache else (caller.patterns("memory:read"), request.lens)
    words = tuple(sorted(_WORD.findall(request.query.casefold())))
    key = (access, words, replace(request, query="", lens=()))
    earlier = engine.cache.get(key, engine.store.revision()) if words and request.mode == "hybrid" else None
    if earlier is not None:
        return replace(earlier, tier="cache", reason="answered from an earlier question")
    found = recall(engine, request, engine.region(caller, request.lens))
    engine.cache.put(key, engine.store.revision(), found)
    return found


def recall(engine: Engine, request: QueryRequest, region: Region) -> QueryResult:
    """Answer a question from the rows of a region.

    Raises:
        ApiError: 400 for filters that the local Spectron does not support: system time, valid time, location. The
            published document declares no 501 here.
    """
    if request.at_instant or request.valid_from or request.valid_until or request.located:
        raise bad_request("atInstant, validFrom, validUntil and location are not served by the local Spectron")
    filter_ = SearchFilter(region, request.kinds, request.duplicates, request.as_of, request.labels)
    seeds = _seeds(engine, request.query, region)
    if request.mode == "graph":
        hits = _neighbourhood(engine, seeds, filter_)
    else:
        hits = _hits(engine, _ranked(engine, request, filter_)[: request.k + NEXT_RANKS])
    next_ranks = hits[request.k : request.k + NEXT_RANKS]
    return QueryResult(tuple(hits[: request.k]), tuple(next_ranks), tuple(seed.name for seed in seeds))


def content_words(text: str) -> list[str]:
    """The words of a text without stop words; all words if it has only stop words."""
    words = list(dict.fromkeys(_WORD.findall(text.casefold())))
    content = [word for word in words if word not in STOP_WORDS]
    return (content or words)[:MAX_WORDS]


def _ranked(engine: Engine, request: QueryRequest, filter_: SearchFilter) -> list[ScoredItem]:
    by_meaning: list[ScoredItem] = []
    by_words: list[ScoredItem] = []
    if request.mode != "bm25":
        by_meaning = engine.store.nearest(engine.embedder.embed([request.query])[0], filter_, CANDIDATES)
    if request.mode != "vector":
        found = engine.store.matching(content_words(request.query), filter_, CANDIDATES)
        by_words = [hit for hit in found if hit.score >= MIN_WORD_SCORE or request.mode == "bm25"]
    if request.mode == "hybrid":
        return _fused(by_meaning, by_words)
    return by_meaning or by_words


def _fused(by_meaning: list[ScoredItem], by_words: list[ScoredItem]) -> list[ScoredItem]:
    """Reciprocal rank fusion: the scores of the two signals are not comparable, their ranks are."""
    scores = {hit.number: 1 / (RANK_CONSTANT + rank) for rank, hit in enumerate(by_meaning, 1)}
    for rank, hit in enumerate(by_words, 1):
        scores[hit.number] = scores.get(hit.number, 0.0) + WORDS_WEIGHT / (RANK_CONSTANT + rank)
    ranked = heapq.nsmallest(MAX_HITS + NEXT_RANKS, scores.items(), key=lambda entry: (-entry[1], entry[0]))
    return [ScoredItem(number, score) for number, score in ranked]


def _hits(engine: Engine, found: list[ScoredItem]) -> list[MemoryHit]:
    items = engine.store.items(hit.number for hit in found)
    return [
        MemoryHit(item.id, item.text, item.kind, hit.score, item.known_at)
        for hit in found
        for item in [items[hit.number]]
    ]


def _seeds(engine: Engine, query: str, region: Region) -> list[Entity]:
    """Entities whose whole name occurs in the query."""
    words = _WORD.findall(query)[:MAX_WORDS]
    names = {" ".join(words[at : at + length]) for at in range(len(words)) for length in range(1, 4)}
    return engine.store.entities_named(sorted(names), region) if names else []


def _neighbourhood(engine: Engine, seeds: list[Entity], filter_: SearchFilter) -> list[MemoryHit]:
    """Entities that the query names, their facts, then the facts of their neighbours."""
    hits: dict[str, MemoryHit] = {}
    scores = {seed.id: 1.0 for seed in seeds}
    for seed in seeds:
        hits[seed.id] = MemoryHit(seed.id, f"{seed.type} {seed.name}", "entity", 1.0, seed.created_at)
        for edge in engine.store.relations(filter_.region, entity=seed.id):
            scores.setdefault(edge.object if edge.subject == seed.id else edge.subject, 0.5)
    for entity, score in scores.items():
        facts = [
            fact.id for fact in engine.store.attributes(filter_.region, entity=entity, history=bool(filter_.as_of))
        ]
        numbers = engine.store.item_numbers(facts)
        seen = engine.store.visible(numbers.values(), replace(filter_, kinds=frozenset({"attribute"})))
        for item in engine.store.items(seen).values():
            hits.setdefault(item.id, MemoryHit(item.id, item.text, "attribute", score * 0.9, item.known_at))
    return sorted(hits.values(), key=lambda hit: -hit.score)


def as_prompt(hits: tuple[MemoryHit, ...]) -> str:
    """Hits as text for a prompt; empty without hits."""
    facts = [f"- {hit.text}" for hit in hits if hit.source != "memory_chunk"]
    passages = [f"- {hit.text}" for hit in hits if hit.source == "memory_chunk"]
    parts = []
    if facts:
        parts.append("\n".join(["Known facts:", *facts]))
    if passages:
        parts.append("\n".join(["From earlier conversations:", *passages]))
    return "\n\n".join(parts)
