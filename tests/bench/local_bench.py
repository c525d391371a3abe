"""The local Spectron beside its own bare store, in one run on one machine.

    python tests/bench/local_bench.py [--memories 20000]

Bare: rows stored and searched by calls in this process. Served: the same over HTTP on loopback, from another
process, with authentication, idempotency keys and sessions. Both fill a context with the same memories first.

A store is given vectors, a server makes them. So the bare inserts that count have their vectors beforehand, and
the served ones pay for theirs; what the share is where the bare run embeds too is told beside it.
Exit code 1 where a served figure falls short of its share of the bare one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spectron_migrate.local.embedding import WordLlamaEmbedder
from spectron_migrate.local.ids import new_id
from spectron_migrate.local.recall import content_words
from spectron_migrate.local.rows import Item, SearchFilter, Session, Turn
from spectron_migrate.local.sqlite import SqliteStore
from spectron_migrate.local.testing import RunningServer, running_server

NOW = "2026-01-01T00:00:00.000000Z"
USERS = 200
CONNECTIONS = 8
ROUNDS = 5
"""Bare and served take turns, and the median turn counts: what else the machine does meets both."""
SINGLES, BATCHED, QUERIES = 500, 2000, 100
"""In each round."""
SHARES = {"facts": 0.4, "batch": 0.7, "query": 2.0}
"""Of the bare store's rate; of its time for a query."""


def texts(count: int, seed: int) -> list[str]:
    """Memories of 6 to 14 words with the word frequencies of speech: few are everywhere, most are rare."""
    chance = random.Random(seed)
    vocabulary = [f"{chance.choice('bcdfglmnprst')}{chance.choice('aeiou')}{n:x}" for n in range(5000)]
    weights = [1 / (rank + 10) for rank in range(len(vocabulary))]
    return [" ".join(chance.choices(vocabulary, weights, k=chance.randint(6, 14))) for _ in range(count)]


class Round(NamedTuple):
    """Rows a second, or seconds of a query."""

    served: float
    bare: float
    embedding: float
    """Bare, with the making of vectors counted."""


class Bare:
    """The store alone."""

    def __init__(self, folder: Path) -> None:
        self.embedder = WordLlamaEmbedder()
        self.store = SqliteStore(folder / "bare.sqlite", "bare", self.embedder.dimensions)
        self.sessions = []
        with self.store.transaction():
            for user in range(USERS):
                selector = self.store.selector_number(((f"user/u{user}/",),))
                session = Session(new_id("sess"), selector, NOW)
                self.store.put_session(session)
                self.sessions.append(session)

    def insert(self, rows: Sequence[str], size: int, *, embedding: bool) -> float:
        """Rows a second, `size` in a transaction; `embedding` says whether making the vectors counts."""
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        ready = [] if embedding else [self.embedder.embed(part) for part in parts]
        began = time.perf_counter()
        for number, part in enumerate(parts):
            session = self.sessions[number % USERS]
            vectors = self.embedder.embed(part) if embedding else ready[number]
            with self.store.transaction():
                for text, vector in zip(part, vectors, strict=True):
                    turn = Turn(new_id("turn"), session.id, 0, "user", text, NOW)
                    self.store.add_turn(turn)
                    item = Item(
                        new_id("chunk"),
                        "memory_chunk",
                        session.selector,
                        text,
                        NOW,
                        session=session.id,
                        turn=turn.id,
                    )
                    self.store.add_item(item, vector)
        return len(rows) / (time.perf_counter() - began)

    def search(self, query: str) -> float:
        """Seconds of one search by meaning and by words over everything."""
        began = time.perf_counter()
        (vector,) = self.embedder.embed([query])
        found = self.store.nearest(vector, SearchFilter(), 256) + self.store.matching(
            content_words(query), SearchFilter(), 256
        )
        self.store.items(hit.number for hit in found[:10])
        return time.perf_counter() - began


class Served:
    """The same over HTTP."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.sessions: list[str] = []
        self.numbers = iter(range(10**9))

    async def open_sessions(self) -> None:
        """One for each user."""
        async with Connection(self.server) as connection:
            for user in range(USERS):
                await connection.post("/scopes", {"path": f"user/u{user}"})
                made = await connection.post("/sessions", {"scopes": [[f"user/u{user}"]]})
                self.sessions.append(made["id"])

    async def insert(self, rows: Sequence[str], size: int, infer: str = "none") -> float:
        """Rows a second, over several connections; `size` 1 is /facts, more is /facts/batch."""
        work = iter([rows[start : start + size] for start in range(0, len(rows), size)])
        began = time.perf_counter()
        await asyncio.gather(*(self._worker(work, size, infer) for _ in range(CONNECTIONS)))
        return len(rows) / (time.perf_counter() - began)

    async def _worker(self, work: Iterator[Sequence[str]], size: int, infer: str) -> None:
        async with Connection(self.server) as connection:
            for part in work:
                number = next(self.numbers)
                common = {"session_id": self.sessions[number % USERS], "infer": infer}
                if size == 1:
                    await connection.post("/facts", {"text": part[0], **common}, key=f"k{number}")
                else:
                    messages = [{"role": "user", "content": text} for text in part]
                    await connection.post("/facts/batch", {"messages": messages, **common}, key=f"k{number}")

    async def search(self, queries: Sequence[str]) -> list[float]:
        """Seconds of each, one after the other."""
        took = []
        async with Connection(self.server) as connection:
            for query in queries:
                began = time.perf_counter()
                answer = await connection.post("/query", {"query": query})
                took.append(time.perf_counter() - began)
                assert answer["tier"] == "hybrid", "a cached answer measures nothing"
        return took


class Connection:
    """A kept-alive connection with as little client as possible: it shares the machine with the server."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server

    async def __aenter__(self) -> Connection:
        address = urlsplit(self.server.base_url)
        self.reader, self.writer = await asyncio.open_connection(address.hostname, address.port)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.writer.close()

    async def post(self, path: str, body: object, key: str = "") -> dict[str, object]:
        """One exchange that must go well."""
        raw = json.dumps(body).encode()
        head = (
            f"POST /api/v1/{self.server.context}{path} HTTP/1.1\r\nHost: local\r\n"
            f"Authorization: Bearer {self.server.api_key}\r\nContent-Length: {len(raw)}\r\n"
        )
        if key:
            head += f"Idempotency-Key: {key}\r\n"
        self.writer.write(head.encode() + b"\r\n" + raw)
        answer = await self.reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        content = await self.reader.readexactly(length)
        assert b" 20" in answer[:13], (answer, content)
        return dict(json.loads(content))


def megabytes(server: RunningServer) -> float:
    """Resident memory of the server."""
    status = Path(f"/proc/{server.process.pid}/status")
    line = next((row for row in status.read_text().splitlines() if row.startswith("VmRSS")), "VmRSS: 0 kB")
    return int(line.split()[1]) / 1024


def disk(folder: Path) -> float:
    """Megabytes of a data directory."""
    return sum(path.stat().st_size for path in folder.rglob("*")) / 2**20


def start_to_answer(folder: Path) -> tuple[float, float]:
    """Seconds until health answers, and until the first query does."""
    began = time.perf_counter()
    with running_server(folder) as server:
        health = time.perf_counter() - began
        asyncio.run(Served(server).search(["where do they live"]))
        return health, time.perf_counter() - began


def run(memories: int, report: Callable[[str], None]) -> bool:
    """All of it; True where every share is kept."""
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        bare, data = Bare(Path(first)), Path(second) / "served"
        with running_server(data) as server:
            served = Served(server)
            fill(bare, served, memories)
            report(f"{memories} memories in {USERS} scopes of one context, {CONNECTIONS} connections")
            kept = compare(report, "query", queries(bare, served))
            kept &= compare(report, "facts", inserts(bare, served, SINGLES, 1))
            kept &= compare(report, "batch", inserts(bare, served, BATCHED, 100))
            rate = asyncio.run(served.insert(texts(SINGLES, 9), 1, "full"))
            report(f"  /facts with extraction: {rate:.0f} a second")
            report(f"  memory {megabytes(server):.0f} MB")
        bare.store.close()
        report(f"  disk {disk(data):.0f} MB")
        for name, folder in (("empty", Path(second) / "empty"), ("filled", data)):
            health, answer = start_to_answer(folder)
            report(f"  start {name}: health {health:.2f} s, first query {answer:.2f} s")
    return kept


def fill(bare: Bare, served: Served, memories: int) -> None:
    """The same memories on both sides."""
    rows = texts(memories, 1)
    bare.insert(rows, 100, embedding=False)
    asyncio.run(served.open_sessions())
    asyncio.run(served.insert(rows, 100))


def inserts(bare: Bare, served: Served, count: int, size: int) -> list[Round]:
    """Rows a second, round by round: served, bare, and bare with embedding."""
    rounds = []
    for number in range(ROUNDS):
        rows, more = texts(count, 100 * size + number), texts(count, 7000 + 100 * size + number)
        took = asyncio.run(served.insert(rows, size))
        rounds.append(Round(took, bare.insert(rows, size, embedding=False), bare.insert(more, size, embedding=True)))
    return rounds


def queries(bare: Bare, served: Served) -> list[Round]:
    """Served and bare p50 in seconds, round by round."""
    rounds = []
    for number in range(ROUNDS):
        asked = [" ".join(text.split()[:4]) for text in texts(QUERIES, 50 + number)]
        took = asyncio.run(served.search(asked))
        alone = statistics.median(bare.search(query) for query in asked)
        rounds.append(Round(statistics.median(took), alone, alone))
    return rounds


def compare(report: Callable[[str], None], name: str, rounds: Sequence[Round]) -> bool:
    """Say how a call does beside the bare store, and whether that is its share."""
    share = statistics.median(one.served / one.bare for one in rounds)
    same_work = statistics.median(one.served / one.embedding for one in rounds)
    served, bare, _ = (statistics.median(side) for side in zip(*rounds, strict=True))
    if name == "query":
        kept, figures = share <= SHARES[name], f"{served * 1000:.1f} ms, bare {bare * 1000:.1f} ms"
        bound = f"at most {SHARES[name]}"
    else:
        kept, figures = share >= SHARES[name], f"{served:.0f} a second, bare {bare:.0f} a second"
        bound = f"at least {SHARES[name]}; {same_work:.2f} x where the bare run embeds too"
    report(f"  /{name}: {figures}: {share:.2f} x ({bound}) {'ok' if kept else 'FALLS SHORT'}")
    return kept


def main() -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memories", type=int, default=20_000)
    options = parser.parse_args()
    return 0 if run(options.memories, lambda line: print(line, flush=True)) else 1


if __name__ == "__main__":
    sys.exit(main())
