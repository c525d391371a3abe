"""Milvus: a file of Lite 2 is read natively, a folder of Lite 3 on a copy, a server through its driver."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from spectron_migrate.errors import InputError, KeyRefused, Unreachable
from spectron_migrate.mem0.open import open_oss
from spectron_migrate.mem0.stores import milvus
from spectron_migrate.records import Memory, Skipped
from tests.mem0.conftest import NOW
from tests.mem0.qdrant_points import uuid
from tests.mem0.rows import Row, odd_payloads
from tests.mem0.stores.support import fingerprints


def config(url: Path | str, **more: Any) -> dict[str, Any]:
    store = {"provider": "milvus", "config": {"url": str(url), "collection_name": "mem0", **more}}
    return {"vector_store": store, "history_db_path": "/nowhere/history.db"}


def read(settings: dict[str, Any]) -> list[Memory | Skipped]:
    with open_oss(settings, now=NOW, sleep=lambda seconds: None) as reader:
        rows = list(reader.rows())
        assert 0 == reader.missing()
        assert len(rows) == reader.native_count()
        return rows


def texts(rows: list[Memory | Skipped]) -> dict[str, str]:
    return {row.id: row.memory for row in rows if isinstance(row, Memory)}


def varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


def row_of_lite(memory_id: str, payload: Row) -> bytes:
    """Fields of a row as Milvus Lite 2 keeps them: name, kind and value, a vector among them."""
    text = field(1, field(2, b"id") + field(3, field(7, field(1, memory_id.encode()))))
    vector = field(1, field(2, b"vectors") + field(4, b"\x08\x02" + field(2, field(1, b"\0\0\x80?\0\0\0@"))))
    metadata = field(
        1, b"\x08\x17" + field(2, b"metadata") + field(3, field(9, field(1, json.dumps(payload).encode())))
    )
    return text + vector + metadata + b"\x10\x01"


@pytest.fixture
def lite_file(tmp_path: Path) -> Path:
    path = tmp_path / "milvus.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE collection_meta (id INTEGER, meta BLOB)")
        db.execute("CREATE TABLE mem0 (id INTEGER PRIMARY KEY AUTOINCREMENT, milvus_id VARCHAR(1000), data BLOB)")
        rows = [(one, row_of_lite(one, payload)) for one, payload in odd_payloads().items()]
        db.executemany("INSERT INTO mem0 (milvus_id, data) VALUES (?, ?)", rows)
    db.close()
    return path


def test_a_file_of_milvus_lite_2_is_read_without_the_driver(lite_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    monkeypatch.setattr(milvus, "_PAGE", 7)
    before = fingerprints(lite_file.parent)

    found = read(config(lite_file))

    assert before == fingerprints(lite_file.parent)
    assert {one: payload["data"] for one, payload in odd_payloads().items()} == texts(found)
    [first] = [row for row in found if isinstance(row, Memory) and row.memory == "likes tea"]
    assert {"topic": "drinks", "nested": {"a": [1, None, True]}} == first.metadata


def test_a_row_of_the_file_without_metadata_is_named(lite_file: Path) -> None:
    with sqlite3.connect(lite_file) as db:
        db.execute("DELETE FROM mem0")
        db.execute("INSERT INTO mem0 (milvus_id, data) VALUES ('a', x'ff'), ('b', x'')")
    db.close()

    assert [Skipped("a", "no text field"), Skipped("b", "no text field")] == read(config(lite_file))


def test_an_unknown_collection_of_the_file_is_refused_with_those_that_exist(lite_file: Path) -> None:
    with pytest.raises(InputError) as error:
        read(config(lite_file, collection_name="memorise"))

    assert f"there is no collection memorise in {lite_file}" == error.value.message
    assert "collections there: mem0" == error.value.hint


def test_what_is_not_there_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no Milvus Lite at"):
        read(config(tmp_path / "nowhere.db"))

    assert [] == list(tmp_path.iterdir())


class CallError(grpc.RpcError):  # type: ignore[misc,unused-ignore]
    """As gRPC raises it beneath the driver, for a call that the server refuses."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    def code(self) -> Any:
        return grpc.StatusCode[self.status]

    def details(self) -> str:
        return self.message


class MilvusError(Exception):
    """As the driver raises it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Driver:
    """A stand-in for the driver's client, over rows in memory."""

    rows: dict[str, Row] = {}  # noqa: RUF012  (set by each test)
    opened: list[dict[str, Any]] = []  # noqa: RUF012
    asked: list[str] = []  # noqa: RUF012
    loaded = True
    fails: Exception | None = None

    def __init__(self, **how: Any) -> None:
        Driver.opened.append(how)
        self.fail()

    def fail(self) -> None:
        if Driver.fails:
            raise Driver.fails

    def has_collection(self, name: str) -> bool:
        return name == "mem0"

    def list_collections(self) -> list[str]:
        return ["mem0", "mem0_entities"]

    def load_collection(self, name: str) -> None:
        Driver.asked.append("load")

    def query(self, name: str, *, filter: str, output_fields: list[str], consistency_level: str) -> list[Row]:
        assert "Strong" == consistency_level
        if not Driver.loaded:
            raise MilvusError(f"collection not loaded[collection={name}]")
        if output_fields == ["count(*)"]:
            return [{"count(*)": len(Driver.rows)}]
        ids = json.loads(filter.removeprefix("id in "))
        return [{"id": one, "metadata": Driver.rows[one]} for one in ids if one in Driver.rows]

    def query_iterator(self, name: str, *, batch_size: int, filter: str, output_fields: list[str], **how: Any) -> Any:
        left = [{"id": one, "metadata": row} for one, row in reversed(Driver.rows.items())]

        def following() -> list[Row]:
            self.fail()
            page = left[:batch_size]
            del left[:batch_size]
            return page

        return SimpleNamespace(next=following, close=lambda: None)

    def close(self) -> None:
        Driver.asked.append("close")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> type[Driver]:
    Driver.rows, Driver.opened, Driver.asked, Driver.loaded, Driver.fails = {}, [], [], True, None
    monkeypatch.setitem(sys.modules, "pymilvus", SimpleNamespace(MilvusClient=Driver))
    monkeypatch.setitem(sys.modules, "pymilvus.exceptions", SimpleNamespace(MilvusException=MilvusError))
    monkeypatch.setattr(milvus, "_PAGE", 7)
    Driver.rows = {uuid(number): {"data": f"note {number}"} for number in range(50)}
    return Driver


def test_a_server_is_read_by_the_drivers_iterator(driver: type[Driver]) -> None:
    found = read(config("http://127.0.0.1:19530", token="t", db_name="d"))

    assert {one: row["data"] for one, row in driver.rows.items()} == texts(found)
    assert "load" not in driver.asked
    [how] = driver.opened
    assert "t" == how["token"]
    assert "d" == how["db_name"]


def test_a_collection_that_is_not_loaded_is_not_loaded_by_us(driver: type[Driver]) -> None:
    driver.loaded = False

    with pytest.raises(InputError, match="is not loaded"):
        read(config("http://127.0.0.1:19530"))
    assert "load" not in driver.asked


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("auth check failure, please check api key", KeyRefused),
        ("Fail connecting to server on 127.0.0.1:1, illegal connection params or server unavailable", Unreachable),
        ("field metadata not exist", InputError),
    ],
)
def test_an_error_of_the_driver_is_one_of_ours(driver: type[Driver], message: str, expected: Any) -> None:
    driver.fails = MilvusError(message)

    with pytest.raises(expected, match=message[:20]):
        read(config("http://127.0.0.1:19530"))


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("UNAUTHENTICATED", KeyRefused),
        ("PERMISSION_DENIED", KeyRefused),
        ("UNAVAILABLE", Unreachable),
        ("DEADLINE_EXCEEDED", Unreachable),
        ("RESOURCE_EXHAUSTED", InputError),
    ],
)
def test_an_error_of_a_call_that_the_driver_lets_through_is_one_of_ours(
    driver: type[Driver], status: str, expected: Any
) -> None:
    driver.fails = CallError(status, "what the server says")

    with pytest.raises(expected, match="what the server says"):
        read(config("http://127.0.0.1:19530"))


def test_a_folder_of_milvus_lite_3_is_opened_as_a_copy_and_stays_as_it_is(driver: type[Driver], tmp_path: Path) -> None:
    folder = tmp_path / "milvus.db"
    (folder / "collections" / "mem0").mkdir(parents=True)
    (folder / "collections" / "mem0" / "manifest.json").write_text("{}")
    (folder / "LOCK").write_text("")
    before = fingerprints(folder)

    assert 50 == len(read(config(folder)))

    assert before == fingerprints(folder)
    [how] = driver.opened
    assert not how["uri"].startswith(str(folder))
    assert not Path(how["uri"]).exists(), "the copy is removed"


def test_without_the_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)

    with pytest.raises(InputError) as error:
        read(config("http://127.0.0.1:19530"))

    assert "pip install 'spectron-migrate[milvus]'" == error.value.hint
