"""Stand-ins for the servers that Mem0 runs or uses: real HTTP on loopback, with faults if a test wants them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

KEY = "m0-test-key"
Row = dict[str, Any]


class Trouble:
    """Every `every`-th request goes wrong, each time in the next of the ways."""

    def __init__(self, every: int = 0, ways: tuple[str, ...] = ("500", "429", "cut", "torn", "503", "hang up")) -> None:
        self.every = every
        self.ways = ways
        self.down_after: int | None = None
        self._count = 0
        self._lock = threading.Lock()

    def next(self) -> str | None:
        with self._lock:
            self._count += 1
            if self.down_after is not None and self._count > self.down_after:
                return "500"
            if self.every and self._count % self.every == 0:
                return self.ways[self._count // self.every % len(self.ways)]
            return None


class StandIn:
    """A server of one kind; `asked` keeps every request."""

    header = ""
    secret = ""

    def __init__(self) -> None:
        self.trouble = Trouble()
        self.asked: list[tuple[str, str, Any]] = []
        self.keeps_waiting = ""
        """Requests with this in their address are asked to come back in ten minutes."""
        self.more_headers: dict[str, str] = {}
        self.before_answer: Callable[[int], None] = lambda number: None
        self.clock: Callable[[], float] = time.time
        """Seconds since 1970, for the header `Date`."""

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        raise NotImplementedError

    def accepts(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> bool:
        """Whether a request carries the right key."""
        return not self.header or headers.get(self.header) == self.secret


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body leave together: else each answer waits for the client's delayed acknowledgement
    stand_in: StandIn

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(self.stand_in.clock() if timestamp is None else timestamp)

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_DELETE(self) -> None:
        self._handle("DELETE")

    def _handle(self, method: str) -> None:
        stand_in = self.stand_in
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(sent) if sent else None
        parts = urlsplit(self.path)
        query: dict[str, Any] = {name: values[0] for name, values in parse_qs(parts.query).items()}
        query |= {
            f"{name}*": values for name, values in parse_qs(parts.query).items() if len(values) > 1 or name == "ids"
        }
        stand_in.asked.append((self.command, self.path, body))
        if stand_in.keeps_waiting and stand_in.keeps_waiting in self.path:
            self._send(429, {"detail": "later"}, {"Retry-After": "600"})
            return
        way = stand_in.trouble.next()
        if way == "hang up":
            self.close_connection = True
            return
        if way in ("500", "429", "503"):
            self._send(int(way), {"detail": "trouble"}, {"Retry-After": "1"} if way != "500" else {})
            return
        if not stand_in.accepts(method, self.path, self.headers, sent):
            self._send(401, {"detail": "Invalid API key"})
            return
        stand_in.before_answer(len(stand_in.asked))
        status, value = stand_in.answer(method, unquote(parts.path), query, body)
        self._send(status, value, stand_in.more_headers, torn=way)

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None, torn: str | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, answer in (headers or {}).items():
            self.send_header(name, answer)
        self.send_header("Content-Type", "application/json")
        if torn == "torn":  # an answer that ends early and says it is whole
            data = data[: len(data) // 2]
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if torn == "cut" else data)
        if torn == "cut":
            self.close_connection = True


@contextmanager
def serving(stand_in: StandIn) -> Iterator[str]:
    """The address it answers on."""
    handler = type("Handler", (_Handler,), {"stand_in": stand_in})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Platform(StandIn):
    """Mem0's hosted Platform as its documents describe it, with the faults its users report."""

    header, secret = "Authorization", f"Token {KEY}"

    def __init__(self, rows: list[Row]) -> None:
        super().__init__()
        self.memories = {row["id"]: row for row in rows}
        self.project = "project-1"
        self.has_stats = self.has_entities = True
        self.understands_in = "yes"
        self.stats_more = 0
        self.filters_by_time = True
        self.filters_by_edits = True
        """False: a filter by `updated_at` finds nothing."""
        self.hidden: Callable[[Row], bool] = lambda row: False
        """Rows that the listing of everybody does not show."""
        self.histories: dict[str, list[Row]] = {}
        self.events: list[Row] = []
        self.has_events = True
        self.most_rows_of_a_page_number = 0

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        match (method, path):
            case "GET", "/v1/ping/":
                return 200, {"status": "ok", "org_id": "org-1", "project_id": self.project, "user_email": "a@b.c"}
            case "GET", "/v1/stats/":
                total = len(self.memories) + self.stats_more
                return (200, {"total_memories": total}) if self.has_stats else (404, {"detail": "Not found"})
            case "GET", "/v1/entities/" if self.has_entities:
                return self._entities(int(query.get("page", 1)))
            case "GET", "/v1/memories/events/" if self.has_events:
                return 200, page_of(self.events, int(query["page"]), int(query["limit"]))
            case "POST", "/v3/memories/":
                return self._list(int(query.get("page", 1)), int(query.get("page_size", 100)), body)
        if method == "GET" and path.startswith("/v1/memories/") and path.endswith("/history/"):
            return 200, self.histories.get(path.split("/")[3], [])
        return 404, {"detail": f"no {method} {path}"}

    def _list(self, page: int, size: int, body: Any) -> tuple[int, Any]:
        filters = body.get("filters")
        if not filters or size > 200:
            return 400, {"detail": "filters must not be empty and page_size at most 200"}
        if not self.filters_by_time and "created_at" in json.dumps(filters):
            return 400, {"detail": "created_at is no filter"}
        if '"in":' in json.dumps(filters) and self.understands_in != "yes":
            nothing = (200, page_of([], 1, size))
            return (400, {"detail": "in is no operator"}) if self.understands_in == "no" else nothing
        everybody = '"OR": [{"user_id": "*"}' in json.dumps(filters)
        found = [
            row
            for row in self.memories.values()
            if matches(row if self.filters_by_edits else {**row, "updated_at": None}, filters)
            and (body.get("show_expired") or not row.get("expiration_date"))
            and not (everybody and self.hidden(row))
        ]
        self.most_rows_of_a_page_number = max(self.most_rows_of_a_page_number, page * size)
        found.sort(key=lambda row: (row["created_at"] or "", row["id"]), reverse=True)
        if page > 1 and (page - 1) * size >= len(found):
            return 404, {"detail": "Invalid page."}
        return 200, page_of(found, page, size)

    def _entities(self, page: int) -> tuple[int, Any]:
        owners = sorted(
            {
                (kind, row[field])
                for row in self.memories.values()
                for kind, field in (
                    ("user", "user_id"),
                    ("agent", "agent_id"),
                    ("app", "app_id"),
                    ("run", "session_id"),
                )
                if row.get(field)
            }
        )
        rows = [{"id": f"ent-{at}", "name": name, "type": kind} for at, (kind, name) in enumerate(owners)]
        kinds = [kind for kind, _ in owners]
        totals = {f"total_{kind}s": kinds.count(kind) for kind in ("user", "agent", "app", "run")}
        return 200, {**page_of(rows, page, 50), **totals}


def page_of(rows: list[Row], page: int, size: int) -> Row:
    part = rows[(page - 1) * size : page * size]
    more = page * size < len(rows)
    return {
        "count": len(rows),
        "next": f"http://elsewhere.invalid/?page={page + 1}" if more else None,
        "previous": None,
        "results": part,
    }


def matches(row: Row, what: Any) -> bool:
    """The part of the Platform's filter grammar that a reader of everything needs."""
    for name, wanted in what.items():
        if name == "AND":
            if not all(matches(row, each) for each in wanted):
                return False
        elif name == "OR":
            if not any(matches(row, each) for each in wanted):
                return False
        elif isinstance(wanted, dict):
            value = row.get("session_id" if name == "run_id" else name)
            if value is None or not all(_compares(value, how, bound) for how, bound in wanted.items()):
                return False
        else:
            value = row.get("session_id" if name == "run_id" else name)
            if value is None or (wanted != "*" and value != wanted):
                return False
    return True


def _compares(value: str, how: str, bound: Any) -> bool:
    if how == "in":
        return value in bound
    return {"gte": value >= bound, "gt": value > bound, "lte": value <= bound, "lt": value < bound}[how]


class Server(StandIn):
    """The self-hosted server: listings that end at 1,000 rows, a search that does not."""

    header, secret = "X-API-Key", KEY
    cap = 1000
    scanned = 10_000

    def __init__(self, rows: list[Row], *, admin: bool = False) -> None:
        super().__init__()
        self.memories = rows
        self.admin = admin
        self.can_search = True
        self.histories: dict[str, list[Row]] = {}

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        match (method, path):
            case "GET", "/entities":
                return 200, self._entities()
            case "GET", "/memories":
                return self._list(query)
            case "POST", "/search":
                if not self.can_search:
                    return 400, {"detail": "no embedder"}
                return 200, {"results": [{**row, "score": 0.1} for row in self._of(body["filters"])[: body["top_k"]]]}
        if method == "GET" and path.endswith("/history"):
            return 200, self.histories.get(path.split("/")[2], [])
        return 404, {"detail": f"no {method} {path}"}

    def _of(self, owner: dict[str, str]) -> list[Row]:
        return [row for row in self.memories if all(row.get(name) == value for name, value in owner.items())]

    def _list(self, query: dict[str, str]) -> tuple[int, Any]:
        owner = {name: query[name] for name in ("user_id", "agent_id", "run_id") if name in query}
        if not owner and not self.admin:
            return 403, {"detail": "only for administrators"}
        if int(query.get("top_k", 20)) > self.cap:
            return 422, {"detail": "top_k is at most 1000"}
        shown = [
            row for row in self._of(owner) if query.get("show_expired") == "true" or not row.get("expiration_date")
        ]
        return 200, {"results": shown[: int(query.get("top_k", 20))]}

    def _entities(self) -> list[Row]:
        counts: dict[tuple[str, str], int] = {}
        for row in self.memories[: self.scanned]:
            for kind in ("user", "agent", "run"):
                if row.get(f"{kind}_id"):
                    counts[kind, row[f"{kind}_id"]] = counts.get((kind, row[f"{kind}_id"]), 0) + 1
        return [{"id": name, "type": kind, "total_memories": count} for (kind, name), count in counts.items()]


class Qdrant(StandIn):
    """The few questions of Qdrant's REST interface that change nothing."""

    header, secret = "api-key", KEY

    def __init__(self, points: dict[str, Row], collection: str = "mem0") -> None:
        super().__init__()
        self.points = points
        self.collection = collection

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        base = f"/collections/{self.collection}"
        match (method, path):
            case "GET", "/collections":
                return 200, {"result": {"collections": [{"name": self.collection}, {"name": "other"}]}}
            case "GET", found if found == base:
                return 200, {"result": {"status": "green"}, "status": "ok"}
            case "POST", found if found == f"{base}/points/count":
                return 200, {"result": {"count": len(self.points)}}
            case "POST", found if found == f"{base}/points/scroll":
                return 200, {"result": self._scroll(body)}
            case "POST", found if found == f"{base}/points":
                answer = [self._point(one, body) for one in body["ids"] if one in self.points]
                return 200, {"result": answer}
        return 404, {"status": {"error": f"Not found: {path}"}}

    def _scroll(self, body: Any) -> Row:
        after = [one for one in sorted(self.points) if body.get("offset") is None or one >= body["offset"]]
        shown = after[: body["limit"]]
        following = after[body["limit"]] if len(after) > body["limit"] else None
        return {"points": [self._point(one, body) for one in shown], "next_page_offset": following}

    def _point(self, one: str, body: Any) -> Row:
        return {"id": one, "payload": self.points[one] if body.get("with_payload") else None}
