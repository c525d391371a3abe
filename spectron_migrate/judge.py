"""Recognises which memory a hit of Spectron is: by the ids in the ledger, then by text, never by score (pure).

Spectron answers with rows of its own: passages, but also entities and attributes rendered as sentences. So a hit is
matched in this order:

1. the turn that it names (its `resource`, in later generations) is in a memory's receipt;
2. its id is in a memory's receipt (turn, chunk, entity, attribute);
3. its text equals a memory's text, except for case, spaces and Unicode form;
4. its text is nearly a memory's text, or a passage of one.

A hit that names a turn is never matched by text with a memory whose receipt names another turn.

A hit that is not matched is either `Ignored` for a stated reason (several memories fit, or its kind is not a memory),
or `Unmatched`: no memory of the index has its text.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from spectron_migrate.records import Hit, counted

SIMILAR_PERCENT = 90.0
"""Texts with at least this rapidfuzz ratio (0-100) count as the same, if their numbers are equal as well."""

PASSAGE_LETTERS = 40
"""A part of a longer memory counts as that memory if it has at least this length.

Shorter parts occur in many memories.
"""

CLEARLY_BETTER_PERCENT = 10.0
"""If several memories made one row, the one that fits its text best must lead by this much."""

_RENDERED = frozenset({"attribute", "entity"})
_NOT_MEMORIES = frozenset({"chunk", "section", "action"})
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class KnownMemory:
    """A memory that was written, with the ids in its receipt."""

    mem0_id: str
    text: str
    turn_id: str | None = None
    chunk_id: str | None = None
    ids: frozenset[str] = frozenset()
    """Entities and attributes of its extraction; several memories can share one."""


@dataclass(frozen=True, slots=True)
class Matched:
    """The hit is this memory."""

    mem0_id: str
    by: Literal["turn", "receipt", "text", "similar"]
    also: frozenset[str] = frozenset()
    """Other memories with the same text, if the text decided: the hit may be any of them."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """The hit is no particular memory, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unmatched:
    """No memory of the index has the text of the hit."""


HitMatch = Matched | Ignored | Unmatched


class MemoryIndex:
    """The memories that a query may return (those of its lens), by id and by text."""

    def __init__(self, known: Iterable[KnownMemory]) -> None:
        self._known = list(known)
        self.owners: dict[str, set[str]] = defaultdict(set)
        self.turns: dict[str, str] = {}
        """Memory -> the turn that its receipt names."""
        for memory in self._known:
            if memory.turn_id is not None:
                self.turns[memory.mem0_id] = memory.turn_id
            for row in {memory.turn_id, memory.chunk_id, *memory.ids} - {None}:
                self.owners[str(row)].add(memory.mem0_id)

    @cached_property
    def texts(self) -> dict[str, str]:
        """Memory -> its `plain` text; most hits are recognised without one."""
        return {memory.mem0_id: plain(memory.text) for memory in self._known}

    @cached_property
    def same_text(self) -> Mapping[str, Sequence[str]]:
        """Text -> the memories with it."""
        found: dict[str, list[str]] = defaultdict(list)
        for mem0_id, text in self.texts.items():
            found[text].append(mem0_id)
        return found


def judge_hit(hit: Hit, index: MemoryIndex) -> HitMatch:
    """The memory of the index that the hit is; deterministic."""
    named = judge_by_name(hit, index)
    return named if named is not None else _nearest(hit, plain(hit.text), index)


def judge_by_name(hit: Hit, index: MemoryIndex) -> Matched | Ignored | None:
    """What `judge_hit` returns, or None if only the likeness of texts decides.

    It depends only on memories with an id of the hit, or with its text. Others need not be in the index.
    """
    of_turn = index.owners.get(hit.turn_id or "")
    if of_turn:
        return _of_owners(hit, sorted(of_turn), index, by="turn")
    owners = index.owners.get(hit.id)
    if owners:
        return _of_owners(hit, sorted(owners), index, by="receipt")
    equal = sorted(each for each in index.same_text.get(plain(hit.text), ()) if _may_be(hit, each, index))
    if equal:
        return Matched(equal[0], "text", also=frozenset(equal[1:]))
    if hit.source in _RENDERED:
        return Ignored(f"{hit.source} that no receipt names")
    if hit.source in _NOT_MEMORIES:
        return Ignored(f"{hit.source}, which is not a memory")
    return None


def _may_be(hit: Hit, mem0_id: str, index: MemoryIndex) -> bool:
    """Whether a hit whose turn belongs to no memory may be this one.

    It may not if both name a turn, because these differ.
    """
    return hit.turn_id is None or mem0_id not in index.turns


def plain(text: str) -> str:
    """A text without differences of Unicode form, case, and kind or number of spaces."""
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold()).split())


def _of_owners(hit: Hit, owners: list[str], index: MemoryIndex, *, by: Literal["turn", "receipt"]) -> Matched | Ignored:
    """Match a row by its owners.

    A row made by one memory is that memory; one made by several is the one that clearly fits best.
    """
    if len(owners) == 1:
        return Matched(owners[0], by)
    from rapidfuzz import fuzz

    text = plain(hit.text)
    fits = sorted(((fuzz.token_set_ratio(text, index.texts[owner]), owner) for owner in owners), reverse=True)
    if fits[0][0] - fits[1][0] >= CLEARLY_BETTER_PERCENT:
        return Matched(fits[0][1], by)
    return Ignored(f"{hit.source} that {counted(len(owners), 'memory shares', 'memories share')}")


def _nearest(hit: Hit, text: str, index: MemoryIndex) -> HitMatch:
    texts = {mem0_id: whole for mem0_id, whole in index.texts.items() if _may_be(hit, mem0_id, index)}
    within = {mem0_id for mem0_id, whole in texts.items() if _is_passage(text, whole)}
    near = within or _similar(text, texts)
    if len(near) == 1:
        return Matched(near.pop(), "similar")
    return Ignored(f"text as near to {counted(len(near), 'memory')}") if near else Unmatched()


def _is_passage(text: str, whole: str) -> bool:
    return len(text) >= PASSAGE_LETTERS and text in whole


def _similar(text: str, texts: Mapping[str, str]) -> set[str]:
    """The memories most similar to the text, above the threshold; several only if they are equally similar.

    Numbers must agree: "invoice 1001" is 92 % like "invoice 1002", but another memory.
    """
    from rapidfuzz import fuzz

    numbers = _NUMBER.findall(text)
    ratios = {
        mem0_id: fuzz.ratio(text, other, score_cutoff=SIMILAR_PERCENT)
        for mem0_id, other in texts.items()
        if _NUMBER.findall(other) == numbers
    }
    best = max(ratios.values(), default=0.0)
    return {mem0_id for mem0_id, ratio in ratios.items() if ratio == best} if best else set()
