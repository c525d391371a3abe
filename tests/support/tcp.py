"""A relay for any protocol over TCP, which cuts connections as a test wants it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Relay:
    """Forwards connections; each takes the next number of `cuts`: bytes of answers before both sides are closed."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.upstream = upstream
        self.cuts: list[int] = []
        self.down = False
        """Whether new connections are refused at once."""
        self.connections = 0
        self._open: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def end(self) -> None:
        """Cut every connection, and refuse new ones."""
        self.down = True
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def begin(self) -> None:
        """Cut what is left of earlier connections, and let new ones through."""
        self.end()
        self._open.clear()
        self.cuts, self.down = [], False

    def close(self) -> None:
        self._listening.close()
        self.end()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            if self.down:
                client.close()
                continue
            self.connections += 1
            left = self.cuts.pop(0) if self.cuts else None
            server = socket.create_connection(self.upstream)
            self._open += [client, server]
            threading.Thread(target=_forward, args=(client, server, None), daemon=True).start()
            threading.Thread(target=_forward, args=(server, client, left), daemon=True).start()


def _forward(source: socket.socket, target: socket.socket, left: int | None) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            if left is not None:
                data, left = data[:left], left - len(data)
            target.sendall(data)
            if left is not None and left <= 0:
                break
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


@contextmanager
def relaying(upstream: tuple[str, int]) -> Iterator[Relay]:
    """A relay to this address."""
    relay = Relay(upstream)
    try:
        yield relay
    finally:
        relay.close()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])
