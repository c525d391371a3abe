"""Asks Mem0 and Spectron the same queries in random order and compares what they find.

Ranks are those that an application would see: hits of an older version or of a deleted memory are dropped before ranks
are counted, as the adapter drops them; every other hit keeps its rank, recognised or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from typing import Protocol

from spectron_migrate.errors import KeyRefused, MigrateError
from spectron_migrate.mapping import Lens, NotServable, ScopeMapping
from spectron_migrate.mem0.search import SearchHit
from spectron_migrate.parallel import for_each
from spectron_migrate.records import Json
from spectron_migrate.reporter import Reporter
from spectron_migrate.spectron.api import MAX_K, SpectronApi
from spectron_migrate.spectron.rows import Recall
from spectron_migrate.verify.differences import Difference, Explainer, SpectronRanks
from spectron_migrate.verify.judged_hits import HitJudge, JudgedHit
from spectron_migrate.verify.measures import ndcg_at_k, overlap_at_k, rbo_ext, reciprocal_rank, success_at_k
from spectron_migrate.verify.near_duplicates import NearDuplicates
from spectron_migrate.verify.options import SOURCE, Query
from spectron_migrate.verify.tables import text_mark
from spectron_migrate.verify.workspace import Workspace

MAX_FAILURES = 5
"""After this many queries in a row that Spectron did not answer, the test ends with the error."""


class Mem0Side(Protocol):
    """The source of Mem0's answers: its own search on a copy of the store, or saved answers."""

    def search(
        self, query: str, *, user_id: str | None, agent_id: str | None, run_id: str | None, top_k: int
    ) -> list[SearchHit]:
        """Best first, at most `top_k`; raises MigrateError if there is no answer."""

    def describe(self) -> str:
        """Version and embedder."""


@dataclass(frozen=True, slots=True)
class RankedAnswer:
    """One system's answer, in the form that is compared."""

    ranking: tuple[str, ...]
    """Mem0 ids by rank. A hit that is no memory, or a memory seen before, keeps its rank as `#` and the rank."""
    marks: tuple[str, ...]
    """`text_mark` of the memory at each of the first k ranks; empty if the hit is no memory."""
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
        duplicates: NearDuplicates,
        *,
        top_k: int,
        noise_queries: int,
        clock: Callable[[], float],
        rng: Random,
        reporter: Reporter,
    ) -> None:
        """`clock` is monotonic, in seconds. Without `mem0`, only Spectron is asked and nothing is compared."""
        self._work = work
        self._api = api
        self._mapping = mapping
        self._mem0 = mem0
        self._explainer = explainer
        self._duplicates = duplicates
        self._top_k = top_k
        self._noise_queries = noise_queries
        self._clock = clock
        self._rng = rng
        self._reporter = reporter
        self._asked_twice: frozenset[int] = frozenset()
        self._failures = 0
        self._hits = HitJudge(work)
        self.unknown: set[str] = set()
        """Ids that queries expect and that are in neither dump nor ledger."""

    async def run(self, queries: Sequence[Query], *, in_flight: int) -> None:
        """Ask all queries, in random order of owners and of each owner's queries.

        Chance decides which system is asked first. An owner's queries come one after the other, so that its memories
        are read once to judge the hits.
        """
        self._reporter.stage("recall", len(queries))
        order = list(range(len(queries)))
        self._rng.shuffle(order)
        first = {_owner(queries[number]): place for place, number in reversed(list(enumerate(order)))}
        order.sort(key=lambda number: first[_owner(queries[number])])
        jobs = [(number, queries[number], self._rng.random() < 0.5) for number in order]
        self._asked_twice = frozenset(self._rng.sample(order, min(self._noise_queries, len(order))))
        # All calls of Mem0 run in one thread: its objects are not known to be thread-safe.
        with ThreadPoolExecutor(1, thread_name_prefix="mem0") as thread:

            async def ask(job: tuple[int, Query, bool]) -> None:
                number, query, mem0_first = job
                if not self._work.is_answered(number):
                    self._work.answered(number, await self._compare(number, query, mem0_first, thread))
                self._reporter.advance(1)

            await for_each(jobs, ask, in_flight=in_flight)

    async def _compare(self, number: int, query: Query, mem0_first: bool, thread: ThreadPoolExecutor) -> Json:
        """One entry of the report's `answers`."""
        answer: dict[str, Json] = {
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
            return {**answer, "not_servable": f"{error.message} ({error.hint})" if error.hint else error.message}
        answer["scopes"] = sorted({path for clause in lens.selector for path in clause})
        mem0_hits: list[SearchHit] = []
        mem0: RankedAnswer | None = None
        if mem0_first:
            mem0, mem0_hits = await self._ask_mem0(query, thread)
        spectron, hits, ranks = await self._ask_spectron(query, lens)
        if not mem0_first:
            mem0, mem0_hits = await self._ask_mem0(query, thread)
        expect = self._expected(query)
        answer["mem0"] = _mem0_json(mem0, mem0_hits)
        answer["spectron"] = self._spectron_json(spectron, hits)
        answer["expect"] = sorted(expect)
        answer["measures"] = self._measures(expect, mem0, spectron)
        if mem0 is not None and mem0.error is None and number in self._asked_twice:
            again, _ = await self._ask_mem0(query, thread)
            answer["noise"] = _agreement(mem0, again, self._top_k)
        if spectron.error is None:
            differences = await self._differences(query, lens, expect, mem0, spectron, ranks)
            answer["differences"] = [difference.to_json() for difference in differences]
        answer["excused"] = await self._excused(query, answer["measures"])
        return answer

    # -- asking -------------------------------------------------------------------------------------------

    async def _ask_mem0(self, query: Query, thread: ThreadPoolExecutor) -> tuple[RankedAnswer | None, list[SearchHit]]:
        mem0 = self._mem0
        if mem0 is None:
            return None, []

        def search() -> tuple[list[SearchHit], float]:
            began = self._clock()  # inside the thread, so that waiting for the thread is not counted
            found = mem0.search(
                query.text, user_id=query.user_id, agent_id=query.agent_id, run_id=query.run_id, top_k=self._top_k
            )
            return found, (self._clock() - began) * 1000

        try:
            hits, ms = await asyncio.get_running_loop().run_in_executor(thread, search)
        except MigrateError as error:
            return RankedAnswer((), (), 0.0, error.message), []
        marks = dict(map(self._as_compared, hits))
        return RankedAnswer(tuple(marks), tuple(marks.values()), ms), hits

    def _as_compared(self, hit: SearchHit) -> tuple[str, str]:
        """Id and mark of a hit of Mem0, or of the message that contains it, because Spectron has only the message."""
        message = self._work.message_of(hit.id)
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
            if self._failures >= MAX_FAILURES:
                raise
            return RankedAnswer((), (), 0.0, error.message), [], SpectronRanks(Recall((), ""), {}, {})
        ms = (self._clock() - began) * 1000
        self._failures = 0
        self._work.sightings.see(recall.hits, lens.selector)
        hits = self._hits.judge(recall, lens)
        shown = [hit for hit in hits if not hit.dropped]
        ranking = _ranking(shown)
        ranks = {mem0_id: rank for rank, mem0_id in enumerate(ranking, 1) if not mem0_id.startswith("#")}
        shared = {hit.id: rank for rank, hit in enumerate(shown, 1) if hit.fact is None}
        marks = tuple(text_mark(hit.fact.text) if hit.fact is not None else "" for hit in shown[: self._top_k])
        return RankedAnswer(tuple(ranking), marks, ms), hits, SpectronRanks(recall, ranks, shared)

    # -- comparing ----------------------------------------------------------------------------------------

    def _expected(self, query: Query) -> frozenset[str]:
        """Correct answers: those that the query names, or its target with near-duplicates."""
        if query.expect or query.target is None:
            known = frozenset(
                self._holder(mem0_id) for mem0_id in query.expect if self._work.expected(mem0_id) is not None
            )
            if query.expect and not known:  # neither system can find them, so they are not compared
                self.unknown |= set(query.expect)
            return known
        fact = self._work.newest(query.target)
        duplicates = self._duplicates.of(fact) if fact is not None else ()
        return frozenset({query.target, *duplicates})

    def _holder(self, mem0_id: str) -> str:
        message = self._work.message_of(mem0_id)
        return mem0_id if message is None else message.mem0_id

    def _measures(self, expect: frozenset[str], mem0: RankedAnswer | None, spectron: RankedAnswer) -> dict[str, Json]:
        measures: dict[str, Json] = {}
        for side, answer in (("mem0", mem0), ("spectron", spectron)):
            if answer is not None and answer.error is None and expect:
                measures[side] = {
                    "success": success_at_k(answer.ranking, expect, self._top_k),
                    "reciprocal_rank": reciprocal_rank(answer.ranking[: self._top_k], expect),
                    "ndcg": ndcg_at_k(answer.ranking, expect, self._top_k),
                }
        if mem0 is not None and mem0.error is None and spectron.error is None:
            measures.update(_agreement(mem0, spectron, self._top_k))
        return measures

    async def _differences(
        self,
        query: Query,
        lens: Lens,
        expect: frozenset[str],
        mem0: RankedAnswer | None,
        spectron: RankedAnswer,
        ranks: SpectronRanks,
    ) -> list[Difference]:
        first = spectron.ranking[: self._top_k]
        by_mark = {mark: mem0_id for mem0_id, mark in zip(first, spectron.marks, strict=False) if mark}
        wanted = [mem0_id for mem0_id in (mem0.ranking[: self._top_k] if mem0 else ()) if mem0_id not in first]
        if query.target is not None and not expect & set(first) and query.target not in wanted:
            wanted.append(query.target)
        marks = dict(zip(mem0.ranking, mem0.marks, strict=True)) if mem0 else {}
        return [
            Difference(mem0_id, "folded", f"memory {by_mark[marks[mem0_id]]} has the same text and is among the hits")
            if marks.get(mem0_id) in by_mark
            else await self._explainer.why(query, lens.selector, mem0_id, ranks)
            for mem0_id in wanted
        ]

    async def _excused(self, query: Query, measures: dict[str, Json]) -> str | None:
        """Why the query is not compared: its memory was rightly superseded, so Spectron should not return it.

        This holds whichever system found the memory, because excusing only the failures of one would bias the
        comparison.
        """
        successes = {measures[side]["success"] for side in ("mem0", "spectron") if side in measures}
        if query.target is None or len(successes) < 2:
            return None
        return "superseded" if await self._explainer.is_superseded(query.target) else None

    def _spectron_json(self, answer: RankedAnswer, hits: Sequence[JudgedHit]) -> Json:
        """The first k hits that an application would see, and the dropped ones between them."""
        shown = 0
        kept = []
        for hit in hits:
            if shown >= self._top_k:
                break
            shown += not hit.dropped
            kept.append(
                {
                    "id": hit.id,
                    "text": hit.text,
                    "source": hit.source,
                    "memory": hit.fact.mem0_id if hit.fact else None,
                    "mark": text_mark(hit.fact.text) if hit.fact else "",
                    "note": hit.note,
                    "dropped": hit.dropped,
                }
            )
        return {"hits": kept, "ranking": list(answer.ranking[: self._top_k]), "ms": answer.ms, "error": answer.error}


def _owner(query: Query) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(query.ids.items()))


def _ranking(hits: Sequence[JudgedHit]) -> list[str]:
    """Mem0 ids by rank; a hit that is no memory, or a memory ranked before, keeps its rank as `#` and the rank."""
    seen: set[str] = set()
    ranking = []
    for rank, hit in enumerate(hits, 1):
        mem0_id = hit.fact.mem0_id if hit.fact is not None else None
        if mem0_id is None or mem0_id in seen:
            ranking.append(f"#{rank}")
        else:
            seen.add(mem0_id)
            ranking.append(mem0_id)
    return ranking


def _agreement(left: RankedAnswer, right: RankedAnswer | None, k: int) -> dict[str, Json]:
    """Overlap and RBO of two answers, by text. Equal texts count once; hits that are no memory do not count."""
    if right is None or right.error is not None:
        return {}
    first, second = ([mark for mark in dict.fromkeys(answer.marks[:k]) if mark] for answer in (left, right))
    return {"overlap": overlap_at_k(first, second, k), "rbo": rbo_ext(first, second)}


def _mem0_json(answer: RankedAnswer | None, hits: Sequence[SearchHit]) -> Json:
    if answer is None:
        return None
    rows = [{"id": hit.id, "text": hit.text, "mark": text_mark(hit.text)} for hit in hits]
    return {"hits": rows, "ranking": list(answer.ranking), "ms": answer.ms, "error": answer.error}
