"""Requests generated from the published document get published answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from spectron_migrate.local.calls import SERVED
from spectron_migrate.local.engine import API_VERSIONS
from tests.local.support import Spectron, spectron
from tests.support import contract
from tests.support.examples import examples

pytestmark = pytest.mark.slow

STRANGE = [
    *(
        "",
        " ",
        "\u0000",
        "🙂",
        "x" * 300,
        "'; DROP TABLE turn; --",
        '"',
        "0001-01-01T00:00:00+14:00",
        "-1",
        "../..",
        "*",
    ),
]
USUAL = {
    "path": ["user/alice", "user/alice/", "org/a", "org/new", "user/*", "/"],
    "scopes": ["user/alice", "org/a", "user/nobody"],
    "lens": ["user/alice", "user/*", "/*"],
    "labels": ["a=b", "source=mem0"],
    "verbs": ["memory:read", "scope:create"],
    "observed_at": ["2024-01-01T00:00:00Z", "1969-12-31T23:59:59.5+02:00"],
    "ts": ["2024-01-01T00:00:00Z"],
    "asOf": ["2024-01-01T00:00:00Z"],
    "include": ["facts", "passages"],
    "check": ["duplicates", "injection"],
    "scopeView": ["strict", "merged"],
    "entity_type": ["person", "location"],
    "entity": ["person/user", "location/Berlin", "person"],
    "src": ["person/user", "location/Berlin"],
    "dst": ["person/user", "location/Berlin"],
    "actor": ["person/user"],
    "subject": ["person/user", "person/nobody"],
    "since": ["2024-01-01T00:00:00Z"],
    "until": ["2024-01-01T00:00:00Z"],
    "occurred_at": ["2024-01-01T00:00:00Z"],
    "entity_name": ["user", "Berlin"],
    "key": ["lives_in"],
    "principal_id": ["system", "bot"],
    "key_name": ["spare"],
}
TEXTS = ["Lives in Berlin", "Alice moved to Lisbon", "Now eats fish", "person", "user", "Always be brief", "spare"]
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from(STRANGE + TEXTS),
    st.text(max_size=5),
    st.just([]),
    st.just({}),
)


def values(
    api: str, schema: dict[str, Any], ids: list[str], *, wild: bool, name: str = "", depth: int = 0
) -> st.SearchStrategy[Any]:
    """Values of a schema, sometimes arbitrary ones."""
    document = contract.document(api) or {}
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "oneOf" in schema:
        return st.one_of([values(api, one, ids, wild=wild, name=name, depth=depth) for one in schema["oneOf"]])
    kinds = schema.get("type", "any")
    kind = kinds if isinstance(kinds, str) else kinds[0]
    right = _of_kind(api, kind, schema, ids, wild, name, depth)
    return st.one_of(right, right, right, right, ANYTHING) if wild else right


def _of_kind(
    api: str, kind: str, schema: dict[str, Any], ids: list[str], wild: bool, name: str, depth: int
) -> st.SearchStrategy[Any]:
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if kind == "string":
        return st.sampled_from(ids if "session" in name else USUAL.get(name, TEXTS))
    if kind == "integer":
        return st.integers(0, 60)
    if kind == "number":
        return st.floats(0, 1)
    if kind == "boolean":
        return st.booleans()
    if kind == "array" and depth < 5:
        return st.lists(
            values(api, schema["items"], ids, wild=wild, name=name, depth=depth + 1), min_size=1, max_size=3
        )
    if kind == "object" and depth < 5:
        fields = {
            field: values(api, one, ids, wild=wild, name=field, depth=depth + 1)
            for field, one in schema.get("properties", {}).items()
        }
        needed = {field: fields.pop(field) for field in schema.get("required", []) if field in fields}
        return st.fixed_dictionaries(needed, optional=fields)
    return ANYTHING


def operations(api: str) -> list[tuple[str, str, dict[str, Any]]]:
    document = contract.document(api) or {"paths": {}}
    return [
        (method.upper(), path.removeprefix("/api/v1/{context_id}"), operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if (method.upper(), path.removeprefix("/api/v1/{context_id}")) in SERVED
    ]


@pytest.fixture(scope="module", params=API_VERSIONS)
def busy(request: pytest.FixtureRequest) -> Iterator[tuple[Spectron, list[str]]]:
    """A server with some content, and the ids of it."""
    bot = {"bot": {"key": "sk-bot", "grants": {}}}
    with spectron(api=request.param, principals=bot) as server:
        server.register("user/alice", "org/a")
        made = server.remember("Lives in Berlin", "user/alice")
        server.ok("POST", "/keys", {"name": "spare"})
        yield server, [made["sessionId"]]


@pytest.mark.skipif(contract.document() is None, reason="not checked: random requests from the published API document")
@settings(
    max_examples=examples(400),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_every_generated_request_gets_a_published_answer_and_no_500(
    busy: tuple[Spectron, list[str]], data: st.DataObject
) -> None:
    server, ids = busy
    method, path, operation = data.draw(st.sampled_from(operations(server.api)))
    wild = data.draw(st.booleans())
    query: dict[str, Any] = {}
    for parameter in operation.get("parameters", []):
        value = data.draw(values(server.api, parameter["schema"], ids, wild=wild, name=parameter["name"]))
        if parameter["in"] == "path" and parameter["name"] != "context_id":
            path = path.replace(f"{{{parameter['name']}}}", quote(str(value) or "x", safe="") or "x")
        elif parameter["in"] == "query" and (parameter.get("required") or data.draw(st.booleans())):
            query[parameter["name"]] = value
    body = None
    if "requestBody" in operation:
        schema = next(iter(operation["requestBody"]["content"].values()))["schema"]
        right = values(server.api, schema, ids, wild=wild)
        body = data.draw(st.one_of(right, right, st.binary(max_size=20)) if wild else right)
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()

    answer = server.call(method, path, raw, **query)

    event(f"{method} {operation['operationId']} {answer.status}")
    assert answer.status != 500
    assert 200 == server.call("GET", "/me").status, "the server and the operator's key still work"
