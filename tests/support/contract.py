"""Every request that a test sends is checked against Spectron's published API documents, where they can be found.

Three generations are in use. The documents of 0.0.0 and 0.3.0 lie in `shared` beside the repository. That of 0.2.1 is
not at hand: `document("0.2.1")` is that of 0.3.0 without what is newer.
"""

from __future__ import annotations

import copy
import json
import os
import re
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema_rs

from spectron_migrate.local.engine import API_VERSIONS, NEWEST

NOT_FOUND = "not checked: requests against the published API documents (set SPECTRON_OPENAPI to their folder)"
FILES = {"0.0.0": "spectron-openapi.json", "0.3.0": "agent-memory-openapi-0.3.0.json"}
SINCE_030 = (
    "/entities/search",
    "/entities/top",
    "/entities/{entity_type}/{entity_name}/history",
    "/entities/{entity_type}/{entity_name}/neighbourhood",
    "/lookup",
    "/uncertainty",
    "/uncertainty/{uncertainty_id}/resolve",
)
_FIELDS_SINCE_030 = {
    "AttributeDetailJson": ("scope", "labels", "confidence", "summary"),
    "RelationDetailJson": ("scope", "labels", "confidence", "summary"),
    "EntityResponseJson": ("truncated",),
}


@cache
def document(api: str = NEWEST) -> dict[str, Any] | None:
    """The published document of a generation; None where it cannot be found."""
    if api == "0.2.1":
        newest = document("0.3.0")
        return None if newest is None else _without_newer(copy.deepcopy(newest))
    named = os.environ.get("SPECTRON_OPENAPI")
    given = Path(named) if named else Path(__file__).resolve().parents[3] / "shared"
    path = (given.parent if given.is_file() else given) / FILES[api]
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _without_newer(of_030: dict[str, Any]) -> dict[str, Any]:
    for path in SINCE_030:
        del of_030["paths"][f"/api/v1/{{context_id}}{path}"]
    for name, fields in _FIELDS_SINCE_030.items():
        schema = of_030["components"]["schemas"][name]
        schema["required"] = [field for field in schema["required"] if field not in fields]
        for field in fields:
            del schema["properties"][field]
    of_030["components"]["schemas"]["Triple"]["required"] = ["entity", "key"]
    return of_030


def problems(method: str, url: str, body: bytes | None) -> list[str]:
    """What is wrong with a request of a client that speaks to any generation; empty where there is no document.

    The newest document must have it, and each older one that has the operation must agree.
    """
    found = problems_in(NEWEST, method, url, body)
    path = urlsplit(url).path
    for api in API_VERSIONS[:-1]:
        if not found and operation(api, method, path) is not None:
            found = problems_in(api, method, url, body)
    return found


def problems_in(api: str, method: str, url: str, body: bytes | None) -> list[str]:
    """What is wrong with a request according to the document of one generation."""
    if document(api) is None:
        return []
    path = urlsplit(url).path
    called = operation(api, method, path)
    if called is None:
        return [f"{method} {path} is no published operation of {api}"]
    schema = called.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if schema is None:
        return [f"{method} {path} takes no body"] if body else []
    if not body:
        return [f"{method} {path} lacks its body"]
    value = json.loads(body)
    found = [f"{method} {path}: {error.message}" for error in validator(api, json.dumps(schema)).iter_errors(value)]
    return found + _unknown_fields(api, method, path, schema, value)


@lru_cache(maxsize=10_000)
def operation(api: str, method: str, path: str) -> dict[str, Any] | None:
    """The published operation of a path."""
    for template, expression in _paths(api):
        if expression.fullmatch(path):
            found = (document(api) or {})["paths"][template].get(method.lower())
            if found is not None:
                return dict(found)
    return None


@cache
def _paths(api: str) -> list[tuple[str, re.Pattern[str]]]:
    # Paths without a variable at the end come first: /documents/keywords is no /documents/{id}.
    ordered = sorted((document(api) or {}).get("paths", {}), key=lambda path: path.count("{"))
    return [(path, re.compile(re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(path)))) for path in ordered]


@cache
def validator(api: str, schema: str) -> Any:
    """The validator of a schema, given as JSON, with the document's other schemas."""
    components = (document(api) or {})["components"]
    return jsonschema_rs.validator_for({**json.loads(schema), "components": components})


def _unknown_fields(api: str, method: str, path: str, schema: dict[str, Any], value: Any) -> list[str]:
    """A field nobody published is most often a typo or a field of another operation: it would be ignored."""
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    known = (document(api) or {})["components"]["schemas"].get(name, {}).get("properties", {})
    return [f"{method} {path}: nobody published the field {field}" for field in value if field not in known]
