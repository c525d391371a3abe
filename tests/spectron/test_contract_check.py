"""The check of requests finds what it is there for."""

from __future__ import annotations

import pytest

from tests.support import contract

FACT = b'{"text":"tea","infer":"none","session_id":"s","scopes":[["user/alice"]]}'


@pytest.mark.skipif(contract.document() is None, reason=contract.NOT_FOUND)
@pytest.mark.parametrize(
    ("method", "path", "body", "wrong"),
    [
        ("POST", "/api/v1/c/facts", FACT, 0),
        ("GET", "/api/v1/c/sessions/s1/turns?limit=500", None, 0),
        ("POST", "/api/v1/c/facts", FACT.replace(b"none", b"maybe"), 1),
        ("POST", "/api/v1/c/facts", FACT.replace(b"session_id", b"sessionId"), 1),
        ("POST", "/api/v1/c/query", b'{"k":5}', 1),
        ("POST", "/api/v1/c/sessions", None, 1),
        ("POST", "/api/v1/c/sessions/s1/turns", b"{}", 1),
        ("PUT", "/api/v1/c/facts", FACT, 1),
    ],
)
def test_requests_that_are_not_as_published_are_named(method: str, path: str, body: bytes | None, wrong: int) -> None:
    assert wrong == len(contract.problems(method, path, body))
