"""A table of Supabase by its REST interface, as Mem0 for TypeScript uses it, in the order of its ids.

Row-level security silently hides rows from a public key, but not from a service key.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

from spectron_migrate.errors import Incomplete, InputError
from spectron_migrate.mem0.addresses import without_credentials
from spectron_migrate.mem0.reader import Sleep
from spectron_migrate.mem0.served.http import JsonClient
from spectron_migrate.mem0.stores.listed import ListedStore, Row, object_of
from spectron_migrate.mem0.stores.oss_config import VectorStore

_PAGE = 1000
_FETCHED = 50
"""The most ids in one request, because they are part of its address."""


class SupabaseRest(ListedStore):
    """One table with `id` and the payload in `metadata`."""

    kind = "table"

    def __init__(self, store: VectorStore, *, sleep: Sleep | None) -> None:
        """Raises InputError without address and key, and for a public key."""
        settings = store.settings
        url, key = settings.get("supabase_url"), settings.get("supabase_key")
        if not url or not key:
            raise InputError(
                "supabase needs `supabase_url` and `supabase_key`, or a `connection_string`",
                hint="the key of the service (service_role): a public one does not see every row",
            )
        if _is_public(str(key)):
            raise InputError(
                "the `supabase_key` is a public one, from which row-level security hides rows without saying so",
                hint="use the key of the service (service_role), or a `connection_string` of Postgres",
            )
        super().__init__(store.collection, f"at {without_credentials(str(url))}")
        headers = {"apikey": str(key), "Authorization": f"Bearer {key}"}
        self._http = JsonClient(str(url), headers, sleep=sleep, key="supabase_key of the vector store")
        self._column = str(settings.get("metadata_column_name") or "metadata")
        self._path = f"/rest/v1/{quote(self.name, safe='')}"

    def exists(self) -> bool:
        return self._http.finds(self._path, select="id", limit=1)

    def names(self) -> list[str]:
        described = object_of(self._http.get("/rest/v1/"), self.where)
        return [path.strip("/") for path in described.get("paths") or {} if path != "/" and "/rpc/" not in path]

    def count(self) -> int:
        exact = {"Prefer": "count=exact"}
        answer = self._http.request("GET", self._path, params={"select": "id", "limit": 1}, headers=exact)
        total = answer.headers.get("content-range", "").rpartition("/")[2]
        if not total.isdecimal():
            raise Incomplete(f"Supabase {self.where} does not count the rows of {self.name}")
        return int(total)

    def pages(self, *, payload: bool) -> Iterator[list[Row]]:
        """A server may give fewer rows than were asked for (`db-max-rows`), so only an empty page is the last."""
        last: str | None = None
        while page := self._rows(payload=payload, after=last):
            yield page
            last = page[-1].key

    def fetch(self, keys: Sequence[str]) -> Iterable[Row]:
        for begin in range(0, len(keys), _FETCHED):
            quoted = ",".join(json.dumps(key, ensure_ascii=False) for key in keys[begin : begin + _FETCHED])
            yield from self._asked({"id": f"in.({quoted})"}, payload=True)

    def close(self) -> None:
        self._http.close()

    def _rows(self, *, payload: bool, after: str | None) -> list[Row]:
        begin = {} if after is None else {"id": f"gt.{after}"}
        return self._asked({"order": "id.asc", "limit": _PAGE, **begin}, payload=payload)

    def _asked(self, params: dict[str, Any], *, payload: bool) -> list[Row]:
        select = f"id,{self._column}" if payload else "id"
        listed = self._http.get(self._path, select=select, **params)
        if not isinstance(listed, list):
            raise Incomplete(f"Supabase {self.where} gave an answer that is no list of rows")
        return [
            Row(str(row["id"]), row["id"], without_stamps(row.get(self._column)))
            for row in listed
            if isinstance(row, dict)
        ]


def without_stamps(payload: Any) -> Any:
    """The payload without the times that the store itself adds beside Mem0's `createdAt` when it writes a row."""
    if not isinstance(payload, dict) or "createdAt" not in payload:
        return payload
    return {name: value for name, value in payload.items() if name not in ("created_at", "updated_at")}


def _is_public(key: str) -> bool:
    """Whether a key is public, by the role in the token of an older key, and by the prefix of a newer one."""
    if key.startswith("sb_publishable_"):
        return True
    middle = key.split(".")[1] if key.count(".") == 2 else ""
    try:
        claims = json.loads(urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    except ValueError:
        return False
    return isinstance(claims, dict) and claims.get("role") == "anon"
