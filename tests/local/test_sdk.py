"""Every served method of the published Python client, blocking and async, against the local Spectron."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import surrealdb_memory._transport
from surrealdb_memory import (
    AsyncMemory,
    Memory,
    MemoryAPIError,
    MemoryAuthError,
    MemoryNotFoundError,
    MemoryScopeError,
)

from spectron_migrate.local.testing import RunningServer, running_server

pytestmark = pytest.mark.slow

KINDS = pytest.mark.parametrize("kind", [Memory, AsyncMemory])


class Client:
    """Calls the blocking and the async client in the same way."""

    def __init__(self, client: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.client = client
        self.loop = loop

    def __call__(self, name: str, /, *given: Any, **named: Any) -> Any:
        """Call a method by its dotted name."""
        method: Any = self.client
        for part in name.split("."):
            method = getattr(method, part)
        return self.wait(method(*given, **named))

    def wait(self, value: Any) -> Any:
        """The value, awaited if it is awaitable."""
        return self.loop.run_until_complete(value) if inspect.isawaitable(value) else value


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """One server for all tests; each test uses its own scopes."""
    bot = {"key": "sk-bot", "grants": {"memory:read": ["bot/*"], "memory:write": ["bot/*"]}}
    with running_server(context="sdk", api="0.0.0", principals={"bot": bot}) as running:
        yield running


@pytest.fixture
def make(server: RunningServer) -> Iterator[Any]:
    """Makes clients and closes them."""
    loop = asyncio.new_event_loop()
    made: list[Client] = []

    def client(kind: type[Any], *, key: str = server.api_key, context: str = server.context) -> Client:
        made.append(Client(kind(context, endpoint=server.base_url, api_key=key), loop))
        return made[-1]

    yield client
    for one in made:
        one("close")
    loop.close()


@KINDS
def test_the_client_writes_recalls_and_forgets(make: Any, kind: type[Any]) -> None:
    scope = f"user/{kind.__name__.lower()}"
    client = make(kind)
    client("scopes.register", scope, display_name="A user")

    made = client("remember", "Lives in Berlin", scopes=scope, memory_category="knowledge", labels=["a=b"])
    again = client("remember", "Lives in Berlin", scopes=scope, memory_category="knowledge", labels=["a=b"])
    many = client(
        "remember_many",
        [{"role": "user", "content": "I prefer tea"}, {"role": "assistant", "content": "noted"}],
        scopes=[scope],
        extract="per_message",
    )

    assert "Berlin" == made.extraction.attributes[0]["value"]
    assert made.turn_id == again.turn_id, "the client's own key made it one write"
    assert 2 == len(many.turn_ids) == len(many.extractions)
    recalled = client("recall", "where does the user live", k=3, lens=f"{scope}/*", include=["passages"])
    assert made.chunk_id == recalled.hits[0].id
    assert "hybrid" == recalled.tier
    assert [] == client("recall", "Berlin", lens="user/nobody").hits
    assert [] == client("recall", "Berlin", lens=scope, include=["facts"], as_of="2020-01-01T00:00:00Z").hits
    assert "Berlin" in client("query_context", "where", lens=scope).context
    assert "Berlin" in {entry.value for entry in client("profile").static + client("profile").dynamic}
    assert client("state").knowledge["attributes"]
    assert client("remember", "Lives in Rome", scopes=scope, infer="preview").preview
    triples = [{"entity": {"type": "person", "name": scope}, "key": "role", "value": "admin"}]
    assert client("remember", triples=triples, infer="triples", scopes=scope).extraction.attributes
    assert client("forget", "I prefer tea").deleted >= 1
    assert client("scopes.forget", scope).forgotten > 0


@KINDS
def test_the_client_creates_reads_and_deletes_sessions(make: Any, kind: type[Any]) -> None:
    client = make(kind)
    session = client("sessions.create")
    client("scopes.register", "team/sessions")
    scoped = client("sessions.create", scopes=["team/sessions"], metadata={"run": 1})

    for text in ("one", "two", "three"):
        client("remember", text, session_id=session.id, role="assistant", infer="none")

    page = client("sessions.turns", session.id, limit=2, offset=1)
    assert ["two", "three"] == [turn.content for turn in page.turns]
    assert [["team/sessions/"]] == scoped.scopes
    assert "one" in client("sessions.context", session.id, "one").context
    client("sessions.delete", session.id)
    with pytest.raises(MemoryNotFoundError):
        client("sessions.turns", session.id)


@KINDS
def test_the_client_manages_entities_scopes_keys_and_principals(make: Any, kind: type[Any]) -> None:
    client, name = make(kind), kind.__name__
    client("scopes.register", "org/a")
    client("remember", f"{name} lives in Berlin. {name} moved to Lisbon.", scopes="org/a")
    client("remember", f"{name} moved to Porto.", scopes="org/a")

    history = client("entities.history", "person", name, "lives_in").history
    assert ["Lisbon", "Porto"] == [row.value for row in history]
    assert name == client("entities.get", "person", name).entity.name
    assert name in {row.name for row in client("entities.list", entity_type="person").entities}
    client("entities.delete", "person", name)
    with pytest.raises(MemoryNotFoundError):
        client("entities.get", "person", name)

    assert "org/a/" in {node.path for node in client("scopes.list")}
    client("scopes.register", f"gone/{name.lower()}")
    client("scopes.delete", f"gone/{name.lower()}")

    minted = client("keys.create", name=f"k-{name}")
    assert "operator" == make(kind, key=minted.key)("whoami").principal_id
    assert f"k-{name}" in {row.name for row in client("keys.list")}
    assert minted.key != client("keys.rotate", f"k-{name}").key
    client("keys.delete", f"k-{name}")

    client("principals.grant", "bot", "org/a/*", ["memory:read"])
    assert ["memory:read"] == client("principals.effective", "bot", "org/a").verbs
    client("principals.revoke", "bot", "org/a/*", ["memory:read"])
    assert "bot" == client("principals.get", "bot").id
    assert {"bot", "operator"} <= {row.id for row in client("principals.list")}

    assert client("lifecycle.fsck").total >= 0
    assert [] == client("lifecycle.fsck", check="contradictions").duplicates
    assert client("lifecycle.expire").affected >= 0
    client("health")


@KINDS
def test_each_error_status_becomes_the_clients_error_class(make: Any, kind: type[Any], server: RunningServer) -> None:
    client = make(kind)
    with pytest.raises(MemoryAuthError):
        make(kind, key="sk-wrong")("whoami")
    with pytest.raises(MemoryAuthError):
        make(kind, context="elsewhere")("whoami")
    with pytest.raises(MemoryScopeError):
        make(kind, key="sk-bot")("remember", "x", scopes="org/not-mine")
    with pytest.raises(MemoryNotFoundError):
        client("entities.get", "person", "nobody")
    with pytest.raises(MemoryAPIError, match="k must be at most 50") as refused:
        client("recall", "x", k=51)
    assert 400 == refused.value.status_code
    assert refused.value.trace_id


NOT_SERVED: dict[str, tuple[Any, ...]] = {
    "audit": (),
    "chat": ("hello",),
    "consolidate": (),
    "documents.chunks": ("d",),
    "documents.delete": ("d",),
    "documents.get": ("d",),
    "documents.list": (),
    "documents.query": ("tea",),
    "documents.recompute_links": (),
    "elaborate": (),
    "inspect": ("turn:x",),
    "lifecycle.decay": (),
    "reflect": ("tea",),
    "traces.get": ("t",),
    "traces.list": (),
    "traces.stats": (),
}


@KINDS
@pytest.mark.parametrize("name", NOT_SERVED)
def test_what_is_not_served_says_so(make: Any, kind: type[Any], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surrealdb_memory._transport, "backoff_schedule", lambda tries: (0.0,) * tries)
    with pytest.raises(MemoryAPIError, match="does not serve this call") as refused:
        make(kind)(name, *NOT_SERVED[name])
    assert 501 == refused.value.status_code


@KINDS
def test_the_clients_delegation_header_is_ignored(make: Any, kind: type[Any]) -> None:
    assert make(kind)("whoami", on_behalf_of="bot").delegated_principal_id is None
