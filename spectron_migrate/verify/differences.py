"""Finds out why a memory that Mem0 finds is not among Spectron's first hits. Reasons are looked up, never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from spectron_migrate.keywords import WordFrequencies
from spectron_migrate.mapping import covers
from spectron_migrate.records import Json, Selector
from spectron_migrate.spectron.api import MAX_K, SpectronApi
from spectron_migrate.spectron.rows import Recall
from spectron_migrate.verify.expiry import Expiry, expiry_of, expiry_of_facts
from spectron_migrate.verify.near_duplicates import NearDuplicates
from spectron_migrate.verify.options import Query
from spectron_migrate.verify.placement import is_among, search_for, wordings
from spectron_migrate.verify.stored_memory import StoredMemory
from spectron_migrate.verify.supersession import EntityHistories, Supersession
from spectron_migrate.verify.workspace import Workspace

DifferenceReason = Literal[
    "superseded",
    "superseded_wrongly",
    "folded",
    "extracted",
    "not_extracted",
    "expiring",
    "outside_lens",
    "ranked_lower",
    "pending",
    "skipped",
    "deleted",
    "lost",
    "unexplained",
]

AGAINST: tuple[DifferenceReason, ...] = ("lost", "unexplained", "superseded_wrongly")
"""The only reasons that count against Spectron."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A memory that Mem0 found, or that was expected, and that is not among Spectron's first hits."""

    mem0_id: str
    why: DifferenceReason
    detail: str = ""
    """Never contains the text of a memory."""
    rank: int | None = None
    """Its rank (from 1) in Spectron's whole answer."""
    texts: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """The form in the JSON report, texts included."""
        return {
            "id": self.mem0_id,
            "why": self.why,
            "detail": self.detail,
            "rank": self.rank,
            "texts": dict(self.texts),
        }


@dataclass(frozen=True, slots=True)
class SpectronRanks:
    """Ranks (from 1) in Spectron's whole answer, beyond the first k."""

    answer: Recall
    """With near-duplicates included."""

    ranks: Mapping[str, int]
    """Mem0 id -> rank."""
    shared: Mapping[str, int]
    """Attribute id -> rank, for hits that were made from several memories."""


class Explainer:
    """Finds the reason for a difference, and asks the server only if nothing else shows it."""

    def __init__(
        self,
        work: Workspace,
        api: SpectronApi,
        histories: EntityHistories,
        duplicates: NearDuplicates,
        *,
        now: datetime,
    ) -> None:
        """`now`: the time by which memories count as expired."""
        self._work = work
        self._api = api
        self._histories = histories
        self._duplicates = duplicates
        self._now = now
        self._frequencies: tuple[int, WordFrequencies] | None = None

    async def why(self, query: Query, lens: Selector, mem0_id: str, ranked: SpectronRanks) -> Difference:
        """Why this memory is not among Spectron's first hits."""
        fact = self._work.newest(mem0_id)
        unsent = self._unsent(mem0_id, fact)
        if unsent is not None:
            return unsent
        assert fact is not None  # noqa: S101 - `_unsent` covers memories that are not stored
        if query.run_id is not None and len(query.ids) > 1 and fact.run != query.run_id:
            return Difference(mem0_id, "outside_lens", f"it was written without run {query.run_id}")
        if not covers(lens, fact.selector):
            return Difference(mem0_id, "outside_lens", "the query's lens does not cover its scope")
        rank = ranked.ranks.get(mem0_id)
        supersession = await self._histories.superseding(fact)
        if supersession is not None:
            return _superseded(fact, supersession, rank)
        return await self._expiring(fact, _ranked_lower(fact, ranked) or await self._ask(ranked.answer, fact))

    async def is_superseded(self, mem0_id: str) -> bool:
        """Whether a newer memory's fact superseded this one's, as it should."""
        fact = self._work.newest(mem0_id)
        if fact is None:
            return False
        supersession = await self._histories.superseding(fact)
        return supersession is not None and supersession.is_right(fact)

    def _unsent(self, mem0_id: str, fact: StoredMemory | None) -> Difference | None:
        expected = self._work.expected(mem0_id)
        if expected is None:
            return Difference(
                mem0_id, "pending", "it is in neither dump nor ledger: was it written to Mem0 after the export?"
            )
        kind, reason = expected
        if kind == "pending":
            return Difference(mem0_id, "pending", reason)
        if kind == "skipped":
            return Difference(mem0_id, "skipped", reason)
        if kind == "gone":
            return Difference(mem0_id, "deleted", reason)
        if kind == "missing" or fact is None:
            return Difference(mem0_id, "lost", reason)
        return None

    async def _ask(self, recall: Recall, fact: StoredMemory) -> Difference:
        if recall.tier != "cache" and is_among(self._work, fact, recall.hits):
            duplicates = self._duplicates.of(fact)
            detail = (
                f"its passage is folded into that of memory {duplicates[0]}" if duplicates else "as a near-duplicate"
            )
            return Difference(fact.mem0_id, "folded", detail, texts={"folded": fact.text})
        for wording in wordings(fact, self._frequencies_in(fact.scope).rarest(fact.text)):
            if (await search_for(self._work, self._api, fact, fact.selector, wording))[0] == "present":
                if fact.state == "stored_not_extracted":
                    return Difference(
                        fact.mem0_id, "not_extracted", "its text is stored, but no fact was extracted from it"
                    )
                return Difference(fact.mem0_id, "ranked_lower", f"below rank {MAX_K}")
        return Difference(fact.mem0_id, "lost", "its own words do not find it", texts={"written": fact.text})

    def _frequencies_in(self, scope: int) -> WordFrequencies:
        if self._frequencies is None or self._frequencies[0] != scope:
            self._frequencies = (scope, WordFrequencies(self._work.texts_of(scope)))
        return self._frequencies[1]

    async def _expiring(self, fact: StoredMemory, found: Difference) -> Difference:
        """Expiry explains more than a rank does. A lost memory is explained only by an expiry in the past."""
        expiry = expiry_of(fact, self._now)
        if found.why == "lost":
            return replace(found, why="expiring", detail=str(expiry)) if expiry is not None and expiry.over else found
        if found.why not in ("ranked_lower", "extracted", "not_extracted"):
            return found
        if expiry is None:
            values, has_disappeared = await self._histories.values_of(fact)
            expiry = expiry_of_facts(fact, values, self._now)
            if expiry is None and has_disappeared:
                expiry = Expiry("its fact", None, over=True, seen=False)
        return found if expiry is None else replace(found, why="expiring", detail=f"{expiry}; {found.detail}")


def _ranked_lower(fact: StoredMemory, ranked: SpectronRanks) -> Difference | None:
    rank = ranked.ranks.get(fact.mem0_id)
    if rank is not None:
        return Difference(fact.mem0_id, "ranked_lower", f"at rank {rank}", rank)
    fact_rank = min((rank for row_id, rank in ranked.shared.items() if row_id in fact.ids), default=None)
    if fact_rank is not None:
        return Difference(fact.mem0_id, "extracted", f"its fact is at rank {fact_rank}", fact_rank)
    return None


def _superseded(fact: StoredMemory, supersession: Supersession, rank: int | None) -> Difference:
    newer = supersession.by
    why: DifferenceReason = "superseded" if supersession.is_right(fact) else "superseded_wrongly"
    at = f"; its text is at rank {rank}" if rank is not None else ""
    return Difference(
        fact.mem0_id,
        why,
        f"by memory {newer.mem0_id} of {newer.text_at}; it is of {fact.text_at} itself{at}",
        rank,
        {"was": fact.text, "is": newer.text, "was_at": fact.text_at or "", "is_at": newer.text_at or ""},
    )
