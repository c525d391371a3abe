"""An index of Azure AI Search by REST. A query key is enough.

Mem0 makes the key of its index neither sortable nor filterable. So the index can only be paged by number, in an order
that is not guaranteed, and only up to 100,000 rows. A larger index is read in parts, by ranges of the owners' ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal
from urllib.parse import quote

from spectron_migrate.errors import Incomplete, InputError, MigrateError
from spectron_migrate.mem0.reader import Sleep
from spectron_migrate.mem0.served.http import JsonClient, Rejected
from spectron_migrate.mem0.stores.listed import ListedStore, Row, missing_driver, object_of
from spectron_migrate.mem0.stores.oss_config import VectorStore

_PAGE = 1000
_REACH = 100_000
"""Rows that one query can page through."""
_OWNERS = ("user_id", "agent_id", "run_id")
"""The fields of Mem0's index that can be filtered."""
_VERSION = {"api-version": "2024-07-01"}


class AzureAiSearch(ListedStore):
    """One index."""

    kind = "index"
    counts: Literal["exact", "late", "never"] = "late"

    def __init__(self, store: VectorStore, *, sleep: Sleep | None) -> None:
        """Raises InputError without the name of the service, or of a driver that is missing for Azure's credentials."""
        service = str(store.settings.get("service_name") or "")
        if not service:
            raise InputError("azure_ai_search needs `service_name`", hint="the name before .search.windows.net")
        # A whole address is for clouds of Azure that have a domain of their own.
        url = service if "://" in service else f"https://{service}.search.windows.net"
        super().__init__(store.collection, f"at {url}")
        self._http = JsonClient(url, _headers(store), sleep=sleep, key="api_key of the vector store")
        self._path = f"/indexes/{quote(store.collection, safe='')}"

    def exists(self) -> bool:
        try:
            self._search({"top": 0})
        except Rejected as error:
            if error.status != 404:
                raise
            return False
        return True

    def names(self) -> list[str] | None:
        try:
            listed = object_of(self._http.get("/indexes", **_VERSION, **{"$select": "name"}), self.where)
        except MigrateError:
            return None  # a query key may not list indexes
        return [one["name"] for one in listed["value"]]

    def count(self) -> int:
        return self._count(None)

    def pages(self, *, payload: bool) -> Iterator[list[Row]]:
        for part in self._parts(None):
            skip = 0
            while rows := self._rows(part, skip, payload=payload):
                yield rows
                skip += len(rows)
                if skip > _REACH:
                    break

    def fetch(self, keys: Sequence[str]) -> Iterable[Row]:
        for key in keys:
            try:
                path = f"{self._path}/docs/{quote(key, safe='')}"
                yield _row(object_of(self._http.get(path, **_VERSION, **{"$select": "id,payload"}), self.where))
            except Rejected as error:
                if error.status != 404:
                    raise

    def close(self) -> None:
        self._http.close()

    def _parts(self, where: str | None) -> Iterator[str | None]:
        """Filters that together match every row once. Each matches no more rows than can be paged through."""
        if self._count(where) <= _REACH:
            yield where
            return
        sample = self._search({"filter": where, "top": _PAGE, "select": ",".join(_OWNERS)})["value"]
        for field in _OWNERS:
            found = {row.get(field) for row in sample}
            values = sorted(found - {None})
            if len(values) > 1:
                middle = "'" + values[len(values) // 2].replace("'", "''") + "'"
                parts = [f"{field} lt {middle}", f"{field} ge {middle}", f"{field} eq null"]
            elif values and None in found:
                parts = [f"{field} ne null", f"{field} eq null"]
            else:
                continue
            for part in parts:
                yield from self._parts(part if where is None else f"{where} and {part}")
            return
        raise Incomplete(
            f"index {self.name} {self.where} has more than {_REACH:,} rows of one owner, which Azure AI Search does not"
            " list",
            hint="dump it from your application: docs/sources.md shows how",
        )

    def _rows(self, where: str | None, skip: int, *, payload: bool) -> list[Row]:
        select = "id,payload" if payload else "id"
        found = self._search({"filter": where, "top": _PAGE, "skip": skip, "select": select})
        return [_row(row) for row in found["value"]]

    def _count(self, where: str | None) -> int:
        return int(self._search({"filter": where, "top": 0, "count": True})["@odata.count"])

    def _search(self, body: dict[str, Any]) -> dict[str, Any]:
        asked = {"search": "*", **{name: value for name, value in body.items() if value is not None}}
        return object_of(self._http.post(f"{self._path}/docs/search", asked, **_VERSION), self.where)


def _row(found: dict[str, Any]) -> Row:
    return Row(str(found["id"]), found["id"], found.get("payload"))


def _headers(store: VectorStore) -> dict[str, str]:
    key = store.settings.get("api_key")
    if key and key != "your-api-key":
        return {"api-key": str(key)}
    try:
        from azure.identity import DefaultAzureCredential
    except ImportError as error:
        raise missing_driver("azure-identity", "azure") from error
    token = DefaultAzureCredential().get_token("https://search.azure.com/.default").token
    return {"Authorization": f"Bearer {token}"}
