"""Laws for every mapping that is not refused: no two ids share a scope, and one scope has one lane."""

from __future__ import annotations

import doctest
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings

from spectron_migrate.mapping import ScopeMapping, Unmapped, lens, segment, segments
from spectron_migrate.records import Memory, Placement, Skipped
from tests.mapping.strategies import IDS, kindred, mapping_texts, memories, sound, write_table
from tests.support.examples import examples

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the lookup tables that generated mappings name."""
    folder = tmp_path_factory.mktemp("tables")
    write_table(folder)
    return folder


often = settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.filter_too_much])


def uses(rule: dict[str, Any], field: str) -> bool:
    """Whether the templates of the rule contain the field or a part of it."""
    template = json.dumps(rule.get("scope", {}))
    captured = "{" in str(rule["when"].get(field, "")) and "{left}" in template
    return f"{{{field}}}" in template or captured


def written(mapping: ScopeMapping, memories: list[Memory]) -> Iterator[tuple[Memory, Placement]]:
    """The memories that are written, with where."""
    for memory in memories:
        placement = mapping.map_memory(memory)
        if isinstance(placement, Placement):
            yield memory, placement


@often
@given(mapping_texts(), kindred())
def test_no_two_ids_share_a_scope(tables: Path, text: str, found: list[Memory]) -> None:
    """Where a rule writes an id into a path, no memory with another value of that field gets the same selector."""
    mapping = sound(text, tables)
    assume(mapping is not None)
    assert mapping is not None
    rules = json.loads(text)["rules"]
    mapped_memories = list(written(mapping, found))

    for memory, placement in mapped_memories:
        for field in IDS:
            if uses(rules[placement.rule], field):
                others = [other for other in mapped_memories if getattr(other[0], field) != getattr(memory, field)]
                assert placement.selector not in [other.selector for _, other in others]


@often
@given(mapping_texts(), kindred())
def test_one_scope_has_one_lane(tables: Path, text: str, found: list[Memory]) -> None:
    """Otherwise an older memory could be written after a newer one of the same scope."""
    mapping = sound(text, tables)
    assume(mapping is not None)
    assert mapping is not None
    lanes: dict[object, str] = {}

    for _, placement in written(mapping, found):
        assert placement.lane == lanes.setdefault(placement.selector, placement.lane)


@often
@given(mapping_texts(), memories())
def test_every_memory_is_mapped_to_legal_paths_or_named(tables: Path, text: str, memory: Memory) -> None:
    """It is written, skipped with its id, or refused with its id."""
    mapping = sound(text, tables)
    assume(mapping is not None)
    assert mapping is not None
    found = mapping.map_memory(memory)

    if isinstance(found, Skipped | Unmapped):
        assert memory.id == found.id
        return
    assert found.selector
    for clause in found.selector:
        assert clause
        for path in clause:
            assert all(segment(part) == part or part.startswith("x--") for part in path.split("/"))
            assert 0 == len(path.split("/")) % 2


@pytest.mark.parametrize("module", [lens, segments], ids=lambda module: module.__name__)
def test_the_examples_in_the_docstrings_hold(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted
    assert 0 == result.failed
