"""A proxy on loopback that misbehaves on purpose, between a client and a server that does not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from uvicorn.server import ServerState

from spectron_migrate.local import faults
from spectron_migrate.local.buffered_transport import BufferedProtocol
from spectron_migrate.local.faults import CannedAnswer, FaultLayer, Faults
from tests.support import contract

__all__ = ["CannedAnswer", "Fault", "Gate", "Proxy", "Seen", "gated", "misbehaving", "refusing", "serving"]

Fault = str | faults.Fault
"""A name of `faults.FAULTS`, or one that a test makes up."""
Seen = faults.SeenRequest
"""A request that came by."""
Choose = Callable[[Seen], Fault]


def refusing(status: int, message: str, retry_after: str | None = None) -> faults.Fault:
    """An answer without any work."""
    return faults.Fault("not done", shown=CannedAnswer(status, message, retry_after))


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

    def change(self, seen: Seen, body: bytes) -> bytes | None:
        """What the server's answer becomes on its way; None leaves it as it is."""
        return None

    def next(self, seen: Seen) -> Fault:
        """Note the request and choose its fault."""
        self.seen.append(seen)
        self.wrong += contract.problems(seen.method, seen.path, seen.body or None)
        fault = self.choose(seen)
        self.faults.append(fault)
        return fault

    async def relay(self, scope: Any, receive: Any, send: Any) -> None:
        """The ASGI application behind the faults: it asks the server."""
        body = (await receive())["body"]
        status, headers, answer = await self._ask(scope, body)
        changed = self.change(scope["extensions"][faults.REQUEST], answer)
        if changed is not None:
            answer = changed
            headers = [(name, value) for name, value in headers if name != b"content-length"]
            headers.append((b"content-length", str(len(answer)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _ask(self, scope: Any, body: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        at = urlsplit(self.upstream)
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        lines = [scope["method"].encode() + b" " + scope["raw_path"] + query + b" HTTP/1.1"]
        lines += [name + b": " + value for name, value in scope["headers"] if name != b"connection"]
        reader, writer = await asyncio.open_connection(at.hostname, at.port)
        try:
            writer.write(b"\r\n".join([*lines, b"connection: close"]) + b"\r\n\r\n" + body)
            head = await reader.readuntil(b"\r\n\r\n")
            first, *rest = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
            pairs = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in rest)]
            length = int(dict(pairs).get(b"content-length", b"0"))
            kept = [(name, value) for name, value in pairs if name != b"connection"]
            return int(first.split()[1]), kept, await reader.readexactly(length)
        finally:
            writer.close()


class Gate(Proxy):
    """A proxy that keeps requests to itself while `shut` is true of them: their answers come late, or never."""

    shut: Callable[[Seen], bool] = staticmethod(lambda seen: False)

    async def relay(self, scope: Any, receive: Any, send: Any) -> None:
        """Ask the server once the gate is open."""
        while self.shut(scope["extensions"][faults.REQUEST]):  # noqa: ASYNC110 - who opens it is another thread
            await asyncio.sleep(0.01)
        await super().relay(scope, receive, send)


@contextmanager
def gated(upstream: str, around: Callable[[Any], Any] = lambda app: app) -> Iterator[Gate]:
    """Run a gate in front of `upstream` while the block lasts; `around` looks at its answers."""
    gate = Gate(upstream)
    with serving(FaultLayer(around(gate.relay), Faults(choose=lambda seen: gate.next(seen)))) as gate.base_url:
        yield gate
    assert [] == gate.wrong


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """An ASGI application on loopback, in a thread of its own, while the block lasts; its base URL."""
    config = uvicorn.Config(app, http=BufferedProtocol, log_level="error", date_header=False, ws="none", lifespan="off")
    config.load()
    state = ServerState()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def protocol() -> BufferedProtocol:
        return BufferedProtocol(config=config, server_state=state, app_state={}, _loop=loop)

    async def start() -> asyncio.Server:
        return await loop.create_server(protocol, "127.0.0.1", 0)

    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:

        async def stop() -> None:
            server.close()
            for connection in list(state.connections):
                connection.transport.abort()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def misbehaving(upstream: str, choose: Choose = lambda seen: "none") -> Iterator[Proxy]:
    """Run a proxy in front of `upstream` while the block lasts."""
    proxy = Proxy(upstream, choose)
    with serving(FaultLayer(proxy.relay, Faults(choose=lambda seen: proxy.next(seen)))) as proxy.base_url:
        yield proxy
    assert [] == proxy.wrong
