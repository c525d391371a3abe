"""Which memory each hit of Spectron is, and whether an application would be shown it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from spectron_migrate.judge import Ignored, KnownMemory, Matched, MemoryIndex, judge_hit
from spectron_migrate.mapping import Lens, covers
from spectron_migrate.records import Selector
from spectron_migrate.spectron.rows import Recall
from spectron_migrate.verify.stored_memory import StoredMemory
from spectron_migrate.verify.workspace import Workspace

_WHOLE_LENS = 5000
"""Hits are compared with all memories of a lens up to this number; beyond it only with those that ids or texts name."""
_CACHED = 20_000
"""Memories that are kept for the next query."""

_Memories = tuple[MemoryIndex, dict[str, StoredMemory]]
"""Memories to compare hits with, and each by its key in the candidates."""


@dataclass(frozen=True, slots=True)
class JudgedHit:
    """One hit of Spectron's answer and the memory that it is."""

    id: str
    text: str
    source: str
    fact: StoredMemory | None
    note: str
    """How the memory was recognised, or why the hit is none."""
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
        candidates, facts = self._memories_in(lens.selector, recall)
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

    def _memories_in(self, lens: Selector, recall: Recall) -> _Memories:
        """All memories that the lens covers; if they are too many, those that ids and texts of the hits name."""
        cached = self._cached.get(lens)
        if cached is not None:
            return cached
        if lens in self._too_large:
            return self._named_by(recall, lens)
        facts: list[StoredMemory] = []
        for scope, _ in self._work.scopes_covered(lens):
            facts += self._work.facts_of(scope, limit=_WHOLE_LENS + 1 - len(facts))
            if len(facts) > _WHOLE_LENS:
                self._too_large.add(lens)
                return self._named_by(recall, lens)
        while self._cached and sum(len(by_key) for _, by_key in self._cached.values()) > _CACHED:
            self._cached.pop(next(iter(self._cached)))
        self._cached[lens] = self._memories(facts)
        return self._cached[lens]

    def _named_by(self, recall: Recall, lens: Selector) -> _Memories:
        work = self._work
        named = [
            fact
            for hit in recall.hits
            for fact in (*work.owners_of(hit.turn_id or ""), *work.owners_of(hit.id), *work.with_text(hit.text))
        ]
        return self._memories(fact for fact in named if covers(lens, fact.selector))

    def _memories(self, facts: Iterable[StoredMemory]) -> _Memories:
        """Keyed by number, not by Mem0 id: versions of one memory must stay distinct."""
        by_key = {str(fact.no): fact for fact in facts}
        known = (
            KnownMemory(
                key, fact.text, fact.turn_id, fact.chunk_id, frozenset(fact.ids) | self._work.traced_rows(fact.no)
            )
            for key, fact in by_key.items()
        )
        return MemoryIndex(known), by_key


def _dropped(fact: StoredMemory, lens: Lens) -> str:
    if fact.stale:
        return "stale"
    # The memory's own run, not its session's: a session may hold memories of several runs.
    return "run" if lens.run_filter is not None and fact.owners.get("run_id") != lens.run_filter else ""
