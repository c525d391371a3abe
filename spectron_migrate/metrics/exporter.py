"""Serves the metrics on a port, or writes them into a file, while a command runs.

The state directory is read again only after 200 times the duration of the last reading. So a large ledger is read
rarely, and exporting takes no more than half a per cent of one processor.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

from spectron_migrate.errors import InputError
from spectron_migrate.files.atomic import replace_file
from spectron_migrate.metrics.numbers import Numbers, read_numbers
from spectron_migrate.settings import Settings
from spectron_migrate.spectron.traffic import Traffic
from spectron_migrate.state.store import StateStore

if TYPE_CHECKING:
    from prometheus_client.core import Metric

EVERY_S = 15.0
"""How often the file is written."""
LEAST_S = 5.0
"""The least time for which numbers of the state directory are exported without being read again."""
SHARE = 1 / 200
"""The share of one processor that reading the state directory may take."""
PATH = "/metrics"


class Exporter:
    """The metrics of one command; a collector of prometheus-client. Safe to use from several threads."""

    def __init__(self, read: Callable[[], Numbers]) -> None:
        """`read`: the numbers of the state directory. Raises InputError without prometheus-client."""
        try:
            from prometheus_client import CollectorRegistry, exposition
        except ImportError:
            raise InputError(
                "metrics need prometheus-client, which is not installed",
                hint="pip install 'spectron-migrate[metrics]'",
            ) from None
        self.traffic: Traffic | None = None
        """The HTTP requests of this process."""
        self.cpu_s = 0.0
        """Processor time that exporting has taken."""
        self._exposition = exposition
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        self._read = read
        self._lock = threading.Lock()
        self._numbers = Numbers()
        self._due = float("-inf")

    def collect(self) -> Iterator[Metric]:
        """All metrics now."""
        from spectron_migrate.metrics.families import families

        return families(self._newest(), self.traffic, self.cpu_s)

    def look_again(self) -> None:
        """Read the state directory at the next export, however long that takes."""
        with self._lock:
            self._due = float("-inf")

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The metrics as text, and its content type; `accept`: the header of a request."""
        began = time.thread_time()
        encode, content_type = self._exposition.choose_encoder(accept)
        text = encode(self._registry)
        with self._lock:
            self.cpu_s += time.thread_time() - began
        return text, content_type

    def _newest(self) -> Numbers:
        with self._lock:
            if time.monotonic() >= self._due:
                began = time.monotonic()
                self._numbers = self._read()
                ended = time.monotonic()
                self._due = ended + max(LEAST_S, (ended - began) / SHARE)
            return self._numbers


@contextmanager
def exporting(
    settings: Settings, state: Path | StateStore, mapping: str, *, warn: Callable[[str], None]
) -> Iterator[Exporter]:
    """Export while the block lasts. `mapping`: its digest.

    Raises InputError if the port cannot be opened or the file cannot be written.
    """
    wanted = settings.metrics
    exporter = Exporter(lambda: read_numbers(settings, state, mapping))
    ends: list[Callable[[], None]] = []
    try:
        if wanted.port is not None:
            ends.append(_serve(exporter, wanted.host, wanted.port))
        if wanted.textfile is not None:
            write_textfile(exporter, wanted.textfile)
            ends.append(_keep_writing(exporter, wanted.textfile, warn))
        yield exporter
    finally:
        for end in ends:
            end()


def write_textfile(exporter: Exporter, path: Path) -> None:
    """Replace the file atomically; raises InputError if it cannot be written."""
    try:
        # Others must be able to read it, because node_exporter runs as a user of its own.
        replace_file(path, exporter.render()[0], durable=False, mode=0o644)
    except OSError as error:
        raise InputError(
            f"metrics.textfile {path} cannot be written: {error.strerror or error}",
            hint="name a file in a directory that exists",
        ) from error


def _serve(exporter: Exporter, host: str, port: int) -> Callable[[], None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.partition("?")[0] != PATH:
                self.send_error(404)
                return
            text, content_type = exporter.render(self.headers.get("Accept", ""))
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing, because stderr belongs to the command."""

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise InputError(
            f"metrics.port {port} cannot be opened on {host}: {error.strerror or error}",
            hint="is another process using it? Each one needs a port of its own, or a metrics.textfile",
        ) from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return end


def _keep_writing(exporter: Exporter, path: Path, warn: Callable[[str], None]) -> Callable[[], None]:
    ended = threading.Event()

    def write() -> None:
        has_warned = False
        while not ended.wait(EVERY_S):
            try:
                write_textfile(exporter, path)
                has_warned = False
            except InputError as error:
                if not has_warned:
                    warn(error.message)
                has_warned = True

    thread = threading.Thread(target=write, name="metrics", daemon=True)
    thread.start()

    def end() -> None:
        ended.set()
        thread.join()
        if os.access(path.parent, os.W_OK):
            exporter.look_again()
            write_textfile(exporter, path)

    return end
