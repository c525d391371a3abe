"""Measures how hard the queries were: how much a search finds that only counts words that query and memory share.

It is asked in addition to both systems. If it finds nearly everything, the queries were too easy to tell the systems
apart.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import comb

from spectron_migrate.keywords import topics_of, words_of
from spectron_migrate.mapping import NotServable, ScopeMapping
from spectron_migrate.records import Json
from spectron_migrate.verify.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Asked:
    """One query and its correct answers."""

    number: int
    query: str
    expect: frozenset[str]


@dataclass(slots=True)
class _Shared:
    """For one query: how many memories share how many words with it."""

    every: Counter[int] = field(default_factory=Counter)
    expected: Counter[int] = field(default_factory=Counter)


def word_overlap_successes(asked: Collection[Asked], memories: Iterable[tuple[str, str]], k: int) -> dict[int, float]:
    """Success@k of counting shared words, by the query's number; reads ids and texts once (pure).

    Memories that share equally many words are in random order, so the success is a probability: that a correct answer
    is among the first `k`. A memory that shares no word is not found.
    """
    by_word: defaultdict[str, list[int]] = defaultdict(list)
    by_answer: defaultdict[str, list[int]] = defaultdict(list)
    for one in asked:
        for word in topics_of(one.query):
            by_word[word].append(one.number)
        for mem0_id in one.expect:
            by_answer[mem0_id].append(one.number)
    shared = {one.number: _Shared() for one in asked}
    for mem0_id, text in memories:
        counts: dict[int, int] = {}
        for word in by_word.keys() & words_of(text):
            for number in by_word[word]:
                counts[number] = counts.get(number, 0) + 1
        for number, words in counts.items():
            shared[number].every[words] += 1
        for number in by_answer.get(mem0_id, ()):
            if number in counts:
                shared[number].expected[counts[number]] += 1
    return {number: _success(found, k) for number, found in shared.items()}


def _success(found: _Shared, k: int) -> float:
    if not found.expected:
        return 0.0
    best = max(found.expected)
    places = k - sum(count for words, count in found.every.items() if words > best)
    if places <= 0:
        return 0.0
    equal, right = found.every[best], found.expected[best]
    return 1 - comb(equal - right, places) / comb(equal, places) if places < equal else 1.0


def measure_word_overlap(work: Workspace, mapping: ScopeMapping, k: int) -> None:
    """Add the success of counting shared words to each answer that is measured; reads each scope once."""
    answers = {answer["no"]: answer for answer in work.answers() if answer.get("measures") and answer["expect"]}
    for (scopes, run), asked in _by_lens(work, mapping, answers.values()).items():
        for number, success in word_overlap_successes(asked, _memories(work, scopes, run), k).items():
            answer = answers[number]
            measures = {**answer["measures"], "word_overlap": {"success": success}}
            work.answered(number, {**answer, "measures": measures})


def _by_lens(
    work: Workspace, mapping: ScopeMapping, answers: Iterable[Mapping[str, Json]]
) -> dict[tuple[tuple[int, ...], str | None], list[Asked]]:
    """The queries by the scopes that their lens covers, and the run that they ask for."""
    found: defaultdict[tuple[tuple[int, ...], str | None], list[Asked]] = defaultdict(list)
    for answer in answers:
        with suppress(NotServable):
            lens = mapping.lens(**answer["ids"])
            scopes = tuple(number for number, _ in work.scopes_covered(lens.selector))
            asked = Asked(answer["no"], answer["query"], frozenset(answer["expect"]))
            found[scopes, lens.run_filter].append(asked)
    return found


def _memories(work: Workspace, scopes: Iterable[int], run: str | None) -> Iterator[tuple[str, str]]:
    for scope in scopes:
        if run is None:
            yield from work.expected_texts(scope)
        else:
            facts = work.facts_of(scope, only_expected=True)
            yield from ((fact.mem0_id, fact.text) for fact in facts if fact.run == run)
