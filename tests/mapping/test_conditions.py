"""Which values meet a condition of a rule."""

from __future__ import annotations

from typing import Any

import pytest

from spectron_migrate.records import Placement
from tests.mapping.support import mapping_of, memory


def takes(when: str, **fields: Any) -> bool:
    """Whether a rule with this condition takes a memory with these fields."""
    found = mapping_of(f"  - {{when: {when}, scope: {{org: acme}}}}").map_memory(memory(**fields))
    return isinstance(found, Placement)


@pytest.mark.parametrize(
    ("when", "metadata", "expected"),
    [
        ('{metadata.x: "*"}', {"x": ""}, True),
        ('{metadata.x: "*"}', {"x": None}, False),
        ('{metadata.x: "*"}', {"x": {}}, True),
        ("{metadata.x: kb}", {"x": "kb"}, True),
        ("{metadata.x: kb}", {"x": "KB"}, False),
        ("{metadata.x: kb}", {"x": ["web", "kb"]}, True),
        ('{metadata.x: "kb-*"}', {"x": "kb-1"}, True),
        ('{metadata.x: "kb-*"}', {"x": "a kb-1"}, False),
        ('{metadata.x: "kb-*"}', {"x": "kb-\n"}, True),
        ('{metadata.x: "k?"}', {"x": "kb"}, True),
        ('{metadata.x: "[k]*"}', {"x": "kb"}, False),
        ('{metadata.x: "[k]*"}', {"x": "[k]b"}, True),
        ("{metadata.x: 3}", {"x": 3}, True),
        ("{metadata.x: 3}", {"x": 3.0}, True),
        ("{metadata.x: 3}", {"x": "3"}, True),
        ("{metadata.x: 3}", {"x": True}, False),
        ("{metadata.x: 1}", {"x": True}, False),
        ('{metadata.x: "1.10"}', {"x": 1.1}, False),
        ('{metadata.x: ">= 3"}', {"x": 3}, True),
        ('{metadata.x: ">= 3"}', {"x": "10"}, True),
        ('{metadata.x: "> 3"}', {"x": 3}, False),
        ('{metadata.x: "<3"}', {"x": -1.5}, True),
        ('{metadata.x: "<= 3"}', {"x": "three"}, False),
        ('{metadata.x: "< 2025-01-01"}', {"x": "2024-12-31T23:59:59Z"}, True),
        ('{metadata.x: "< 2025-01-01"}', {"x": "2025-01-01T00:30:00+01:00"}, True),
        ('{metadata.x: "< 2025-01-01"}', {"x": "2025-01-01"}, False),
        ('{metadata.x: "< 2025-01-01"}', {"x": 7}, False),
        ("{metadata.x: true}", {"x": True}, True),
        ("{metadata.x: true}", {"x": "true"}, False),
        ("{metadata.x: true}", {"x": 1}, False),
        ("{metadata.x: false}", {"x": False}, True),
        ("{metadata.x: false}", {}, False),
        ("{metadata.a.b: kb}", {"a": {"b": "kb"}}, True),
        ("{metadata.a.b: kb}", {"a": "kb"}, False),
        ('{metadata.x: "{a}:{b}"}', {"x": "p:q"}, True),
        ('{metadata.x: "{a}:{b}"}', {"x": "pq"}, False),
        ("{}", {}, True),
    ],
)
def test_a_condition_on_metadata(when: str, metadata: dict[str, Any], expected: bool) -> None:
    """Present, exact, glob, comparison, boolean, capture; a number matches its text."""
    assert expected == takes(when, metadata=metadata)


def test_a_condition_on_a_field_of_mem0() -> None:
    assert takes('{user_id: "u-*"}', user_id="u-1")
    assert not takes('{user_id: "*"}')
    assert takes("{user_id: 42}", user_id="42")
    assert not takes("{user_id: 42}", user_id="042")
    assert takes("{role: user}", role="user")
    assert takes("{categories: food}", categories=("travel", "food"))
    assert takes('{created_at: "< 2025-01-01"}', created_at="2024-06-01T00:00:00.000000Z")
    assert not takes('{text_at: "< 2025-01-01"}')
