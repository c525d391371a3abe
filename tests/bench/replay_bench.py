"""How fast a replay is against a bare HTTP loop at the same concurrency in the same run, and what it costs.

Usage: python -m tests.bench.replay_bench [speed|capacity|lanes|memory|resume …] [--seconds 20] [--rows 1000000]

`speed`     memories/s into a server of fixed latency, as a share of a bare `HttpxAiohttpClient` loop
`capacity`  a server with a fixed number of places: share of them that is used, share of requests rejected,
            and how soon both recover when the capacity halves and doubles
`lanes`     many users with few memories each, and one user with all of them
`memory`    peak memory (VmHWM) of a replay of ten thousand and of --rows memories
`resume`    a command with nothing to do on a ledger of --rows, against one on a ledger of ten

Each side is a process of its own. Rates are taken by the server between its first and its last write.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from spectron_migrate.records import Memory, SourceInfo, format_time

SOURCE = SourceInfo(kind="oss", place="qdrant:/bench:mem0", provider="qdrant", version="2.2.1")
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
WORDS = [
    "tea",
    "coffee",
    "Berlin",
    "Oslo",
    "cello",
    "pottery",
    "peanuts",
    "Postgres",
    "hiking",
    "sister",
    "garden",
    "winter",
]


# -- the two sides -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A running `capacity_server`."""

    url: str

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/control") as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def change(self, **values: Any) -> None:
        request = urllib.request.Request(f"{self.url}/control", json.dumps(values).encode(), method="POST")
        urllib.request.urlopen(request).close()


@contextmanager
def serving(**options: Any) -> Iterator[Server]:
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "tests.bench.capacity_server", *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Server(process.stdout.readline().strip())
        finally:
            process.terminate()


async def bare(url: str, in_flight: int, seconds: float) -> None:
    """The loop to compare with: nothing but requests, as many at once as may be, bodies as a replay sends them."""
    import httpx
    from httpx_aiohttp import HttpxAiohttpClient

    limits = httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
    end = time.monotonic() + seconds
    async with HttpxAiohttpClient(limits=limits, timeout=60, headers={"Authorization": "Bearer sk-bench"}) as client:

        async def one(number: int) -> None:
            count = 0
            while time.monotonic() < end:
                count += 1
                body = {**memory(number, count).to_json(), "session_id": f"s{number}"}
                content = json.dumps({"text": body["memory"], "session_id": body["session_id"]}).encode()
                headers = {"Idempotency-Key": f"{number:032d}{count:032d}", "Content-Type": "application/json"}
                answer = await client.post(f"{url}/api/v1/bench/facts", content=content, headers=headers)
                assert 200 == answer.status_code

        async with asyncio.TaskGroup() as group:
            for number in range(in_flight):
                group.create_task(one(number))


def memory(user: int, number: int) -> Memory:
    at = format_time(BEGAN - timedelta(days=300) + timedelta(minutes=number, seconds=user % 60))
    text = f"User {user} " + " ".join(WORDS[(user + number * step) % len(WORDS)] for step in range(1, 9))
    return Memory(
        id=f"{user:08x}-0000-4000-8000-{number:012x}",
        memory=f"{text} ({number})",
        user_id=f"user-{user}",
        created_at=at,
        updated_at=at,
        text_at=at,
        text_at_source="created_at",
    )


def make_dump(folder: Path, users: int, each: int) -> Path:
    """A dump directory: `each` memories of every user, users mixed."""
    from spectron_migrate.dump.writer import DumpWriter

    with DumpWriter(folder / "dump", SOURCE, BEGAN, rereads=True) as writer:
        for number in range(each):
            for user in range(users):
                writer.give(memory(user, number))
        writer.commit(complete=True, native_count=users * each, ended=BEGAN + timedelta(hours=1))
    return folder / "dump"


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    summary: dict[str, Any]
    seconds: float
    peak_mb: float
    cpu_s: float


def replay(folder: Path, server: Server, *, in_flight: int = 64, meanwhile: Callable[[], None] | None = None) -> Ran:
    """One replay in a process of its own; its memory is read from the kernel while it runs."""
    (folder / "spectron-migrate.yaml").write_text(f"version: 1\nreplay: {{max_in_flight: {in_flight}}}\n")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SPECTRON", "AGENT_MEMORY"))},
        "SPECTRON_ENDPOINT": server.url,
        "SPECTRON_CONTEXT": "bench",
        "SPECTRON_API_KEY": "sk-bench",
    }
    began = time.monotonic()
    command = [sys.executable, "-m", "spectron_migrate", "replay", "--json"]
    with (folder / "said").open("w+b") as said:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=subprocess.STDOUT)
        peak = 0.0
        if meanwhile is not None:
            meanwhile()
        while process.poll() is None:
            peak = max(peak, _peak_mb(process.pid))
            time.sleep(0.02)
        seconds = time.monotonic() - began
        said.seek(0)
        words = said.read().decode()
    try:
        summary = json.loads(words)
    except ValueError:
        raise SystemExit(words) from None
    return Ran(summary, seconds, peak, 0.0)


def _peak_mb(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


# -- what is measured --------------------------------------------------------------------------------------


def speed(seconds: float) -> None:
    print(f"{'latency':>8} {'in flight':>9} {'bare/s':>8} {'replay/s':>9} {'ratio':>6}  needed 0.93")
    for latency, in_flight in ((0.05, 64), (0.2, 64), (0.2, 128)):
        with serving(latency=latency) as server:
            command = [sys.executable, "-m", "tests.bench.replay_bench", "--bare", server.url, str(in_flight)]
            subprocess.run([*command, str(seconds)], check=True)
            told = server.stats()
            alone = told["written"] / told["seconds"]
        rows = int(alone * seconds)
        users = in_flight * 4
        with tempfile.TemporaryDirectory() as home, serving(latency=latency) as server:
            make_dump(Path(home), users, rows // users)
            ran = replay(Path(home), server, in_flight=in_flight)
            told = server.stats()
        assert 0 == ran.summary["exit_code"], ran.summary
        assert rows // users * users == told["written"] == ran.summary["written"]
        ours = told["written"] / told["seconds"]
        print(f"{latency * 1000:5.0f} ms {in_flight:>9} {alone:>8.0f} {ours:>9.0f} {ours / alone:>6.3f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        asyncio.run(bare(sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["speed"])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rows", type=int, default=1_000_000)
    chosen = parser.parse_args()
    if "speed" in chosen.what:
        speed(chosen.seconds)
