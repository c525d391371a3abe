"""The cost of dual-verify without the answers that it waits for, and its peak memory.

Usage: python -m tests.bench.verify_bench [--memories 5000] [--users 100] [--queries 400]

Recall asks one query after the other, so that the time spent waiting for answers can be subtracted from the time of
the stage; the rest is ours. On a busy machine part of that is waiting for a processor, so processor time is printed
too. Verification runs in a process of its own, whose memory is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from spectron_migrate.dump import open_any
from spectron_migrate.keywords import words_of
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import running_server
from spectron_migrate.mapping import load_mapping
from spectron_migrate.mem0.search import SearchHit
from spectron_migrate.reporter import NullReporter
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.spectron.rows import Recall
from spectron_migrate.verify.dual_verify import VerifySummary, run_dual_verify
from spectron_migrate.verify.metrics import collect_metrics
from spectron_migrate.verify.options import VerifyOptions
from tests.support.spectron import memory, replay

HOSTED_MS = 150.0
"""Assumed time of a hosted service for an answer; Spectron publishes none."""
PLAIN = "version: 1\ninfer: none\nrules:\n  - {when: {user_id: '*'}, scope: {user: '{user_id}'}}\n"


class Clock:
    """Seconds spent waiting for answers, and processor seconds spent making them in this process."""

    def __init__(self) -> None:
        self.waited = self.worked = 0.0


class TimedApi(SpectronApi):
    """Measures how long queries wait for their answers."""

    clock: Clock

    async def query(self, query: str, **named: Any) -> Recall:
        began = time.perf_counter()
        try:
            return await super().query(query, **named)
        finally:
            self.clock.waited += time.perf_counter() - began


class TimedSearch:
    """A Mem0 that ranks a user's rows by common words, and measures how long it takes."""

    def __init__(self, memories: int, users: int, clock: Clock) -> None:
        self.clock = clock
        self.rows_of = lru_cache(8)(lambda user: [row(n, users) for n in range(int(user[1:]), memories, users)])

    def search(self, query: str, *, user_id: str | None, top_k: int, **_: Any) -> list[SearchHit]:
        began, worked = time.perf_counter(), time.thread_time()
        wanted = set(words_of(query))
        ranked = sorted(self.rows_of(user_id), key=lambda row: -len(wanted & set(words_of(row["memory"]))))
        self.clock.waited += time.perf_counter() - began
        self.clock.worked += time.thread_time() - worked
        return [SearchHit(row["id"], row["memory"], None) for row in ranked[:top_k]]

    def describe(self) -> str:
        return "words 1.0"


class Stages(NullReporter):
    """For each stage, when it began and the clock's readings at that moment."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.seen: list[tuple[str, float, float, float]] = []

    def stage(self, name: str, total: int | None = None, **more: Any) -> None:
        self.seen.append((name, time.perf_counter(), self.clock.waited, time.process_time() - self.clock.worked))

    def spans(self) -> Iterator[tuple[str, float, float, float]]:
        """For each stage its duration, waiting time and processor time, in seconds."""
        for (name, *before), (_, *after) in zip(self.seen, self.seen[1:], strict=False):
            took, waited, worked = (end - begin for begin, end in zip(before, after, strict=True))
            yield name, took, waited, worked


def row(number: int, users: int) -> dict[str, Any]:
    """The memory of a number: the same in every process."""
    chosen = random.Random(number)
    text = " ".join(f"word{chosen.randrange(3000)}" for _ in range(12))
    return {**memory(number // users, f"u{number % users}", text, at=_time(number)), "id": f"m{number}"}


def _time(number: int) -> str:
    day, second = divmod(number, 86400)
    return f"2025-01-{1 + day:02d}T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}+00:00"


async def verify(folder: Path, arguments: argparse.Namespace) -> tuple[VerifySummary, Stages]:
    clock = Clock()
    stages = Stages(clock)
    async with TimedApi(arguments.at[0], arguments.at[1], api_key="sk-local") as api:
        api.clock = clock
        with open_any([folder / "all.jsonl"]) as dump, Ledger.open_for_reading(folder / "state") as ledger:
            summary = await run_dual_verify(
                ledger=ledger,
                api=api,
                dump=dump,
                mapping=load_mapping(folder / "mapping.yaml"),
                mem0_search=TimedSearch(arguments.memories, arguments.users, clock),
                options=VerifyOptions(
                    sample=arguments.queries, in_flight=1, noise_queries=0, placement_sample=arguments.queries
                ),
                reporter=stages,
            )
        stages.stage("end")
    return summary, stages


def report(arguments: argparse.Namespace) -> None:
    """Verify in this process and print what it took."""
    summary, stages = asyncio.run(verify(Path(arguments.folder), arguments))
    print(f"{summary.verdict}: {arguments.memories} memories of {arguments.users} users, {arguments.queries} queries")
    for name, took, waited, worked in stages.spans():
        print(f"  {name:24} {took:8.2f} s, {waited:8.2f} s of it for answers; processor {worked:8.2f} s")
    _, took, waited, worked = next(span for span in stages.spans() if span[0] == "recall")
    answers, ours, work = (1000 * each / arguments.queries for each in (waited, took - waited, worked))
    print(f"  a query: {answers:.2f} ms for both answers, {ours:.2f} ms ours ({ours / answers:.1%}),")
    print(f"    of which {work:.2f} ms of processor; beside a service of {HOSTED_MS:.0f} ms: {ours / HOSTED_MS:.1%}")
    began = time.perf_counter()
    collect_metrics(summary.report["answers"]).to_json(margin=0.02, everything=False)
    print(f"  statistics of {arguments.queries} queries: {time.perf_counter() - began:.2f} s")
    print(f"  peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memories", type=int, default=5000)
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--queries", type=int, default=400)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--at", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        report(arguments)
        return
    with tempfile.TemporaryDirectory() as name, running_server(Path(name) / "spectron", extraction=False) as server:
        folder = Path(name)
        (folder / "mapping.yaml").write_text(PLAIN)
        with (folder / "all.jsonl").open("w") as file:
            file.writelines(json.dumps(row(number, arguments.users)) + "\n" for number in range(arguments.memories))
        began = time.perf_counter()
        replay(server, folder / "state", [folder / "all.jsonl"], mapping=folder / "mapping.yaml")
        print(f"replayed in {time.perf_counter() - began:.0f} s", flush=True)
        numbers = [f"--{key}={getattr(arguments, key)}" for key in ("memories", "users", "queries")]
        where = ["--folder", name, "--at", server.base_url, server.context]
        subprocess.run([sys.executable, __file__, *numbers, *where], check=True)


if __name__ == "__main__":
    main()
