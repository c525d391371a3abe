"""Any envelope around any rows gives these rows, and what is not read is named."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron_migrate.mem0.formats import json_stream
from spectron_migrate.mem0.formats.json_stream import read_items
from spectron_migrate.mem0.normalise import normalise
from spectron_migrate.records import Memory
from tests.mem0.conftest import NOW
from tests.support.examples import examples

pytestmark = pytest.mark.slow

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
LISTS = st.lists(st.fixed_dictionaries({"id": st.text(min_size=1), "memory": st.text()}) | VALUES, max_size=3)
METADATA = st.dictionaries(st.sampled_from(["results", "memories", "records", "data_", "items", "relations"]), LISTS)
TEXTS: list[Callable[[str, dict[str, Any]], dict[str, Any]]] = [
    lambda text, more: {**more, "memory": text, "user_id": "dana"},
    lambda text, more: {"memory": text, "user_id": "dana", "metadata": more},
    lambda text, more: {"payload": {**more, "data": text, "user_id": "dana"}},
    lambda text, more: {"payload": json.dumps({**more, "data": text, "user_id": "dana"})},
    lambda text, more: {"_source": {"metadata": {**more, "data": text, "user_id": "dana"}}},
    lambda text, more: {"metadata": {**more, "data": text, "user_id": "dana"}},
    lambda text, more: {"class": "Mem0", "properties": {**more, "data": text, "user_id": "dana", "run_id": None}},
    lambda text, more: {"page_content": text, "metadata": {**more, "user_id": "dana"}},
]
WRAPPERS: list[Callable[[list[Any]], Any]] = [
    *[lambda rows, name=name: {name: rows} for name in ("results", "memories", "data", "items", "records")],
    lambda rows: {"status": "ok", "result": {"points": rows, "next_page_offset": None}},
    lambda rows: {"took": 1, "hits": {"total": {"value": 1}, "hits": rows}},
    lambda rows: {"status": "success", "scope": {"user_id": "dana"}, "count": 2, "data": rows},
    lambda rows: {"data": {"results": rows, "page": 1}, "ok": True},
    lambda rows: {"export": {"inner": {"memories": rows}}},
    lambda rows: {"dana": rows},
    lambda rows: {"users": [{"user_id": "dana", "memories": rows}]},
    lambda rows: [{"results": rows[:1]}, {"results": rows[1:]}],
    lambda rows: [rows[:1], *rows[1:]],
    lambda rows: {"vectors": by_id(rows), "namespace": "", "usage": {"read_units": 1}},
    lambda rows: {"result": by_id(rows)},
    lambda rows: by_id(rows),
    lambda rows: {"page": 1, "objects": rows},
    lambda rows: [{"json": row, "pairedItem": {"item": 0}} for row in rows],
    lambda rows: {"edges": [{"cursor": "x", "node": row} for row in rows]},
    lambda rows: rows,
]


def by_id(rows: list[Any]) -> dict[str, Any]:
    """Rows under their ids, every second one without an id of its own; only those that one knows by their text."""
    known = [row for row in rows if "_source" not in row and "page_content" not in row]
    if len(known) < len(rows):
        return {"results": rows}
    names = [next(name for name in ("id", "_id", "uuid") if name in row) for row in rows]
    return {
        row[name]: {key: value for key, value in row.items() if key != name or at % 2}
        for at, (row, name) in enumerate(zip(rows, names, strict=True))
    }


@st.composite
def wrapped_rows(draw: st.DrawFn) -> tuple[str, list[tuple[str, str]]]:
    """A file, and the ids and texts of its rows."""
    rows, expected = [], []
    for number in range(draw(st.integers(1, 5))):
        text = draw(st.text(min_size=1, max_size=8).filter(str.strip))
        row = draw(st.sampled_from(TEXTS))(text, draw(METADATA))
        name = "_id" if "_source" in row else draw(st.sampled_from(["id", "_id", "uuid"]))
        row[name] = f"m{number}"
        expected.append((f"m{number}", text))
        rows.append(dict(draw(st.permutations(list(row.items())))))
    if draw(st.booleans()):
        return "\n".join(map(json.dumps, rows)), expected
    return json.dumps(draw(st.sampled_from(WRAPPERS))(rows), indent=draw(st.sampled_from([None, 1]))), expected


def memories(text: str) -> list[Memory]:
    found = []
    for item in read_items(lambda: io.BytesIO(text.encode()), "file"):
        assert item.kind in ("row", "envelope")
        if item.kind == "row":
            memory = normalise(item.value, now=NOW, head=item.head)
            assert isinstance(memory, Memory), memory
            found.append(memory)
    return found


@settings(max_examples=examples(300), deadline=None)
@given(wrapped_rows(), st.sampled_from([1, 7, 40, 1 << 18]))
def test_any_envelope_around_any_rows_gives_these_rows(file: tuple[str, list[tuple[str, str]]], chunk: int) -> None:
    text, expected = file
    with mock.patch.object(json_stream, "_CHUNK", chunk):
        found = memories(text)

    assert expected == [(memory.id, memory.memory) for memory in found]
    assert {"dana"} == {memory.user_id for memory in found}


OWNERS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"user_id": "dana"}, {}),
    ({"userId": "dana"}, {}),
    ({"scope": {"user_id": "dana"}}, {}),
    ({"export_metadata": {"user_id": "dana"}}, {}),
    ({"filters": {"AND": [{"user_id": "dana"}]}}, {}),
    ({}, {"export_scope": {"user_id": "dana"}}),
    ({"user_id": "emil"}, {"user_id": "dana"}),
    ({"user_id": "emil"}, {"export_scope": {"user_id": "dana"}}),
]


@pytest.mark.parametrize(("around", "own"), OWNERS, ids=str)
@pytest.mark.parametrize("chunk", [4, 1 << 18])
@pytest.mark.parametrize("owner_first", [True, False])
def test_owners_beside_the_rows_are_theirs_unless_a_row_has_one(
    around: dict[str, Any], own: dict[str, Any], chunk: int, owner_first: bool
) -> None:
    rows = {"memories": [{"id": "m1", "memory": "likes tea", **own}]}
    with mock.patch.object(json_stream, "_CHUNK", chunk):
        [memory] = memories(json.dumps({**around, **rows} if owner_first else {**rows, **around}))

    assert "dana" == memory.user_id


NAMED: list[Callable[[str, str], dict[str, Any]]] = [
    lambda name, one: {name: one},
    lambda name, one: {"scope": {name: one}},
    lambda name, one: {"export_scope": {name: one}},
    lambda name, one: {"filters": {name: one}},
    lambda name, one: {"filters": {name: {"eq": one}}},
    lambda name, one: {"filters": {"AND": [{name: {"in": [one]}}, {"created_at": {"gte": "2025-01-01"}}]}},
    lambda name, one: {name.split("_")[0] + "Id": one},
    lambda name, one: {"user": {name: one}},
    lambda name, one: {"user": {"id": one}} if name == "user_id" else {name: one},
    lambda name, one: {"user": one} if name == "user_id" else {name: one},
    lambda name, one: {"scope": {"user": one}} if name == "user_id" else {"scope": {name: one}},
]
"""The ways in which an envelope, or an object in it, names an owner."""


@settings(max_examples=examples(150), deadline=None)
@given(
    st.sampled_from(["user_id", "agent_id", "run_id"]),
    st.text(min_size=1, max_size=6).filter(lambda one: one != "*"),
    st.sampled_from(NAMED),
    st.lists(st.booleans(), min_size=1, max_size=4),
    st.sampled_from(["results", "memories", "data"]),
    st.booleans(),
)
def test_whatever_names_an_owner_beside_rows_is_the_owner_of_those_without_one(
    name: str, owner: str, around: Callable[[str, str], dict[str, Any]], own: list[bool], under: str, owner_first: bool
) -> None:
    rows = [{"id": f"m{at}", "memory": "tea", **({"user_id": "fay"} if has else {})} for at, has in enumerate(own)]
    parts = [around(name, owner), {under: rows}]
    found = memories(json.dumps(parts[0] | parts[1] if owner_first else parts[1] | parts[0]))

    expected = [{"user_id": "fay"} if has else {name: owner} for has in own]
    assert expected == [dict(memory.entity_ids) for memory in found]


@pytest.mark.parametrize(
    "beside",
    [
        {"user": "*"},
        {"user": ""},
        {"user": True},
        {"filters": {"OR": [{"user_id": "a"}, {"user_id": "b"}]}},
        {"user_id": {"in": ["a", "b"]}},
        {"app": "backup-tool", "agent": "curl", "run": 3},
    ],
    ids=str,
)
def test_what_names_no_owner_or_several_gives_none(beside: dict[str, Any]) -> None:
    [found] = memories(json.dumps({**beside, "memories": [{"id": "m1", "memory": "likes tea"}]}))

    assert {} == dict(found.entity_ids)


@settings(max_examples=examples(100), deadline=None)
@given(st.integers(1, 5), st.booleans(), st.booleans(), st.sampled_from([4, 1 << 18]), st.sampled_from([[], [0.5]]))
def test_columns_are_rows(size: int, has_documents: bool, is_nested: bool, chunk: int, vectors: list[float]) -> None:
    """As Chroma's `get` and `query` return them, with Mem0's text in the metadata or beside it."""
    payloads = [{"user_id": "dana", "seq": n, **({} if has_documents else {"data": f"note {n}"})} for n in range(size)]
    columns: dict[str, Any] = {
        "ids": [f"m{number}" for number in range(size)],
        "embeddings": [vectors] * size,
        "documents": [f"note {number}" if has_documents else None for number in range(size)],
        "metadatas": payloads,
        "included": ["metadatas"],
    }
    if is_nested:
        columns = {name: [column] if name != "included" else column for name, column in columns.items()}
    with mock.patch.object(json_stream, "_CHUNK", chunk):
        found = memories(json.dumps(columns))

    assert [(f"m{number}", f"note {number}", number) for number in range(size)] == [
        (memory.id, memory.memory, memory.metadata["seq"]) for memory in found
    ]


def test_a_column_of_another_length_than_the_ids_is_named() -> None:
    text = json.dumps({"ids": ["m1", "m2"], "metadatas": [{"data": "likes tea"}]})

    items = list(read_items(lambda: io.BytesIO(text.encode()), "file"))

    assert ["metadatas"] == [item.value for item in items if item.kind == "left_out"]


def test_numbers_beside_the_rows_are_no_rows_by_id() -> None:
    row = {"id": "m1", "memory": "likes tea"}
    text = json.dumps({"results": [row], "system": {"host": {"memory": "12 MB"}}, "took": {"data": "3 ms"}})

    items = list(read_items(lambda: io.BytesIO(text.encode()), "file"))

    assert ["row", "envelope"] == [item.kind for item in items]


def test_a_list_of_rows_beside_those_that_are_read_is_named() -> None:
    row = {"id": "m1", "memory": "likes tea"}
    text = json.dumps({"results": [row], "deleted": [row]})

    for chunk in (4, 1 << 18):
        with mock.patch.object(json_stream, "_CHUNK", chunk):
            items = list(read_items(lambda: io.BytesIO(text.encode()), "file"))
        assert ["deleted"] == [item.value for item in items if item.kind == "left_out"]
        assert 1 == sum(item.kind == "row" for item in items)
