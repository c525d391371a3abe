"""A namespace of a Pinecone index by REST. Ids are listed, then fetched; the count follows changes with a delay.

Only serverless indexes can list ids. Numbers come back as floats, because that is how Pinecone stores them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote

from spectron_migrate.errors import InputError, MigrateError
from spectron_migrate.mem0.reader import Sleep
from spectron_migrate.mem0.served.http import JsonClient, Rejected
from spectron_migrate.mem0.stores.listed import ListedStore, Row, object_of
from spectron_migrate.mem0.stores.oss_config import VectorStore

_API = "https://api.pinecone.io"
_VERSION = "2025-04"
_PAGE = 100


class Pinecone(ListedStore):
    """One namespace of an index."""

    kind = "index"
    counts = "late"

    def __init__(self, store: VectorStore, *, sleep: Sleep | None) -> None:
        """Find the address of the index; raises InputError without a key."""
        key = store.settings.get("api_key") or os.environ.get("PINECONE_API_KEY")
        if not key:
            raise InputError("Pinecone needs a key", hint="set PINECONE_API_KEY, or api_key in the configuration")
        super().__init__(store.collection, "at Pinecone")
        self._namespace = str(store.settings.get("namespace") or "")
        headers = {"Api-Key": str(key), "X-Pinecone-Api-Version": _VERSION}

        def client(url: str) -> JsonClient:
            return JsonClient(url, headers, sleep=sleep, key="PINECONE_API_KEY")

        extra = store.settings.get("extra_params") or {}
        self._control = client(os.environ.get("PINECONE_CONTROLLER_HOST") or _API)
        self._host = str(extra.get("host") or "")
        self._client = client
        self._data: JsonClient | None = None

    def exists(self) -> bool:
        if not self._host:
            try:
                index = object_of(self._control.get(f"/indexes/{quote(self.name, safe='')}"), self.where)
            except Rejected as error:
                if error.status == 404:
                    return False
                raise
            if "pod" in (index.get("spec") or {}):
                raise InputError(
                    f"the index {self.name} runs on pods, which cannot list their ids",
                    hint="make a serverless index of it (a collection, or Pinecone's backup), and name that; "
                    "docs/sources.md has a dump from the application otherwise",
                )
            self._host = str(index["host"])
        self._data = self._client(self._host if "://" in self._host else f"https://{self._host}")
        self.count()  # the address in the settings may be wrong, or the key may see only names
        return True

    def names(self) -> list[str] | None:
        try:
            listed = object_of(self._control.get("/indexes"), self.where)
        except MigrateError:
            return None
        return [one["name"] for one in listed["indexes"]]

    def count(self) -> int:
        stats = object_of(self._http.post("/describe_index_stats", {}), self.where)
        namespaces = stats.get("namespaces") or {}
        found = namespaces.get(self._namespace) or (namespaces.get("__default__") if not self._namespace else None)
        return int((found or {}).get("vectorCount", 0))

    def pages(self, *, payload: bool) -> Iterator[list[Row]]:
        token: str | None = None
        while True:
            query = {"namespace": self._namespace, "limit": _PAGE, "paginationToken": token}
            listed = object_of(self._http.get("/vectors/list", **query), self.where)
            ids = [one["id"] for one in listed.get("vectors") or []]
            yield list(self.fetch(ids)) if payload else [Row(one, one, None) for one in ids]
            token = (listed.get("pagination") or {}).get("next")
            if not token:
                return

    def fetch(self, keys: Sequence[str]) -> Iterable[Row]:
        for begin in range(0, len(keys), _PAGE):
            wanted = list(keys[begin : begin + _PAGE])
            found = object_of(self._http.get("/vectors/fetch", namespace=self._namespace, ids=wanted), self.where)
            for key, vector in (found.get("vectors") or {}).items():
                yield Row(key, key, vector.get("metadata"))

    def close(self) -> None:
        self._control.close()
        if self._data is not None:
            self._data.close()

    @property
    def _http(self) -> JsonClient:
        assert self._data is not None, "exists() finds the address"  # noqa: S101
        return self._data
