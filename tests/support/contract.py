"""Every request that a test sends is checked against Spectron's published API document, where that can be found."""

from __future__ import annotations

import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema_rs

NOT_FOUND = "not checked: requests against the published API document (set SPECTRON_OPENAPI to its path)"


@cache
def document() -> dict[str, Any] | None:
    """The published document: where SPECTRON_OPENAPI says, else in `shared` beside the repository."""
    named = os.environ.get("SPECTRON_OPENAPI")
    path = Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "spectron-openapi.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def problems(method: str, url: str, body: bytes | None) -> list[str]:
    """What is wrong with a request; empty where it is as published, or where there is no document."""
    known = document()
    if known is None:
        return []
    path = urlsplit(url).path
    operation = _operation(method, path)
    if operation is None:
        return [f"{method} {path} is no published operation"]
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if schema is None:
        return [f"{method} {path} takes no body"] if body else []
    if not body:
        return [f"{method} {path} lacks its body"]
    value = json.loads(body)
    found = [f"{method} {path}: {error.message}" for error in _validator(json.dumps(schema)).iter_errors(value)]
    return found + _unknown_fields(method, path, schema, value)


def _operation(method: str, path: str) -> dict[str, Any] | None:
    for pattern, expression in _paths():
        if expression.fullmatch(path):
            operation = (document() or {})["paths"][pattern].get(method.lower())
            if operation is not None:
                return operation
    return None


@cache
def _paths() -> list[tuple[str, re.Pattern[str]]]:
    # Paths without a variable at the end come first: /documents/keywords is no /documents/{id}.
    ordered = sorted((document() or {}).get("paths", {}), key=lambda path: path.count("{"))
    return [(path, re.compile(re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(path)))) for path in ordered]


@cache
def _validator(schema: str) -> Any:
    return jsonschema_rs.validator_for({**json.loads(schema), "components": (document() or {})["components"]})


def _unknown_fields(method: str, path: str, schema: dict[str, Any], value: Any) -> list[str]:
    """A field nobody published is most often a typo or a field of another operation: it would be ignored."""
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    known = (document() or {})["components"]["schemas"].get(name, {}).get("properties", {})
    return [f"{method} {path}: nobody published the field {field}" for field in value if field not in known]
