"""Reads a Qdrant server through its REST API, with requests that change nothing.

Mem0's own class would create indexes when it is opened. The cursor of a scroll is an id, so no row that existed the
whole time is skipped; rows added behind the cursor are found by listing all ids once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any
from urllib.parse import quote

from spectron_migrate.errors import Incomplete, InputError
from spectron_migrate.mem0.normalise import from_payload
from spectron_migrate.mem0.reader import ReaderBase, Sleep
from spectron_migrate.mem0.seen_ids import SeenIds
from spectron_migrate.mem0.served.http import JsonClient, Rejected
from spectron_migrate.mem0.stores.oss_config import VectorStore
from spectron_migrate.records import Memory, Skipped, SourceInfo

_PAGE = 1000
_ROUNDS = 20


class QdrantServer(ReaderBase):
    """Reads one collection of a Qdrant server."""

    def __init__(self, store: VectorStore, info: SourceInfo, *, now: datetime, sleep: Sleep | None) -> None:
        """Find the collection; raises InputError, listing those that exist, if there is no such collection."""
        super().__init__()
        self.info = info
        self._now = now
        self._missing: int | None = None
        key = store.settings.get("api_key")
        self._http = JsonClient(store.url or "", {"api-key": str(key)} if key else {}, sleep=sleep)
        self._name = store.collection
        self._path = f"/collections/{quote(store.collection, safe='')}"
        self._seen = SeenIds()
        try:
            self._check_collection()
        except BaseException:
            self.close()
            raise

    def native_count(self) -> int:
        """The exact number of points."""
        return int(self._result(f"{self._path}/points/count", {"exact": True})["count"])

    def rows(self) -> Iterator[Memory | Skipped]:
        """Every point in order of id, then those that were added during the scan."""
        self._missing = None
        self._seen.clear()
        before = self.native_count()
        for points in self._scroll(with_payload=True):
            self._seen.add([str(point["id"]) for point in points])
            yield from self._converted(points)
        if before == self.native_count() == self._seen.count():
            self._missing = 0
            return
        for _ in range(_ROUNDS):
            late = [
                point["id"]
                for points in self._scroll(with_payload=False)
                for point in points
                if self._seen.not_seen([str(point["id"])])
            ]
            if not late:
                self._missing = 0
                return
            for begin in range(0, len(late), _PAGE):
                wanted = late[begin : begin + _PAGE]
                found = self._result(f"{self._path}/points", {"ids": wanted, "with_payload": True})
                self._seen.add([str(point) for point in wanted])  # if it is not found, it was deleted again
                yield from self._converted(found)

    def missing(self) -> int | None:
        """0 if the last listing of all ids held none that `rows` did not yield."""
        return self._missing

    def close(self) -> None:
        """Close the connection."""
        super().close()
        self._http.close()
        self._seen.close()

    def _scroll(self, *, with_payload: bool) -> Iterator[list[dict[str, Any]]]:
        offset: Any = None
        while True:
            body = {"limit": _PAGE, "with_payload": with_payload, "with_vector": False, "offset": offset}
            page = self._result(f"{self._path}/points/scroll", body)
            yield page["points"]
            offset = page.get("next_page_offset")
            if offset is None:
                return

    def _converted(self, points: list[dict[str, Any]]) -> Iterator[Memory | Skipped]:
        for point in points:
            yield from_payload(point["id"], point.get("payload") or {}, now=self._now)

    def _result(self, path: str, body: dict[str, Any]) -> Any:
        answer = self._http.post(path, body)
        if not isinstance(answer, dict) or answer.get("result") is None:
            raise Incomplete(f"{self._http.base_url} gave an answer to {path} that is not from Qdrant")
        return answer["result"]

    def _check_collection(self) -> None:
        try:
            self._http.get(self._path)
        except Rejected as error:
            if error.status != 404:
                raise
            listed = self._http.get("/collections")
            names = sorted(one["name"] for one in listed["result"]["collections"])
            raise InputError(
                f"there is no collection {self._name} at {self._http.base_url}",
                hint=f"collections there: {', '.join(names) or 'none at all'}",
            ) from error
