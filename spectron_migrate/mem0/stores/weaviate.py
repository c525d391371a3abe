"""A class of Weaviate by REST, in the order of its ids, with every property; Mem0's own listing gives eight of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from spectron_migrate.errors import Incomplete, InputError
from spectron_migrate.mem0.addresses import without_credentials
from spectron_migrate.mem0.reader import Sleep
from spectron_migrate.mem0.served.http import JsonClient, Rejected
from spectron_migrate.mem0.stores.listed import ListedStore, Row, object_of
from spectron_migrate.mem0.stores.oss_config import VectorStore

_PAGE = 1000


class Weaviate(ListedStore):
    """One class, which has the name of Mem0's collection with a capital letter."""

    kind = "class"

    def __init__(self, store: VectorStore, *, sleep: Sleep | None) -> None:
        """Raises InputError without an address."""
        url = without_credentials(_address(store))
        super().__init__(store.collection[:1].upper() + store.collection[1:], f"at {url}")
        key = store.settings.get("auth_client_secret") or store.settings.get("api_key")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = JsonClient(url, headers, sleep=sleep, key="auth_client_secret of the vector store")
        self._path = f"/v1/objects/{quote(self.name, safe='')}"

    def exists(self) -> bool:
        return self._http.finds(f"/v1/schema/{quote(self.name, safe='')}")

    def names(self) -> list[str]:
        listed = object_of(self._http.get("/v1/schema"), self.where)
        return [one["class"] for one in listed.get("classes") or []]

    def count(self) -> int:
        query = f"{{ Aggregate {{ {self.name} {{ meta {{ count }} }} }} }}"
        answer = object_of(self._http.post("/v1/graphql", {"query": query}), self.where)
        if answer.get("errors"):
            raise Incomplete(f"Weaviate {self.where} cannot count class {self.name}: {answer['errors']}")
        return int(answer["data"]["Aggregate"][self.name][0]["meta"]["count"])

    def pages(self, *, payload: bool) -> Iterator[list[Row]]:
        after = ""
        while True:
            listed = self._http.get("/v1/objects", **{"class": self.name, "limit": _PAGE, "after": after})
            page = [_row(each) for each in object_of(listed, self.where).get("objects") or []]
            if not page:
                return
            yield page
            if page[-1].key == after:
                raise Incomplete(f"Weaviate {self.where} gave the same page twice")
            after = page[-1].key

    def fetch(self, keys: Sequence[str]) -> Iterable[Row]:
        for key in keys:
            try:
                yield _row(object_of(self._http.get(f"{self._path}/{quote(key, safe='')}"), self.where))
            except Rejected as error:
                if error.status != 404:
                    raise

    def close(self) -> None:
        self._http.close()


def _row(found: dict[str, Any]) -> Row:
    properties = found.get("properties") or {}
    return Row(found["id"], found["id"], {name: value for name, value in properties.items() if value is not None})


def _address(store: VectorStore) -> str:
    """As Mem0 connects: to this machine's default port for any `localhost`, to the cloud by https if there is a key."""
    url = store.settings.get("cluster_url")
    if not isinstance(url, str) or not url:
        raise InputError("weaviate needs `cluster_url`", hint="the address of the Weaviate that Mem0 writes to")
    if "localhost" in url:
        return "http://localhost:8080"
    if "://" not in url:
        url = f"{'https' if store.settings.get('auth_client_secret') else 'http'}://{url}"
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
