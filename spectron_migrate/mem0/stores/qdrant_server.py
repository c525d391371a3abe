"""Reads a Qdrant server through its REST API, with requests that change nothing. Mem0's own class would create indexes.

The cursor of a scroll is an id, so no row that exists the whole time is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

from spectron_migrate.errors import Incomplete
from spectron_migrate.mem0.reader import Sleep
from spectron_migrate.mem0.served.http import JsonClient
from spectron_migrate.mem0.stores.listed import ListedStore, Row
from spectron_migrate.mem0.stores.oss_config import VectorStore

_PAGE = 1000


class QdrantServer(ListedStore):
    """One collection of a Qdrant server."""

    def __init__(self, store: VectorStore, *, sleep: Sleep | None) -> None:
        super().__init__(store.collection, f"at {store.url}")
        key = store.settings.get("api_key")
        headers = {"api-key": str(key)} if key else {}
        self._http = JsonClient(store.url or "", headers, sleep=sleep, key="api_key of the vector store")
        self._path = f"/collections/{quote(store.collection, safe='')}"

    def exists(self) -> bool:
        return self._http.finds(self._path)

    def names(self) -> list[str]:
        listed: Any = self._http.get("/collections")
        return [one["name"] for one in listed["result"]["collections"]]

    def count(self) -> int:
        return int(self._result("/points/count", {"exact": True})["count"])

    def pages(self, *, payload: bool) -> Iterator[list[Row]]:
        offset: Any = None
        while True:
            body = {"limit": _PAGE, "with_payload": payload, "with_vector": False, "offset": offset}
            page = self._result("/points/scroll", body)
            yield [_row(point) for point in page["points"]]
            offset = page.get("next_page_offset")
            if offset is None:
                return

    def fetch(self, keys: Sequence[str]) -> Iterable[Row]:
        ids = [int(key) if key.isdecimal() else key for key in keys]
        return [_row(point) for point in self._result("/points", {"ids": ids, "with_payload": True})]

    def close(self) -> None:
        self._http.close()

    def _result(self, path: str, body: dict[str, Any]) -> Any:
        answer = self._http.post(self._path + path, body)
        if not isinstance(answer, dict) or answer.get("result") is None:
            raise Incomplete(f"{self._http.base_url} gave an answer to {path} that is not from Qdrant")
        return answer["result"]


def _row(point: dict[str, Any]) -> Row:
    return Row(str(point["id"]), point["id"], point.get("payload"))
