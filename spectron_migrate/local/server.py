"""Starting the local Spectron: `serve` on a socket, `create_app` for a test in the same process."""

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
from spectron_migrate.local.engine import API_VERSIONS, Api, ContractReading, Engine, ServerSettings, wall_clock
from spectron_migrate.local.extract import Extractor
from spectron_migrate.local.faults import FaultLayer, Faults
from spectron_migrate.local.rules import RuleExtractor
from spectron_migrate.local.schema import StoreRefused
from spectron_migrate.local.sqlite import SqliteStore
from spectron_migrate.local.times import stamp
from spectron_migrate.local.web import CONTEXT_ID

__all__ = ["StoreRefused", "create_app", "serve", "store_path"]


KEEP_ALIVE_SECONDS = 75
"""A client that reuses an idle connection just as the server closes it sees a failure that is none."""


def store_path(data: Path, context: str) -> Path:
    """The database of a context inside a data directory; `sqlite` says how to read along."""
    return data / f"{context}.sqlite"


def create_app(
    *,
    data: Path | None = None,
    context: str = "local",
    api_key: str = "sk-local",
    extraction: bool = True,
    api: str = "0.0.0",
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
        context: the context id; every other one answers 401.
        api_key: of the operator, who may do everything.
        extraction: the Context's setting; False stores text without drawing facts from it.
        api: the generation of the published document to answer in: 0.0.0 or 0.2.1.
        principals: more of them: id -> `{"key": …, "grants": {verb: [pattern]}, "kind": …}`.
        reading: of what the published contract leaves open.
        faults: what shall go wrong; changeable while it runs.
        max_in_flight: beyond it API 0.2.1 answers 503.
        embedder: turns text into vectors; WordLlama when not given.
        extractor: draws facts from text; rules when not given.
        clock: gives the time.

    Raises:
        ValueError: a context id or API version that does not exist.
        StoreRefused: the data cannot be opened, and why.
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
    api: str = "0.0.0",
    ready: Callable[[str], None] | None = None,
    **more: Any,
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        host: address to listen on.
        port: 0 takes any free one.
        data: see `create_app`, as for the next four.
        context: the context id.
        api_key: the operator's key.
        extraction: whether facts are drawn from text.
        api: generation of the answers.
        ready: called with the base URL once the server really answers.
        more: the other options of `create_app`.

    Raises:
        OSError: the port is taken, or the address is not of this machine.
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
            date_header=False,  # ours is of the engine's clock
            proxy_headers=False,
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        Server(config).run(sockets=[listener])
    finally:
        listener.close()


def base_url(host: str, port: int) -> str:
    """What a client is given."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Naming the protocol makes asyncio switch off Nagle's delay, 40 ms an answer, on each connection.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the port of a killed one is free at once
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener
