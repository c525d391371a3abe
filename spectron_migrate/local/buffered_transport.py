"""Sends head and body of an answer in one system call; uvicorn writes them separately."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from spectron_migrate.local.faults import TRANSPORT


class BufferedTransport:
    """A transport that collects what is written during one iteration of the event loop and sends it at its end."""

    def __init__(self, transport: asyncio.Transport) -> None:
        """Wraps a transport, which does everything except writing and closing."""
        self._transport = transport
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send at the end of the iteration."""
        if not self._parts:
            asyncio.get_running_loop().call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        """Send what was collected, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts:
            self._transport.write(b"".join(self._parts))
            self._parts.clear()

    def __getattr__(self, name: str) -> Any:
        """Delegate everything else."""
        return getattr(self._transport, name)


class BufferedProtocol(HttpToolsProtocol):  # type: ignore[misc] # it comes without types
    """uvicorn's protocol over a `BufferedTransport`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wrap the transport of a new connection."""
        super().connection_made(BufferedTransport(cast("asyncio.Transport", transport)))

    def on_message_begin(self) -> None:
        """Give the application access to the connection, which injected faults need."""
        super().on_message_begin()
        self.scope["extensions"] = {TRANSPORT: self.transport}
