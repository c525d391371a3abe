"""A collection of Milvus: a server or Zilliz, a folder of Milvus Lite 3 (opened on a copy), a file of Milvus Lite 2.

The driver's iterator follows the primary key within each part of the store. Our own pages by `id > last` would lose
rows, because a page is not sorted across all parts.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from spectron_migrate.errors import Incomplete, InputError, KeyRefused, MigrateError, Unreachable
from spectron_migrate.files.scratch import Scratch
from spectron_migrate.mem0.stores.listed import ListedStore, Row, missing_driver
from spectron_migrate.mem0.stores.oss_config import VectorStore, without_secret
from spectron_migrate.mem0.stores.sqlite_readonly import ReadOnlyDb

_PAGE = 1000
_COPIES = 20
_STRONG = "Strong"
"""A read that sees every write that was answered before it."""


def milvus_store(store: VectorStore) -> ListedStore:
    """The store at the address of the configuration; raises InputError if a file or folder is not there."""
    url = str(store.settings.get("url") or "http://localhost:19530")
    if not url.endswith(".db"):
        return Milvus(store, url, f"at {without_secret(url)}")
    path = Path(url).expanduser().resolve()
    if path.is_file():
        return MilvusLiteFile(path, store.collection)
    if not path.is_dir():
        raise InputError(f"there is no Milvus Lite at {path}", hint="name the file or folder that Mem0 writes to")
    return MilvusLiteFolder(store, path)


class Milvus(ListedStore):
    """One collection, asked through the driver."""

    def __init__(self, store: VectorStore, url: str, where: str) -> None:
        """Connect; raises InputError without the driver."""
        super().__init__(store.collection, where)
        try:
            from pymilvus import MilvusClient
        except ImportError as error:
            raise missing_driver("pymilvus", "milvus") from error
        for logger in ("pymilvus", "pymilvus.milvus_client"):  # we report once what it would log
            logging.getLogger(logger).setLevel(logging.CRITICAL)
        settings = store.settings
        try:
            self._client = MilvusClient(
                uri=url, token=str(settings.get("token") or ""), db_name=str(settings.get("db_name") or ""), timeout=60
            )
        except Exception as error:
            raise self.explained(error) or error from error

    def exists(self) -> bool:
        return bool(self._client.has_collection(self.name))

    def names(self) -> list[str]:
        return list(self._client.list_collections())

    def count(self) -> int:
        """Does not use the statistics of the collection, which leave out recent writes."""
        found = self._client.query(self.name, filter="", output_fields=["count(*)"], consistency_level=_STRONG)
        return int(found[0]["count(*)"])

    def pages(self, *, payload: bool) -> Iterator[list[Row]]:
        fields = ["id", "metadata"] if payload else ["id"]
        pages = self._client.query_iterator(
            self.name, batch_size=_PAGE, filter="", output_fields=fields, consistency_level=_STRONG
        )
        try:
            while rows := pages.next():
                yield [_row(row) for row in rows]
        finally:
            pages.close()

    def fetch(self, keys: Sequence[str]) -> Iterable[Row]:
        which = f"id in {json.dumps(list(keys))}"
        found = self._client.query(self.name, filter=which, output_fields=["id", "metadata"], consistency_level=_STRONG)
        return [_row(row) for row in found]

    def explained(self, error: Exception) -> MigrateError | None:
        """Also explains that a collection is not loaded.

        This is not checked before, because Milvus 2.3 shows it only to users who may load.
        """
        try:
            from grpc import RpcError, StatusCode
            from pymilvus.exceptions import MilvusException
        except ImportError:
            return None
        status = None
        if isinstance(error, RpcError):  # the driver passes on what gRPC says about a refused call
            status, message = error.code(), error.details()
        elif isinstance(error, MilvusException):
            message = error.message
        else:
            return None
        text = " ".join(str(message).split())[:300]
        refused = (StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED)
        if status in refused or any(word in text for word in ("auth", "permission", "privilege")):
            return KeyRefused(f"the store {self.where} refuses this user: {text}", hint="it needs Query, no more")
        away = (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED)
        if status in away or any(word in text.lower() for word in ("connect", "unavailable", "deadline")):
            return Unreachable(
                f"the store {self.where} cannot be reached: {text}", hint="check address, network and token"
            )
        if "not loaded" in text or "not fully loaded" in text:  # loading it would change the server's state
            return InputError(
                f"the collection {self.name} {self.where} is not loaded, so it cannot be read",
                hint="load it (`client.load_collection`), or start the application that uses it",
            )
        return InputError(f"the store {self.where} cannot be read: {text}")

    def close(self) -> None:
        self._client.close()


class MilvusLiteFolder(Milvus):
    """A folder of Milvus Lite 3. It locks and compacts what it opens, so a copy is opened instead."""

    def __init__(self, store: VectorStore, folder: Path) -> None:
        """Copy the folder; raises Incomplete if it changes during each attempt."""
        self._scratch = ExitStack()
        try:
            copy = self._scratch.enter_context(Scratch()) / "copy.db"
            _copy_quietly(folder, copy)
            super().__init__(store, str(copy), f"in {folder}")
        except BaseException:
            self._scratch.close()
            raise

    def exists(self) -> bool:
        if not self._client.has_collection(self.name):
            return False
        self._client.load_collection(self.name)  # the copy may be changed
        return True

    def close(self) -> None:
        super().close()
        self._scratch.close()


class MilvusLiteFile(ListedStore):
    """A file of Milvus Lite 2: SQLite, with the fields of a row as protobuf."""

    def __init__(self, file: Path, collection: str) -> None:
        super().__init__(collection, f"in {file}")
        self._db = ReadOnlyDb(file)
        self._table = '"' + collection.replace('"', '""') + '"'

    def exists(self) -> bool:
        return self.name in self.names()

    def names(self) -> list[str]:
        tables = [row[0] for row in self._db.all("SELECT name FROM sqlite_master WHERE type = 'table'")]
        wanted = {"milvus_id", "data"}
        columns = {
            name: {row[0] for row in self._db.all("SELECT name FROM pragma_table_info(?)", (name,))} for name in tables
        }
        return [name for name in tables if wanted <= columns[name]]

    def count(self) -> int:
        return int(self._db.one(f"SELECT count(*) FROM {self._table}"))

    def pages(self, *, payload: bool) -> Iterator[list[Row]]:
        """Pages by the row's number: a row that is added or replaced meanwhile gets a higher one."""
        last = 0
        data = "CAST(data AS BLOB)" if payload else "NULL"
        while page := self._db.all(
            f"SELECT id, milvus_id, {data} FROM {self._table} WHERE id > ? ORDER BY id LIMIT {_PAGE}", (last,)
        ):
            yield [_row_of_file(key, blob) for _, key, blob in page]
            last = page[-1][0]

    def fetch(self, keys: Sequence[str]) -> Iterator[Row]:
        for key in keys:
            sql = f"SELECT milvus_id, CAST(data AS BLOB) FROM {self._table} WHERE milvus_id = ?"
            yield from (_row_of_file(each, blob) for each, blob in self._db.all(sql, (key,)))

    def close(self) -> None:
        self._db.close()


def _row(row: dict[str, Any]) -> Row:
    return Row(str(row["id"]), row["id"], row.get("metadata"))


def _row_of_file(key: Any, blob: bytes | None) -> Row:
    key = key.decode() if isinstance(key, bytes) else str(key)
    return Row(key, key, None if blob is None else _metadata(blob))


def _metadata(row: bytes) -> bytes | None:
    """The JSON of the field `metadata` in a row's protobuf: fields of name (2) and scalar (3), JSON (9), data (1)."""
    for number, field in _fields(row):
        if number != 1 or not isinstance(field, bytes):
            continue
        parts = dict(_fields(field))
        if parts.get(2) != b"metadata":
            continue
        found: Any = field
        for step in (3, 9, 1):
            found = next((value for at, value in _fields(found) if at == step), None)
            if not isinstance(found, bytes):
                return None
        return bytes(found)
    return None


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a protobuf message."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            return
        yield tag >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message):
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            break
    return value, at


def _copy_quietly(folder: Path, copy: Path) -> None:
    for _ in range(_COPIES):
        before = _stamps(folder)
        shutil.rmtree(copy, ignore_errors=True)
        try:
            shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("LOCK"))
        except (OSError, shutil.Error):  # a file was removed in the meantime
            continue
        if before == _stamps(folder):
            return
    raise Incomplete(f"{folder} changes too fast to be copied", hint="run it again in a quieter moment")


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in folder.rglob("*"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        if path.is_file():
            found[str(path)] = (status.st_size, status.st_mtime_ns)
    return found
