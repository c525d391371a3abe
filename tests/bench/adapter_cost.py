"""The processor time of a call through the adapter, in microseconds of the application's thread, as JSON.

Run by `adapter_bench --beside` with the modules of either checkout: only what both have is used here.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spectron_migrate import MemoryAdapter
from tests.bench.adapter_bench import Mem0, adder, migrated, searcher

ROUNDS, CALLS = 12, 250


def main() -> None:
    """Searches and writes, while a cutover is under way, caught up either way."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="adapter-cost-") as place:
        for catch_up in ("follow", "outbox"):
            with migrated(Path(place) / catch_up, catch_up) as (server, folder):
                os.environ.update(
                    SPECTRON_ENDPOINT=server.base_url, SPECTRON_CONTEXT="bench", SPECTRON_API_KEY=server.api_key
                )
                (folder / "spectron-migrate.yaml").write_text("version: 1\n")
                os.chdir(folder)
                adapter = MemoryAdapter(Mem0())
                found[f"search {catch_up}"] = cost(searcher(adapter))
                found[f"add {catch_up}"] = cost(adder(adapter))
                adapter._core.close()
                os.chdir(place)
    print(json.dumps(found))
    sys.stdout.flush()


def cost(call: Callable[[int], Any]) -> float:
    """The cheapest of some rounds: what else the machine does only ever adds to it."""
    each = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        for number in range(CALLS):
            call(number)
        each.append((time.thread_time() - began) / CALLS * 1e6)
    return min(each)


if __name__ == "__main__":
    main()
