"""Three ways to write the same memories to the same kind of server with the same few faults, side by side.

Usage: python -m tests.bench.loops_bench [--users 12] [--each 25] [--chance 0.02] [--seed 1]

`guide`          the published guide's loop: each memory of a user's `get_all` through the published client, one
                 session a user; a call that raises is noted and the loop goes on
`remember_many`  the same client, a user's memories in batches of twenty
`replay`         ours, run again until it says that it is done

Each side gets a local Spectron of its own, with the same seed of faults. Counted on the server's own tables:
`lost` memories that are not there after the first run, `doubled` turns that are there beyond one a memory after
everything was run a second time, as after a crash, and `out of order` neighbours of a user that stand the wrong
way round in time. One in ten texts is said twice by its user, as happens in life.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from spectron_migrate.local.testing import RunningServer, running_server
from tests.support.spectron import memory, replay, turns_of, write_raw

FAULTS = ("500_before", "500_after", "cut_before", "cut_after", "429", "503")
Row = dict[str, Any]
Way = Callable[[RunningServer, list[Row], Path], Awaitable[int]]
"""Writes the rows and returns how many calls failed for good."""


def rows_of(users: int, each: int, seed: int) -> list[Row]:
    """What `get_all` gives: in no order that means anything."""
    dice = random.Random(seed)
    rows = []
    for user in (f"user{number}" for number in range(users)):
        texts = [f"{user} likes thing number {number}" for number in range(each)]
        for at in range(0, each - 1, 10):
            texts[at + 1] = texts[at]
        rows += [memory(number, user, text) for number, text in enumerate(texts)]
    dice.shuffle(rows)
    return rows


async def guide(server: RunningServer, rows: list[Row], folder: Path) -> int:
    from surrealdb_memory import AsyncMemory, MemoryServiceError

    failed = 0
    async with AsyncMemory(server.context, endpoint=server.base_url, api_key=server.api_key) as client:
        for user, mine in _by_user(rows).items():
            session = await _session(client, user)
            for item in mine:
                try:
                    await client.remember(item["memory"], session_id=session)
                except (MemoryServiceError, OSError):
                    failed += 1
    return failed


async def remember_many(server: RunningServer, rows: list[Row], folder: Path) -> int:
    from surrealdb_memory import AsyncMemory, MemoryServiceError

    failed = 0
    async with AsyncMemory(server.context, endpoint=server.base_url, api_key=server.api_key) as client:
        for user, mine in _by_user(rows).items():
            session = await _session(client, user)
            for at in range(0, len(mine), 20):
                items = [{"role": "user", "content": item["memory"]} for item in mine[at : at + 20]]
                try:
                    await client.remember_many(items, session_id=session, extract="per_message")
                except (MemoryServiceError, OSError):
                    failed += 1
    return failed


async def ours(server: RunningServer, rows: list[Row], folder: Path) -> int:
    dump = write_raw(folder / "all.json", rows)
    for _ in range(20):
        done = await asyncio.to_thread(replay, server, folder / "state", [dump], sleep=asyncio.sleep)
        if done.exit_code == 0:
            return done.refused
    raise SystemExit("the replay did not come to an end")


async def _session(client: Any, user: str) -> str:
    """A session in the user's scope, asked for until there is one: the faults are about memories."""
    for attempt in range(20):
        try:
            if attempt == 0:
                await client.scopes.register(f"user/{user}")
            made = await client.sessions.create(scopes=[f"user/{user}"])
        except Exception:
            continue
        return str(made.id)
    raise SystemExit("no session")


def _by_user(rows: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["user_id"]].append(row)
    return found


@dataclass(frozen=True)
class Seen:
    """What the server's tables say."""

    lost: int
    doubled: int
    out_of_order: int


def look(server: RunningServer, rows: list[Row]) -> Seen:
    lost = doubled = wrong = 0
    for user, mine in _by_user(rows).items():
        wanted = [row["memory"] for row in sorted(mine, key=lambda row: row["created_at"])]
        there = [turn.content for turn in turns_of(server, user)]
        have, want = Counter(there), Counter(wanted)
        lost += (want - have).total()
        doubled += (have - want).total()
        place = {text: at for at, text in enumerate(wanted)}
        wrong += sum(place[left] > place[right] for left, right in pairwise(there))
    return Seen(lost, doubled, wrong)


def run(way: Way, rows: list[Row], chance: float, seed: int) -> tuple[float, int, Seen, Seen]:
    """Memories a second of the first run, calls that failed in it, and what was there after it and after a second."""
    settings = {"chance": chance, "faults": FAULTS, "seed": seed}
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        with running_server(folder / "data", context="bench", fault_settings=settings) as server:
            began = time.monotonic()
            failed = asyncio.run(way(server, rows, folder))
            seconds = time.monotonic() - began
            first = look(server, rows)
            asyncio.run(way(server, rows, folder))
            return len(rows) / seconds, failed, first, look(server, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=12)
    parser.add_argument("--each", type=int, default=25)
    parser.add_argument("--chance", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    rows = rows_of(chosen.users, chosen.each, chosen.seed)
    print(f"{len(rows)} memories of {chosen.users} users, a fault in {chosen.chance:.0%} of the requests")
    print(f"{'':>14} {'memories/s':>10} {'failed calls':>12} {'lost':>6} {'doubled':>8} {'out of order':>12}")
    for name, way in (("guide", guide), ("remember_many", remember_many), ("replay", ours)):
        rate, failed, first, second = run(way, rows, chosen.chance, chosen.seed)
        print(f"{name:>14} {rate:>10.0f} {failed:>12} {first.lost:>6} {second.doubled:>8} {first.out_of_order:>12}")
