"""A proxy on loopback between the migration and Spectron that rewrites answers."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

Change = Callable[[str, Any, Any], Any]
"""Path, request body and answer body -> the answer to give instead."""


@contextmanager
def rewriting_answers(upstream: str, change: Change) -> Iterator[str]:
    """Forward every request and let `change` rewrite JSON answers; yields the base URL."""
    at = urlsplit(upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1  # headers and body leave together: else each answer waits for a delayed acknowledgement

        def do_GET(self) -> None:
            self.pass_on()

        def do_POST(self) -> None:
            self.pass_on()

        def pass_on(self) -> None:
            asked = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            connection = http.client.HTTPConnection(at.hostname or "", at.port)
            try:
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                connection.request(self.command, self.path, body=asked or None, headers=headers)
                answer = connection.getresponse()
                body, status, kind = answer.read(), answer.status, answer.headers.get("Content-Type", "")
                date = answer.headers.get("Date")
            finally:
                connection.close()
            if body and "json" in kind:
                body = json.dumps(change(self.path, json.loads(asked) if asked else None, json.loads(body))).encode()
            self.send_response_only(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if date:
                self.send_header("Date", date)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
