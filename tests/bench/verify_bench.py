"""What dual-verify itself costs beside the answers that it waits for, and how much memory it takes.

Usage: python -m tests.bench.verify_bench [--memories 5000] [--users 100] [--queries 400]

Recall is asked one query after the other, so that the time spent waiting for answers can be taken from the time
of the stage; what is left is ours.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spectron_migrate.dump import open_any
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import running_server
from spectron_migrate.mapping import load_mapping
from spectron_migrate.mem0.search import SearchHit
from spectron_migrate.records import NullReporter
from spectron_migrate.spectron.api import Recall, SpectronApi
from spectron_migrate.verify.model import VerifyOptions
from spectron_migrate.verify.run import VerifySummary, run_verify
from tests.support.spectron import memory, replay, write_raw
from tests.verify.test_recall import PLAIN, WordSearch


class TimedApi(SpectronApi):
    """Keeps how long queries took to be answered."""

    waited = 0.0

    async def query(self, query: str, **named: Any) -> Recall:
        began = time.perf_counter()
        try:
            return await super().query(query, **named)
        finally:
            self.waited += time.perf_counter() - began


class TimedSearch(WordSearch):
    """Keeps how long Mem0's stand-in took."""

    waited = 0.0

    def search(self, query: str, **named: Any) -> list[SearchHit]:
        began = time.perf_counter()
        try:
            return super().search(query, **named)
        finally:
            self.waited += time.perf_counter() - began


class Stages(NullReporter):
    """When each stage began, and how long had been waited by then."""

    def __init__(self, api: TimedApi, mem0: TimedSearch) -> None:
        super().__init__()
        self.api, self.mem0 = api, mem0
        self.seen: list[tuple[str, float, float]] = []

    def stage(self, name: str, total: int | None = None) -> None:
        self.seen.append((name, time.perf_counter(), self.api.waited + self.mem0.waited))


def rows(memories: int, users: int) -> list[dict[str, Any]]:
    chosen = random.Random(1)
    vocabulary = [f"word{number}" for number in range(3000)]
    return [
        {
            **memory(number // users, f"u{number % users}", " ".join(chosen.choices(vocabulary, k=12))),
            "id": f"m{number}",
        }
        for number in range(memories)
    ]


async def measure(
    server: Any, folder: Path, dump: Path, held: Sequence[dict[str, Any]], queries: int
) -> tuple[VerifySummary, Stages]:
    mem0 = TimedSearch(held)
    async with TimedApi(server.base_url, server.context, api_key=server.api_key) as api:
        stages = Stages(api, mem0)
        with open_any([dump]) as opened, Ledger.open_for_reading(folder / "state") as ledger:
            summary = await run_verify(
                ledger=ledger,
                api=api,
                dump=opened,
                mapping=load_mapping(folder / "mapping.yaml"),
                mem0_search=mem0,
                options=VerifyOptions(sample=queries, in_flight=1, noise_queries=0, placement_sample=queries),
                reporter=stages,
            )
        stages.stage("end")
    return summary, stages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memories", type=int, default=5000)
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--queries", type=int, default=400)
    asked = parser.parse_args()
    held = rows(asked.memories, asked.users)
    with tempfile.TemporaryDirectory() as name, running_server(Path(name) / "spectron", extraction=False) as server:
        folder = Path(name)
        (folder / "mapping.yaml").write_text(PLAIN)
        dump = write_raw(folder / "all.json", held)
        replay(server, folder / "state", [dump], mapping=folder / "mapping.yaml")
        summary, stages = asyncio.run(measure(server, folder, dump, held, asked.queries))
    print(f"{summary.verdict}: {asked.memories} memories of {asked.users} users, {asked.queries} queries")
    for (stage, began, waited), (_, ended, waited_then) in zip(stages.seen, stages.seen[1:], strict=False):
        print(f"  {stage:28} {ended - began:8.2f} s, of which {waited_then - waited:8.2f} s waiting for answers")
    (began, waited), (ended, then) = next(
        ((one[1], one[2]), (after[1], after[2]))
        for one, after in zip(stages.seen, stages.seen[1:], strict=False)
        if one[0] == "recall"
    )
    ours = (ended - began - (then - waited)) / asked.queries * 1000
    answers = (then - waited) / asked.queries * 1000
    print(f"  a query: {answers:.2f} ms for both answers, {ours:.2f} ms ours ({ours / answers:.1%});")
    print(f"  beside a hosted service that answers in 150 ms that is {ours / 150:.1%}")
    print(f"  peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB")


if __name__ == "__main__":
    main()
