"""A namespace of Turbopuffer by REST, in the order of its ids, with strong consistency."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from spectron_migrate.errors import InputError
from spectron_migrate.mem0.reader import Sleep
from spectron_migrate.mem0.served.http import JsonClient
from spectron_migrate.mem0.stores.listed import ListedStore, Row, object_of
from spectron_migrate.mem0.stores.oss_config import VectorStore

_PAGE = 1000
_OWN = ("id", "vector")
"""Attributes of a row that belong to Turbopuffer. Others of these begin with a dollar sign."""


class Turbopuffer(ListedStore):
    """One namespace, which Mem0 names as its collection. Its rows have the payload as attributes."""

    kind = "namespace"

    def __init__(self, store: VectorStore, *, sleep: Sleep | None) -> None:
        """Raises InputError without a key."""
        settings = store.settings
        key = settings.get("api_key") or os.environ.get("TURBOPUFFER_API_KEY")
        if not key:
            raise InputError("turbopuffer needs `api_key`", hint="set TURBOPUFFER_API_KEY")
        region = str(settings.get("region") or "gcp-us-central1")
        extra = settings.get("extra_params")
        address = extra.get("base_url") if isinstance(extra, Mapping) else None
        url = str(address or "https://{region}.turbopuffer.com").replace("{region}", region)
        super().__init__(store.collection, f"at {url}")
        headers = {"Authorization": f"Bearer {key}"}
        self._http = JsonClient(url, headers, sleep=sleep, key="api_key of the vector store")
        self._namespace = quote(store.collection, safe="")

    def exists(self) -> bool:
        return self._http.finds(f"/v1/namespaces/{self._namespace}/metadata")

    def names(self) -> list[str]:
        found: list[str] = []
        cursor: str | None = None
        while True:
            page = object_of(self._http.get("/v1/namespaces", cursor=cursor), self.where)
            found += [one["id"] for one in page["namespaces"]]
            following = page.get("next_cursor")
            if not following or following == cursor:
                return found
            cursor = following

    def count(self) -> int:
        return int(self._query({"aggregate_by": {"rows": ["Count"]}})["aggregations"]["rows"])

    def pages(self, *, payload: bool) -> Iterator[list[Row]]:
        last: Any = None
        while rows := self._rows(payload=payload, filters=None if last is None else ["id", "Gt", last]):
            yield rows
            last = rows[-1].id

    def fetch(self, keys: Sequence[str]) -> Iterable[Row]:
        return self._rows(payload=True, filters=["id", "In", list(keys)])

    def close(self) -> None:
        self._http.close()

    def _rows(self, *, payload: bool, filters: list[Any] | None) -> list[Row]:
        body: dict[str, Any] = {"rank_by": ["id", "asc"], "limit": _PAGE}
        body |= {"exclude_attributes": ["vector"]} if payload else {"include_attributes": False}
        if filters is not None:
            body["filters"] = filters
        return [_row(row) for row in self._query(body)["rows"]]

    def _query(self, body: dict[str, Any]) -> dict[str, Any]:
        return object_of(self._http.post(f"/v2/namespaces/{self._namespace}/query", body), self.where)


def _row(row: dict[str, Any]) -> Row:
    payload = {
        name: value
        for name, value in row.items()
        if name not in _OWN and not name.startswith("$") and value is not None  # each row has every attribute
    }
    return Row(str(row["id"]), row["id"], payload)
