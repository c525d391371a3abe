"""Stand-ins for stores that only exist as a service: what their documentation says of the questions that we ask."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.mem0.rows import Row
from tests.mem0.standins import KEY
from tests.mem0.stores.store_standins import Holder

MOST = 1000


class Upstash(Holder):
    """A cursor is a position in the order of insertion; changes are pending for as many questions as `lags`."""

    header, secret = "Authorization", f"Bearer {KEY}"
    reading = ("/range/mem0", "/fetch/mem0", "/info")

    def __init__(self) -> None:
        super().__init__()
        self.lags = 0

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        match (method, path):
            case "GET", "/info":
                self.lags = max(0, self.lags - 1)
                named = {"vectorCount": len(self.held), "pendingVectorCount": self.lags}
                return 200, {"result": {"namespaces": {"": {"vectorCount": 0, "pendingVectorCount": 0}, "mem0": named}}}
            case "POST", "/range/mem0":
                assert body["limit"] <= MOST
                begin = int(body["cursor"])
                ids = list(self.held)[begin : begin + body["limit"]]
                following = "" if begin + len(ids) >= len(self.held) else str(begin + len(ids))
                vectors = [self._vector(one, body["includeMetadata"]) for one in ids]
                return 200, {"result": {"nextCursor": following, "vectors": vectors}}
            case "POST", "/fetch/mem0":
                return 200, {"result": [self._vector(one, True) if one in self.held else None for one in body["ids"]]}
        return 404, {"error": f"no {path}", "status": 404}

    def _vector(self, one: str, payload: bool) -> Row:
        return {"id": one, **({"metadata": self.held[one]} if payload else {})}


class TurbopufferHere(Holder):
    """Rows in the order of their ids; each has every attribute that any row has."""

    header, secret = "Authorization", f"Bearer {KEY}"
    reading = ("/query",)

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        match (method, path):
            case "GET", "/v1/namespaces":
                return 200, {"namespaces": [{"id": "mem0"}, {"id": "mem0_entities"}]}
            case "GET", "/v1/namespaces/mem0/metadata":
                return 200, {"approx_row_count": 7, "schema": {}}
            case "POST", "/v2/namespaces/mem0/query":
                return 200, self._found(body)
        return 404, {"status": "error", "error": f"namespace not found: {path}"}

    def _found(self, body: Row) -> Row:
        if "aggregate_by" in body:
            return {"aggregations": {name: len(self.held) for name in body["aggregate_by"]}}
        assert ["id", "asc"] == body["rank_by"]
        ids = sorted(self.held)
        match body.get("filters"):
            case ["id", "Gt", last]:
                ids = [one for one in ids if one > last]
            case ["id", "In", wanted]:
                ids = [one for one in ids if one in wanted]
        every: dict[str, None] = {name: None for row in self.held.values() for name in row}
        rows = []
        for one in ids[: body["limit"]]:
            row = {"id": one, "$dist": 0.0}
            rows.append(row | every | self.held[one] if body.get("include_attributes", True) else row)
        return {"rows": rows}


class WeaviateHere(Holder):
    """Objects in the order of their ids; a property that a row lacks is null or absent."""

    header, secret = "Authorization", f"Bearer {KEY}"
    reading = ("/graphql",)

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        match (method, path):
            case "GET", "/v1/schema":
                return 200, {"classes": [{"class": "Mem0"}, {"class": "Other"}]}
            case "GET", "/v1/schema/Mem0":
                return 200, {"class": "Mem0"}
            case "POST", "/v1/graphql":
                assert "{ Aggregate { Mem0 { meta { count } } } }" == body["query"]
                return 200, {"data": {"Aggregate": {"Mem0": [{"meta": {"count": len(self.held)}}]}}}
            case "GET", "/v1/objects":
                assert "Mem0" == query["class"]
                ids = [one for one in sorted(self.held) if one > query.get("after", "")]
                return 200, {"objects": [self._object(one) for one in ids[: min(MOST, int(query["limit"]))]]}
        one = path.removeprefix("/v1/objects/Mem0/")
        return (200, self._object(one)) if one in self.held else (404, None)

    def _object(self, one: str) -> Row:
        return {"class": "Mem0", "id": one, "properties": {"category": None, **self.held[one]}}


class AzureSearch(Holder):
    """Pages by number, in an order that changes from one listing to the next, and only so far."""

    header, secret = "api-key", KEY
    reading = ("/docs/search",)

    def __init__(self, *, reach: int = 100_000) -> None:
        super().__init__()
        self.reach = reach
        self.turned = 0
        self.lists_indexes = True

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        assert "2024-07-01" == query["api-version"]
        if "/indexes" == path:
            return (200, {"value": [{"name": "mem0"}]}) if self.lists_indexes else (403, {"error": {"code": "x"}})
        if (method, path) == ("POST", "/indexes/mem0/docs/search"):
            return self._search(body)
        one = path.removeprefix("/indexes/mem0/docs/")
        return (200, self._document(one)) if one in self.held else (404, {"error": {"code": "", "message": "no"}})

    def _search(self, body: Row) -> tuple[int, Row]:
        if body.get("skip", 0) > self.reach:
            return 400, {"error": {"message": "skip is too large"}}
        ids = [one for one in self.held if self._matches(self.held[one], body.get("filter"))]
        found = ids[body.get("skip", 0) :][: min(MOST, body["top"])]
        answer: Row = {"value": [self._document(one) for one in found]}
        return 200, answer | ({"@odata.count": len(ids)} if body.get("count") else {})

    def _document(self, one: str) -> Row:
        row = self.held[one]
        owners = {name: row.get(name) for name in ("user_id", "agent_id", "run_id")}
        return {"id": one, "payload": json.dumps(row), **owners}

    @staticmethod
    def _matches(row: Row, where: str | None) -> bool:
        for term in where.split(" and ") if where else ():
            said = re.fullmatch(r"(\w+) (lt|ge|eq|ne) (null|'(.*)')", term)
            assert said is not None, term
            value, operator, other = row.get(said[1]), said[2], said[4]
            if said[3] == "null":
                if (value is None) != (operator == "eq"):
                    return False
            elif value is None or not (value < other.replace("''", "'") if operator == "lt" else value >= other):
                return False
        return True


class PostgRest(Holder):
    """Supabase's REST interface, which gives no more rows at once than its own setting says."""

    header, secret = "apikey", KEY

    def __init__(self, *, most: int = 400) -> None:
        super().__init__()
        self.most = most

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if path == "/rest/v1/":
            return 200, {"paths": {"/": {}, "/mem0": {}, "/rpc/match_vectors": {}}}
        if path != "/rest/v1/mem0":
            return 404, {"code": "PGRST205", "message": f"no table {path}"}
        ids = sorted(self.held)
        asked = query.get("id", "")
        if asked.startswith("gt."):
            ids = [one for one in ids if one > asked[3:]]
        elif asked.startswith("in."):
            ids = [one for one in ids if f'"{one}"' in asked]
        self.more_headers = {"Content-Range": f"0-0/{len(ids)}"}
        found = ids[: min(self.most, int(query.get("limit", "100000")))]
        rows = [{"id": one, **({"metadata": self.held[one]} if "metadata" in query["select"] else {})} for one in found]
        return 200, rows


class CloudflareVectorize(Holder):
    """A listing keeps the ids of its first page's moment; rows are given by id, twenty at once."""

    header, secret = "Authorization", f"Bearer {KEY}"
    reading = ("/get_by_ids",)

    def __init__(self) -> None:
        super().__init__()
        self.listings: list[list[str]] = []

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        base = "/accounts/acc/vectorize/v2/indexes"
        match (method, path.removeprefix(base)):
            case "GET", "":
                return 200, _result([{"name": "mem0"}, {"name": "other"}])
            case "GET", "/mem0":
                return 200, _result({"name": "mem0"})
            case "GET", "/mem0/list":
                return 200, _result(self._listed(query))
            case "POST", "/mem0/get_by_ids":
                assert len(body["ids"]) <= 20
                ids = [one for one in body["ids"] if one in self.held]
                return 200, _result([{"id": one, "metadata": self.held[one], "values": [1, 2]} for one in ids])
        return 404, {"success": False, "errors": [{"code": 3000, "message": "no such index"}], "result": None}

    def _listed(self, query: dict[str, str]) -> Row:
        if "cursor" not in query:
            self.listings.append(list(self.held))
            query = {**query, "cursor": f"{len(self.listings) - 1}:0"}
        listing, begin = map(int, query["cursor"].split(":"))
        ids = self.listings[listing]
        end = begin + int(query["count"])
        following = (
            {"isTruncated": True, "nextCursor": f"{listing}:{end}"} if end < len(ids) else {"isTruncated": False}
        )
        page = [{"id": one} for one in ids[begin:end]]
        return {"count": len(page), "totalCount": len(ids), "vectors": page, **following}


def _result(value: Any) -> Row:
    return {"success": True, "errors": [], "messages": [], "result": value}
