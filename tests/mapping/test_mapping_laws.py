"""What holds for every mapping that is not refused: no two ids share a scope, one scope has one lane."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from spectron_migrate.mapping import ScopeMapping, Unmapped, segment
from spectron_migrate.records import Memory, Placement, Skipped
from tests.mapping.strategies import IDS, kindred, mapping_texts, memories, sound, write_table


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the lookup tables that generated mappings name."""
    folder = tmp_path_factory.mktemp("tables")
    write_table(folder)
    return folder


often = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])


def test_every_legal_segment_stays_as_it_is() -> None:
    """The ids of most stores are readable in Spectron."""
    for name in ("alice", "0", "a.b_c-d", "x-", "x-y", "9" * 64):
        assert name == segment(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", "x--"),
        ("Alice", "x---41lice"),
        ("alice@example.com", "x--alice-40example.com"),
        ("auth0|64f", "x--auth0-7c64f"),
        ("x--a", "x--x-2d-2da"),
        ("-a", "x---2da"),
        (" a", "x---20a"),
        ("a\n", "x--a-0a"),
        ("a/b", "x--a-2fb"),
        ("José", "x---4aos-c3-a9"),
        ("Jose\u0301", "x---4aose-cc-81"),
        ("a" * 65, "x---h635361c48bb9eab14198e76ea8ab7f1a"),
        ("李" * 30, "x---h"),
    ],
)
def test_any_other_id_is_escaped_and_a_long_one_hashed(name: str, expected: str) -> None:
    """Byte by byte, so that it can be read back; nothing is normalised."""
    found = segment(name)

    assert expected == (found if expected != "x---h" else found[:5])


@given(st.lists(st.text() | st.text("ax-2dh", max_size=8), min_size=2, max_size=8))
def test_segments_are_legal_and_never_shared(names: list[str]) -> None:
    """Two ids, two segments, whatever the ids hold; lone surrogates included."""
    found = {name: segment(name) for name in names}

    assert len(set(names)) == len(set(found.values()))
    for name in found.values():
        assert 0 < len(name) <= 64
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
        assert name[0] not in "._-"


@given(st.text())
def test_an_escaped_segment_is_never_the_segment_of_itself(name: str) -> None:
    """Somebody whose id is another's escape does not get into the other's scope."""
    found = segment(name)

    assert found == name or segment(found) != found


def uses(rule: dict[str, Any], field: str) -> bool:
    """Whether the rule's templates hold a value of the field, read off its text."""
    template = json.dumps(rule.get("scope", {}))
    captured = "{" in str(rule["when"].get(field, "")) and "{left}" in template
    return f"{{{field}}}" in template or captured


def placed(mapping: ScopeMapping, found: list[Memory]) -> Iterator[tuple[Memory, Placement]]:
    """The memories that are written, with their placement."""
    for memory in found:
        placement = mapping.map_memory(memory)
        if isinstance(placement, Placement):
            yield memory, placement


@often
@given(mapping_texts(), kindred())
def test_no_two_ids_share_a_scope(tables: Path, text: str, found: list[Memory]) -> None:
    """Over whole mappings: wherever a rule writes an id, no memory with another such id is in its scope."""
    mapping = sound(text, tables)
    assume(mapping is not None)
    assert mapping is not None
    rules = json.loads(text)["rules"]
    written = list(placed(mapping, found))

    for memory, placement in written:
        for field in IDS:
            if uses(rules[placement.rule], field):
                others = [other for other in written if getattr(other[0], field) != getattr(memory, field)]
                assert placement.selector not in [other.selector for _, other in others]


@often
@given(mapping_texts(), kindred())
def test_one_scope_has_one_lane(tables: Path, text: str, found: list[Memory]) -> None:
    """Else an older memory could be written beside a newer one of the same scope."""
    mapping = sound(text, tables)
    assume(mapping is not None)
    assert mapping is not None
    lanes: dict[object, str] = {}

    for _, placement in placed(mapping, found):
        assert placement.lane == lanes.setdefault(placement.selector, placement.lane)


@often
@given(mapping_texts(), memories())
def test_placing_is_total_and_writes_only_legal_paths(tables: Path, text: str, memory: Memory) -> None:
    """Every memory is placed, skipped by name or refused by name."""
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
