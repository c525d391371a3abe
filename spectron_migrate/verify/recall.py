"""The same questions to both systems, in random order, and what each finds.

Ranks are those of the rows an application is given: a row of an old text or of a deleted memory is dropped, as the
adapter drops it, before ranks are counted; every other row keeps its place, whether it is recognised or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from typing import Protocol

from spectron_migrate.errors import KeyRefused, MigrateError
from spectron_migrate.judge import Candidates, Hit, Ignored, Known, Matched, judge
from spectron_migrate.mapping import Lens, NotServable, ScopeMapping, covers
from spectron_migrate.mem0.search import SearchHit
from spectron_migrate.records import Json, Reporter, Selector
from spectron_migrate.spectron.api import MAX_K, Recall, SpectronApi
from spectron_migrate.verify.differences import Difference, Explainer, SpectronRanks
from spectron_migrate.verify.measures import ndcg_at_k, overlap_at_k, rbo_ext, reciprocal_rank, success_at_k
from spectron_migrate.verify.near_duplicates import NearDuplicates
from spectron_migrate.verify.options import Query
from spectron_migrate.verify.parallel import for_each
from spectron_migrate.verify.placement import SOURCE
from spectron_migrate.verify.stored_memory import StoredMemory
from spectron_migrate.verify.tables import text_mark
from spectron_migrate.verify.workspace import Workspace

FAILURES = 5
"""So many questions in a row without an answer of Spectron's, and asking ends."""
_WHOLE_LENS = 5000
"""Up to so many memories a lens, hits are compared with all of them; above, only with those that ids or texts name."""


_KEPT = 20_000
"""Memories that are kept ready for the next question."""

_Known = tuple[Candidates, dict[str, StoredMemory]]


class Mem0Side(Protocol):
    """Who answers for Mem0: its own search on a copy, or a saved run."""

    def search(
        self, query: str, *, user_id: str | None, agent_id: str | None, run_id: str | None, top_k: int
    ) -> list[SearchHit]:
        """Best first, at most `top_k`; raises MigrateError where there is no answer."""

    def describe(self) -> str:
        """Version and embedder."""


@dataclass(frozen=True, slots=True)
class JudgedHit:
    """One row of Spectron's answer, judged."""

    id: str
    text: str
    source: str
    fact: StoredMemory | None
    note: str
    """How it was recognised, or why it says nothing."""
    dropped: str
    """`stale` or `run` where the application is not shown it; else empty."""


@dataclass(frozen=True, slots=True)
class RankedAnswer:
    """One system's answer."""

    ranking: tuple[str, ...]
    """Memory ids by rank; a row that is no (new) memory holds its rank as `#` and its number."""
    said: tuple[str, ...]
    """For each of the first k ranks what tells the memory's text from others, empty where the row is no memory."""
    ms: float
    error: str | None = None


class RecallTest:
    """Asks and compares; every answer goes into the workspace."""

    def __init__(
        self,
        work: Workspace,
        api: SpectronApi,
        mapping: ScopeMapping,
        mem0: Mem0Side | None,
        explainer: Explainer,
        twins: NearDuplicates,
        *,
        top_k: int,
        noise_queries: int,
        clock: Callable[[], float],
        rng: Random,
        reporter: Reporter,
    ) -> None:
        """`clock` in seconds, monotonic; without `mem0`, Spectron is asked alone and nothing is compared."""
        self._work = work
        self._api = api
        self._mapping = mapping
        self._mem0 = mem0
        self._explainer = explainer
        self._twins = twins
        self._top_k = top_k
        self._noise_queries = noise_queries
        self._clock = clock
        self._rng = rng
        self._reporter = reporter
        self._twice: frozenset[int] = frozenset()
        self._failures = 0
        self.unknown: set[str] = set()
        """Ids that queries expect and nobody knows."""
        self._candidates: dict[Selector, _Known] = {}
        self._wide: set[Selector] = set()

    async def run(self, queries: Sequence[Query], *, in_flight: int) -> None:
        """Ask all of them, in an order and with a first system that chance decides."""
        self._reporter.stage("recall", len(queries))
        order = list(range(len(queries)))
        self._rng.shuffle(order)
        jobs = [(number, queries[number], self._rng.random() < 0.5) for number in order]
        self._twice = frozenset(self._rng.sample(order, min(self._noise_queries, len(order))))
        # Mem0 is one object for one thread; its own concurrency is not ours to try.
        with ThreadPoolExecutor(1, thread_name_prefix="mem0") as thread:

            async def ask(job: tuple[int, Query, bool]) -> None:
                number, query, mem0_first = job
                if not self._work.is_answered(number):
                    told = await self._compare(number, query, mem0_first, thread)
                    self._work.answered(number, told)
                self._reporter.advance(1)

            await for_each(jobs, ask, in_flight=in_flight)

    async def _compare(self, number: int, query: Query, mem0_first: bool, thread: ThreadPoolExecutor) -> Json:
        told: dict[str, Json] = {
            "no": number,
            "query": query.text,
            "ids": query.ids,
            "owner": query.owner,
            "target": query.target,
            "order": "mem0 first" if mem0_first else "spectron first",
        }
        try:
            lens = self._mapping.lens(**query.ids)
        except NotServable as error:
            return {**told, "not_servable": f"{error.message} ({error.hint})" if error.hint else error.message}
        hits: list[SearchHit] = []
        left: RankedAnswer | None = None
        if mem0_first:
            left, hits = await self._ask_mem0(query, thread)
        right, rows, ranked = await self._ask_spectron(query, lens)
        if not mem0_first:
            left, hits = await self._ask_mem0(query, thread)
        told["mem0"] = _mem0_told(left, hits)
        told["spectron"] = self._spectron_told(right, rows)
        expect = self._expected(query)
        told["expect"] = sorted(expect)
        told["measures"] = self._measure(expect, left, right)
        if left is not None and left.error is None and number in self._twice:
            again, _ = await self._ask_mem0(query, thread)
            told["noise"] = _agreement(left, again, self._top_k)
        if right.error is None:
            told["differences"] = [
                one.to_json() for one in await self._differences(query, lens, expect, left, right, ranked)
            ]
        told["excused"] = await self._excused(query, told["measures"])
        return told

    # -- asking -------------------------------------------------------------------------------------------

    async def _ask_mem0(self, query: Query, thread: ThreadPoolExecutor) -> tuple[RankedAnswer | None, list[SearchHit]]:
        mem0 = self._mem0
        if mem0 is None:
            return None, []

        def search() -> tuple[list[SearchHit], float]:
            began = self._clock()  # here, so that waiting for the thread is not Mem0's time
            found = mem0.search(
                query.text, user_id=query.user_id, agent_id=query.agent_id, run_id=query.run_id, top_k=self._top_k
            )
            return found, (self._clock() - began) * 1000

        try:
            hits, ms = await asyncio.get_running_loop().run_in_executor(thread, search)
        except MigrateError as error:
            return RankedAnswer((), (), 0.0, error.message), []
        known = dict(map(self._as_compared, hits))
        return RankedAnswer(tuple(known), tuple(known.values()), ms), hits

    def _as_compared(self, hit: SearchHit) -> tuple[str, str]:
        """Which memory Mem0 gave, and what tells its text; Spectron can only be asked for the message that holds it."""
        message = self._work.standing_for(hit.id)
        return (hit.id, text_mark(hit.text)) if message is None else (message.mem0_id, text_mark(message.text))

    async def _ask_spectron(self, query: Query, lens: Lens) -> tuple[RankedAnswer, list[JudgedHit], SpectronRanks]:
        began = self._clock()
        try:
            recall = await self._api.query(
                query.text, lens=lens.selector, k=MAX_K, include_duplicates=True, source=SOURCE
            )
        except KeyRefused:
            raise
        except MigrateError as error:
            self._failures += 1
            if self._failures >= FAILURES:
                raise
            return RankedAnswer((), (), 0.0, error.message), [], SpectronRanks({}, {})
        ms = (self._clock() - began) * 1000
        self._failures = 0
        rows = self._judge(recall, lens)
        shown = [row for row in rows if not row.dropped]
        ranking = _ranking(shown)
        ranks = {name: place for place, name in enumerate(ranking, 1) if not name.startswith("#")}
        shared = {row.id: place for place, row in enumerate(shown, 1) if row.fact is None}
        said = tuple(text_mark(row.fact.text) if row.fact is not None else "" for row in shown[: self._top_k])
        return RankedAnswer(tuple(ranking), said, ms), rows, SpectronRanks(ranks, shared)

    def _judge(self, recall: Recall, lens: Lens) -> list[JudgedHit]:
        known, facts = self._known_in(lens.selector, recall)
        rows = []
        for hit in recall.hits:
            verdict = judge(Hit(hit.id, hit.text, hit.source), known)
            if isinstance(verdict, Matched):
                fact = facts[verdict.mem0_id]
                rows.append(JudgedHit(hit.id, hit.text, hit.source, fact, verdict.by, _dropped(fact, lens)))
            else:
                note = verdict.reason if isinstance(verdict, Ignored) else "not recognised"
                rows.append(JudgedHit(hit.id, hit.text, hit.source, None, note, ""))
        return rows

    def _known_in(self, lens: Selector, recall: Recall) -> _Known:
        """Everything that the lens covers, or, where that is much, what the rows' ids and texts name of it."""
        kept = self._candidates.get(lens)
        if kept is not None:
            return kept
        if lens in self._wide:
            return self._known_of(lens, recall)
        facts: list[StoredMemory] = []
        for scope, _ in self._work.scopes_covered(lens):
            facts += self._work.facts_of(scope, limit=_WHOLE_LENS + 1 - len(facts))
            if len(facts) > _WHOLE_LENS:
                self._wide.add(lens)
                return self._known_of(lens, recall)
        while self._candidates and sum(len(one[1]) for one in self._candidates.values()) > _KEPT:
            self._candidates.pop(next(iter(self._candidates)))
        self._candidates[lens] = _known(facts)
        return self._candidates[lens]

    def _known_of(self, lens: Selector, recall: Recall) -> _Known:
        work = self._work
        named = [fact for hit in recall.hits for fact in (*work.owners_of(hit.id), *work.with_text(hit.text))]
        return _known([fact for fact in named if covers(lens, fact.selector)])

    # -- comparing ----------------------------------------------------------------------------------------

    def _expected(self, query: Query) -> frozenset[str]:
        """What answers the query: what the file says, or the memory it was made of and those that say the same."""
        if query.expect or query.target is None:
            known = frozenset(self._holder(each) for each in query.expect if self._work.expected(each) is not None)
            if query.expect and not known:  # neither system could find it: a tie that says nothing
                self.unknown |= set(query.expect)
            return known
        fact = self._work.newest(query.target)
        twins = self._twins.of(fact) if fact is not None else ()
        return frozenset({query.target, *twins})

    def _holder(self, mem0_id: str) -> str:
        message = self._work.standing_for(mem0_id)
        return mem0_id if message is None else message.mem0_id

    def _measure(self, expect: frozenset[str], left: RankedAnswer | None, right: RankedAnswer) -> dict[str, Json]:
        sides = {"mem0": left, "spectron": right}
        told: dict[str, Json] = {}
        for name, side in sides.items():
            if side is not None and side.error is None and expect:
                told[name] = {
                    "success": success_at_k(side.ranking, expect, self._top_k),
                    "reciprocal_rank": reciprocal_rank(side.ranking[: self._top_k], expect),
                    "ndcg": ndcg_at_k(side.ranking, expect, self._top_k),
                }
        if left is not None and left.error is None and right.error is None:
            told.update(_agreement(left, right, self._top_k))
        return told

    async def _differences(
        self,
        query: Query,
        lens: Lens,
        expect: frozenset[str],
        left: RankedAnswer | None,
        right: RankedAnswer,
        ranked: SpectronRanks,
    ) -> list[Difference]:
        first = set(right.ranking[: self._top_k])
        shown = {mark: name for name, mark in zip(right.ranking[: self._top_k], right.said, strict=False) if mark}
        wanted = [name for name in (left.ranking[: self._top_k] if left else ()) if name not in first]
        if query.target is not None and not expect & first and query.target not in wanted:
            wanted.append(query.target)
        marks = dict(zip(left.ranking, left.said, strict=True)) if left else {}
        return [
            Difference(mem0_id, "folded", f"memory {shown[marks[mem0_id]]} says the same and is there")
            if marks.get(mem0_id) in shown
            else await self._explainer.why(query, lens.selector, mem0_id, ranked)
            for mem0_id in wanted
        ]

    async def _excused(self, query: Query, measures: dict[str, Json]) -> str | None:
        """A query for a memory that was rightly superseded asks for what Spectron is not to answer any more.

        Whichever system found it: an excuse for one side's failures alone would tilt the comparison.
        """
        found = [measures[side]["success"] for side in ("mem0", "spectron") if side in measures]
        if query.target is None or len(set(found)) < 2:
            return None
        return "superseded" if await self._explainer.is_superseded(query.target) else None

    def _spectron_told(self, side: RankedAnswer, rows: Sequence[JudgedHit]) -> Json:
        """The rows that count, and those that were dropped among them; not all that were asked for."""
        shown = 0
        kept = []
        for row in rows:
            if shown >= self._top_k:
                break
            shown += not row.dropped
            kept.append(
                {
                    "id": row.id,
                    "text": row.text,
                    "source": row.source,
                    "memory": row.fact.mem0_id if row.fact else None,
                    "mark": text_mark(row.fact.text) if row.fact else "",
                    "note": row.note,
                    "dropped": row.dropped,
                }
            )
        return {"hits": kept, "ranking": list(side.ranking[: self._top_k]), "ms": side.ms, "error": side.error}


def _known(facts: Iterable[StoredMemory]) -> _Known:
    """By number, not by Mem0 id: an old text of a memory is told from its new one."""
    by_number = {str(fact.no): fact for fact in facts}
    rows = (
        Known(number, fact.text, fact.turn_id, fact.chunk_id, frozenset(fact.ids)) for number, fact in by_number.items()
    )
    return Candidates(rows), by_number


def _dropped(fact: StoredMemory, lens: Lens) -> str:
    if fact.stale:
        return "stale"
    # The memory's own run, not its session's: sessions need not be made by run.
    return "run" if lens.run_filter is not None and fact.owners.get("run_id") != lens.run_filter else ""


def _ranking(rows: Sequence[JudgedHit]) -> list[str]:
    """Ids by rank. Where several memories have one text, each further row of it counts as the next of them."""
    seen: set[str] = set()
    ranking = []
    for place, row in enumerate(rows, 1):
        name = row.fact.mem0_id if row.fact is not None else None
        if name is None or name in seen:
            ranking.append(f"#{place}")
        else:
            seen.add(name)
            ranking.append(name)
    return ranking


def _agreement(left: RankedAnswer, right: RankedAnswer | None, k: int) -> dict[str, Json]:
    """How far two answers say the same; equal texts say the same, and rows that are no memory say nothing."""
    if right is None or right.error is not None:
        return {}
    first, second = ([mark for mark in dict.fromkeys(side.said[:k]) if mark] for side in (left, right))
    return {"overlap": overlap_at_k(first, second, k), "rbo": rbo_ext(first, second)}


def _mem0_told(side: RankedAnswer | None, hits: Sequence[SearchHit]) -> Json:
    if side is None:
        return None
    rows = [{"id": hit.id, "text": hit.text, "mark": text_mark(hit.text)} for hit in hits]
    return {"hits": rows, "ranking": list(side.ranking), "ms": side.ms, "error": side.error}
