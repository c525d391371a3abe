"""An index of Elasticsearch or OpenSearch by REST, read in a snapshot: a point in time or, where refused, a scroll.

Both are temporary state of the server, not data, and are closed after reading. The index is never refreshed, so rows
written within the last second may not be in it yet.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import httpx

from spectron_migrate.errors import InputError, MigrateError
from spectron_migrate.mem0.reader import Sleep
from spectron_migrate.mem0.served.http import JsonClient, Rejected
from spectron_migrate.mem0.stores.listed import ListedStore, Row, missing_driver, object_of
from spectron_migrate.mem0.stores.oss_config import VectorStore
from spectron_migrate.records import counted

_PAGE = 1000
_KEPT = "5m"
"""How long the server keeps the snapshot between pages."""
_AWS = re.compile(
    r".+?\.(?P<region>[a-z0-9-]+)\.(?P<service>[a-z]+)\.amazonaws\.com(\.cn)?|.+\.aos\.(?P<region2>[a-z0-9-]+)\.on\.aws"
)
"""Host names of a domain on AWS; the second one also has IPv6."""


class _Dialect(NamedTuple):
    """Where both servers differ."""

    open_path: str
    close_path: str
    answer: str
    """The field with the id in the answer that opens a point in time."""
    closes_many: bool
    sort: list[dict[str, str]]
    fields: list[str]
    payload: str


_DIALECTS = {
    "elasticsearch": _Dialect("_pit", "/_pit", "id", False, [{"_shard_doc": "asc"}], ["metadata"], "metadata"),
    "opensearch": _Dialect(
        *("_search/point_in_time", "/_search/point_in_time", "pit_id", True),
        *([{"_id": "asc"}], ["id", "payload"], "payload"),
    ),
}


class SearchIndex(ListedStore):
    """One index with Mem0's rows."""

    kind = "index"

    def __init__(self, store: VectorStore, *, sleep: Sleep | None) -> None:
        super().__init__(store.collection, f"at {store.url}")
        self._dialect = _DIALECTS[store.provider]
        self.rereads = store.provider == "elasticsearch"
        settings = store.settings
        self._http = JsonClient(
            store.url or "",
            _headers(settings),
            sleep=sleep,
            key="user, password or api_key of the vector store",
            verify=_verify(store),
            auth=aws_signature(store),
            plain_http=True,
        )
        self._path = f"/{quote(store.collection, safe='')}"

    def exists(self) -> bool:
        try:
            self._http.get(f"{self._path}/_mapping")
        except Rejected as error:
            if error.status == 404:
                return False
            raise
        return True

    def names(self) -> list[str] | None:
        try:
            listed: Any = self._http.get("/_cat/indices", format="json", h="index")
        except MigrateError:
            return None
        return [one["index"] for one in listed if not one["index"].startswith(".")]

    def count(self) -> int:
        return int(object_of(self._http.get(f"{self._path}/_count"), self.where)["count"])

    def pages(self, *, payload: bool) -> Iterator[list[Row]]:
        try:
            opened = self._http.post(f"{self._path}/{self._dialect.open_path}", {}, keep_alive=_KEPT)
            snapshot = object_of(opened, self.where)[self._dialect.answer]
            first = self._point_in_time(snapshot, None)
        except (Rejected, KeyError):
            yield from self._scrolled()
            return
        try:
            page = first
            while hits := self._hits(page):
                yield [self._row(hit) for hit in hits]
                snapshot = page.get("pit_id") or snapshot
                page = self._point_in_time(snapshot, hits[-1]["sort"])
        finally:
            self._forget(
                self._dialect.close_path,
                {"pit_id": [snapshot]} if self._dialect.closes_many else {"id": snapshot},
            )

    def may_write(self) -> bool | None:
        if self._dialect is not _DIALECTS["elasticsearch"]:
            return None
        asked = {"index": [{"names": [self.name], "privileges": ["write"]}]}
        return bool(
            object_of(self._http.post("/_security/user/_has_privileges", asked), self.where)["has_all_requested"]
        )

    def close(self) -> None:
        self._http.close()

    def _point_in_time(self, snapshot: str, after: list[Any] | None) -> dict[str, Any]:
        body: dict[str, Any] = {
            "size": _PAGE,
            "pit": {"id": snapshot, "keep_alive": _KEPT},
            "sort": self._dialect.sort,
            "_source": self._dialect.fields,
            "track_total_hits": True,
        }
        if after is not None:
            body["search_after"] = after
        return object_of(self._http.post("/_search", body), self.where)

    def _scrolled(self) -> Iterator[list[Row]]:
        body = {"size": _PAGE, "sort": ["_doc"], "_source": self._dialect.fields, "track_total_hits": True}
        page = object_of(self._http.post(f"{self._path}/_search", body, scroll=_KEPT), self.where)
        try:
            while hits := self._hits(page):
                yield [self._row(hit) for hit in hits]
                following = {"scroll": _KEPT, "scroll_id": page["_scroll_id"]}
                page = object_of(self._http.post("/_search/scroll", following), self.where)
        finally:
            self._forget("/_search/scroll", {"scroll_id": [page.get("_scroll_id")]})

    def _hits(self, page: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The rows of a page. Raises InputError if a shard did not answer: its rows would silently be left out."""
        failed = page.get("_shards", {}).get("failed") or page.get("timed_out")
        if failed:
            which = "some shards" if failed is True else counted(int(failed), "shard")
            raise InputError(f"{which} of the index {self.name} {self.where} did not answer: {page.get('_shards')}")
        total = page["hits"].get("total")
        if total is not None and self.held is None:
            self.held = int(total["value"] if isinstance(total, Mapping) else total)
        return list(page["hits"]["hits"])

    def _row(self, hit: Mapping[str, Any]) -> Row:
        source = hit.get("_source") or {}
        return Row(hit["_id"], source.get("id") or hit["_id"], source.get(self._dialect.payload))

    def _forget(self, path: str, body: dict[str, Any]) -> None:
        with suppress(MigrateError, RuntimeError, httpx.HTTPError):  # if this fails, it expires within minutes
            self._http.request("DELETE", path, body=body)


def _headers(settings: Mapping[str, Any]) -> dict[str, str]:
    user, password = settings.get("user") or settings.get("username"), settings.get("password")
    both = settings.get("http_auth")
    if isinstance(both, list | tuple) and len(both) == 2:
        user, password = both
    if settings.get("api_key"):
        return {"Authorization": f"ApiKey {settings['api_key']}"}
    if user and password:
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        return {"Authorization": f"Basic {token}"}
    return {}


def _verify(store: VectorStore) -> bool | str:
    """Like Mem0's client: OpenSearch's certificate is only checked if the configuration asks for it."""
    verify = store.settings.get("verify_certs", store.provider == "elasticsearch")
    return str(store.settings["ca_certs"]) if verify and store.settings.get("ca_certs") else bool(verify)


def aws_signature(store: VectorStore) -> httpx.Auth | None:
    """Signs each request with the AWS credentials of this machine, for a domain of AWS without a password."""
    host = urlsplit(store.url or "").hostname or ""
    place = _AWS.fullmatch(host)
    if place is None or _headers(store.settings):
        return None
    try:
        import botocore.session
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
    except ImportError as error:
        raise missing_driver("botocore", "aws") from error
    region, service = place["region"] or place["region2"], place["service"] or "es"
    credentials = botocore.session.get_session().get_credentials()
    if credentials is None:
        raise InputError(
            f"{host} needs AWS credentials, and there are none", hint="set AWS_PROFILE or AWS_ACCESS_KEY_ID"
        )

    class Signed(httpx.Auth):
        requires_request_body = True

        def auth_flow(self, request: httpx.Request) -> Any:
            signed = AWSRequest(
                request.method,
                str(request.url),
                data=request.content,
                headers={name: value for name, value in request.headers.items() if name in ("host", "content-type")},
            )
            signer = SigV4Auth(credentials.get_frozen_credentials(), service, region)
            if service == "aoss":  # serverless refuses requests without the hash of their body
                signed.headers["X-Amz-Content-SHA256"] = signer.payload(signed)
            signer.add_auth(signed)
            request.headers.update(dict(signed.headers.items()))
            yield request

    return Signed()
