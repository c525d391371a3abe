"""Starts the local Spectron: `serve` on a socket, `create_app` for a test in the same process."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from spectron_migrate.local.app import build
from spectron_migrate.local.auth import Keyring, bootstrap
from spectron_migrate.local.embedding import Embedder, WordLlamaEmbedder
from spectron_migrate.local.engine import API_VERSIONS, NEWEST, Api, ContractReading, Engine, ServerSettings, wall_clock
from spectron_migrate.local.extract import Extractor
from spectron_migrate.local.faults import FaultLayer, Faults
from spectron_migrate.local.rules import RuleExtractor
from spectron_migrate.local.schema import StoreRefused
from spectron_migrate.local.sqlite import SqliteStore
from spectron_migrate.local.times import stamp
from spectron_migrate.local.web import CONTEXT_ID

__all__ = ["StoreRefused", "create_app", "serve", "store_path"]


KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep idle connections: one that the server closes as it is reused looks like a failure."""


def store_path(data: Path, context: str) -> Path:
    """The database of a context in a data directory; `sqlite` documents its views."""
    return data / f"{context}.sqlite"


def create_app(
    *,
    data: Path | None = None,
    context: str = "local",
    api_key: str = "sk-local",
    extraction: bool = True,
    api: str = NEWEST,
    principals: Mapping[str, Mapping[str, Any]] | None = None,
    reading: ContractReading | None = None,
    faults: Faults | None = None,
    max_in_flight: int = 256,
    embedder: Embedder | None = None,
    extractor: Extractor | None = None,
    clock: Callable[[], datetime] = wall_clock,
) -> ASGIApp:
    """The local Spectron as an ASGI application.

    Args:
        data: directory that keeps the memories; None keeps them in memory.
        context: the context id; all others answer 401.
        api_key: the key of the operator, who has all grants.
        extraction: False stores text without extracting facts.
        api: the generation of the API: one of `engine.API_VERSIONS`.
        principals: further principals: id -> `{"key": …, "grants": {verb: [pattern]}, "kind": …}`.
        reading: how to read what the published contract leaves open.
        faults: faults to inject; can be changed while the server runs.
        max_in_flight: from API 0.2.1 on, more requests than this answer 503.
        embedder: turns text into vectors; WordLlama if not given.
        extractor: extracts facts from text; the rules if not given.
        clock: the current time.

    Raises:
        ValueError: an invalid context id or an unknown API version.
        StoreRefused: the store cannot be opened; the message says why.
    """
    if not CONTEXT_ID.fullmatch(context):
        raise ValueError(f"{context!r} is not a context id")
    if api not in API_VERSIONS:
        raise ValueError(f"API version must be one of {', '.join(API_VERSIONS)}, not {api!r}")
    version: Api = api
    embedder = embedder or WordLlamaEmbedder()
    path = store_path(data, context) if data is not None else None
    store = SqliteStore(path, context, embedder.dimensions)
    bootstrap(store, api_key, principals or {}, stamp(clock()))
    engine = Engine(
        ServerSettings(context, version, extraction, max_in_flight),
        store,
        embedder,
        extractor or RuleExtractor(),
        Keyring(store),
        reading or ContractReading(),
        clock,
    )
    app = build(engine)
    if faults is None:
        return app
    faults.attach(engine)
    return FaultLayer(app, faults)


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 9090,
    data: Path | None = None,
    context: str = "local",
    api_key: str = "sk-local",
    extraction: bool = True,
    api: str = NEWEST,
    ready: Callable[[str], None] | None = None,
    **more: Any,
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        host: address to listen on.
        port: 0 takes any free port.
        data: see `create_app`, as for the next four.
        context: the context id.
        api_key: the operator's key.
        extraction: whether facts are extracted from text.
        api: the generation of the API.
        ready: called with the base URL once the server answers.
        more: further options of `create_app`.

    Raises:
        OSError: the port is in use, or the address is not one of this machine.
        ValueError, StoreRefused: see `create_app`.
    """
    import uvicorn

    from spectron_migrate.local.buffered_transport import BufferedProtocol

    class Server(uvicorn.Server):  # type: ignore[misc] # it comes without types
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started and ready is not None:
                ready(base_url(host, listener.getsockname()[1]))

    listener = _listen(host, port)
    try:
        app = create_app(data=data, context=context, api_key=api_key, extraction=extraction, api=api, **more)
        config = uvicorn.Config(
            app,
            http=BufferedProtocol,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,  # the application sends one by the engine's clock
            proxy_headers=False,
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        Server(config).run(sockets=[listener])
    finally:
        listener.close()


def base_url(host: str, port: int) -> str:
    """The base URL of a server."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With an explicit protocol asyncio disables Nagle's algorithm, which would delay each answer by 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # the port of a killed server is free immediately
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener
