"""DifferenceReason does an answer of Mem0's not stand among Spectron's: looked up, never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from spectron_migrate.mapping import covers
from spectron_migrate.records import Json, Selector
from spectron_migrate.spectron.api import MAX_K, Recall, SpectronApi
from spectron_migrate.verify.expiry import Expiry, expiry_of, expiry_of_facts
from spectron_migrate.verify.keywords import WordFrequencies
from spectron_migrate.verify.near_duplicates import NearDuplicates
from spectron_migrate.verify.options import Query
from spectron_migrate.verify.placement import SOURCE, found_in, is_among, wordings
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
"""Only these speak against going over."""
OPEN: tuple[DifferenceReason, ...] = ("pending",)
"""These say that Mem0 moved on since: nothing is proven until replay did too."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A memory that Mem0 answered with, or that was to be found, and Spectron did not put among the first."""

    mem0_id: str
    why: DifferenceReason
    detail: str = ""
    """Never the text of a memory."""
    rank: int | None = None
    texts: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """With its texts: reports that must not have them take them out."""
        return {
            "id": self.mem0_id,
            "why": self.why,
            "detail": self.detail,
            "rank": self.rank,
            "texts": dict(self.texts),
        }


@dataclass(frozen=True, slots=True)
class SpectronRanks:
    """Where Spectron's whole answer, beyond the first k, has which memory."""

    ranks: Mapping[str, int]
    """From 1."""
    shared: Mapping[str, int]
    """Attribute id -> rank, of rows that several memories made."""


class Explainer:
    """Looks for the reason of one difference after the other."""

    def __init__(
        self, work: Workspace, api: SpectronApi, histories: EntityHistories, twins: NearDuplicates, *, now: datetime
    ) -> None:
        """Asks the server only what it needs; what expires does so beside `now`."""
        self._work = work
        self._api = api
        self._histories = histories
        self._twins = twins
        self._now = now
        self._shown: tuple[Query, Recall] | None = None
        self._rarity: tuple[int, WordFrequencies] | None = None

    async def why(self, query: Query, lens: Selector, mem0_id: str, ranked: SpectronRanks) -> Difference:
        """The reason why this memory is not among Spectron's first."""
        fact = self._work.newest(mem0_id)
        known = self._known(mem0_id, fact)
        if known is not None:
            return known
        assert fact is not None  # noqa: S101 - `_known` answers for memories that are not stored
        if query.run_id is not None and len(query.ids) > 1 and fact.run != query.run_id:
            return Difference(mem0_id, "outside_lens", f"it was written without run {query.run_id}")
        if not covers(lens, fact.selector):
            return Difference(mem0_id, "outside_lens", "the filter's lens does not cover its scope")
        rank = ranked.ranks.get(mem0_id)
        gone = await self._histories.superseding(fact)
        if gone is not None:
            return _superseded(fact, gone, rank)
        return await self._expiring(fact, _ranked_lower(fact, ranked) or await self._ask(query, lens, fact))

    async def is_superseded(self, mem0_id: str) -> bool:
        """Whether a newer memory's fact took the place of this one's, as it should."""
        fact = self._work.newest(mem0_id)
        gone = await self._histories.superseding(fact) if fact is not None else None
        return fact is not None and gone is not None and gone.rightly(fact)

    def _known(self, mem0_id: str, fact: StoredMemory | None) -> Difference | None:
        expected = self._work.expected(mem0_id)
        if expected is None:
            return Difference(mem0_id, "pending", "neither dump nor ledger knows it: written to Mem0 since the export?")
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

    async def _ask(self, query: Query, lens: Selector, fact: StoredMemory) -> Difference:
        shown = await self._with_duplicates(query, lens)
        if shown.tier != "cache" and is_among(self._work, fact, shown.hits):
            twins = self._twins.of(fact)
            detail = f"its passage is hidden behind that of memory {twins[0]}" if twins else "as a near-duplicate"
            return Difference(fact.mem0_id, "folded", detail, texts={"folded": fact.text})
        for wording in wordings(fact, self._rarity_in(fact.scope).rarest(fact.text)):
            if (await found_in(self._work, self._api, fact, fact.selector, wording))[0] == "present":
                if fact.state == "stored_not_extracted":
                    return Difference(fact.mem0_id, "not_extracted", "only its text is there, no fact was made of it")
                return Difference(fact.mem0_id, "ranked_lower", f"below rank {MAX_K}")
        return Difference(fact.mem0_id, "lost", "its own words do not find it", texts={"written": fact.text})

    async def _with_duplicates(self, query: Query, lens: Selector) -> Recall:
        """The answer with what was folded away; several differences of a query are looked for in the same one."""
        if self._shown is None or self._shown[0] is not query:
            found = await self._api.query(query.text, lens=lens, k=MAX_K, include_duplicates=True, source=SOURCE)
            self._shown = (query, found)
        return self._shown[1]

    def _rarity_in(self, scope: int) -> WordFrequencies:
        if self._rarity is None or self._rarity[0] != scope:
            self._rarity = (scope, WordFrequencies(self._work.texts_of(scope)))
        return self._rarity[1]

    async def _expiring(self, fact: StoredMemory, found: Difference) -> Difference:
        """That a memory or its facts do not stay says more than its rank; of a lost text, only that it is over."""
        expiry = expiry_of(fact, self._now)
        if found.why == "lost":
            return replace(found, why="expiring", detail=str(expiry)) if expiry is not None and expiry.over else found
        if found.why not in ("ranked_lower", "extracted", "not_extracted"):
            return found
        if expiry is None:
            values, gone = await self._histories.made_of(fact)
            expiry = expiry_of_facts(fact, values, self._now)
            if expiry is None and gone:
                expiry = Expiry("its fact", None, over=True, seen=False)
        return found if expiry is None else replace(found, why="expiring", detail=f"{expiry}; {found.detail}")


def _ranked_lower(fact: StoredMemory, ranked: SpectronRanks) -> Difference | None:
    rank = ranked.ranks.get(fact.mem0_id)
    if rank is not None:
        return Difference(fact.mem0_id, "ranked_lower", f"at rank {rank}", rank)
    through = min((rank for row, rank in ranked.shared.items() if row in fact.ids), default=None)
    if through is not None:
        return Difference(fact.mem0_id, "extracted", f"its fact stands at rank {through}", through)
    return None


def _superseded(fact: StoredMemory, gone: Supersession, rank: int | None) -> Difference:
    why: DifferenceReason = "superseded" if gone.rightly(fact) else "superseded_wrongly"
    at = f", its text at rank {rank}" if rank is not None else ""
    return Difference(
        fact.mem0_id,
        why,
        f"by memory {gone.by.mem0_id} of {gone.by.text_at}, itself of {fact.text_at}{at}",
        rank,
        {"was": fact.text, "is": gone.by.text, "was_at": fact.text_at or "", "is_at": gone.by.text_at or ""},
    )
