"""How fast a replay is against a bare HTTP loop at the same concurrency in the same run, and what it costs.

Usage: python -m tests.bench.replay_bench [speed|capacity|start|lanes|ledger|memory …] [--seconds 20] [--rows 1000000]

`speed`     memories/s into a server of fixed latency, as a share of a bare `HttpxAiohttpClient` loop
`capacity`  a server with a fixed number of places: share of them that is used, share of requests rejected,
            and how soon both recover when the capacity halves and doubles
`start`     many users with few memories each: the whole run, from its first request to its last answer, as a share of
            the bare loop, and when its first memory is sent
`lanes`     many users with few memories each, one user with all of them, and both together
`ledger`    what the ledger costs: time beside the same replay without a disk, processor, room
`memory`    peak memory (VmHWM) and seconds of dry run, replay, a second run with nothing to do, and `status`, of
            one, ten thousand, a hundred thousand and --rows memories, all of them really sent

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


def make_dump(folder: Path, counts: Sequence[int]) -> Path:
    """A dump directory: so many memories of each user, users mixed."""
    from spectron_migrate.dump.writer import DumpWriter

    with DumpWriter(folder / "dump", SOURCE, BEGAN, rereads=True) as writer:
        for number in range(max(counts)):
            for user, count in enumerate(counts):
                if number < count:
                    writer.add(memory(user, number))
        writer.commit(complete=True, native_count=sum(counts), ended=BEGAN + timedelta(hours=1))
    return folder / "dump"


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    summary: dict[str, Any]
    seconds: float
    peak_mb: float


def run(
    folder: Path,
    server: Server,
    *words: str,
    in_flight: int = 64,
    module: str = "spectron_migrate",
    meanwhile: Callable[[], None] | None = None,
    codes: Sequence[int] = (0,),
) -> Ran:
    """One command in a process of its own; its memory is read from the kernel while it runs. `codes`: its ends."""
    (folder / "spectron-migrate.yaml").write_text(f"version: 1\nreplay: {{max_in_flight: {in_flight}}}\n")
    environment = {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SPECTRON", "AGENT_MEMORY", "SURREAL_MEMORY"))
        },
        "SPECTRON_ENDPOINT": server.url,
        "SPECTRON_CONTEXT": "bench",
        "SPECTRON_API_KEY": "sk-bench",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    began = time.monotonic()
    command = [sys.executable, "-m", module, *words, "--json"]
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
        told = said.read().decode()
    try:
        summary = json.loads(told)
    except ValueError:
        raise SystemExit(told) from None
    if summary["exit_code"] not in codes:
        raise SystemExit(f"{words} failed: {summary}")
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
            make_dump(Path(home), [each] * users)
            ran = run(Path(home), server, "replay", in_flight=in_flight)
            told = server.stats()
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
            make_dump(Path(home), [rows // 256] * 256)
            ran = run(Path(home), server, "replay", in_flight=128, meanwhile=change)
            told = server.stats()
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


def start(seconds: float) -> None:
    """Registering scopes and opening sessions counts: with many users a replay begins with that."""
    print("first memory after so many requests, and share of the bare loop; then again with as many users more")
    print(f"{'latency':>8} {'users':>6} {'in flight':>9} {'first':>7} {'share':>6} {'first':>7} {'share':>6}   needed")
    for latency, users, in_flight, needed in ((0.05, 160, 64, 0.85), (0.2, 160, 64, 0.9), (0.2, 2000, 256, 0.8)):
        with serving(latency=latency) as server:
            alone = measure_bare(server, in_flight, min(seconds, 10.0))
        each = 20_000 // users
        cells = []
        with tempfile.TemporaryDirectory() as home, serving(latency=latency) as server:
            for counts in ([each] * users, [each] * users * 2):  # the second run knows what the server can do
                server.change(asked_first=0.0, sent_first=0.0, written=0)
                make_dump(Path(home), counts)
                run(Path(home), server, "replay", in_flight=in_flight)
                told = server.stats()
                assert each * users == told["written"]
                share = told["written"] / told["whole_seconds"] / alone
                cells.append(f"{told['first_sent_after'] / latency:>5.1f} x {share:>6.3f}")
        print(f"{latency * 1000:5.0f} ms {users:>6} {in_flight:>9} {' '.join(cells)}   < 4 x, {needed}", flush=True)


def lanes(seconds: float) -> None:
    """Few memories each: the server is full. One user: one after the other. Both: the longer of the two."""
    latency, in_flight = 0.05, 64
    with serving(latency=latency) as server:
        alone = measure_bare(server, in_flight, seconds)
    users, long = int(alone * seconds) // 17, int(seconds / latency)
    print(f"{'':>42} {'memories':>9} {'/s':>6}   {'seconds':>7} {'at best':>7} {'ratio':>6}")
    for name, counts in (
        (f"{users} users with 15 each", [15] * users),
        ("one user", [long]),
        ("that one user and half of the others", [long, *[15] * (users // 2)]),
    ):
        with tempfile.TemporaryDirectory() as home, serving(latency=latency) as server:
            make_dump(Path(home), counts)
            run(Path(home), server, "replay", in_flight=in_flight)
            told = server.stats()
        requests = sum(counts) + told["sessions"] + told["scopes"]
        best = max(requests / alone, max(counts) * latency)
        print(
            f"{name:>42} {sum(counts):>9} {sum(counts) / told['seconds']:>6.0f}   {told['seconds']:>7.1f} {best:>7.1f}"
            f" {best / told['seconds']:>6.3f}"
        )
    print("at best: all requests at the bare loop's rate, or the largest user's one after the other, if that is longer")


def ledger(seconds: float) -> None:
    """The same replay with its ledger on the disk, and with one that never waits for any."""
    print(
        f"{'latency':>8} {'memories/s':>10} {'no disk':>8} {'ratio':>6} {'ledger at work':>14} {'processor each':>14}"
    )
    for latency in (0.002, 0.05):
        with tempfile.TemporaryDirectory() as home, serving(latency=latency) as server:
            make_dump(Path(home), [50] * int(seconds * 20))
            run(Path(home), server, "replay", module="tests.bench.watched_ledger")
            on_disk, rows = server.stats(), int(seconds * 20) * 50
            size = (Path(home) / ".spectron-migrate" / "ledger.db").stat().st_size
            spent = json.loads((Path(home) / "ledger-spent.json").read_text())
        with tempfile.TemporaryDirectory(dir="/dev/shm") as home, serving(latency=latency) as server:
            make_dump(Path(home), [50] * int(seconds * 20))
            run(Path(home), server, "replay", module="tests.bench.watched_ledger")
            without = server.stats()
        rate, free = rows / on_disk["seconds"], rows / without["seconds"]
        print(
            f"{latency * 1000:5.0f} ms {rate:>10.0f} {free:>8.0f} {rate / free:>6.3f}"
            f" {spent['seconds'] / on_disk['seconds']:>13.0%} {spent['processor'] / rows * 1e6:>11.0f} us"
            f"   {spent['commits'] / rows:.2f} commits and {size / rows:.0f} bytes a memory"
        )


def memory_and_resume(rows: int) -> None:
    print(f"{'memories':>9} {'dry run':>14} {'replay':>17} {'nothing to do':>15} {'status':>14} {'ledger':>12}")
    first: tuple[float, ...] = ()
    for size in [*(size for size in (1, 10_000, 100_000) if size < rows), rows]:
        with tempfile.TemporaryDirectory() as home, serving(latency=0.005) as server:
            folder, each = Path(home), min(size, 50)
            make_dump(folder, [each] * (size // each))
            dry = run(folder, server, "replay", "--dry-run")
            sent = run(folder, server, "replay")
            assert size == sent.summary["written"], sent.summary
            again = [run(folder, server, "replay") for _ in range(3)]
            assert size == again[-1].summary["already"], again[-1].summary
            asked = [run(folder, server, "status") for _ in range(3)]
            kept = (folder / ".spectron-migrate" / "ledger.db").stat().st_size
        best = tuple(min(ran.seconds for ran in runs) for runs in (again, asked))
        first = first or best
        cells = [f"{ran.seconds:>6.1f} s {ran.peak_mb:>4.0f} MB" for ran in (dry, sent)]
        cells += [
            f"{seconds:>5.2f} s {runs[0].peak_mb:>4.0f} MB" for seconds, runs in zip(best, (again, asked), strict=True)
        ]
        print(f"{size:>9} {'  '.join(cells)} {kept / size:>6.0f} bytes each", flush=True)
    ratios = ", ".join(f"{seconds / empty:.2f}" for seconds, empty in zip(best, first, strict=True))
    print(f"{rows} beside 1: nothing to do, status: {ratios} times as long; needed: at most 3")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        asyncio.run(bare(sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["speed", "capacity", "start", "lanes", "ledger", "memory"])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rows", type=int, default=1_000_000)
    chosen = parser.parse_args()
    for what in chosen.what:
        if what == "memory":
            memory_and_resume(chosen.rows)
        else:
            {"speed": speed, "capacity": capacity, "start": start, "lanes": lanes, "ledger": ledger}[what](
                chosen.seconds
            )
