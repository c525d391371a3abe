"""A server of known capacity that speaks just enough of Spectron to be replayed into, and never is the bottleneck.

Run as a process of its own: it prints its address, and ends with its standard input. Every request takes
`latency` seconds, a fact in one of `slots` places; what comes beyond `slots` is answered 429 with Retry-After
(`full=reject`), waits for a place (`full=queue`), or makes all others slower (`full=drag`). Only counts are
kept, so a million memories take no room. `POST /control` changes latency, slots and full; `GET /control`
tells what was done.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from collections import deque
from email.utils import formatdate
from typing import Any

ME = {
    "principalId": "bench",
    "effectiveGrants": {verb: ["*"] for verb in ("memory:read", "memory:write", "scope:read", "scope:create")},
}

WRITTEN_AT = re.compile(rb"written at (\d+\.\d+)")


class Capacity:
    """How many writes are at work, how many wait, and what each of them takes."""

    def __init__(self, latency_s: float, slots: int, full: str) -> None:
        self.latency_s, self.slots, self.full = latency_s, slots, full
        self.at_work = self.most_at_work = self.most_waiting = 0
        self.waiting: deque[Any] = deque()
        self.written = self.rejected = self.sessions = self.scopes = 0
        self.first = self.last = self.asked_first = self.sent_first = 0.0
        self.each_second: dict[int, int] = {}
        self.turns: dict[str, int] = {}
        self.lags: list[float] = []
        """Seconds from when a text says that it was written (`written at 1767225600.5`) to when it came."""

    def take_s(self) -> float:
        """Seconds that a write takes which begins now."""
        if self.full == "drag" and self.at_work > self.slots:
            return self.latency_s * (self.at_work / self.slots) ** 1.5
        return self.latency_s

    def done(self) -> None:
        now = time.monotonic()
        self.first = self.first or now
        self.last = now
        self.written += 1
        self.each_second[int(now)] = self.each_second.get(int(now), 0) + 1

    def stats(self) -> dict[str, Any]:
        begin = int(self.first)
        return {
            "written": self.written,
            "rejected": self.rejected,
            "sessions": self.sessions,
            "scopes": self.scopes,
            "seconds": self.last - self.first,
            "whole_seconds": self.last - self.asked_first,
            "first_sent_after": self.sent_first - self.asked_first,
            "now": time.monotonic() - begin,
            "most_at_work": self.most_at_work,
            "most_waiting": self.most_waiting,
            "lags": self.lags,
            "each_second": [self.each_second.get(second, 0) for second in range(begin, int(self.last) + 1)],
        }


class Exchange(asyncio.Protocol):
    """One connection; one request at a time, as our client and any HTTP/1.1 client sends them."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self.loop = asyncio.get_running_loop()
        self.buffer = b""
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        at = head.lower().find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(rest) < length:
            return
        self.buffer = rest[length:]
        method, path, _ = head.split(b" ", 2)
        self.handle(method.decode(), path.decode().partition("?")[0], rest[:length])

    def handle(self, method: str, path: str, body: bytes) -> None:
        if path.endswith("/me"):  # the first question after planning; one list of scopes goes before it
            self.capacity.asked_first = self.capacity.asked_first or time.monotonic()
        if path.endswith("/facts"):
            self.capacity.sent_first = self.capacity.sent_first or time.monotonic()
            self.fact(body)
        elif path.endswith("/sessions"):
            self.capacity.sessions += 1
            scopes = json.loads(body)["scopes"]
            made = {"id": f"s{self.capacity.sessions}", "scopes": scopes, "createdAt": "2026-01-01T00:00:00Z"}
            self.later(201, made)
        elif path.endswith("/scopes"):
            self.capacity.scopes += method == "POST"
            self.later(*((201, {"path": json.loads(body)["path"]}) if method == "POST" else (200, [])))
        elif path.endswith("/turns"):
            session = path.split("/")[-2]
            count = self.capacity.turns.get(session, 100)
            self.answer(200, [{"id": f"{session}-{at}", "content": "", "seq": at} for at in range(1, count + 1)])
        elif path.endswith("/me"):
            self.later(200, ME)
        elif method == "POST":
            for name, value in json.loads(body).items():
                setattr(self.capacity, name, value)
            self.answer(200, {})
        else:
            self.answer(200, self.capacity.stats())

    def later(self, status: int, body: Any) -> None:
        """A request that takes no place: its latency alone."""
        self.loop.call_later(self.capacity.latency_s, self.answer, status, body)

    def fact(self, body: bytes) -> None:
        capacity = self.capacity
        written = WRITTEN_AT.search(body)
        if written is not None:
            capacity.lags.append(time.time() - float(written[1]))
        at = body.find(b'"session_id":"') + 14
        session = body[at : body.index(b'"', at)].decode()
        if capacity.at_work >= capacity.slots and capacity.full == "reject":
            capacity.rejected += 1
            self.answer(429, {"message": "too many at once"}, "Retry-After: 1\r\n")
        elif capacity.at_work >= capacity.slots and capacity.full == "queue":
            capacity.waiting.append((self, session))
            capacity.most_waiting = max(capacity.most_waiting, len(capacity.waiting))
        else:
            self.begin(session)

    def begin(self, session: str) -> None:
        capacity = self.capacity
        capacity.at_work += 1
        capacity.most_at_work = max(capacity.most_at_work, capacity.at_work)
        self.loop.call_later(capacity.take_s(), self.end, session)

    def end(self, session: str) -> None:
        capacity = self.capacity
        capacity.at_work -= 1
        capacity.done()
        turn = capacity.turns[session] = capacity.turns.get(session, 0) + 1
        name = f"{session}-{turn}"
        extraction = {
            "turnId": name,
            "entities": [{"id": f"e-{name}", "name": "user", "entityType": "person", "isNew": False}],
            "attributes": [{"id": f"a-{name}", "entityId": f"e-{name}", "key": "likes", "value": "tea"}],
            "relations": [],
        }
        self.answer(
            200,
            {"mode": "full", "sessionId": session, "turnId": name, "chunkId": f"c-{name}", "extraction": extraction},
        )
        while capacity.waiting and capacity.at_work < capacity.slots:
            other, waiting = capacity.waiting.popleft()
            other.begin(waiting)

    def answer(self, status: int, body: Any, header: str = "") -> None:
        content = json.dumps(body).encode()
        date = formatdate(usegmt=True)
        head = f"HTTP/1.1 {status} X\r\nDate: {date}\r\nContent-Type: application/json\r\n{header}"
        self.transport.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)


async def serve(latency_s: float, slots: int, full: str) -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    capacity = Capacity(latency_s, slots, full)
    server = await loop.create_server(lambda: Exchange(capacity), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--latency", type=float, default=0.05)
    options.add_argument("--slots", type=int, default=1_000_000)
    options.add_argument("--full", choices=["reject", "queue", "drag"], default="reject")
    chosen = options.parse_args()
    asyncio.run(serve(chosen.latency, chosen.slots, chosen.full))
