"""How fast a replay is against a bare HTTP loop at the same concurrency in the same run, and what it costs.

Usage: python -m tests.bench.replay_bench [speed|capacity|lanes|memory …] [--seconds 20] [--rows 1000000]

`speed`     memories/s into a server of fixed latency, as a share of a bare `HttpxAiohttpClient` loop
`capacity`  a server with a fixed number of places: share of them that is used, share of requests rejected,
            and how soon both recover when the capacity halves and doubles
`lanes`     many users with few memories each, and one user with all of them
`memory`    peak memory (VmHWM) of a replay of ten thousand and of --rows memories; the size of their ledgers; and
            how long a command takes that has nothing to do on either

Each side is a process of its own. Rates are taken by the server between its first and its last write.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
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


def replay(
    folder: Path,
    server: Server,
    *,
    in_flight: int = 64,
    more: Sequence[str] = (),
    meanwhile: Callable[[], None] | None = None,
) -> Ran:
    """One replay in a process of its own; its memory is read from the kernel while it runs."""
    (folder / "spectron-migrate.yaml").write_text(f"version: 1\nreplay: {{max_in_flight: {in_flight}}}\n")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SPECTRON", "AGENT_MEMORY"))},
        "SPECTRON_ENDPOINT": server.url,
        "SPECTRON_CONTEXT": "bench",
        "SPECTRON_API_KEY": "sk-bench",
    }
    began = time.monotonic()
    command = [sys.executable, "-m", "spectron_migrate", "replay", "--json", *more]
    with (folder / "said").open("w+b") as said:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=subprocess.DEVNULL)
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
    return Ran(summary, seconds, peak)


def _peak_mb(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


# -- what is measured --------------------------------------------------------------------------------------


def measure_bare(server: Server, in_flight: int, seconds: float) -> float:
    """Requests a second of the bare loop, in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.replay_bench", "--bare", server.url, str(in_flight), str(seconds)]
    subprocess.run(command, check=True)
    told = server.stats()
    return float(told["written"] / told["seconds"])


def speed(seconds: float) -> None:
    print(f"{'latency':>8} {'in flight':>9} {'bare/s':>8} {'replay/s':>9} {'ratio':>6}   needed: 0.93")
    for latency, in_flight in ((0.05, 64), (0.2, 64), (0.2, 128)):
        with serving(latency=latency) as server:
            alone = measure_bare(server, in_flight, seconds)
        users = in_flight * 4
        each = int(alone * seconds) // users
        with tempfile.TemporaryDirectory() as home, serving(latency=latency) as server:
            make_dump(Path(home), users, each)
            ran = replay(Path(home), server, in_flight=in_flight)
            told = server.stats()
        assert 0 == ran.summary["exit_code"], ran.summary
        assert users * each == told["written"] == ran.summary["written"]
        ours = told["written"] / told["seconds"]
        print(f"{latency * 1000:5.0f} ms {in_flight:>9} {alone:>8.0f} {ours:>9.0f} {ours / alone:>6.3f}")


def capacity(seconds: float) -> None:
    slots, latency = 32, 0.2
    print(f"{slots} places of {latency * 1000:.0f} ms; after a while half of them, then all again")
    print(
        f"{'beyond them':>12} {'used':>6} {'rejected':>8} {'half: used, 90 % after':>24} {'back: used, 90 % after':>23}"
    )
    for full in ("reject", "queue", "drag"):
        with tempfile.TemporaryDirectory() as home, serving(latency=latency, slots=slots, full=full) as server:
            moments: list[float] = []

            def change(server: Server = server, moments: list[float] = moments) -> None:
                while not server.stats()["written"]:
                    time.sleep(0.1)
                for places in (slots, slots // 2, slots):
                    server.change(slots=places)
                    moments.append(server.stats()["now"])
                    time.sleep(seconds)
                moments.append(server.stats()["now"])

            rows = int(seconds * 2.7 * slots / latency)
            make_dump(Path(home), 256, rows // 256)
            ran = replay(Path(home), server, in_flight=128, meanwhile=change)
            told = server.stats()
        assert 0 == ran.summary["exit_code"], ran.summary
        rates = told["each_second"]
        shares, ready = [], []
        for places, begin, end in zip((slots, slots // 2, slots), moments, moments[1:], strict=False):
            here = [rate / (places / latency) for rate in rates[int(begin) + 1 : int(end)]]
            shares.append(sum(here) / max(1, len(here)))
            ready.append(next((at for at, share in enumerate(here) if share >= 0.9), -1))
        rejected = told["rejected"] / (told["written"] + told["rejected"])
        print(
            f"{full:>12} {shares[0]:>6.3f} {rejected:>8.3f} {shares[1]:>16.3f}, {ready[1]:>4} s"
            f" {shares[2]:>16.3f}, {ready[2]:>2} s   {ran.summary['slowed_down']}"
        )


def lanes(seconds: float) -> None:
    latency, in_flight = 0.05, 64
    with serving(latency=latency) as server:
        alone = measure_bare(server, in_flight, seconds)
    users = int(alone * seconds) // 17
    with tempfile.TemporaryDirectory() as home, serving(latency=latency) as server:
        make_dump(Path(home), users, 15)
        ran = replay(Path(home), server, in_flight=in_flight)
        told = server.stats()
    requests = (told["written"] + told["sessions"] + told["scopes"]) / told["seconds"]
    print(f"{users} users with 15 memories each: {told['written'] / told['seconds']:.0f} memories/s")
    print(f"  {requests:.0f} requests/s with scopes and sessions, {requests / alone:.3f} of the bare loop")
    assert 0 == ran.summary["exit_code"], ran.summary
    rows = int(seconds / latency)
    with tempfile.TemporaryDirectory() as home, serving(latency=latency) as server:
        make_dump(Path(home), 1, rows)
        replay(Path(home), server, in_flight=in_flight)
        told = server.stats()
    rate = told["written"] / told["seconds"]
    print(f"one user with {rows}: {rate:.1f} memories/s, {rate * latency:.3f} of what one after the other can be")


def memory_and_resume(rows: int) -> None:
    with tempfile.TemporaryDirectory() as home, serving(latency=0.005) as server:
        make_dump(Path(home), 200, 50)
        small = replay(Path(home), server)
        again = min((replay(Path(home), server) for _ in range(3)), key=lambda ran: ran.seconds)
        size = (Path(home) / ".spectron-migrate" / "ledger.db").stat().st_size
        kept = 10_000
    print(f"{kept:>9} memories: peak {small.peak_mb:.0f} MB, ledger {size / kept:.0f} bytes each")
    print(f"{'':>9} a second run with nothing to do: {again.seconds:.2f} s, peak {again.peak_mb:.0f} MB")
    with tempfile.TemporaryDirectory() as home, serving(latency=0.005) as server:
        users = rows // 50
        make_dump(Path(home), users, 50)
        large = replay(Path(home), server, more=["--limit", "20000"])
        print(f"{rows:>9} memories: peak {large.peak_mb:.0f} MB, planned and 20000 sent in {large.seconds:.0f} s")
        _mark_written(Path(home) / ".spectron-migrate" / "ledger.db")
        path = Path(home) / ".spectron-migrate" / "ledger.db"
        done = min((replay(Path(home), server) for _ in range(2)), key=lambda ran: ran.seconds)
        assert (0, rows) == (done.summary["exit_code"], done.summary["already"]), done.summary
        print(f"{'':>9} ledger {path.stat().st_size / rows:.0f} bytes each")
        print(f"{'':>9} a second run with nothing to do: {done.seconds:.2f} s, peak {done.peak_mb:.0f} MB,")
        print(f"{'':>9} {done.seconds / again.seconds:.2f} of that of {kept}; needed: at most 3")


def _mark_written(path: Path) -> None:
    """As if everything had been sent: sending a million takes a quarter of an hour and would show nothing more."""
    with sqlite3.connect(path) as db:
        db.execute(
            "INSERT INTO session(selector, run, infer, part, state, server_id, created_at)"
            " SELECT selector, NULL, 'full', 1000, 'closed', 'made-' || min(id), 'now' FROM fact"
            " WHERE state = 'planned' GROUP BY selector"
        )
        db.execute("CREATE TEMP TABLE made AS SELECT id, selector FROM session WHERE part = 1000")
        db.execute("CREATE INDEX temp.made_by ON made(selector)")
        db.execute(
            "UPDATE fact SET state = 'written', decided_by = 'answer', position = id, sent_after = '2026',"
            " sent_by = 'b', session = (SELECT id FROM made WHERE made.selector = fact.selector),"
            " turn_id = 'made-' || id, chunk_id = 'c' || id, ids = '[]' WHERE state = 'planned'"
        )
        db.execute("UPDATE session SET server_id = NULL WHERE part = 1000")
    db.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        asyncio.run(bare(sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["speed", "capacity", "lanes", "memory"])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rows", type=int, default=1_000_000)
    chosen = parser.parse_args()
    for what in chosen.what:
        if what == "memory":
            memory_and_resume(chosen.rows)
        else:
            {"speed": speed, "capacity": capacity, "lanes": lanes}[what](chosen.seconds)
