"""Is this hit of Spectron's that memory? By the ids that the ledger kept, then by text, never by score (pure).

Spectron answers with rows of its own: passages, but also entities and attributes rendered as sentences. A hit is
therefore recognised in this order:

1. its id is in a memory's receipt (turn, chunk, entity, attribute);
2. its text is a memory's text, but for case, spaces and Unicode form;
3. its text is nearly a memory's text, or a passage of one.

What is not recognised has a reason (`Ignored`: it could be told apart from no memory, or is none by its kind), or
is `Unmatched`: text that none of the candidates has.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

SIMILAR_PERCENT = 90.0
"""Texts of at least this rapidfuzz ratio (0-100) count as the same, where their numbers are equal as well."""

PASSAGE_LETTERS = 40
"""A piece of a longer memory counts as that memory from this length on: shorter ones stand in many."""

CLEARLY_BETTER_PERCENT = 10.0
"""Of several memories that made one row, the one whose words fit its text best must lead by this much."""

_RENDERED = frozenset({"attribute", "entity"})
_NO_MEMORY = frozenset({"chunk", "section", "action"})
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Known:
    """A memory that was written, with the ids that its receipt names."""

    mem0_id: str
    text: str
    turn_id: str | None = None
    chunk_id: str | None = None
    ids: frozenset[str] = frozenset()
    """Entities and attributes of its extraction. Several memories can name the same one."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One row of Spectron's answer; `source` is its kind, such as `memory_chunk` or `attribute`."""

    id: str
    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Matched:
    """The hit is this memory."""

    mem0_id: str
    by: Literal["receipt", "text", "similar"]
    also: frozenset[str] = frozenset()
    """Other memories with the very same text, where only the text decided: the hit is any of them."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """The hit says nothing about a single memory, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unmatched:
    """The hit has the text of no candidate."""


Verdict = Matched | Ignored | Unmatched


class Candidates:
    """An index over the memories that a question may bring up: those of its lens, not of the whole store."""

    def __init__(self, known: Iterable[Known]) -> None:
        """Index them by id and by text."""
        self.texts: dict[str, str] = {}
        self.owners: dict[str, set[str]] = defaultdict(set)
        self.same_text: dict[str, list[str]] = defaultdict(list)
        for memory in known:
            text = plain(memory.text)
            self.texts[memory.mem0_id] = text
            self.same_text[text].append(memory.mem0_id)
            for row in {memory.turn_id, memory.chunk_id, *memory.ids} - {None}:
                self.owners[str(row)].add(memory.mem0_id)


def judge(hit: Hit, candidates: Candidates) -> Verdict:
    """Which of the candidates the hit is; the same hit and candidates always give the same verdict."""
    owners = candidates.owners.get(hit.id)
    if owners:
        return _of_owners(hit, sorted(owners), candidates)
    text = plain(hit.text)
    equal = sorted(candidates.same_text.get(text, ()))
    if equal:
        return Matched(equal[0], "text", also=frozenset(equal[1:]))
    if hit.source in _RENDERED:
        return Ignored(f"{hit.source} that no receipt names")
    if hit.source in _NO_MEMORY:
        return Ignored(f"{hit.source}, which is no memory")
    return _nearest(text, candidates)


def judge_all(hits: Sequence[Hit], candidates: Candidates) -> tuple[list[str], list[Verdict]]:
    """The memories of an answer in rank order, each once, and the verdict on every hit.

    Where a text stands for several memories, each further hit of that text counts as the next of them.
    """
    ranked: dict[str, None] = {}
    verdicts = [judge(hit, candidates) for hit in hits]
    for verdict in verdicts:
        if isinstance(verdict, Matched):
            choices = [verdict.mem0_id, *sorted(verdict.also)]
            ranked[next((choice for choice in choices if choice not in ranked), verdict.mem0_id)] = None
    return list(ranked), verdicts


def plain(text: str) -> str:
    """A text without what does not change its meaning: Unicode form, case, kind and number of spaces."""
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold()).split())


def _of_owners(hit: Hit, owners: list[str], candidates: Candidates) -> Verdict:
    """A row made by one memory is that memory; one made by several is the one whose words it clearly shows."""
    if len(owners) == 1:
        return Matched(owners[0], "receipt")
    from rapidfuzz import fuzz

    text = plain(hit.text)
    fits = sorted(((fuzz.token_set_ratio(text, candidates.texts[owner]), owner) for owner in owners), reverse=True)
    if fits[0][0] - fits[1][0] >= CLEARLY_BETTER_PERCENT:
        return Matched(fits[0][1], "receipt")
    return Ignored(f"{hit.source} that {len(owners)} memories share")


def _nearest(text: str, candidates: Candidates) -> Verdict:
    within = {mem0_id for mem0_id, whole in candidates.texts.items() if _is_passage(text, whole)}
    near = within or _similar(text, candidates)
    if len(near) == 1:
        return Matched(near.pop(), "similar")
    return Ignored(f"text as near to {len(near)} memories") if near else Unmatched()


def _is_passage(text: str, whole: str) -> bool:
    return len(text) >= PASSAGE_LETTERS and text in whole


def _similar(text: str, candidates: Candidates) -> set[str]:
    """The memories most similar to the text, above the threshold; several only where they are equally near.

    Numbers must agree: "invoice 1001" is 92 % "invoice 1002" and yet another memory.
    """
    from rapidfuzz import fuzz

    numbers = _NUMBER.findall(text)
    ratios = {
        mem0_id: fuzz.ratio(text, other, score_cutoff=SIMILAR_PERCENT)
        for mem0_id, other in candidates.texts.items()
        if _NUMBER.findall(other) == numbers
    }
    best = max(ratios.values(), default=0.0)
    return {mem0_id for mem0_id, ratio in ratios.items() if ratio == best} if best else set()
