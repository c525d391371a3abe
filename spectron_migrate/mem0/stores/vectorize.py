"""An index of Cloudflare's Vectorize by REST, as Mem0 for TypeScript uses it: a list of ids, and rows by id."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

from spectron_migrate.errors import Incomplete, InputError
from spectron_migrate.mem0.reader import Sleep
from spectron_migrate.mem0.served.http import JsonClient, Rejected
from spectron_migrate.mem0.stores.listed import ListedStore, Row, object_of
from spectron_migrate.mem0.stores.oss_config import VectorStore

_PAGE = 1000
_FETCHED = 20


class Vectorize(ListedStore):
    """One index. A listing is a snapshot of its ids. A row that is deleted meanwhile is not found by its id."""

    kind = "index"

    def __init__(self, store: VectorStore, *, sleep: Sleep | None) -> None:
        """Raises InputError without account and token."""
        settings = store.settings
        account, key = settings.get("account_id"), settings.get("api_key")
        if not account or not key:
            raise InputError(
                "vectorize needs `account_id` and `api_key`", hint="a token with the right `Vectorize Read` is enough"
            )
        url = os.environ.get("CLOUDFLARE_BASE_URL") or "https://api.cloudflare.com/client/v4"
        super().__init__(store.collection, f"of the Cloudflare account {account}")
        headers = {"Authorization": f"Bearer {key}"}
        self._http = JsonClient(url, headers, sleep=sleep, key="api_key of the vector store")
        self._indexes = f"/accounts/{quote(str(account), safe='')}/vectorize/v2/indexes"
        self._path = f"{self._indexes}/{quote(self.name, safe='')}"

    def exists(self) -> bool:
        try:
            self._result("GET", self._path)
        except Rejected as error:
            if error.status not in (404, 410):
                raise
            return False
        return True

    def names(self) -> list[str]:
        return [one["name"] for one in self._result("GET", self._indexes)]

    def count(self) -> int:
        """The count of a new snapshot, because the count in the description of the index lags behind."""
        return int(self._result("GET", f"{self._path}/list", {"count": 1})["totalCount"])

    def pages(self, *, payload: bool) -> Iterator[list[Row]]:
        cursor: str | None = None
        while True:
            page = self._result("GET", f"{self._path}/list", {"count": _PAGE, "cursor": cursor})
            keys = [str(one["id"]) for one in page["vectors"]]
            yield list(self.fetch(keys)) if payload else [Row(key, key, None) for key in keys]
            following = page.get("nextCursor")
            if not page.get("isTruncated"):
                return
            if not following or following == cursor:
                raise Incomplete(f"the index {self.name} {self.where} has more rows and gives no cursor to them")
            cursor = following

    def fetch(self, keys: Sequence[str]) -> Iterable[Row]:
        for begin in range(0, len(keys), _FETCHED):
            ids = list(keys[begin : begin + _FETCHED])
            for found in self._result("POST", f"{self._path}/get_by_ids", body={"ids": ids}):
                yield Row(str(found["id"]), found["id"], found.get("metadata"))

    def close(self) -> None:
        self._http.close()

    def _result(self, method: str, path: str, params: dict[str, Any] | None = None, body: Any = None) -> Any:
        answer = object_of(self._http.request(method, path, params=params, body=body).value, self.where)
        if answer.get("success") is not True or answer.get("result") is None:
            raise Incomplete(f"Cloudflare gave an answer to {path} that has no result: {answer.get('errors')}")
        return answer["result"]
