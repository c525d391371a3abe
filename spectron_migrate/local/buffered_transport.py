"""Head and body of an answer in one piece: uvicorn writes them one by one, and each write is a system call."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from spectron_migrate.local.faults import TRANSPORT


class BufferedTransport:
    """A transport that sends at the end of a turn of the event loop what was written during it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        """Wrap a transport; all but writing and closing is left to it."""
        self._transport = transport
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Keep it until the end of the turn."""
        if not self._parts:
            asyncio.get_running_loop().call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        """Send what is kept, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts:
            self._transport.write(b"".join(self._parts))
            self._parts.clear()

    def __getattr__(self, name: str) -> Any:
        """Everything else."""
        return getattr(self._transport, name)


class BufferedProtocol(HttpToolsProtocol):  # type: ignore[misc] # it comes without types
    """uvicorn's own, over such a transport."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        super().connection_made(BufferedTransport(cast("asyncio.Transport", transport)))

    def on_message_begin(self) -> None:
        """A request has begun: the application may reach its connection, for faults."""
        super().on_message_begin()
        self.scope["extensions"] = {TRANSPORT: self.transport}
