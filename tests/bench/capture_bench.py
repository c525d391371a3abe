"""What a captured write costs on a state in Postgres, and when it is found in Spectron.

Usage: python -m tests.bench.capture_bench [--calls 40]

`capture`  milliseconds that `add` takes through the adapter beyond the bare call: for the lines before and after it
`found`    seconds from the return of `add` until a search of Spectron finds it, with the follower as another process

Mem0 answers at once and is a stand-in in the application; the follower reads a small real store. The Postgres is real
and local, and so is the Spectron.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spectron_migrate import MemoryAdapter
from spectron_migrate.database.location import parse_location
from spectron_migrate.local.testing import RunningServer, running_server
from spectron_migrate.rehearsal.store import make_store
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.state.following import FOLLOW_FILE
from spectron_migrate.state.store import read_object, store_at
from tests.bench.hosts_bench import postgres
from tests.support.command import command

USER = "capture"
LIMITS = {"capture": 3.0, "found": 1.0}
"""Milliseconds, seconds; medians."""
PATIENCE_S = 30.0


class Mem0:
    """Mem0's interface with a store that answers at once."""

    def add(self, messages: Any, *, user_id: str | None = None, **kwargs: Any) -> Any:
        return {"results": [{"id": str(uuid.uuid4()), "memory": messages, "event": "ADD"}]}


@contextmanager
def following(folder: Path, state: str) -> Iterator[None]:
    """A follower in a directory of its own, which has brought the base."""
    words = [sys.executable, "-m", "spectron_migrate", "replay", "--follow", "-q"]
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    store = store_at(parse_location(state))
    try:
        while not (read_object(store, FOLLOW_FILE) or {}).get("rounds"):
            assert process.poll() is None
            time.sleep(0.1)
        yield
    finally:
        store.close()
        process.terminate()
        process.wait(30)


async def seconds_until_found(api: SpectronApi, text: str) -> float:
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE_S:
        found = await api.query(text, lens=((f"user/{USER}",),), k=5, mode="bm25", include=("passages",))
        if any(text in hit.text for hit in found.hits):
            return time.monotonic() - began
        await asyncio.sleep(0.02)
    return float("inf")


async def measure(server: RunningServer, folder: Path, calls: int) -> tuple[list[float], list[float]]:
    os.chdir(folder)
    bare, adapter = Mem0(), MemoryAdapter(Mem0())
    cost, found = [], []
    api = SpectronApi(server.base_url, server.context, api_key=server.api_key, timeout_s=10, max_connections=2)
    async with api:
        for number in range(calls + 3):
            text = f"word{number} is what was said in call {number}"
            began = time.perf_counter()
            bare.add(text, user_id=USER)
            between = time.perf_counter()
            adapter.add(text, user_id=USER)
            ended = time.perf_counter()
            took = await seconds_until_found(api, text)
            if number >= 3:
                cost.append(((ended - between) - (between - began)) * 1000)
                found.append(took)
    adapter.close()
    return cost, found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--calls", type=int, default=40)
    calls = parser.parse_args().calls
    with tempfile.TemporaryDirectory() as place, postgres() as address, running_server(context="capture") as server:
        root, state = Path(place), f"{address}&schema=capture_{uuid.uuid4().hex[:8]}"
        config = make_store(root / "mem0")
        os.environ.update(
            SPECTRON_ENDPOINT=server.base_url,
            SPECTRON_CONTEXT=server.context,
            SPECTRON_API_KEY=server.api_key,
            SPECTRON_MIGRATE_STATE=state,
        )
        for name in ("operator", "application"):
            (root / name).mkdir()
            (root / name / "spectron-migrate.yaml").write_text(
                f"version: 1\nmem0: {{oss: {{config: {config}}}}}\ncutover: {{catch_up: outbox, settle: 0s}}\n"
            )
        begun = command(root / "operator", "cutover", "start", environment=os.environ)
        assert begun.returncode == 0, begun
        with following(root / "operator", state):
            cost, found = asyncio.run(measure(server, root / "application", calls))
        os.chdir("/")
    medians = {"capture": statistics.median(cost), "found": statistics.median(found)}
    for name, unit, each in (("capture", "ms", cost), ("found", "s", found)):
        print(f"{name}: median {medians[name]:.2f} {unit}, 90 % within {sorted(each)[int(0.9 * len(each))]:.2f} {unit}")
    return int(any(medians[name] > limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
