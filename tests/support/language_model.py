"""A language model behind an OpenAI-compatible endpoint: a server on loopback with canned answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Model(ThreadingHTTPServer):
    """Answers each request with the same content, and records the requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Endpoint)
        self.content: object = {"facts": []}
        """What it answers, or a function of what it was asked."""
        self.status = 200
        self.asked: list[Any] = []

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Endpoint(BaseHTTPRequestHandler):
    """Handles the one call that is used."""

    server: Model

    def do_POST(self) -> None:
        """Answer."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((self.path, self.headers.get("authorization"), body))
        content = self.server.content
        if callable(content):
            content = content(json.loads(body["messages"][1]["content"]))
        content = content if isinstance(content, str) else json.dumps(content)
        answer = json.dumps({"choices": [{"message": {"content": content}}]}).encode()
        self.send_response(self.server.status)
        self.send_header("retry-after", "7")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def language_model() -> Iterator[Model]:
    """A running endpoint."""
    server = Model()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
