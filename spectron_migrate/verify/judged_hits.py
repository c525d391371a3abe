"""Decides which memory each hit of Spectron is, and whether an application would be shown it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spectron_migrate.judge import Ignored, KnownMemory, Matched, MemoryIndex, judge_by_name, judge_hit
from spectron_migrate.ledger.read import receipts
from spectron_migrate.mapping import Lens, covers
from spectron_migrate.records import Hit, Selector
from spectron_migrate.spectron.rows import Recall
from spectron_migrate.verify.stored_memory import StoredMemory
from spectron_migrate.verify.workspace import Workspace

_WHOLE_LENS = 5000
"""Hits are compared with all memories of a lens up to this number.

If it has more, only with those that ids or texts name.
"""
_CACHED = 20_000
"""How many memories are kept for the next query."""

_Memories = tuple[MemoryIndex, dict[str, StoredMemory]]
"""Memories to compare hits with, and each memory by its key in the candidates."""


@dataclass(frozen=True, slots=True)
class JudgedHit:
    """One hit of Spectron's answer and the memory that it is."""

    id: str
    text: str
    source: str
    fact: StoredMemory | None
    note: str
    """How the memory was recognised, or why the hit is no memory."""
    dropped: str
    """Why the application is not shown it: `stale` or `run`; else empty."""


class HitJudge:
    """Judges hits; caches the memories of recently used lenses."""

    def __init__(self, work: Workspace) -> None:
        self._work = work
        self._cached: dict[Selector, _Memories] = {}
        self._too_large: set[Selector] = set()

    def judge(self, recall: Recall, lens: Lens) -> list[JudgedHit]:
        """All hits of an answer, in its order."""
        candidates, facts = self._memories_for(recall.hits, lens.selector)
        judged = []
        for hit in recall.hits:
            verdict = judge_hit(hit, candidates)
            if isinstance(verdict, Matched):
                fact = facts[verdict.mem0_id]
                judged.append(JudgedHit(hit.id, hit.text, hit.source, fact, verdict.by, _dropped(fact, lens)))
            else:
                note = verdict.reason if isinstance(verdict, Ignored) else "not recognised"
                judged.append(JudgedHit(hit.id, hit.text, hit.source, None, note, ""))
        return judged

    def _memories_for(self, hits: Sequence[Hit], lens: Selector) -> _Memories:
        """Memories to compare with: those that the hits name, if no other can be a hit; else all, if not too many.

        In most answers every hit names a memory, so that the others need not be read.
        """
        cached = self._cached.get(lens)
        if cached is not None:
            return cached
        rows = [row for hit in hits for row in (hit.turn_id, hit.id) if row is not None]
        if not receipts.are_made_of_few(self._work.ledger, rows, _WHOLE_LENS):
            return self._whole(lens) or self._named(rows, hits, lens)
        memories = self._named(rows, (), lens)
        nameless = [hit for hit in hits if memories[0].owners.keys().isdisjoint((hit.turn_id, hit.id))]
        if nameless:
            memories = self._named(rows, nameless, lens)
        if all(judge_by_name(hit, memories[0]) is not None for hit in nameless):
            return memories
        return self._whole(lens) or self._named(rows, hits, lens)

    def _named(self, rows: Sequence[str], hits: Iterable[Hit], lens: Selector) -> _Memories:
        """The memories of the lens that rows were made from, and those with the texts of hits."""
        owners = [fact for facts in self._work.owners_of_each(rows).values() for fact in facts]
        same = [fact for hit in hits for fact in self._work.with_text(hit.text)]
        return self._memories(fact for fact in (*owners, *same) if covers(lens, fact.selector))

    def _whole(self, lens: Selector) -> _Memories | None:
        """All memories that the lens covers; None if there are too many."""
        if lens in self._too_large:
            return None
        facts: list[StoredMemory] = []
        for scope, _ in self._work.scopes_covered(lens):
            facts += self._work.facts_of(scope, limit=_WHOLE_LENS + 1 - len(facts))
            if len(facts) > _WHOLE_LENS:
                self._too_large.add(lens)
                return None
        while self._cached and sum(len(by_key) for _, by_key in self._cached.values()) > _CACHED:
            self._cached.pop(next(iter(self._cached)))
        self._cached[lens] = self._memories(facts)
        return self._cached[lens]

    def _memories(self, facts: Iterable[StoredMemory]) -> _Memories:
        """Keyed by number, not by Mem0 id, because versions of one memory must stay distinct."""
        by_key = {str(fact.no): fact for fact in facts}
        traced = self._work.traced_rows([fact.no for fact in by_key.values()])
        known = (
            KnownMemory(key, fact.text, fact.turn_id, fact.chunk_id, traced[fact.no].union(fact.ids))
            for key, fact in by_key.items()
        )
        return MemoryIndex(known), by_key


def _dropped(fact: StoredMemory, lens: Lens) -> str:
    if fact.stale:
        return "stale"
    # The memory's own run, not its session's: a session may hold memories of several runs.
    return "run" if lens.run_filter is not None and fact.owners.get("run_id") != lens.run_filter else ""
