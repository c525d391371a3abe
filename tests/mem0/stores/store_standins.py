"""Stand-ins for stores that are read over HTTP: the questions that change nothing, as their documentation has them."""

from __future__ import annotations

from typing import Any

from tests.mem0.rows import Row
from tests.mem0.standins import KEY, Qdrant, StandIn


class Holder(StandIn):
    """A stand-in for a store; `held` is what it holds, in the order of insertion."""

    reading: tuple[str, ...] = ()
    """Ends of the paths of requests that are no GET and change nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[str, Row] = {}

    url = ""

    def changed(self) -> list[str]:
        """Requests that may have changed something."""
        return [
            f"{method} {path}"
            for method, path, _ in self.asked
            if method != "GET" and not path.split("?")[0].endswith(self.reading)
        ]


class HeldQdrant(Qdrant, Holder):
    reading = ("/points/scroll", "/points/count", "/points")

    def __init__(self) -> None:
        Holder.__init__(self)
        self.points, self.collection = self.held, "mem0"


class Chroma(Holder):
    """A server of version 1.x; pages are counted."""

    header, secret = "x-chroma-token", KEY
    reading = ("/get",)

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        base = "/api/v2/tenants/t/databases/mem0/collections"
        match (method, path.removeprefix(base)):
            case "GET", "":
                return 200, [{"name": "mem0", "id": "c-1"}, {"name": "mem0migrations", "id": "c-2"}]
            case "GET", "/mem0":
                return 200, {"name": "mem0", "id": "c-1"}
            case "GET", "/c-1/count":
                return 200, len(self.held)
            case "POST", "/c-1/get":
                if "ids" in body:
                    ids = [one for one in body["ids"] if one in self.held]
                else:
                    assert body["limit"] <= 300
                    ids = list(self.held)[body["offset"] :][: body["limit"]]
                metadatas = [self.held[one] for one in ids] if "metadatas" in body["include"] else None
                return 200, {"ids": ids, "metadatas": metadatas, "documents": None, "embeddings": None}
        return 404, {"error": "NotFoundError", "message": f"no {path}"}


class SearchEngine(Holder):
    """Elasticsearch, or OpenSearch: points in time, or scrolls where they are refused."""

    header, secret = "Authorization", "Basic ZWxhc3RpYzpwdw=="
    reading = ("/_has_privileges", "/_search", "/_pit", "/_search/point_in_time", "/_search/scroll")
    largest = 10_000

    def __init__(self, kind: str, *, has_pit: bool = True) -> None:
        super().__init__()
        self.kind = kind
        self.has_pit = has_pit
        self.open: dict[str, list[tuple[str, Row]]] = {}
        self.renewed = 0
        self.failed_shards = 0

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        pit = "/_pit" if self.kind == "elasticsearch" else "/_search/point_in_time"
        match (method, path):
            case "GET", "/mem0/_mapping":
                return 200, {"mem0": {}}
            case "GET", "/_cat/indices":
                return 200, [{"index": "mem0"}, {"index": "mem0_entities"}, {"index": ".kibana"}]
            case "GET", "/mem0/_count":
                return 200, {"count": len(self.held)}
            case "POST", found if found == f"/mem0{pit}" and self.has_pit:
                return 200, {"id" if self.kind == "elasticsearch" else "pit_id": self._opened()}
            case "POST", "/_search":
                return self._page(body["pit"]["id"], (body.get("search_after") or [-1])[0] + 1, body)
            case "POST", "/mem0/_search":
                name = self._opened()
                self.open[f"{name} body"] = body
                return self._scroll(name, 0)
            case "POST", "/_search/scroll":
                name, _, at = body["scroll_id"].partition("@")
                return self._scroll(name, int(at))
            case "DELETE", found if found == pit:
                [name] = body["pit_id"] if self.kind == "opensearch" else [body["id"]]
                self.open.pop(name.partition("#")[0])
                return 200, {"succeeded": True}
            case "DELETE", "/_search/scroll":
                self.open.clear()
                return 200, {"succeeded": True}
        return 404, {"error": {"type": "index_not_found_exception"}, "status": 404}

    def _opened(self) -> str:
        name = f"snapshot-{len(self.asked)}"
        self.open[name] = list(self.held.items())
        return name

    def _scroll(self, name: str, at: int) -> tuple[int, Any]:
        body = self.open[f"{name} body"]
        status, page = self._page(name, at, body)
        return status, {**page, "_scroll_id": f"{name}@{at + body['size']}"}

    def _page(self, name: str, begin: int, body: Any) -> tuple[int, Any]:
        held = self.open.get(name.partition("#")[0])
        if held is None:
            return 404, {"error": "search_context_missing_exception"}
        assert body["size"] <= self.largest
        self.renewed += 1
        hits = [self._hit(at, *held[at]) for at in range(begin, min(begin + body["size"], len(held)))]
        shards = {"total": 5, "failed": self.failed_shards}
        total = {"value": len(held), "relation": "eq"}
        return 200, {
            "pit_id": f"{name.partition('#')[0]}#{self.renewed}",
            "_shards": shards,
            "hits": {"total": total, "hits": hits},
        }

    def _hit(self, at: int, one: str, payload: Row) -> Row:
        if self.kind == "elasticsearch":
            return {"_id": one, "_source": {"metadata": payload}, "sort": [at]}
        return {"_id": f"made-{one}", "_source": {"id": one, "payload": payload}, "sort": [at]}


class Pinecone(Holder):
    """Control and data of one serverless index; the count is that of `lag` requests ago."""

    header, secret = "Api-Key", KEY
    reading = ("/describe_index_stats",)

    def __init__(self) -> None:
        super().__init__()
        self.pods = False
        self.counted: list[int] = []
        """Counts to give before the right one."""

    def answer(self, method: str, path: str, query: dict[str, Any], body: Any) -> tuple[int, Any]:
        match (method, path):
            case "GET", "/indexes":
                return 200, {"indexes": [{"name": "mem0"}, {"name": "other"}]}
            case "GET", "/indexes/mem0":
                spec = {"pod": {"pods": 1}} if self.pods else {"serverless": {"cloud": "aws"}}
                return 200, {"name": "mem0", "host": self.url, "spec": spec}
            case "POST", "/describe_index_stats":
                count = self.counted.pop(0) if self.counted else len(self.held)
                namespaces = {"": {"vectorCount": count}, "__mem0_migrations__": {"vectorCount": 1}}
                return 200, {"namespaces": namespaces, "totalVectorCount": count + 1}
            case "GET", "/vectors/list":
                assert int(query["limit"]) <= 100
                after = query.get("paginationToken") or ""
                ids = [one for one in sorted(self.held) if one > after][:100]
                more = {"pagination": {"next": ids[-1]}} if ids and ids[-1] != max(self.held) else {}
                return 200, {"vectors": [{"id": one} for one in ids], "namespace": "", **more}
            case "GET", "/vectors/fetch":
                found = {one: {"id": one, "metadata": self.held[one]} for one in query["ids*"] if one in self.held}
                return 200, {"vectors": found, "namespace": ""}
        return 404, {"error": {"code": "NOT_FOUND"}}
