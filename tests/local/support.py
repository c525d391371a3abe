"""A local Spectron in this process; every exchange is validated against the published document."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from urllib.parse import quote, unquote, urlencode

from spectron_migrate.local.embedding import WordLlamaEmbedder
from spectron_migrate.local.engine import NEWEST
from spectron_migrate.local.extract import Extraction, Names
from spectron_migrate.local.server import create_app
from tests.support import contract

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)

# The document speaks of these in its texts and declares no status for them; each is what the texts, or the
# official clients, expect.
UNDECLARED = {
    ("post", "/facts"): {403},  # outside the grants, or an unknown session
    ("post", "/facts/batch"): {403},
    ("post", "/sessions"): {400, 403},  # an unregistered scope; outside the grants
    ("post", "/scopes"): {403, 409},  # without scope:create; already there, in one reading
    ("delete", "/scopes"): {403},  # without scope:delete
}
ANYWHERE = {405, 413, 500, 501}


@cache
def embedder() -> WordLlamaEmbedder:
    """One embedder for all tests, so that the weights are loaded once."""
    return WordLlamaEmbedder()


@dataclass
class Clock:
    """A clock that only advances when told to."""

    now: datetime = NOON

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **delta: float) -> None:
        """Let time pass."""
        self.now += timedelta(**delta)


@dataclass(frozen=True)
class Answer:
    """One answer."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        """The JSON body."""
        return json.loads(self.raw)


@dataclass
class Spectron:
    """A client of the application, without a socket."""

    app: Any
    clock: Any
    loop: asyncio.AbstractEventLoop
    context: str = "local"
    key: str = "sk-local"
    api: str = NEWEST
    headers: dict[str, str] = field(default_factory=dict)
    checked: bool = True
    """Whether every answer must be a published one."""

    def call(
        self, method: str, path: str, body: Any = None, /, *, headers: Mapping[str, str] | None = None, **query: Any
    ) -> Answer:
        """Send one request to the context."""
        return self.loop.run_until_complete(self.exchange(method, path, body, headers=headers, **query))

    async def exchange(
        self, method: str, path: str, body: Any = None, /, *, headers: Mapping[str, str] | None = None, **query: Any
    ) -> Answer:
        """Send several requests concurrently."""
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        sent = {"authorization": f"Bearer {self.key}", **self.headers, **(headers or {})}
        answer = await asgi(self.app, method, f"/api/v1/{self.context}{path}", raw, sent, query)
        if self.checked:
            check(self.api, method, path, raw, answer)
        return answer

    def ok(self, method: str, path: str, body: Any = None, /, **named: Any) -> Any:
        """Send a request that must succeed; returns its JSON."""
        answer = self.call(method, path, body, **named)
        assert answer.status in (200, 201, 204), (answer.status, answer.raw)
        return answer.body if answer.raw else None

    def register(self, *paths: str) -> None:
        """Register scopes."""
        for path in paths:
            self.ok("POST", "/scopes", {"path": path})

    def rows(self, path: str, /, *, headers: Mapping[str, str] | None = None, **query: Any) -> list[Any]:
        """The rows of one page of a list, in any generation."""
        answer = self.ok("GET", path, headers=headers, **query)
        found: list[Any] = answer if isinstance(answer, list) else next(iter(answer.values()))
        return found

    def remember(self, text: str, scope: str | None = None, **fields: Any) -> Any:
        """Write a fact, with extraction by default."""
        return self.ok("POST", "/facts", {"text": text, **({"scopes": [[scope]]} if scope else {}), **fields})

    def recall(self, query: str, *, headers: Mapping[str, str] | None = None, **fields: Any) -> list[Any]:
        """The hits of a query."""
        hits: list[Any] = self.ok("POST", "/query", {"query": query, **fields}, headers=headers)["hits"]
        return hits

    def passages(self, query: str, **fields: Any) -> list[str]:
        """The texts of the passages that a query finds."""
        return [hit["text"] for hit in self.recall(query, include=["passages"], **fields)]

    def history(self, key: str, entity: str = "person/user") -> list[tuple[str, bool]]:
        """Values under a key, oldest first, and whether each is live."""
        answer = self.call("GET", f"/entities/{quote(entity)}/history/{quote(key, safe='')}")
        rows = answer.body["history"] if answer.status == 200 else []
        return [(row["value"], row["validUntil"] is None) for row in rows]


@contextmanager
def spectron(clock: Callable[[], datetime] | None = None, **options: Any) -> Iterator[Spectron]:
    """A server in this process for the duration of the block."""
    clock = clock or Clock()
    loop = asyncio.new_event_loop()
    app = create_app(clock=clock, embedder=options.pop("embedder", embedder()), **options)
    events: asyncio.Queue[dict[str, str]] = asyncio.Queue()

    async def send(message: Mapping[str, Any]) -> None:
        assert "failed" not in message["type"], message

    async def run_for(message: str) -> None:
        await events.put({"type": message})
        await asyncio.sleep(0.0)

    living = loop.create_task(app({"type": "lifespan", "state": {}}, events.get, send))
    loop.run_until_complete(run_for("lifespan.startup"))
    try:
        named = {name: options[name] for name in ("context", "api") if name in options}
        yield Spectron(app, clock, loop, key=options.get("api_key", "sk-local"), **named)
    finally:
        loop.run_until_complete(run_for("lifespan.shutdown"))
        loop.run_until_complete(living)
        loop.close()


async def asgi(
    app: Any, method: str, path: str, raw: bytes, headers: Mapping[str, str], query: Mapping[str, Any]
) -> Answer:
    """Call the application with one request, as a server does."""
    messages: list[Any] = []
    given = iter([{"type": "http.request", "body": raw, "more_body": False}])

    async def receive() -> Mapping[str, Any]:
        return next(given, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        messages.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": urlencode(query).encode(),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
        "root_path": "",
        "scheme": "http",
        "server": ("127.0.0.1", 80),
    }
    await app(scope, receive, send)
    answered = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
    return Answer(messages[0]["status"], answered, b"".join(one.get("body", b"") for one in messages[1:]))


def check(api: str, method: str, path: str, raw: bytes, answer: Answer) -> None:
    """Assert that status and body of an answer are published, and the request too if it succeeded."""
    assert answer.headers.get("x-trace-id")
    if contract.document(api) is None:
        return
    url = f"/api/v1/local{path}"
    operation = contract.operation(api, method, url)
    if operation is None:
        assert answer.status in (404, 405), (method, path, answer.status)
        assert "message" in answer.body
        return
    published = operation["responses"].get(str(answer.status))
    if published is None:
        allowed = UNDECLARED.get((method.lower(), path), set()) | ANYWHERE
        assert answer.status in allowed, (method, path, answer.status, answer.raw)
        schema: dict[str, Any] = {"$ref": "#/components/schemas/ApiErrorResponse"}
    else:
        schema = published.get("content", {}).get("application/json", {}).get("schema", {})
    if not schema:
        assert b"" == answer.raw
        return
    if answer.status < 300 or api != "0.2.1":  # whose errors are problem details
        assert "application/json" == answer.headers["content-type"]
    problems = [error.message for error in contract.validator(api, json.dumps(schema)).iter_errors(answer.body)]
    assert [] == problems, (method, path, answer.raw)
    if answer.status == 503:
        assert answer.headers["retry-after"].isdigit()
    # The body of POST /keys has a schema without a name, which the check of requests does not look into.
    # A body of blanks is none, as `Body.read` takes it.
    if answer.status < 300 and raw.strip() and not path.startswith("/keys") and not _bare_clauses(raw):
        assert [] == contract.problems_in(api, method, url, raw)


def _bare_clauses(raw: bytes) -> bool:
    """Turn bare strings in scopes into clauses: the document's text allows them, its schema does not."""
    body = json.loads(raw)
    named = [body.get("scopes"), body.get("lens")] if isinstance(body, dict) else []
    return any(isinstance(one, str) or any(isinstance(clause, str) for clause in one or ()) for one in named)


class SlowExtractor:
    """An extractor that waits until `let_go` is set, like a slow language model, and can then fail."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.let_go = asyncio.Event()
        self.failure: Exception | None = None

    async def extract(self, messages: Sequence[tuple[str, str]], known: Callable[[], Names]) -> Extraction:
        """Return nothing once it is released."""
        self.began.set()
        await self.let_go.wait()
        if self.failure is not None:
            raise self.failure
        return Extraction()
