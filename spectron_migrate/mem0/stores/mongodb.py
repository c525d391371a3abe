"""A collection of MongoDB, read by its key with the driver.

Mem0's own class would create a search index. MongoDB compares ids only with ids of the same type. Ids that are texts,
as Mem0 writes them, are read by a cursor of their own, which continues after the last row if the connection is cut.
Other ids, which somebody else wrote, come after them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from spectron_migrate.errors import InputError, KeyRefused, MigrateError, Unreachable
from spectron_migrate.mem0.reader import Sleep
from spectron_migrate.mem0.stores.listed import ListedStore, Row, missing_driver, retried
from spectron_migrate.mem0.stores.oss_config import VectorStore, without_secret

if TYPE_CHECKING:
    import pymongo

_PAGE = 1000
_PATIENCE_MS = 15_000
_NOT_AUTHORIZED = (13, 18, 8000)


class MongoDb(ListedStore):
    """One collection of a MongoDB."""

    def __init__(self, store: VectorStore, *, sleep: Sleep) -> None:
        """Prepare the connection; raises InputError without the driver, or for an invalid address."""
        uri = str(store.settings.get("mongo_uri") or store.settings.get("url") or "mongodb://localhost:27017")
        self._database = str(store.settings.get("db_name") or "mem0_db")
        super().__init__(store.collection, f"at {without_secret(uri)}/{self._database}")
        self._sleep = sleep
        self._client = _connect(uri, self.where)
        self._collection = self._client[self._database][store.collection]
        self._other_ids: dict[str, Any] = {}

    def exists(self) -> bool:
        return self.name in self.names()

    def names(self) -> list[str]:
        listed: list[str] = self._retried(lambda: self._client[self._database].list_collection_names())
        return [name for name in listed if not name.startswith("system.")]

    def count(self) -> int:
        return int(self._retried(lambda: self._collection.count_documents({})))

    def pages(self, *, payload: bool) -> Iterator[list[Row]]:
        fields = {"payload": 1} if payload else {"_id": 1}
        yield from self._texts(fields)
        yield self._rows(self._found({"_id": {"$not": {"$type": "string"}}}, fields))

    def _texts(self, fields: Mapping[str, int]) -> Iterator[list[Row]]:
        """Rows whose id is a text, from one cursor. If the connection is cut, another one begins after the last row."""
        last = ""
        cursor: Any = None

        def page() -> list[Any]:
            nonlocal cursor
            if cursor is None:
                after = {"_id": {"$gte" if last == "" else "$gt": last}}
                cursor = self._collection.find(after, fields, sort=[("_id", 1)], batch_size=_PAGE)
            try:
                return list(islice(cursor, _PAGE))
            except Exception:
                cursor = None
                raise

        while found := self._retried(page):
            yield self._rows(found)
            last = found[-1]["_id"]

    def fetch(self, keys: Sequence[str]) -> Iterable[Row]:
        wanted = [self._other_ids.get(key, key) for key in keys]
        return self._rows(self._found({"_id": {"$in": wanted}}, {"payload": 1}))

    def may_write(self) -> bool | None:
        status = self._client.admin.command("connectionStatus", showPrivileges=True)
        info = status.get("authInfo") or {}
        if not info.get("authenticatedUsers"):
            return None
        actions = {
            action
            for each in info.get("authenticatedUserPrivileges") or []
            if each["resource"].get("db") in (self._database, "")
            and each["resource"].get("collection") in (self.name, "")
            for action in each["actions"]
        }
        return not actions.isdisjoint({"insert", "update", "remove"})

    def explained(self, error: Exception) -> MigrateError | None:
        from pymongo import errors

        if not isinstance(error, errors.PyMongoError):
            return None
        text = " ".join(str(error).split())[:300]
        if isinstance(error, errors.OperationFailure) and error.code in _NOT_AUTHORIZED:
            return KeyRefused(
                f"the store {self.where} refuses this user: {text}", hint="the user needs the role `read`"
            )
        if isinstance(error, errors.ConnectionFailure):
            return Unreachable(f"the store {self.where} cannot be reached: {text}", hint="check address and network")
        return InputError(f"the store {self.where} cannot be read: {text}")

    def close(self) -> None:
        self._client.close()

    def _found(self, which: Mapping[str, Any], fields: Mapping[str, int], **how: Any) -> list[Any]:
        return list(self._retried(lambda: list(self._collection.find(which, fields, **how))))

    def _retried(self, ask: Callable[[], Any]) -> Any:
        from pymongo.errors import AutoReconnect, CursorNotFound, ServerSelectionTimeoutError

        return retried(ask, (AutoReconnect, CursorNotFound), self._sleep, final=ServerSelectionTimeoutError)

    def _rows(self, documents: Iterable[Mapping[str, Any]]) -> list[Row]:
        rows = []
        for document in documents:
            key = given = document["_id"]
            if not isinstance(given, str):
                key = f"{type(given).__name__} {given}"
                self._other_ids[key] = given
            plain_id = given if isinstance(given, str | int) else str(given)
            rows.append(Row(key, plain_id, _plain(document.get("payload"))))
        return rows


def _connect(uri: str, where: str) -> pymongo.MongoClient[Any]:
    try:
        import pymongo
        from pymongo.errors import ConfigurationError, InvalidURI
    except ImportError as error:
        raise missing_driver("pymongo", "mongodb") from error
    patience = {} if "serverselectiontimeoutms" in uri.lower() else {"serverSelectionTimeoutMS": _PATIENCE_MS}
    try:
        return pymongo.MongoClient(uri, appname="spectron-migrate", **patience)
    except (ConfigurationError, InvalidURI, ValueError) as error:
        raise InputError(f"the address {where.removeprefix('at ')} is not one of MongoDB: {error}") from error


def _plain(value: Any) -> Any:
    """A BSON value as a JSON value."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    return str(value)
