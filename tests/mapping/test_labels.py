"""Labels of a memory: plain, from its fields, few, and what does not fit is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.mapping import parse_mapping
from spectron_migrate.mapping.labels import id_of
from spectron_migrate.records import Memory, Placement

RULES = 'version: 1\nrules: [{when: {user_id: "*"}, scope: {user: "{user_id}"}}]\n'


def labels(given: str, *, more: str = "", **fields: Any) -> tuple[str, ...]:
    """The labels that a memory is written with."""
    memory = Memory(id="m1", memory="x", user_id="alice", **fields)
    mapped = parse_mapping(f"{RULES}labels: {given}\n{more}", Path()).map_memory(memory)
    assert isinstance(mapped, Placement)
    return mapped.labels


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("{source: mem0}", ("source=mem0",)),
        ('{source: mem0, mem0_id: "{id}"}', ("source=mem0", "mem0_id=m1")),
        ('{team: "{metadata.team}", n: "{metadata.deep.n}"}', ("team=red", "n=7")),
        ('{agent: "{agent_id}"}', ()),
    ],
)
def test_a_label_is_a_text_or_the_value_of_a_field(given: str, expected: tuple[str, ...]) -> None:
    assert expected == labels(given, metadata={"team": "red", "deep": {"n": 7}})


def test_the_label_of_the_id_is_among_the_three_that_are_kept() -> None:
    assert ("a=1", "b=2", "mem0_id=m1") == labels('{a: 1, b: 2, c: 3, mem0_id: "{id}"}')


@pytest.mark.parametrize("value", ["two\nlines", "x" * 257, "\ud800", "", None, ["a"]])
def test_a_value_that_no_label_can_carry_is_left_out(value: Any) -> None:
    assert () == labels('{team: "{metadata.team}"}', metadata={"team": value})


def test_memories_of_a_batch_share_labels_and_so_have_none_of_their_own() -> None:
    assert ("source=mem0",) == labels('{source: mem0, mem0_id: "{id}"}', more="write: batch\ninfer: none\n")


def test_ids_are_read_back_from_the_labels_of_a_row() -> None:
    assert ["m1", "a=b"] == id_of(("source=mem0", "mem0_id=m1", "mem0_id=a=b", "mem0_ids=x"), "mem0_id")
