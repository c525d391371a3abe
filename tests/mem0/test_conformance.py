"""What every reader promises, asked of each of them over the same memories."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from spectron_migrate.dump import open_dump
from spectron_migrate.mem0.normalise import normalise
from spectron_migrate.mem0.open import open_reader, source_info
from spectron_migrate.mem0.reader import Reader
from spectron_migrate.migration.export import ExportSummary, run_export
from spectron_migrate.records import Filters, Memory, Skipped
from spectron_migrate.reporter import NullReporter
from tests.mem0.conftest import DATA, NOW
from tests.mem0.qdrant_points import key_of, point, write_store
from tests.mem0.rows import odd_payloads as payloads
from tests.mem0.standins import KEY, Platform, Qdrant, Row, Server, serving

pytestmark = pytest.mark.slow

PROMOTED = ("user_id", "agent_id", "run_id", "actor_id", "role", "attributed_to", "expiration_date")
CORE = {"data", "hash", "created_at", "updated_at", "id", "text_lemmatized", *PROMOTED}


def item(memory_id: str, payload: Row) -> Row:
    """The payload as an API of Mem0 answers it."""
    metadata = {name: value for name, value in payload.items() if name not in CORE}
    return {
        "id": memory_id,
        "memory": payload["data"],
        "hash": payload.get("hash"),
        "metadata": metadata or None,
        "created_at": payload.get("created_at"),
        "updated_at": payload.get("updated_at"),
        **{name: payload[name] for name in PROMOTED if name in payload},
    }


@dataclass
class Case:
    """A source, what a reader has to give for it, and whether it changed."""

    section: dict[str, Any]
    expected: dict[str, Memory]
    fingerprint: Callable[[], Any]
    hosts: tuple[str, ...] = ()


def assert_complete(case: Case, summary: ExportSummary) -> None:
    """Files without a total prove nothing; every other source counts what it holds."""
    assert summary.complete is (None if "files" in case.section else True)


def expected_of(rows: list[Any]) -> dict[str, Memory]:
    found = [normalise(row, now=NOW) for row in rows]
    return {row.id: row for row in found if isinstance(row, Memory)}


def of_payloads() -> dict[str, Memory]:
    return expected_of([{"id": one, "payload": payload} for one, payload in payloads().items()])


def of_items() -> dict[str, Memory]:
    return expected_of([item(one, payload) for one, payload in payloads().items()])


def bytes_below(folder: Path) -> Callable[[], Any]:
    return lambda: {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()
    }


def oss(provider: str, folder: Path, **more: Any) -> dict[str, Any]:
    store = {"provider": provider, "config": {"collection_name": "mem0", **more}}
    return {"oss": {"config": {"vector_store": store, "history_db_path": str(folder / "history.db")}}}


@contextmanager
def qdrant_folder(folder: Path) -> Iterator[Case]:
    write_store(folder, [(key_of(one), point(one, **payload)) for one, payload in payloads().items()])
    yield Case(oss("qdrant", folder, path=str(folder / "store")), of_payloads(), bytes_below(folder))


@contextmanager
def qdrant_server(folder: Path) -> Iterator[Case]:
    stand_in = Qdrant(payloads())
    with serving(stand_in) as url:
        yield Case(oss("qdrant", folder, url=url, api_key=KEY), of_payloads(), questions_only(stand_in), (url,))


@contextmanager
def faiss_folder(folder: Path, kind: str) -> Iterator[Case]:
    rows = payloads()
    (folder / "store").mkdir()
    (folder / "store" / "mem0.faiss").write_bytes(struct.pack("<4siq", b"IxFI", 16, len(rows)))
    ids = dict(enumerate(rows))
    if kind == "json":
        (folder / "store" / "mem0.json").write_text(json.dumps({"docstore": rows, "index_to_id": ids}))
    else:
        (folder / "store" / "mem0.pkl").write_bytes(pickle.dumps((rows, ids)))
    yield Case(oss("faiss", folder, path=str(folder / "store")), of_payloads(), bytes_below(folder))


@contextmanager
def chroma_folder(folder: Path) -> Iterator[Case]:
    shutil.copytree(DATA / "2.2.1-chroma" / "store", folder / "store")
    rows = [
        {"id": one, "payload": {name: value for name, value in payload.items() if is_flat(value)}}
        for one, payload in payloads().items()
    ]
    with sqlite3.connect(folder / "store" / "chroma.sqlite3") as db:
        [segment] = db.execute(
            "SELECT s.id FROM segments s JOIN collections c ON c.id = s.collection "
            "WHERE c.name = 'mem0' AND s.scope = 'METADATA'"
        ).fetchone()
        db.executescript("DELETE FROM embeddings; DELETE FROM embedding_metadata; DELETE FROM embedding_metadata_array")
        for number, row in enumerate(rows, start=1):
            db.execute("INSERT INTO embeddings VALUES (?, ?, ?, 1, '2025-01-01')", (number, segment, row["id"]))
            for name, value in row["payload"].items():
                db.execute("INSERT INTO embedding_metadata VALUES (?, ?, ?, NULL, NULL, NULL)", (number, name, value))
    db.close()
    yield Case(oss("chroma", folder, path=str(folder / "store")), expected_of(rows), bytes_below(folder / "store"))


def is_flat(value: Any) -> bool:
    return isinstance(value, str)


@contextmanager
def pgvector(folder: Path, address: str) -> Iterator[Case]:
    import psycopg

    def held() -> Any:
        return db.execute("SELECT id::text, payload FROM conformance ORDER BY id").fetchall()

    with psycopg.connect(address, autocommit=True) as db:
        db.execute("CREATE EXTENSION IF NOT EXISTS vector")
        db.execute("CREATE TABLE conformance (id UUID PRIMARY KEY, vector vector(2), payload JSONB)")
        with db.cursor() as cursor:
            rows = [(one, json.dumps(payload)) for one, payload in payloads().items()]
            cursor.executemany("INSERT INTO conformance VALUES (%s, '[1,2]', %s)", rows)
        section = oss("pgvector", folder, connection_string=address)
        section["oss"]["config"]["vector_store"]["config"]["collection_name"] = "conformance"
        yield Case(section, of_payloads(), held)
        db.execute("DROP TABLE conformance")


@contextmanager
def platform(folder: Path) -> Iterator[Case]:
    rows = []
    for one, payload in payloads().items():
        found = item(one, payload)
        found["session_id"] = found.pop("run_id", None)
        rows.append(found)
    stand_in = Platform(rows)
    with serving(stand_in) as url:
        section = {"platform": {"base_url": url, "api_key": KEY}}
        yield Case(section, expected_of(rows), questions_only(stand_in), (url,))


@contextmanager
def server(folder: Path, admin: bool) -> Iterator[Case]:
    stand_in = Server([item(one, payload) for one, payload in payloads().items()], admin=admin)
    with serving(stand_in) as url:
        section = {"server": {"base_url": url, "api_key": KEY}}
        yield Case(section, of_items(), questions_only(stand_in), (url,))


@contextmanager
def files(folder: Path) -> Iterator[Case]:
    rows = [item(one, payload) for one, payload in payloads().items()]
    (folder / "a.json").write_text(json.dumps({"results": rows[:30]}))
    (folder / "b.jsonl").write_text("\n".join(json.dumps(row) for row in rows[30:]))
    yield Case({"files": [f"{folder}/*.json*"]}, of_items(), bytes_below(folder))


def questions_only(stand_in: Any) -> Callable[[], Any]:
    """Served sources cannot be looked at from outside: no request may be one that changes something."""
    allowed = ("/v3/memories/", "/points/scroll", "/points/count", "/points", "/search")

    def changed() -> list[str]:
        return [
            f"{method} {path}"
            for method, path, _ in stand_in.asked
            if method != "GET" and not path.split("?")[0].endswith(allowed)
        ]

    return changed


KINDS = [
    "qdrant folder",
    "qdrant server",
    "faiss json",
    "faiss pkl",
    "chroma",
    "pgvector",
    "platform",
    "server",
    "server as admin",
    "files",
]


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    folder = tmp_path / "source"
    folder.mkdir()
    made = {
        "qdrant folder": lambda: qdrant_folder(folder),
        "qdrant server": lambda: qdrant_server(folder),
        "faiss json": lambda: faiss_folder(folder, "json"),
        "faiss pkl": lambda: faiss_folder(folder, "pkl"),
        "chroma": lambda: chroma_folder(folder),
        "pgvector": lambda: pgvector(folder, request.getfixturevalue("postgres")),
        "platform": lambda: platform(folder),
        "server": lambda: server(folder, admin=False),
        "server as admin": lambda: server(folder, admin=True),
        "files": lambda: files(folder),
    }
    with ExitStack() as stack:
        yield stack.enter_context(made[request.param]())


def opened(case: Case) -> Reader:
    return open_reader(case.section, now=NOW, sleep=lambda seconds: None)


def given(reader: Reader) -> dict[str, Memory]:
    rows = list(reader.rows())
    assert [] == [row for row in rows if isinstance(row, Skipped)]
    return {row.id: row for row in rows if isinstance(row, Memory)}


def export(case: Case, path: Path, filters: Filters | None = None) -> Any:
    with opened(case) as reader:
        return run_export(
            reader,
            path,
            filters=filters or Filters(),
            since=None,
            keep_history=False,
            reporter=NullReporter(),
            clock=lambda: datetime.now(UTC),
        )


def test_every_row_is_given_as_it_is(case: Case) -> None:
    with opened(case) as reader:
        assert case.expected == given(reader)


def test_a_second_pass_reads_the_same(case: Case) -> None:
    with opened(case) as reader:
        assert given(reader) == given(reader)


def test_nothing_at_the_source_changes(case: Case) -> None:
    before = case.fingerprint()

    with opened(case) as reader:
        given(reader)
        reader.native_count()

    assert before == case.fingerprint()


def test_the_counts_say_that_nothing_is_missing(case: Case) -> None:
    with opened(case) as reader:
        found = given(reader)
        assert reader.native_count() in (None, len(found))
        assert reader.missing() in (None, 0)


def test_the_source_is_known_without_opening_it(case: Case) -> None:
    with opened(case) as reader:
        assert reader.info.identity == source_info(case.section).identity
        assert KEY not in reader.info.place


def test_closing_twice_does_no_harm(case: Case) -> None:
    reader = opened(case)
    reader.close()
    reader.close()

    with opened(case) as again:
        assert case.expected == given(again)


def test_an_export_is_complete_and_nothing_is_altered(case: Case, tmp_path: Path) -> None:
    summary = export(case, tmp_path / "dump")

    assert_complete(case, summary)
    assert len(case.expected) == summary.memories
    assert case.expected == {row.id: row for row in open_dump(tmp_path / "dump").memories()}
    again = export(case, tmp_path / "dump")
    assert_complete(case, again)
    assert 0 == again.new
    assert 0 == again.changed
    assert 0 == again.deleted


@pytest.mark.parametrize(
    "filters",
    [
        Filters(users=frozenset({"alice"})),
        Filters(users=frozenset({"anna maria", "Zoë"})),
        Filters(agents=frozenset({"bot"})),
        Filters(users=frozenset({"alice"}), runs=frozenset({"run-1"})),
    ],
    ids=["user", "users", "agent", "user and run"],
)
def test_a_filtered_export_has_all_its_rows(case: Case, tmp_path: Path, filters: Filters) -> None:
    summary = export(case, tmp_path / "dump", filters)

    wanted = {one for one, row in case.expected.items() if filters.admits(row)}
    assert_complete(case, summary)
    assert wanted == {row.id for row in open_dump(tmp_path / "dump").memories()}


HOOKED = """
import json, os, sys
from datetime import UTC, datetime
from pathlib import Path

def hook(event, arguments):
    if event == "socket.connect":
        print("CONNECT", "%s:%s" % arguments[1][:2])
    elif event == "socket.getaddrinfo":
        print("LOOKUP", arguments[0])

def sockets():
    places = [os.path.join("/proc/self/fd", one) for one in os.listdir("/proc/self/fd")]
    return sum(os.readlink(place).startswith("socket:") for place in places if os.path.islink(place))

sys.addaudithook(hook)
before = sockets()
from spectron_migrate.migration.export import ExportSummary, run_export
from spectron_migrate.mem0.open import open_reader
from spectron_migrate.records import Filters
from spectron_migrate.reporter import NullReporter
with open_reader(json.loads(sys.argv[1]), now=datetime.now(UTC)) as reader:
    summary = run_export(reader, Path(sys.argv[2]), filters=Filters(), since=None, keep_history=True,
                         reporter=NullReporter(), clock=lambda: datetime.now(UTC))
    print("ROWS", summary.memories)
    print("SOCKETS", sockets() - before)
print("LOADED", sorted({"mem0", "qdrant_client", "chromadb", "faiss", "posthog"} & set(sys.modules)))
"""


def test_an_export_connects_to_nothing_else_and_leaves_nothing_outside_its_dump(
    case: Case, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The hook does not see a driver in C: its sockets are counted instead."""
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir()
    temporary.mkdir()
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(temporary), "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", HOOKED, json.dumps(case.section), str(tmp_path / "dump")],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=tmp_path,
    )

    lines = done.stdout.splitlines()
    assert f"ROWS {len(case.expected)}" in lines
    assert "LOADED []" == lines[-1]
    addresses = {urlsplit(url).netloc for url in case.hosts}
    assert addresses == {line.split()[1] for line in lines if line.startswith("CONNECT")}
    assert {address.split(":")[0] for address in addresses} >= {
        line.split()[1] for line in lines if line.startswith("LOOKUP")
    }
    by_driver = request.node.callspec.params["case"] == "pgvector"
    if not addresses:
        assert f"SOCKETS {int(by_driver)}" in lines
    assert [] == list(home.iterdir())
    assert [] == list(temporary.iterdir())
