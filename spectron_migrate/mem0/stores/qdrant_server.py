"""A Qdrant that is served: scrolled over its REST interface, with questions that change nothing.

Mem0's own class would create indexes on opening. The scroll's cursor is an id, so that no row which was there
all along is skipped; what came in behind the cursor is found by a second listing of ids alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any
from urllib.parse import quote

from spectron_migrate.errors import Incomplete, InputError
from spectron_migrate.mem0.normalise import from_payload
from spectron_migrate.mem0.reader import ReaderBase, Sleep
from spectron_migrate.mem0.served.http import Http, Rejected
from spectron_migrate.mem0.stores.oss_config import VectorStore
from spectron_migrate.mem0.tally import Tally
from spectron_migrate.records import Memory, Skipped, SourceInfo

_PAGE = 1000
_ROUNDS = 20


class QdrantServer(ReaderBase):
    """One collection of a served Qdrant."""

    def __init__(self, store: VectorStore, info: SourceInfo, *, now: datetime, sleep: Sleep | None) -> None:
        """Look the collection up; raises InputError naming those that are there where it is not."""
        super().__init__()
        self.info = info
        self._now = now
        self._missing: int | None = None
        key = store.settings.get("api_key")
        self._http = Http(store.url or "", {"api-key": str(key)} if key else {}, sleep=sleep)
        self._name = store.collection
        self._path = f"/collections/{quote(store.collection, safe='')}"
        self._tally = Tally()
        try:
            self._look_it_up()
        except BaseException:
            self.close()
            raise

    def native_count(self) -> int:
        """Points, counted exactly."""
        return int(self._result(f"{self._path}/points/count", {"exact": True})["count"])

    def rows(self) -> Iterator[Memory | Skipped]:
        """Every point by id, then those that came while they were read."""
        self._missing = None
        self._tally.clear()
        before = self.native_count()
        for points in self._scroll(with_payload=True):
            self._tally.add([str(point["id"]) for point in points])
            yield from self._told(points)
        if before == self.native_count() == self._tally.count():
            self._missing = 0
            return
        for _ in range(_ROUNDS):
            late = [
                point["id"]
                for points in self._scroll(with_payload=False)
                for point in points
                if self._tally.unseen([str(point["id"])])
            ]
            if not late:
                self._missing = 0
                return
            for begin in range(0, len(late), _PAGE):
                wanted = late[begin : begin + _PAGE]
                found = self._result(f"{self._path}/points", {"ids": wanted, "with_payload": True})
                self._tally.add([str(point) for point in wanted])  # gone again, where it was not found
                yield from self._told(found)

    def missing(self) -> int | None:
        """0 once a listing of all ids held none that was not given."""
        return self._missing

    def close(self) -> None:
        """Close the connection."""
        super().close()
        self._http.close()
        self._tally.close()

    def _scroll(self, *, with_payload: bool) -> Iterator[list[dict[str, Any]]]:
        offset: Any = None
        while True:
            body = {"limit": _PAGE, "with_payload": with_payload, "with_vector": False, "offset": offset}
            page = self._result(f"{self._path}/points/scroll", body)
            yield page["points"]
            offset = page.get("next_page_offset")
            if offset is None:
                return

    def _told(self, points: list[dict[str, Any]]) -> Iterator[Memory | Skipped]:
        for point in points:
            yield from_payload(point["id"], point.get("payload") or {}, now=self._now)

    def _result(self, path: str, body: dict[str, Any]) -> Any:
        told = self._http.post(path, body)
        if not isinstance(told, dict) or told.get("result") is None:
            raise Incomplete(f"{self._http.base_url} gave an answer to {path} that is not Qdrant's")
        return told["result"]

    def _look_it_up(self) -> None:
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
