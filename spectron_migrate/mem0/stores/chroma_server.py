"""A Chroma server, or Chroma Cloud, by its REST API (v2), with requests that change nothing.

Its pages go by position, not by key, so if an application deletes meanwhile, a page may skip rows. The reader lists
keys until their number equals the server's count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

from spectron_migrate.mem0.reader import Sleep
from spectron_migrate.mem0.served.http import JsonClient, Rejected
from spectron_migrate.mem0.stores.listed import ListedStore, Row, object_of
from spectron_migrate.mem0.stores.oss_config import VectorStore

_PAGE = 1000
_CLOUD_PAGE = 300
"""The most rows that Chroma Cloud returns at once."""


class ChromaServer(ListedStore):
    """One collection of a Chroma server."""

    def __init__(self, store: VectorStore, *, sleep: Sleep | None) -> None:
        super().__init__(store.collection, f"at {store.url}")
        settings = store.settings
        key = settings.get("api_key")
        self._page = _CLOUD_PAGE if key else _PAGE
        headers = {"x-chroma-token": str(key)} if key else {}
        self._http = JsonClient(store.url or "", headers, sleep=sleep, key="api_key of the vector store")
        tenant = settings.get("tenant") or "default_tenant"
        database = settings.get("database") or ("mem0" if key else "default_database")
        self._base = (
            f"/api/v2/tenants/{quote(str(tenant), safe='')}/databases/{quote(str(database), safe='')}/collections"
        )
        self._path = ""

    def exists(self) -> bool:
        try:
            found = object_of(self._http.get(f"{self._base}/{quote(self.name, safe='')}"), self.where)
        except Rejected as error:
            if error.status in (400, 404):
                return False
            raise
        self._path = f"{self._base}/{found['id']}"
        return True

    def names(self) -> list[str] | None:
        try:
            listed: Any = self._http.get(self._base, limit=100)
        except Rejected:
            return None
        return [one["name"] for one in listed]

    def count(self) -> int:
        return int(self._http.get(f"{self._path}/count"))

    def pages(self, *, payload: bool) -> Iterator[list[Row]]:
        offset = 0
        while True:
            rows = self._get(limit=self._page, offset=offset, include=["metadatas"] if payload else [])
            yield rows
            offset += len(rows)
            if len(rows) < self._page:
                return

    def fetch(self, keys: Sequence[str]) -> Iterable[Row]:
        for begin in range(0, len(keys), self._page):
            yield from self._get(ids=list(keys[begin : begin + self._page]), include=["metadatas"])

    def close(self) -> None:
        self._http.close()

    def _get(self, **body: Any) -> list[Row]:
        found = object_of(self._http.post(f"{self._path}/get", body), self.where)
        payloads = found.get("metadatas") or [None] * len(found["ids"])
        return [Row(key, key, payload) for key, payload in zip(found["ids"], payloads, strict=True)]
