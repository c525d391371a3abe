"""Hits are judged from the memories that they name; the others of a lens are read where only likeness decides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.judge import KnownMemory, Matched, MemoryIndex, judge_hit
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mapping import load_mapping
from spectron_migrate.records import Hit
from spectron_migrate.reporter import NullReporter
from spectron_migrate.spectron.rows import Recall
from spectron_migrate.verify import judged_hits
from spectron_migrate.verify.expected import index_receipts
from spectron_migrate.verify.judged_hits import HitJudge
from spectron_migrate.verify.stored_memory import StoredMemory
from spectron_migrate.verify.workspace import Workspace
from tests.support.spectron import memory, replay, write_raw

TEXTS = ["Likes rooibos tea in the evening", "likes  ROOIBOS tea in the evening", "Lives in Berlin", "Plays the cello"]


@pytest.fixture
def work(spectron: RunningServer, user: str, tmp_path: Path) -> Iterator[Workspace]:
    """Two users with the same texts."""
    rows = [memory(number, f"{user}{name}", text) for name in "ab" for number, text in enumerate(TEXTS)]
    replay(spectron, tmp_path / "state", [write_raw(tmp_path / "all.json", rows)])
    with Ledger.open_for_reading(tmp_path / "state") as ledger:
        work = Workspace.open(tmp_path / "verify.db", ledger, about="x", not_before="", now="2025")
        index_receipts(work, seed=0, reporter=NullReporter())
        yield work
        work.close(finished=True)


def hits_of(facts: list[StoredMemory]) -> list[Hit]:
    """What each fact may be seen as, by its ids and by its text; and what is none."""
    hits = [Hit("section:1", "Chapter 1", "section")]
    for fact in facts:
        hits += [
            Hit(fact.chunk_id or "", "another text", "memory_chunk"),
            Hit("chunk:new", "another text", "memory_chunk", turn_id=fact.turn_id),
            Hit("chunk:new", fact.text.upper(), "memory_chunk"),
            Hit("attribute:new", fact.text, "attribute"),
            *(Hit(row, fact.text, "entity") for row in fact.ids),
        ]
    return hits


def judged(work: Workspace, user: str, hits: list[Hit]) -> list[tuple[str | None, str]]:
    lens = load_mapping(None).lens(user_id=user)
    return [
        (hit.fact.mem0_id if hit.fact is not None else None, hit.note)
        for hit in HitJudge(work).judge(Recall(tuple(hits), "none"), lens)
    ]


def beside_all(facts: list[StoredMemory], hits: list[Hit]) -> list[tuple[str | None, str]]:
    """The same, from all memories of a lens."""
    by_key = {str(fact.no): fact for fact in facts}
    index = MemoryIndex(
        KnownMemory(key, fact.text, fact.turn_id, fact.chunk_id, frozenset(fact.ids)) for key, fact in by_key.items()
    )
    found: list[tuple[str | None, str]] = []
    for hit in hits:
        verdict: Any = judge_hit(hit, index)
        if isinstance(verdict, Matched):
            found.append((by_key[verdict.mem0_id].mem0_id, verdict.by))
        else:
            found.append((None, getattr(verdict, "reason", "not recognised")))
    return found


def test_hits_that_name_their_memories_are_judged_without_the_others(
    work: Workspace, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = [fact for scope, _ in work.scopes() for fact in work.facts_of(scope)]
    own = [fact for fact in facts if fact.owners["user_id"] == f"{user}a"]
    of_others = hits_of([fact for fact in facts if fact not in own])
    hits = [*hits_of(own), *(hit for hit in of_others if hit.text != "another text")]
    monkeypatch.setattr(work, "facts_of", None)
    assert (4, 8) == (len(own), len(facts))
    assert beside_all(own, hits) == judged(work, f"{user}a", hits)


@pytest.mark.parametrize("text", ["Likes rooibos tea in the evenings", "Plays the cellos", "Lives in Lima"])
@pytest.mark.parametrize("most", [5000, 1, 0])
def test_where_only_likeness_decides_all_memories_of_the_lens_are_compared(
    work: Workspace, user: str, monkeypatch: pytest.MonkeyPatch, text: str, most: int
) -> None:
    """`most`: beyond so many only the hits' own memories are; here these are all that are like the text."""
    monkeypatch.setattr(judged_hits, "_WHOLE_LENS", most)
    facts = [fact for scope, _ in work.scopes() for fact in work.facts_of(scope)]
    own = [fact for fact in facts if fact.owners["user_id"] == f"{user}a"]
    hits = [*hits_of(own), Hit("chunk:new", text, "memory_chunk")]
    assert beside_all(own, hits) == judged(work, f"{user}a", hits)
