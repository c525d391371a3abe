"""A namespace of an Upstash Vector index by REST. Its cursor is a position, so rows may come twice.

The index takes some seconds to apply a change, and reports how many are pending. Until none is, its count means
nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal
from urllib.parse import quote

from spectron_migrate.errors import Incomplete, InputError
from spectron_migrate.mem0.addresses import without_credentials
from spectron_migrate.mem0.reader import Sleep
from spectron_migrate.mem0.served.http import JsonClient
from spectron_migrate.mem0.stores.listed import ListedStore, Row, object_of
from spectron_migrate.mem0.stores.oss_config import VectorStore

_PAGE = 1000


class UpstashVector(ListedStore):
    """One namespace, which Mem0 names as its collection."""

    kind = "namespace"
    counts: Literal["exact", "late", "never"] = "late"

    def __init__(self, store: VectorStore, *, sleep: Sleep | None) -> None:
        """Raises InputError if neither the settings nor the environment name the index and its token."""
        url = store.settings.get("url") or os.environ.get("UPSTASH_VECTOR_REST_URL")
        token = store.settings.get("token") or os.environ.get("UPSTASH_VECTOR_REST_TOKEN")
        if not url or not token:
            raise InputError(
                "upstash_vector needs `url` and `token`",
                hint="set UPSTASH_VECTOR_REST_URL and UPSTASH_VECTOR_REST_TOKEN; a read-only token is enough",
            )
        super().__init__(store.collection, f"at {without_credentials(str(url))}")
        key = "the token of the vector store"
        self._http = JsonClient(str(url), {"Authorization": f"Bearer {token}"}, sleep=sleep, key=key)
        self._namespace = quote(store.collection, safe="")

    def exists(self) -> bool:
        return self.name in self._namespaces()

    def names(self) -> list[str]:
        return [name for name in self._namespaces() if name]

    def count(self) -> int | None:
        found = self._namespaces().get(self.name) or {}
        return None if found.get("pendingVectorCount") else int(found.get("vectorCount", 0))

    def pages(self, *, payload: bool) -> Iterator[list[Row]]:
        cursor = "0"
        while True:
            body = {"cursor": cursor, "limit": _PAGE, "includeMetadata": payload}
            page = self._result("POST", f"/range/{self._namespace}", body)
            yield [_row(vector) for vector in page["vectors"]]
            following = str(page.get("nextCursor") or "")
            if not following:
                return
            if following == cursor:
                raise Incomplete(f"the index {self.where} gave the same cursor twice")
            cursor = following

    def fetch(self, keys: Sequence[str]) -> Iterable[Row]:
        body = {"ids": list(keys), "includeMetadata": True}
        return [_row(vector) for vector in self._result("POST", f"/fetch/{self._namespace}", body) if vector]

    def close(self) -> None:
        self._http.close()

    def _namespaces(self) -> dict[str, Any]:
        return dict(self._result("GET", "/info").get("namespaces") or {})

    def _result(self, method: str, path: str, body: Any = None) -> Any:
        answer = object_of(self._http.request(method, path, body=body).value, self.where)
        if answer.get("result") is None:
            raise Incomplete(f"{self.where} gave an answer to {path} that is not from Upstash")
        return answer["result"]


def _row(vector: dict[str, Any]) -> Row:
    return Row(str(vector["id"]), vector["id"], vector.get("metadata"))
