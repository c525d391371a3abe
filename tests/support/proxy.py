"""A proxy on loopback that misbehaves on purpose, between a client and a server that does not.

It speaks just enough HTTP/1.1 for bodies with a Content-Length, over real sockets.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from tests.support import contract

Fault = Literal[
    "none",
    "cut_before",
    "cut_after",
    "half_answer",
    "garbage",
    "500_before",
    "500_after",
    "429",
    "503",
    "429_bare",
    "400",
]
Choose = Callable[["Seen"], Fault]

_PHRASES = {
    "500_before": ("500 Internal Server Error", "", "unknown error"),
    "500_after": ("500 Internal Server Error", "", "unknown error"),
    "400": ("400 Bad Request", "", "not this one"),
    "429": ("429 Too Many Requests", "Retry-After: 0\r\n", "slow"),
    "429_bare": ("429 Too Many Requests", "", "slow"),
    "503": ("503 Service Unavailable", "Retry-After: 0\r\n", "busy"),
}


def _canned(fault: Fault) -> bytes:
    status, header, message = _PHRASES[fault]
    body = f'{{"message":"{message}"}}'
    return f"HTTP/1.1 {status}\r\n{header}Content-Length: {len(body)}\r\n\r\n{body}".encode()


@dataclass(frozen=True)
class Seen:
    """A request that came by."""

    number: int
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Proxy:
    """A running proxy: `choose` may be exchanged while it runs."""

    upstream: str
    choose: Choose = lambda seen: "none"
    base_url: str = ""
    seen: list[Seen] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Requests that are not as published, from processes of their own too."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head, body = await _message(reader)
                first, *lines = head.decode("latin-1").split("\r\n")
                method, path, _ = first.split(" ", 2)
                headers = {
                    name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
                }
                request = Seen(len(self.seen), method, path, headers, body)
                self.seen.append(request)
                self.wrong += contract.problems(method, path, body or None)
                fault = self.choose(request)
                self.faults.append(fault)
                if not await self._answer(fault, head, body, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, fault: Fault, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> bool:
        """Play the fault; False where the connection is to be cut."""
        if fault == "cut_before":
            return False
        if fault in _PHRASES and fault != "500_after":
            writer.write(_canned(fault))
        else:
            answer = await self._forward(head, body)
            if fault == "cut_after":
                return False
            if fault == "half_answer":
                writer.write(answer[: len(answer) - 10])
                await writer.drain()
                return False
            told = {"garbage": b"\x00\x01 nonsense\r\n\r\n", "500_after": _canned("500_after")}
            writer.write(told.get(fault, answer))
        await writer.drain()
        return fault != "garbage"

    async def _forward(self, head: bytes, body: bytes) -> bytes:
        at = urlsplit(self.upstream)
        reader, writer = await asyncio.open_connection(at.hostname, at.port)
        try:
            writer.write(head + b"\r\n\r\n" + body)
            await writer.drain()
            answer_head, answer_body = await _message(reader)
            return answer_head + b"\r\n\r\n" + answer_body
        finally:
            writer.close()


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).removesuffix(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return head, await reader.readexactly(length)


@contextmanager
def misbehaving(upstream: str, choose: Choose = lambda seen: "none") -> Iterator[Proxy]:
    """Run a proxy in front of `upstream` while the block lasts."""
    proxy = Proxy(upstream, choose)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(proxy._serve, "127.0.0.1", 0)

    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    proxy.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:

        async def stop() -> None:
            server.close()
            for task in asyncio.all_tasks():
                if task is not asyncio.current_task():
                    task.cancel()

        asyncio.run_coroutine_threadsafe(stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
    assert [] == proxy.wrong
